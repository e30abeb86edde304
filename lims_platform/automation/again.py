"""Runs a sensor asked for, and when one that failed is asked for again.

Here: what the run store knows of a sensor's runs, so that only the moment of the reason has to be remembered. Not here:
reasons, and retries inside a run (``failures``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from dagster._core.storage.tags import SENSOR_NAME_TAG

from lims_platform.automation.written import UNFINISHED, unfinished_runs
from lims_platform.partitions import run_days
from lims_platform.settings import settings

#: What a run did not mend is asked for again after this, then after twice as long, and so on.
FIRST_PAUSE = timedelta(minutes=15)
#: Runs for the same reason over the same day; after the last of them a person, or a new reason, is needed.
MOST_RUNS = 5


@dataclass(frozen=True)
class _Run:
    assets: frozenset[dg.AssetKey]
    first: date
    last: date
    ended: datetime | None


@dataclass(frozen=True)
class Earlier:
    """A sensor's runs since its present reason, and those still at work for an older one."""

    runs: tuple[_Run, ...]

    @classmethod
    def of(cls, instance: dg.DagsterInstance, sensor: str, since: datetime, at: datetime) -> Earlier:
        """What the run store knows; an unfinished run without a sign of life has ended."""
        ours = {SENSOR_NAME_TAG: sensor}
        # a store may keep whole seconds
        begun = since - timedelta(seconds=1)
        records = instance.get_run_records(dg.RunsFilter(tags=ours, created_after=begun))
        unfinished = instance.get_run_records(dg.RunsFilter(tags=ours, statuses=UNFINISHED))
        silent_since = at - timedelta(hours=settings().stalled_after_hours)
        jobs = {record.dagster_run.job_name for record in unfinished}
        alive = {run for job in jobs for run in unfinished_runs(instance, job, silent_since)}
        kept = {r.dagster_run.run_id: r for r in [*records, *[r for r in unfinished if r.dagster_run.run_id in alive]]}
        found = []
        for run_id, record in kept.items():
            told = datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp
            ended = None if run_id in alive else told.replace(tzinfo=told.tzinfo or UTC)
            run = record.dagster_run
            found.append(_Run(frozenset(run.asset_selection or ()), *run_days(dict(run.tags)), ended))
        return cls(tuple(found))

    @property
    def working(self) -> int:
        """Runs that are waiting or working."""
        return sum(run.ended is None for run in self.runs)

    def _ends(self, asset: dg.AssetKey, day: date) -> list[datetime | None]:
        return [run.ended for run in self.runs if asset in run.assets and run.first <= day <= run.last]

    def may_ask(self, asset: dg.AssetKey, day: date, at: datetime) -> bool:
        """Whether the day of an asset may be asked for: nothing works on it, and the pause since the last run is over."""
        ends = self._ends(asset, day)
        ended = [end for end in ends if end is not None]
        if len(ended) < len(ends) or len(ends) >= MOST_RUNS:
            return False
        return not ended or at >= max(ended) + FIRST_PAUSE * 2 ** (len(ended) - 1)

    def gave_up(self, asset: dg.AssetKey, day: date) -> bool:
        """Whether the day had all the runs it gets."""
        ends = self._ends(asset, day)
        return len(ends) >= MOST_RUNS and None not in ends
