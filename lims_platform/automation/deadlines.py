"""By when every table is to be written again, and whether it was: verdicts for the health page.

Here: each asset's deadline, taken from the plan, the schedules and the settings, and held against the event log. Not here:
the freshness checks (``freshness``), how a verdict looks (``reporting.health_page``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import dagster as dg
from dagster._utils.schedules import reverse_cron_string_iterator

from lims_platform.automation.alerts import alerts_schedule
from lims_platform.automation.freshness import bronze_freshness, daily_freshness
from lims_platform.automation.operations import NIGHTLY, REPORT
from lims_platform.automation.plan import STEPS
from lims_platform.automation.schedules import tuning_monthly_schedule
from lims_platform.automation.windows import Window
from lims_platform.automation.written import Written, last_written, last_written_whole
from lims_platform.settings import settings

#: Why an asset is late; None where it is not. Asked only of assets that were written before.
Judge = Callable[[dg.DagsterInstance, dg.AssetKey, datetime], str | None]

#: Groups written too often for a report to follow them: the same as the plan's.
_NOT_FOLLOWED = dg.AssetSelection.groups("bronze", "silver", "alerts")

_SCHEDULED = [
    (dg.AssetSelection.groups("alerts"), alerts_schedule),
    (dg.AssetSelection.assets(REPORT), NIGHTLY),
    (dg.AssetSelection.groups("tuning"), tuning_monthly_schedule),
]


@dataclass(frozen=True)
class Deadline:
    """What is asked of an asset, in words, and the judge."""

    words: str
    late: Judge


def _days(instance: dg.DagsterInstance, key: dg.AssetKey, at: datetime) -> dict[date, Written]:
    today = at.astimezone(settings().zone).date()
    return last_written(instance, key, [today - timedelta(days=back) for back in range(9)])


def hourly(days: bool) -> Deadline:
    """Written within the age the settings allow bronze; with ``days`` for the current day (see ``bronze_freshness``)."""
    limit = timedelta(hours=settings().bronze_max_age_hours)

    def late(instance: dg.DagsterInstance, key: dg.AssetKey, at: datetime) -> str | None:
        if days:
            verdict = bronze_freshness(_days(instance, key, at), at, settings().first_day)
            return None if verdict.fresh else verdict.words
        written = last_written_whole(instance, key)
        return None if written is not None and at - written.at <= limit else "not written within the limit"

    return Deadline(f"at most {limit / timedelta(hours=1):g} h old", late)


def daily(window: Window) -> Deadline:
    """Yesterday, written since it ended, some hours after the window opened (see ``daily_freshness``)."""

    def late(instance: dg.DagsterInstance, key: dg.AssetKey, at: datetime) -> str | None:
        verdict = daily_freshness(_days(instance, key, at), at, window.at)
        return None if verdict.fresh else verdict.words

    return Deadline(f"yesterday by {window.at:%H:%M} + {settings().daily_grace_hours:g} h", late)


def since(words: str, opening: Callable[[datetime], datetime]) -> Deadline:
    """Of an asset without days: written since the last opening that lies the hours of grace back."""
    grace = timedelta(hours=settings().daily_grace_hours)

    def late(instance: dg.DagsterInstance, key: dg.AssetKey, at: datetime) -> str | None:
        opened, written = opening(at - grace), last_written_whole(instance, key)
        if written is not None and written.at >= opened:
            return None
        return f"not written since {opened.astimezone(settings().zone):%Y-%m-%d %H:%M}"

    return Deadline(f"{words} + {settings().daily_grace_hours:g} h", late)


def last_tick(cron: str) -> Callable[[datetime], datetime]:
    """The latest tick of a cron line, in the laboratory's zone, not after a moment."""

    def opening(at: datetime) -> datetime:
        return next(reverse_cron_string_iterator(at.timestamp(), cron, settings().timezone))

    return opening


def after_inputs(inputs: Collection[dg.AssetKey]) -> Deadline:
    """Of a report: written again within the hours of grace after its inputs were."""
    grace = timedelta(hours=settings().daily_grace_hours)

    def late(instance: dg.DagsterInstance, key: dg.AssetKey, at: datetime) -> str | None:
        written = last_written_whole(instance, key)
        for name in sorted(inputs):
            made = last_written_whole(instance, name)
            if made is not None and made.at + grace < at and (written is None or written.at < made.at):
                when = made.at.astimezone(settings().zone)
                return f"{name.to_user_string()} was written at {when:%Y-%m-%d %H:%M} and is not shown yet"
        return None

    return Deadline(f"{settings().daily_grace_hours:g} h after its inputs", late)


def deadlines(assets: Sequence[dg.AssetsDefinition]) -> dict[dg.AssetKey, Deadline]:
    """The deadline of every asset that has one."""
    specs = {spec.key: spec for asset in assets for spec in asset.specs}

    def chosen(selection: dg.AssetSelection) -> set[dg.AssetKey]:
        return selection.resolve(list(assets), allow_missing=True) & specs.keys()

    found = {
        key: hourly(specs[key].partitions_def is not None) for key in chosen(dg.AssetSelection.groups("bronze", "silver"))
    }
    ignored = chosen(_NOT_FOLLOWED)
    for step in STEPS:
        for key in chosen(step.selection):
            if step.window is None:
                found[key] = after_inputs({dep.asset_key for dep in specs[key].deps} - ignored)
            elif specs[key].partitions_def is None:
                found[key] = since(f"{step.window}", step.window.last_opening)
            else:
                found[key] = daily(step.window)
    for selection, schedule in _SCHEDULED:
        cron = str(schedule.cron_schedule)
        for key in chosen(selection):
            found[key] = since(f"cron {cron}", last_tick(cron))
    return found
