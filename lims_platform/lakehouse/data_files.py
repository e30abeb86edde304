"""Data files of a lake table: polars writes them, the Delta log is told what is in them, one commit makes them visible.

Here: Parquet files by day, their statistics, the commit and what it must find unchanged. Not here: contracts and which days
a write covers (``lake``), which rows change (``history``). Why delta-rs does not write them: ADR 12.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import polars as pl
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.schema import Schema
from deltalake.transaction import AddAction, RemoveAction
from polars.io.partition import FileProviderArgs

#: How often a commit looks again when one of other days took the version number it was about to take.
RACES = 20
#: A higher level costs time and saves little.
_ZSTD_LEVEL = 1
#: Bytes a disk must still have not to be called full.
_ROOM = 64 * 1024 * 1024
_EPOCH = datetime(1970, 1, 1)


#: A filter of partitions as delta-rs takes it; no term means the whole table.
Span = list[tuple[str, str, str]]


@dataclass(frozen=True)
class DataFile:
    """A Parquet file in a table's folder; ``day`` is its partition, None in a table without days."""

    folder: Path
    name: str
    day: date | None

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / self.name


@dataclass(frozen=True)
class Commit:
    """What a commit says beside its files: the days it replaces (None: it only adds), app transactions, metadata."""

    schema: Schema
    replaces: Span | None = None
    transactions: Mapping[str, int] | None = None
    told: Mapping[str, str] | None = None


def write_files(folder: Path, partition: str | None, frame: pl.LazyFrame) -> list[DataFile]:
    """Stream a frame into one file per day of ``partition`` (one at all without), under names never used before.

    No version names them yet: what a failed write left is removed here, what a killed one left by the vacuum.
    """
    files: list[DataFile] = []

    def named(args: FileProviderArgs) -> str:
        files.append(_new_file(folder, partition, args.partition_keys.item()))
        return files[-1].name

    with _removed_on_failure(folder, files):
        if partition is None:
            files.append(_new_file(folder, None, None))
            _sink(frame, files[0].path)
        else:
            days = pl.PartitionBy(
                folder, key=partition, include_key=False, file_path_provider=named, approximate_bytes_per_file=None
            )
            _sink(frame, days)
    return files


def write_days(folder: Path, partition: str, frame: pl.DataFrame) -> list[DataFile]:
    """``write_files`` of a frame in memory that is sorted by ``partition``: two days are written at a time."""
    runs = frame[partition].rle().struct.unnest()
    files = [_new_file(folder, partition, day) for day in runs["value"]]
    starts = runs["len"].cum_sum() - runs["len"]
    rows = frame.drop(partition)
    with _removed_on_failure(folder, files), ThreadPoolExecutor(2) as pool:
        slices = (rows.slice(start, length).lazy() for start, length in zip(starts, runs["len"], strict=True))
        for _ in pool.map(_sink, slices, [file.path for file in files]):
            pass
    return files


def _new_file(folder: Path, partition: str | None, day: date | None) -> DataFile:
    place = "" if partition is None else f"{partition}={day}/"
    return DataFile(folder, f"{place}part-{uuid4()}.parquet", day)


def _sink(frame: pl.LazyFrame, target: Path | pl.PartitionBy) -> None:
    frame.sink_parquet(target, compression="zstd", compression_level=_ZSTD_LEVEL, mkdir=True)


