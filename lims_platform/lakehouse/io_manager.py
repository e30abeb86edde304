"""The IO manager: assets return lazy frames, it writes their days and reads their inputs as pinned snapshots.

Here: days of a run to a Delta range overwrite, versions in metadata. Not here: bronze (``history``), column meaning.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl
from deltalake.exceptions import CommitFailedError

from lims_platform.contracts.base import Table
from lims_platform.failures import typed_failures
from lims_platform.lakehouse.lake import COMMIT_ATTEMPTS, Lake

#: Seconds a step waits before it starts again, drawn at random so that two runs do not march in step.
CONFLICT_WAIT_SECONDS = (0.2, 2.0)


#: Rows of the whole write, on every day's event; ``dagster/row_count`` is the day's own.
ROWS_OF_RUN = "rows_of_run"


def count_rows_of_days(context: Any, days: Iterable[str], counts: Mapping[date, int]) -> int:
    """Give each of the days a step materialises its own row count; returns their sum.

    ``context`` is an asset's or a step's. Without this a range run tells every day the rows of all of them.
    """
    total = 0
    for day in days:
        rows = counts.get(date.fromisoformat(day), 0)
        context.add_asset_metadata({"dagster/row_count": rows}, partition_key=day)
        total += rows
    return total


def _days(context: dg.InputContext | dg.OutputContext) -> tuple[date | None, date | None]:
    """The days a context covers; None where the asset is unpartitioned, or the mapping covers nothing."""
    if not context.has_asset_partitions:
        return None, None
    keys = context.asset_partition_keys
    if not keys:
        return date.max, date.min
    return date.fromisoformat(min(keys)), date.fromisoformat(max(keys))


class DeltaIOManager(dg.IOManager):
    """Stores an asset's frame as the Delta table of its last key part; hands out lazy scans at a pinned version.

    Metadata of a write: Delta version, rows and days of the whole write, and the version of every input the step read, all
    scalars, because Dagster copies them to the event of every day; the row count is the day's own. Of two runs that write
    the same days the last word has the one with the newest inputs: a write that lost the race, or whose inputs changed
    meanwhile, starts its step again.
    """

    def __init__(self, lake: Lake, tables: Mapping[str, Table]) -> None:
        self._lake = lake
        self._tables = tables
        self._reads: dict[tuple[str, str], dict[str, _Read]] = {}

    def _table(self, key: dg.AssetKey) -> Table:
        return self._tables[key.path[-1]]

    def handle_output(self, context: dg.OutputContext, obj: pl.LazyFrame | pl.DataFrame) -> None:
        """Replace the run's days of the table by ``obj``; a check of dtypes against the contract comes first."""
        table = self._table(context.asset_key)
        first, last = _days(context)
        reads = self._reads.pop((context.run_id, context.step_key), {})
        started = time.monotonic()
        with typed_failures(table.path, context.step_context.previous_attempt_count, context.log.warning):
            try:
                version = self._lake.replace(table, obj.lazy(), first, last)
            except CommitFailedError as error:
                raise _again(context, f"{table.path} was written by another run") from error
        moved = [read.table.path for read in reads.values() if self._has_moved(read)]
        if moved:
            raise _again(context, f"{', '.join(moved)} changed while {table.path} was computed")
        metadata: dict[str, Any] = {"delta_version": version, "write_seconds": round(time.monotonic() - started, 2)}
        if table.partition is None:
            metadata["dagster/row_count"] = int(self._lake.scan(table, version=version).select(pl.len()).collect().item())
        else:
            counts = dict(self._lake.rows_by_day(table, version).iter_rows())
            metadata[ROWS_OF_RUN] = count_rows_of_days(context.step_context, context.asset_partition_keys, counts)
            metadata["days"] = f"{first} to {last}"
        metadata |= {f"input_version/{name}": read.version for name, read in reads.items() if read.version is not None}
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> pl.LazyFrame:
        """The input's days at the version that is latest now, recorded as the input version of the step."""
        table = self._table(context.asset_key)
        first, last = _days(context)
        read = _Read(table, self._lake.version(table), first, last)
        step = context.step_context
        self._reads.setdefault((step.run_id, step.step.key), {})[table.name] = read
        return self._lake.scan(table, first, last, read.version)

    def _has_moved(self, read: _Read) -> bool:
        """Whether the days a step read have other files by now; an append to other days does not matter."""
        if self._lake.version(read.table) == read.version:
            return False
        if read.version is None:
            return True
        then, now = (self._lake.files(read.table, version, read.first, read.last) for version in (read.version, None))
        return then != now


@dataclass(frozen=True)
class _Read:
    """What a step was given: a table's days at a version (None: it did not exist)."""

    table: Table
    version: int | None
    first: date | None
    last: date | None


def _again(context: dg.OutputContext, why: str) -> dg.RetryRequested:
    """Dagster starts the step again, from its reads."""
    context.log.warning(f"{why}: the step starts again from its reads")
    wait = random.uniform(*CONFLICT_WAIT_SECONDS)
    return dg.RetryRequested(max_retries=COMMIT_ATTEMPTS - 1, seconds_to_wait=wait)
