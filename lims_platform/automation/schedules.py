"""Schedules: what the clock starts, in the laboratory's time zone (docs/adr/0004).

Here: the hourly reading of the sources, the monthly tuning of patient-based QC, and the demo laboratory that lives on. Not
here: gold, scores, drift and training, which the clock only opens a window for (``plan``): they wait for data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import dagster as dg

from lims_platform.automation.clocks import SCHEDULE_STATUS, by_the_clock
from lims_platform.automation.demo import DEMO_SCHEDULES
from lims_platform.automation.freshness import freshness_schedule
from lims_platform.automation.jobs import ingest_hourly, tuning_monthly
from lims_platform.automation.windows import day_end, last_days
from lims_platform.automation.written import last_written, span_request, unfinished_runs
from lims_platform.contracts.tables import TABLES
from lims_platform.partitions import spans
from lims_platform.settings import settings

#: The daily tables a reading must have written for its day to count as read.
READ_TABLES = [
    dg.AssetKey([table.layer, table.name])
    for table in TABLES.values()
    if table.layer in ("bronze", "silver") and table.partition is not None
]


def days_to_read(instance: dg.DagsterInstance, tick: datetime, keys: Sequence[dg.AssetKey]) -> list[date]:
    """The tick's own day, and each of the last ``catch_up_days`` days that some table was not written for since it ended.

    So the first tick after midnight reads yesterday's last hour, and the first after an outage every day it left
    unfinished, once each. A day whose reading failed is read again.
    """
    zone = settings().zone
    today = tick.astimezone(zone).date()
    past = last_days(today, settings().catch_up_days, settings().first_day)
    unread: set[date] = set()
    for key in keys:
        written = last_written(instance, key, past)
        unread |= {day for day in past if day not in written or written[day].at < day_end(day, zone)}
    return [*sorted(unread), *([today] if today >= settings().first_day else [])]


@dg.schedule(
    name="ingest_hourly_schedule",
    job=ingest_hourly,
    cron_schedule="0 * * * *",
    execution_timezone=settings().timezone,
    default_status=SCHEDULE_STATUS,
    description="Bronze and silver every hour: today, and days of the last week that were not read since they ended.",
)
def ingest_hourly_schedule(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest] | dg.SkipReason:
    """Of ticks missed in an outage Dagster evaluates the last one; it asks for every day left unfinished."""
    tick = context.scheduled_execution_time
    silent_since = tick - timedelta(hours=settings().stalled_after_hours)
    running = unfinished_runs(context.instance, ingest_hourly.name, silent_since)
    if running:
        return dg.SkipReason(f"run {running[0]} is still reading; the next tick asks again")
    days = days_to_read(context.instance, tick, READ_TABLES)
    if not days:
        return dg.SkipReason(f"LIMS_START_DATE={settings().first_day} lies in the future")
    return [span_request(first, last, f"{tick.isoformat()} {first}") for first, last in spans(days)]


#: Tuned by the clock alone: limits that moved with every day's data could follow a drift.
tuning_monthly_schedule = by_the_clock(
    tuning_monthly,
    "0 5 1 * *",
    "Patient-based QC tuned anew on the first of the month; the job can be started by hand before.",
)

SCHEDULES = [ingest_hourly_schedule, tuning_monthly_schedule, freshness_schedule, *DEMO_SCHEDULES]
