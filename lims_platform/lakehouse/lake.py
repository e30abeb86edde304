"""The lake: Delta tables by layer and name, read as pinned snapshots and written by whole days.

Here: paths, versions, scans, day-range overwrites, retries on conflict. Not here: versions of rows (``history``), Dagster.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TypeVar

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.schema import Schema

from lims_platform.contracts.base import Table
from lims_platform.lakehouse.data_files import Commit, DataFile, Span, commit_files, discard, write_files

T = TypeVar("T")

#: A commit that lost a race starts again from its read, at most this often.
COMMIT_ATTEMPTS = 5


class ContractError(ValueError):
    """A frame does not have its table's columns or dtypes; the message names the table and each column."""

    transient = False
    advice = "The table and its contract differ: a defect, or an upgrade half done. Call who maintains the platform."


class LakeWriteError(RuntimeError):
    """The lake could not take a write (full disk, read-only, rows outside their range); nothing of it is visible."""


@contextmanager
def writing(table: Table) -> Iterator[None]:
    """Turn whatever the storage says into a LakeWriteError that names the table; a lost race stays CommitFailedError."""
    try:
        yield
    except CommitFailedError:
        raise
    except (DeltaError, OSError) as error:
        said = " ".join(str(error).split())
        raise LakeWriteError(
            f"{table.path}: cannot be written: {said}. Readers see the version before; run again"
        ) from error


def retry_on_conflict(attempt: Callable[[], T]) -> T:
    """Run read-and-commit again when another writer committed first; jitter keeps two writers from marching in step."""
    for tried in range(1, COMMIT_ATTEMPTS + 1):
        try:
            return attempt()
        except CommitFailedError:
            if tried == COMMIT_ATTEMPTS:
                raise
            time.sleep(random.uniform(0.05, 0.3) * tried)
    raise AssertionError("unreachable")


def conform(frame: pl.LazyFrame, table: Table) -> pl.LazyFrame:
    """The frame in the contract's column order; ContractError unless columns and dtypes are exactly the contract's.

    delta-rs would cast silently (1.7 into an Int64 column becomes 1), so the comparison comes before the write.
    """
    actual, expected = frame.collect_schema(), table.dtypes
    problems = [f"{name}: missing" for name in expected if name not in actual]
    problems += [f"{name}: not in the contract" for name in actual if name not in expected]
    problems += [
        f"{name}: {actual[name]}, expected {dtype}"
        for name, dtype in expected.items()
        if name in actual and actual[name] != dtype
    ]
    if problems:
        raise ContractError(f"{table.path}: " + "; ".join(problems))
    return frame.select(list(expected))


def stored_schema(delta: DeltaTable, table: Table, *, may_grow: bool) -> Schema:
    """The schema a commit leaves behind: the stored one, and behind it what only the contract has where it ``may_grow``.

    ContractError where types differ, or where it may not grow and would have to: the log would hide what the files hold.
    """
    stored = delta.schema()
    types = {field.name: field.type for field in stored.fields}
    wanted = Schema.from_arrow(table.empty().to_arrow().schema).fields
    new = [field for field in wanted if field.name not in types]
    problems = [
        f"{field.name}: stored as {types[field.name].type}, the contract says {field.type.type}"
        for field in wanted
        if field.name in types and types[field.name] != field.type
    ]
    problems += [] if may_grow else [f"{field.name}: not stored yet" for field in new]
    if problems:
        raise ContractError(f"{table.path}: {'; '.join(problems)}. Migrate the lake (docs/operations.md)")
    return Schema([*stored.fields, *new]) if new else stored


def _span(table: Table, first: date | None, last: date | None) -> Span:
    """Filter of the table's partitions; empty where it is meant as a whole."""
    if table.partition is None or first is None or last is None:
        return []
    return [(table.partition, ">=", first.isoformat()), (table.partition, "<=", last.isoformat())]


