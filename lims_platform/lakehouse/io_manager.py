"""The IO manager: assets return lazy frames, it writes their days and reads their inputs as pinned snapshots.

Here: days of a run to a Delta range overwrite, versions in metadata. Not here: bronze (``history``), column meaning.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from lims_platform.contracts.base import Table
from lims_platform.lakehouse.lake import Lake


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

    Metadata of a write: Delta version, rows, days, and the version of every input the step read, all scalars (an event is
    copied to every day of a range). Rows per day go to each day's own event.
    """

    def __init__(self, lake: Lake, tables: Mapping[str, Table]) -> None:
        self._lake = lake
        self._tables = tables
        self._read_versions: dict[tuple[str, str], dict[str, int]] = {}

    def _table(self, key: dg.AssetKey) -> Table:
        return self._tables[key.path[-1]]

    def handle_output(self, context: dg.OutputContext, obj: pl.LazyFrame | pl.DataFrame) -> None:
        """Replace the run's days of the table by ``obj``; a check of dtypes against the contract comes first."""
        table = self._table(context.asset_key)
        first, last = _days(context)
        started = time.monotonic()
        version = self._lake.replace(table, obj.lazy, first, last)
        seconds = time.monotonic() - started
        written = self._lake.scan(table, first, last, version)
        metadata: dict[str, Any] = {"delta_version": version, "write_seconds": round(seconds, 2)}
        if table.partition is not None:
            per_day = written.group_by(table.partition).agg(rows=pl.len()).collect()
            metadata |= {"dagster/row_count": int(per_day["rows"].sum()), "days": f"{first} to {last}"}
        else:
            metadata["dagster/row_count"] = int(written.select(pl.len()).collect().item())
        reads = self._read_versions.pop((context.run_id, context.step_key), {})
        metadata |= {f"input_version/{name}": read for name, read in reads.items()}
        context.add_output_metadata(metadata)

    def load_input(self, context: dg.InputContext) -> pl.LazyFrame:
        """The input's days at the version that is latest now, recorded as the input version of the step."""
        if context.upstream_output is not None and context.asset_key is None:
            raise ValueError("the lake's IO manager loads assets only")
        table = self._table(context.asset_key)
        version = self._lake.version(table)
        reads = self._read_versions.setdefault((self._run_id(context), context.step_context.step.key), {})
        if version is None:
            return table.empty().lazy()
        reads[table.name] = version
        first, last = _days(context)
        return self._lake.scan(table, first, last, version)

    @staticmethod
    def _run_id(context: dg.InputContext) -> str:
        return context.step_context.run_id
