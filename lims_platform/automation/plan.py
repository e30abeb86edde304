"""Which asset waits for which window: SPEC 7 as one table.

Here: clock times and the assets they concern. Not here: what a window or a condition means (``windows``, ``conditions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import time
from functools import reduce
from operator import or_
from typing import Any

import dagster as dg

from lims_platform.automation.conditions import follows_inputs, late_changes, once_due
from lims_platform.automation.windows import SUNDAY, Window
from lims_platform.settings import settings

Keys = dg.AssetSelection.keys


@dataclass(frozen=True)
class Step:
    """One line of the plan: its name, the assets, their condition, what a person should know."""

    name: str
    selection: dg.AssetSelection
    condition: dg.AutomationCondition
    description: str


def _window(at: str, weekday: int | None = None) -> Window:
    return Window(time.fromisoformat(at), settings().zone, weekday)


def _daily(at: str) -> dg.AutomationCondition:
    return once_due(_window(at), settings().catch_up_days)


def _steps() -> list[Step]:
    late = late_changes(settings().zone, settings().catch_up_days)
    overview = Keys(["reports", "laboratory_overview"])
    reports = dg.AssetSelection.groups("reports") - overview
    return [
        Step(
            "gold_daily_0100",
            dg.AssetSelection.groups("features"),
            _daily("01:00"),
            "Yesterday's features, from 01:00, when bronze and silver were read after midnight and passed their checks.",
        ),
        Step(
            "marts_daily_0100",
            dg.AssetSelection.groups("operations"),
            (_daily("01:00") | late).with_label("daily_0100_and_late_changes"),
            "Yesterday's operational marts from 01:00; an older day again when its silver changed.",
        ),
        Step(
            "scoring_daily_0200",
            Keys(["gold", "device_risk_scores"]),
            _daily("02:00"),
            "Yesterday's device risk, from 02:00, when its features are complete and checked.",
        ),
        Step(
            "drift_daily_0400",
            dg.AssetSelection.groups("monitoring"),
            _daily("04:00"),
            "Yesterday's drift report, from 04:00, when results, features and scores are complete and checked.",
        ),
        Step(
            "patient_qc_daily_0400",
            Keys(["gold", "patient_qc"]),
            _daily("04:00"),
            "Yesterday's patient-based QC, from 04:00, when results are complete and checked and settings were tuned.",
        ),
        Step(
            "training_sunday_0300",
            dg.AssetSelection.groups("models"),
            once_due(_window("03:00", SUNDAY), settings().catch_up_days),
            "A new challenger from Sunday 03:00, when the features of every day so far are complete and checked.",
        ),
        Step("overview_daily_0500", overview, _daily("05:00"), "The laboratory's plots, once a day from 05:00."),
        Step(
            "reports_follow",
            reports,
            # alerts are written every ten minutes; the catalogue shows them with the next reading
            follows_inputs(besides=dg.AssetSelection.groups("alerts")),
            "Workbook, drift page and catalogue, after their inputs changed.",
        ),
    ]


STEPS = _steps()


def with_conditions(assets: Sequence[Any]) -> list[Any]:
    """The assets, each with the condition the plan gives it; assets the plan does not name stay as they are.

    The assets themselves do not know when they run: the rooms below automation stay free of it.
    """
    chosen = {key: step.condition for step in STEPS for key in step.selection.resolve(list(assets), allow_missing=True)}

    def planned(spec: dg.AssetSpec) -> dg.AssetSpec:
        condition = chosen.get(spec.key)
        return spec if condition is None else spec.replace_attributes(automation_condition=condition)

    return list(dg.map_asset_specs(planned, assets))


#: In production automation runs once the daemon does; in the demo a person switches it on.
IN_PRODUCTION = settings().environment == "production"
SENSOR_STATUS = dg.DefaultSensorStatus.RUNNING if IN_PRODUCTION else dg.DefaultSensorStatus.STOPPED
SCHEDULE_STATUS = dg.DefaultScheduleStatus.RUNNING if IN_PRODUCTION else dg.DefaultScheduleStatus.STOPPED

#: One sensor for all of the plan: seven would read the same event log seven times a minute.
data_starts = dg.AutomationConditionSensorDefinition(
    "data_starts",
    target=reduce(or_, (step.selection for step in STEPS)),
    description="Asks every minute which step of the plan has its window open and its inputs complete and checked: "
    + " ".join(f"{step.name}: {step.description}" for step in STEPS),
    default_status=SENSOR_STATUS,
    minimum_interval_seconds=60,
    use_user_code_server=True,
)
