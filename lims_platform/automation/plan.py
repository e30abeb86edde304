"""Which asset waits for which window: SPEC 7 as one table.

Here: clock times and the assets they concern. Not here: what a window or a condition means (``windows``, ``conditions``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import dagster as dg

from lims_platform.automation.clocks import SENSOR_STATUS
from lims_platform.automation.conditions import follows_inputs, late_changes, once_due
from lims_platform.automation.windows import Window
from lims_platform.settings import settings

Keys = dg.AssetSelection.keys


@dataclass(frozen=True)
class Step:
    """One line of the plan: its name, the assets, their condition, what a person should know; its window, if any."""

    name: str
    selection: dg.AssetSelection
    condition: dg.AutomationCondition
    description: str
    window: Window | None = None


def _steps() -> list[Step]:
    given = settings()
    back, zone = given.catch_up_days, given.zone

    def once(window: Window) -> dg.AutomationCondition:
        return once_due(window, back)

    gold, scoring, drift = Window(given.gold_at, zone), Window(given.scoring_at, zone), Window(given.drift_at, zone)
    training, plots = Window(given.training_at, zone, given.training_weekday), Window(given.plots_at, zone)
    overview = Keys(["reports", "laboratory_overview"])
    return [
        Step(
            "gold",
            dg.AssetSelection.groups("features"),
            once(gold),
            f"From {given.gold_at:%H:%M} yesterday's features, when bronze and silver were read after midnight and checked.",
            gold,
        ),
        Step(
            "marts",
            dg.AssetSelection.groups("operations"),
            (once(gold) | late_changes(zone, back)).with_label("once_due_or_late_changes"),
            f"From {given.gold_at:%H:%M} yesterday's operational marts; an older day again when its silver changed.",
            gold,
        ),
        Step(
            "scoring",
            Keys(["gold", "device_risk_scores"]),
            once(scoring),
            f"From {given.scoring_at:%H:%M} yesterday's device risk, when its features are complete and checked.",
            scoring,
        ),
        Step(
            "drift",
            dg.AssetSelection.groups("monitoring"),
            once(drift),
            f"From {given.drift_at:%H:%M} yesterday's drift and patient-based QC, when what they read is complete.",
            drift,
        ),
        Step(
            "training",
            dg.AssetSelection.groups("models"),
            once(training),
            f"On weekday {given.training_weekday} (Sunday is 6) from {given.training_at:%H:%M} a new challenger, when the "
            "features of every day so far are complete and checked.",
            training,
        ),
        Step("plots", overview, once(plots), f"From {given.plots_at:%H:%M} the laboratory's plots, once a day.", plots),
        Step(
            "reports",
            dg.AssetSelection.groups("reports") - overview,
            # bronze, silver and alerts are written at least hourly; what they hold is shown with the next of the others
            follows_inputs(besides=dg.AssetSelection.groups("bronze", "silver", "alerts")),
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
