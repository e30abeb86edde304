"""Every partitions definition and time window.

Here: the laboratory's daily calendar and the trailing windows features look back over. Not here: what is computed in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

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

#: Days a statistic of patient-based QC runs on from before its day.
PATIENT_QC_DAYS = 28


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


def spans(days: Iterable[date]) -> list[tuple[date, date]]:
    """Days as runs of consecutive ones, each (first, last), in order."""
    found: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if found and day - found[-1][1] == timedelta(days=1):
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def spans_text(days: Iterable[date]) -> str:
    """Days as short text, ``2026-03-01, 2026-03-05/2026-03-08``: metadata is copied to every day's event."""
    return ", ".join(str(first) if first == last else f"{first}/{last}" for first, last in spans(days))


def days_of_text(text: str) -> list[date]:
    """The days ``spans_text`` wrote."""
    days: list[date] = []
    for part in filter(None, text.split(", ")):
        first, _, last = part.partition("/")
        start, end = date.fromisoformat(first), date.fromisoformat(last or first)
        days += [start + timedelta(days=offset) for offset in range((end - start).days + 1)]
    return days
