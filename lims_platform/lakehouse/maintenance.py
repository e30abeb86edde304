"""Upkeep of the lake: small files compacted, rows past their retention deleted, files of old versions vacuumed.

Here: one table at a time, planned (``dry_run``) and done by the same code, and dated report folders. Not here: when it
runs, runs and event logs (``automation.pruning``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from lims_platform.contracts.base import Table
from lims_platform.contracts.operations import RETENTION
from lims_platform.contracts.reference_table import ANY
from lims_platform.lakehouse.lake import Lake, retry_on_conflict
from lims_platform.lakehouse.reference import ReferenceTableError

#: Files a compaction aims at; a larger file is left alone.
TARGET_BYTES = 128 * 1024 * 1024
REPORTS = "reports"


@dataclass(frozen=True)
class Retention:
    """How long one table's rows are kept: rows whose ``column`` lies before ``before`` go."""

    column: str
    before: date


@dataclass(frozen=True)
class Upkeep:
    """What upkeep of one table does, or would do.

    ``compacted_files`` of ``compacted_bytes`` are rewritten into fewer; ``expired_rows`` lie before ``kept_from``;
    ``vacuumed_files`` of ``vacuumed_bytes`` leave the disk.
    """

    table: str
    compacted_files: int = 0
    compacted_bytes: int = 0
    expired_rows: int = 0
    kept_from: date | None = None
    vacuumed_files: int = 0
    vacuumed_bytes: int = 0


def rule_for(rules: pl.DataFrame, layer: str, name: str) -> dict[str, object] | None:
    """The most exact row of retention.csv for a table; None where no rule names it."""
    for wanted in ((layer, name), (layer, ANY), (ANY, ANY)):
        found = rules.filter((pl.col("layer") == wanted[0]) & (pl.col("table") == wanted[1]))
        if found.height:
            return found.row(0, named=True)
    return None


def retention(rules: pl.DataFrame, table: Table, today: date) -> Retention | None:
    """What retention.csv says of a table; None: kept for ever, as a table without days is unless a row names it.

    Raises ReferenceTableError where a row that names the table names no column that holds days.
    """
    rule = rule_for(rules, table.layer, table.name)
    if rule is None or rule["keep_days"] is None:
        return None
    if rule["table"] == ANY and table.partition is None:
        return None  # one slice, made anew as a whole or a register: it has no days that could grow old
    column = str(rule["day_column"] or table.partition or "")
    if column not in table.dtypes or not table.dtypes[column].is_temporal():
        raise ReferenceTableError(
            f"{RETENTION.name}.csv, column day_column: {table.path} has no day or time {column!r} "
            "to keep its rows by; name one of its columns or leave keep_days empty"
        )
    return Retention(column, today - timedelta(days=float(str(rule["keep_days"]))))


def upkeep(lake: Lake, table: Table, rule: Retention | None, keep_versions_days: int, *, dry_run: bool) -> Upkeep:
    """Compact, delete what is past its retention, vacuum; with ``dry_run`` only say what would go.

    Rebuild the catalogue before: its views name files. A commit that loses a race starts again from its read.
    """
    delta = lake.open(table)
    if delta is None:
        return Upkeep(table.path)
    files, size = _compactable(delta)
    if files and not dry_run:
        retry_on_conflict(lambda: DeltaTable(delta.table_uri).optimize.compact(target_size=TARGET_BYTES))
    expired = _expire(lake, table, rule, dry_run) if rule else 0
    gone = _vacuum(lake.path(table), keep_versions_days, dry_run)
    return Upkeep(table.path, files, size, expired, rule.before if rule else None, len(gone), sum(gone))


def upkeep_frame(done: Iterable[Upkeep]) -> pl.DataFrame:
    """One row per table, for people and metadata."""
    return pl.DataFrame([asdict(one) for one in done], infer_schema_length=None)


def _compactable(delta: DeltaTable) -> tuple[int, int]:
    """Number and bytes of the files a compaction rewrites: those that share a partition's bin with another small file."""
    actions = pl.DataFrame(delta.get_add_actions(flatten=True))
    partition = [name for name in actions.columns if name.startswith("partition.")]
    small = actions.filter(pl.col("size_bytes") < TARGET_BYTES)
    sizes = small.group_by(partition or pl.lit(0).alias("all")).agg(pl.col("size_bytes").sort(descending=True))
    several = sizes.filter(pl.col("size_bytes").list.len() > 1)["size_bytes"]
    rewritten = [size for sizes in several.to_list() for bin_ in _bins(sizes) if len(bin_) > 1 for size in bin_]
    return len(rewritten), sum(rewritten)


def _bins(sizes: list[int]) -> list[list[int]]:
    """First-fit decreasing, as delta-rs packs a partition's files."""
    bins: list[list[int]] = []
    for size in sizes:
        fitting = next((b for b in bins if sum(b) + size <= TARGET_BYTES), None)
        if fitting is None:
            bins.append([size])
        else:
            fitting.append(size)
    return bins


def _expire(lake: Lake, table: Table, rule: Retention, dry_run: bool) -> int:
    """Delete rows before the rule's day; rows without a value stay. Returns their number."""
    is_old = pl.col(rule.column).cast(pl.Date) < rule.before
    rows = int(lake.scan(table).filter(is_old).select(pl.len()).collect().item())
    if rows and not dry_run:
        predicate = f"CAST({rule.column} AS DATE) < CAST('{rule.before}' AS DATE)"
        if rule.column == table.partition:
            predicate = f"{rule.column} < '{rule.before}'"  # whole partitions leave by the log alone
        retry_on_conflict(lambda: DeltaTable(str(lake.path(table))).delete(predicate))
    return rows


def _vacuum(path: Path, keep_days: int, dry_run: bool) -> list[int]:
    """Sizes of the files no version of the last ``keep_days`` days needs, and of those no version ever named."""
    delta = DeltaTable(str(path))

    def vacuum(dry: bool) -> list[str]:
        return delta.vacuum(24 * keep_days, dry_run=dry, enforce_retention_duration=False, full=True)

    files = [path / name for name in vacuum(True)]
    sizes = [file.stat().st_size for file in files if file.is_file()]
    if sizes and not dry_run:
        vacuum(False)
    return sizes


def expired_reports(report_dir: Path, rules: pl.DataFrame, today: date, *, dry_run: bool) -> list[Path]:
    """Folders ``<report>/<ISO day>`` past the rule of their report; removed unless ``dry_run``."""
    gone = []
    for folder in sorted(report_dir.glob("*/????-??-??")):
        rule = rule_for(rules, REPORTS, folder.parent.name)
        if rule is None or rule["keep_days"] is None:
            continue
        if date.fromisoformat(folder.name) < today - timedelta(days=float(str(rule["keep_days"]))):
            gone.append(folder)
            if not dry_run:
                shutil.rmtree(folder)
    return gone
