"""Runs asked for under one reason, and when a run that failed is asked for again.

Here: what the run store knows about earlier runs of the same reason (a tag), so that nothing has to be remembered. Not here:
reasons, and retries inside a run (``failures``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg

from lims_platform.automation.written import unfinished_runs
from lims_platform.partitions import run_days
from lims_platform.settings import settings

#: Tag of a run that says what it was asked for; the same value on every further run for the same reason.
REASON_TAG = "lims/reason"
#: A failed run is asked for again after this, then after twice as long, and so on.
FIRST_PAUSE = timedelta(minutes=15)
#: Runs of one reason over the same day; after the last of them a person, or a new reason, is needed.
MOST_RUNS = 5


@dataclass(frozen=True)
class _Run:
    assets: frozenset[dg.AssetKey]
    first: date
    last: date
    ended: datetime | None


@dataclass(frozen=True)
class Earlier:
    """The runs a reason has had so far."""

    runs: tuple[_Run, ...]

    @classmethod
    def of(cls, instance: dg.DagsterInstance, reason: str, at: datetime) -> Earlier:
        """What the run store knows; an unfinished run without a sign of life has ended."""
        records = instance.get_run_records(dg.RunsFilter(tags={REASON_TAG: reason}))
        silent_since = at - timedelta(hours=settings().stalled_after_hours)
        jobs = {record.dagster_run.job_name for record in records}
        alive = {run for job in jobs for run in unfinished_runs(instance, job, silent_since)}
        found = []
        for record in records:
            run = record.dagster_run
            told = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp
            ended = None if run.run_id in alive else told.replace(tzinfo=told.tzinfo or UTC)
            found.append(_Run(frozenset(run.asset_selection or ()), *run_days(dict(run.tags)), ended))
        return cls(tuple(found))

    @property
    def working(self) -> int:
        """Runs that are waiting or working."""
        return sum(run.ended is None for run in self.runs)

    def may_ask(self, asset: dg.AssetKey, day: date, at: datetime) -> bool:
        """Whether the day of an asset may be asked for: nothing works on it, and the pause since the last run is over."""
        ends = [run.ended for run in self.runs if asset in run.assets and run.first <= day <= run.last]
        ended = [end for end in ends if end is not None]
        if len(ended) < len(ends) or len(ends) >= MOST_RUNS:
            return False
        return not ended or at >= max(ended) + FIRST_PAUSE * 2 ** (len(ended) - 1)

    def gave_up(self, asset: dg.AssetKey, day: date) -> bool:
        """Whether the day had all the runs it gets and none is left."""
        ends = [run.ended for run in self.runs if asset in run.assets and run.first <= day <= run.last]
        return len(ends) >= MOST_RUNS and None not in ends
