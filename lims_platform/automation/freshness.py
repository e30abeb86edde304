"""Freshness by partition: is the day there that should be there by now?

Here: one check per table and the schedule that evaluates them. Not here: who is told (alert rules).
Dagster's FreshnessPolicy asks for the asset's newest write, so back-filling an old day turns it green; its
``build_time_partition_freshness_checks`` expects the last partition, which with today as a partition is never the day due.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import dagster as dg

from lims_platform.automation.clocks import by_the_clock
from lims_platform.automation.windows import Window, day_end, now
from lims_platform.automation.written import Written, last_written
from lims_platform.contracts.tables import TABLES
from lims_platform.settings import settings

#: Daily tables by the setting that says when their window opens; yesterday is due LIMS_DAILY_GRACE_HOURS later.
OPENS: dict[str, time] = {
    **dict.fromkeys(("device_failure_features", "outbreak_risk_features", "quality_anomaly_features"), settings().gold_at),
    **dict.fromkeys(("westgard_violations", "turnaround_kpis", "data_quality_scorecard"), settings().gold_at),
    "device_risk_scores": settings().scoring_at,
    "drift_report": settings().drift_at,
}


@dataclass(frozen=True)
class Freshness:
    """The verdict on one table: the day asked for, whether it is fresh, and why."""

    day: date
    fresh: bool
    words: str


def bronze_freshness(written: dict[date, Written], at: datetime, first_day: date) -> Freshness:
    """Bronze is read hourly: today's partition (yesterday's until the limit has passed since midnight) is younger than that.

    ``written``: today and yesterday by day, where they were written at all.
    """
    zone, limit = settings().zone, timedelta(hours=settings().bronze_max_age_hours)
    today = at.astimezone(zone).date()
    yesterday = today - timedelta(days=1)
    day = today if at - day_end(yesterday, zone) >= limit or today == first_day else yesterday
    newest = max((w.at for d, w in written.items() if d >= day), default=None)
    if newest is None:
        return Freshness(day, False, f"{day} was never read")
    age = at - newest
    words = f"{day} was read {age / timedelta(hours=1):.1f} h ago; the limit is {limit / timedelta(hours=1):g} h"
    return Freshness(day, age <= limit, words)


def daily_freshness(written: dict[date, Written], at: datetime, opens: time) -> Freshness:
    """A daily table has, some hours after its window opened, the day before, written since that day ended."""
    zone, grace = settings().zone, timedelta(hours=settings().daily_grace_hours)
    opened = Window(opens, zone).last_opening(at - grace)
    day = opened.astimezone(zone).date() - timedelta(days=1)
    if day < settings().first_day:
        return Freshness(day, True, f"{day} lies before the first day")
    there = written.get(day)
    if there is None or there.at < day_end(day, zone):
        due = (opened + grace).astimezone(zone)
        return Freshness(day, False, f"{day} was due on {due:%Y-%m-%d %H:%M} and was not written since it ended")
    return Freshness(day, True, f"{day} is there")


BRONZE_DAILY = [dg.AssetKey([t.layer, t.name]) for t in TABLES.values() if t.layer == "bronze" and t.partition is not None]
DAILY_TABLES = {dg.AssetKey([TABLES[name].layer, name]): opens for name, opens in OPENS.items()}


@dg.multi_asset_check(
    name="freshness",
    specs=[
        dg.AssetCheckSpec("fresh", asset=key, description="The day that should be there by now is there, and young enough.")
        for key in [*BRONZE_DAILY, *DAILY_TABLES]
    ],
    can_subset=True,
)
def freshness(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    """A red check is an error, never blocking: it says that work is missing, not that work is wrong."""
    at = now()
    today = at.astimezone(settings().zone).date()
    days = [today - timedelta(days=back) for back in range(4)]
    for key in sorted(check.asset_key for check in context.selected_asset_check_keys):
        written = last_written(context.instance, key, days)
        opens = DAILY_TABLES.get(key)
        verdict = (
            bronze_freshness(written, at, settings().first_day) if opens is None else daily_freshness(written, at, opens)
        )
        yield dg.AssetCheckResult(
            asset_key=key,
            check_name="fresh",
            passed=verdict.fresh,
            description=verdict.words,
            metadata={"day": verdict.day.isoformat(), "evaluated_at": at.isoformat(timespec="seconds")},
        )


freshness_job = dg.define_asset_job(
    "freshness_hourly",
    selection=dg.AssetSelection.checks(freshness),
    description="Evaluates every freshness check; writes nothing.",
)
freshness_schedule = by_the_clock(
    freshness_job,
    "30 * * * *",
    "Half past every hour: is the day there that should be there by now?",
    "freshness_schedule",
)
