"""Every partitions definition and time window.

Here: the laboratory's daily calendar and the trailing windows features look back over. Not here: what is computed in them.
"""

from __future__ import annotations

from datetime import date

import dagster as dg

from lims_platform.settings import settings

#: Today is a partition too (end_offset=1): otherwise nothing could be hourly.
DAILY = dg.DailyPartitionsDefinition(start_date=settings().first_day.isoformat(), timezone=settings().timezone, end_offset=1)

#: A range of days is one run, for unpartitioned assets of the same job too.
ONE_RUN = dg.BackfillPolicy.single_run()

#: Days of history the device features need before the first day asked for (30-day means, service and failure dates).
DEVICE_HISTORY_DAYS = 400

#: Days before the first day an outbreak feature looks at: episode windows, and the same season of past years.
OUTBREAK_HISTORY_DAYS = 800

#: Days of a baseline for quality and drift statistics.
BASELINE_DAYS = 60


def trailing(days: int) -> dg.TimeWindowPartitionMapping:
    """A day and the ``days`` before it, as far back as the table goes."""
    return dg.TimeWindowPartitionMapping(start_offset=-days, allow_nonexistent_upstream_partitions=True)


def partition_bounds() -> tuple[date, date]:
    """First and last daily partition as of now."""
    last = DAILY.get_last_partition_key()
    if last is None:
        raise ValueError(f"LIMS_START_DATE={settings().first_day} lies in the future: there is no partition yet")
    return settings().first_day, date.fromisoformat(last)


def run_days(tags: dict[str, str]) -> tuple[date, date]:
    """First and last day of a run by its tags: one partition, a range, or (neither) every partition."""
    if "dagster/partition" in tags:
        day = date.fromisoformat(tags["dagster/partition"])
        return day, day
    first, last = partition_bounds()
    start, end = tags.get("dagster/asset_partition_range_start"), tags.get("dagster/asset_partition_range_end")
    return (date.fromisoformat(start) if start else first), (date.fromisoformat(end) if end else last)