@contextlib.contextmanager
def _removed_on_failure(folder: Path, files: list[DataFile]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        try:
            if isinstance(error, pl.exceptions.ComputeError):
                _refuse_full_disk(folder)
        finally:
            discard(files)
        raise


def _refuse_full_disk(folder: Path) -> None:
    """OSError where the disk has no room: polars reports a write that failed for want of it as a broken Parquet header."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        os.posix_fallocate(probe.fileno(), 0, _ROOM)


def discard(files: list[DataFile]) -> None:
    """Remove files no version names; one that cannot be removed is left to the vacuum."""
    for file in files:
        with contextlib.suppress(OSError):
            file.path.unlink(missing_ok=True)


def commit_files(
    folder: Path, partition: str | None, files: list[DataFile], what: Commit, is_unchanged: Callable[[DeltaTable], bool]
) -> int:
    """Add ``files`` to the newest version in one commit; returns the new version.

    ``is_unchanged`` judges the very version the commit follows: delta-rs's own search for conflicts knows no predicate for
    files it did not write, it would miss a compaction (rows doubled) and refuse writers of other days. Raises
    CommitFailedError where something changed.
    """
    actions: list[AddAction | RemoveAction] = [_add_action(file, partition) for file in files]
    mode = "append" if what.replaces is None else "overwrite"
    properties = CommitProperties(
        max_commit_retries=0,  # directly after the version that was judged, or not at all
        app_transactions=[Transaction(app, number) for app, number in (what.transactions or {}).items()] or None,
        custom_metadata=dict(what.told) if what.told else None,
    )
    for _ in range(RACES):
        delta = DeltaTable(str(folder))
        if not is_unchanged(delta):
            break
        try:
            delta.create_write_transaction(
                actions, mode, what.schema, partition, what.replaces or None, commit_properties=properties
            )
        except CommitFailedError:
            continue  # another commit took the number: judge what it did
        return int(delta.version()) + 1
    raise CommitFailedError(f"{folder}: another writer committed first")


def _add_action(file: DataFile, partition: str | None) -> AddAction:
    """What the log is told about a file: size, rows, and by column the bounds and nulls that let readers pass it over."""
    status = file.path.stat()
    return AddAction(
        path=file.name,
        size=status.st_size,
        partition_values={} if partition is None else {partition: str(file.day)},
        modification_time=int(status.st_mtime * 1000),
        data_change=True,
        stats=json.dumps(statistics(file.path)),
    )


def statistics(path: Path) -> dict[str, Any]:
    """numRecords, minValues, maxValues and nullCount of a Parquet file as its footer has them (Delta protocol, Per-file
    Statistics): no data is read.

    Texts are bounds of at most 64 bytes, as polars writes them. Floats have no bounds: a footer's leave NaN out, which
    polars takes for the greatest number of all.
    """
    footer = pq.read_metadata(path)
    lows: dict[str, Any] = {}
    highs: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    for place in range(footer.num_columns):
        found = [group.column(place).statistics for group in groups]
        name = footer.schema.column(place).path
        if "." in name or not all(one is not None and one.has_null_count for one in found):
            continue  # inside a list, or a footer that does not say
        nulls[name] = sum(one.null_count for one in found)
        filled = [one for one in found if one.num_values]
        ends = [ends for one in filled if (ends := _bounds(one)) is not None]
        if ends and len(ends) == len(filled):
            lows[name] = min(low for low, _ in ends)
            highs[name] = max(high for _, high in ends)
    return {"numRecords": footer.num_rows, "minValues": lows, "maxValues": highs, "nullCount": nulls}


def _bounds(column: pq.Statistics) -> tuple[Any, Any] | None:
    """Least and greatest value of a column in a row group as the log writes them; None where it cannot or must not."""
    if not column.has_min_max:
        return None
    ends, kind = (column.min_raw, column.max_raw), column.logical_type.type
    try:
        if kind == "STRING":
            low, high = (end.decode() for end in ends)
            return low, high
        if kind == "TIMESTAMP":
            low, high = (f"{(_EPOCH + timedelta(microseconds=end)).isoformat(timespec='microseconds')}Z" for end in ends)
            return low, high
        if kind == "DATE":
            low, high = ((_EPOCH + timedelta(days=end)).date().isoformat() for end in ends)
            return low, high
    except (UnicodeDecodeError, OverflowError):  # a character cut in two; the years before 1 and after 9999
        return None
    return ends if kind in ("NONE", "INT") and column.physical_type in ("INT32", "INT64") else None