class Lake:
    """Delta tables under ``root``, one folder per ``<layer>/<table>``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, table: Table) -> Path:
        """Folder of the table, whether it exists or not."""
        return self.root / table.layer / table.name

    def open(self, table: Table, version: int | None = None) -> DeltaTable | None:
        """The Delta table at ``version`` (latest by default), or None where nothing was ever written."""
        path = str(self.path(table))
        return DeltaTable(path, version=version) if DeltaTable.is_deltatable(path) else None

    def version(self, table: Table) -> int | None:
        """Latest version, None where nothing was ever written."""
        delta = self.open(table)
        return None if delta is None else delta.version()

    def existing(self, tables: Iterable[Table]) -> list[Table]:
        """Those of ``tables`` that were ever written."""
        return [table for table in tables if self.open(table) is not None]

    def scan(
        self, table: Table, first: date | None = None, last: date | None = None, version: int | None = None
    ) -> pl.LazyFrame:
        """The table, or its days ``first`` to ``last``, at a pinned version; no rows where nothing was ever written.

        Columns a newer contract has and the stored table has not are null.
        """
        delta = self.open(table, version)
        if delta is None:
            return table.empty().lazy()
        frame = pl.scan_delta(delta)
        if table.partition is not None:
            if first is not None:
                frame = frame.filter(pl.col(table.partition) >= first)
            if last is not None:
                frame = frame.filter(pl.col(table.partition) <= last)
        stored = frame.collect_schema().names()
        missing = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in table.dtypes.items() if name not in stored]
        return frame.with_columns(missing).select(list(table.dtypes))

    def replace(self, table: Table, frame: pl.LazyFrame, first: date | None = None, last: date | None = None) -> int:
        """Replace the days ``first`` to ``last`` (the whole table if unpartitioned) by ``frame``, atomically.

        Columns new in the contract are added to the stored table. Returns the committed version. Raises ContractError before
        anything is written; LakeWriteError when the storage refuses or a row is dated outside the range; CommitFailedError
        when another writer committed these days meanwhile: the caller starts again from its reads, because ``frame`` may be
        out of date.
        """
        if table.partition is not None and (first is None or last is None):
            raise ValueError(f"{table.path} is written by days: first and last are required")
        ready = conform(frame, table)
        delta = self.create_if_absent(table)
        before, schema = self._files(delta, table, first, last), delta.schema()
        what = Commit(stored_schema(delta, table, may_grow=True), _span(table, first, last))

        def is_unchanged(newest: DeltaTable) -> bool:
            return newest.schema() == schema and self._files(newest, table, first, last) == before

        with writing(table):
            written = write_files(self.path(table), table.partition, ready)
            self._refuse_strange(table, written, first, last)
            return commit_files(self.path(table), table.partition, written, what, is_unchanged)

    @staticmethod
    def _refuse_strange(table: Table, written: list[DataFile], first: date | None, last: date | None) -> None:
        """LakeWriteError, and the files are gone, where one holds rows of a day outside the range."""
        if table.partition is None or first is None or last is None:
            return
        strange = [file.day for file in written if file.day is None or not first <= file.day <= last]
        if strange:
            discard(written)
            days = ", ".join(sorted(str(day) for day in strange)[:5])
            raise LakeWriteError(f"{table.path}: cannot be written: rows dated {days}, outside {first} to {last}")

    def files(self, table: Table, version: int | None, first: date | None = None, last: date | None = None) -> set[str]:
        """Data files of the table's days at a version: equal sets hold equal rows."""
        delta = self.open(table, version)
        return set() if delta is None else self._files(delta, table, first, last)

    @staticmethod
    def _files(delta: DeltaTable, table: Table, first: date | None, last: date | None) -> set[str]:
        return set(delta.file_uris(_span(table, first, last) or None))

    def rows_by_day(self, table: Table, version: int | None = None) -> pl.DataFrame:
        """Rows of every day of a table with days: day, rows, in order; from the transaction log, no data file is opened."""
        nothing = pl.DataFrame(schema={"day": pl.Date, "rows": pl.Int64})
        delta = self.open(table, version)
        if delta is None:
            return nothing
        files = pl.DataFrame(delta.get_add_actions(flatten=True))
        if files.is_empty():
            return nothing
        counts = files.select(day=pl.col(f"partition.{table.partition}").cast(pl.Date), rows="num_records")
        if counts["rows"].null_count():  # a writer without statistics
            days = pl.scan_delta(delta).group_by(day=str(table.partition)).agg(rows=pl.len().cast(pl.Int64))
            return days.sort("day").collect()
        return counts.group_by("day").agg(pl.col("rows").sum().cast(pl.Int64)).sort("day")

    def _create(self, table: Table) -> DeltaTable:
        """An empty table with the contract's schema, so that the first write is an overwrite like any other."""
        path = self.path(table)
        with writing(table):
            path.mkdir(parents=True, exist_ok=True)
            return DeltaTable.create(
                str(path),
                schema=table.empty().to_arrow().schema,
                partition_by=[table.partition] if table.partition else None,
                mode="ignore",
                description=table.description,
            )

    def create_if_absent(self, table: Table) -> DeltaTable:
        """The table, made empty with the contract's schema where it did not exist."""
        return self.open(table) or self._create(table)

    def append(self, table: Table, frame: pl.DataFrame) -> int:
        """Add rows to an append-only table; returns the committed version. ContractError before anything is written."""
        ready = conform(frame.lazy(), table).collect()
        delta = self.create_if_absent(table)
        with writing(table):
            ready.write_delta(delta, mode="append")
        return int(delta.version())
