"""States of the reference tables: every one that standardised something is kept, and each day of silver names its own.

A row of silver carries the digest of the tables that produced it. With the tables kept under that digest a program can ask
what a later edit changes, and a person what a result was read by. A state is some 300 KB and is never deleted.

Here: keeping and finding states, the digests of each day of a table. Not here: reading the CSV files (``reference``), what a
change means for results (``laboratory.reference_effects``).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from deltalake.exceptions import DeltaError

from lims_platform.contracts.base import Table
from lims_platform.contracts.reference import Reference
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference import ReferenceTableError, load_reference

DIGEST = "reference_digest"
#: A file saved less than this ago may be half of what its editor writes.
SETTLED_SECONDS = 10.0


@dataclass(frozen=True)
class ReferenceStates:
    """The folder the laboratory edits, and the folder of kept states, one subfolder per digest."""

    edited: Path
    kept: Path

    def current(self) -> Reference:
        """The edited tables, kept from now on. ReferenceTableError names file, line and column of what is wrong."""
        reference = load_reference(self.edited)
        if not (self.kept / reference.digest).exists():
            self._keep(reference.digest)
        return reference

    def _keep(self, digest: str) -> None:
        """A copy under its digest, in one step; none where the files were edited meanwhile: the next reading keeps those."""
        self.kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=self.kept) as made:
            copy = Path(made) / "state"
            copy.mkdir()
            for path in self.edited.glob("*.csv"):
                shutil.copyfile(path, copy / path.name)
            with suppress(ReferenceTableError):
                if load_reference(copy).digest == digest:
                    self._put(copy, self.kept / digest)

    @staticmethod
    def _put(copy: Path, target: Path) -> None:
        try:
            copy.rename(target)
        except OSError:
            if not target.exists():  # else another process was quicker, with the same bytes
                raise

    def of(self, digest: str) -> Reference | None:
        """The tables of a digest; None where they were never kept, or are not to be read as they were any more."""
        if not (self.kept / digest).is_dir():
            return None
        try:
            reference = load_reference(self.kept / digest)
        except ReferenceTableError:  # damaged, or kept by a release whose tables had other columns
            return None
        return reference if reference.digest == digest else None

    def is_being_edited(self) -> bool:
        """Whether a file was saved moments ago."""
        newest = max((path.stat().st_mtime for path in self.edited.glob("*.csv")), default=0.0)
        return abs(time.time() - newest) < SETTLED_SECONDS


def digests_by_day(lake: Lake, table: Table, version: int, since: int | None = None) -> pl.DataFrame:
    """day and reference_digest of the table's rows at ``version``, each pair once; file statistics tell, else the rows.

    ``since``: only days with files that an earlier version did not have; all, where that version is not to be had any more.
    """
    files = _files(lake, table, version)
    if since is not None:
        with suppress(DeltaError):
            files = files.join(_files(lake, table, since), on="path", how="anti")
    one = (pl.col("low") == pl.col("high")).fill_null(False) & (pl.col("nulls") == 0).fill_null(False)
    told = files.filter(one).select("day", pl.col("low").alias(DIGEST))
    days = files.filter(~one)["day"].unique().to_list()
    if days:
        rows = lake.scan(table, min(days), max(days), version).select(pl.col(str(table.partition)).alias("day"), DIGEST)
        told = pl.concat([told, rows.filter(pl.col("day").is_in(days)).unique().collect()])
    return told.unique().sort("day", DIGEST)


def _files(lake: Lake, table: Table, version: int) -> pl.DataFrame:
    """path, day, and the least and greatest digest of every file that has rows."""
    delta = lake.open(table, version)
    wanted = {"low": f"min.{DIGEST}", "high": f"max.{DIGEST}", "nulls": f"null_count.{DIGEST}"}
    columns = {"path": pl.String, "day": pl.Date, "low": pl.String, "high": pl.String, "nulls": pl.Int64}
    files = pl.DataFrame() if delta is None else pl.DataFrame(delta.get_add_actions(flatten=True))
    if files.is_empty():
        return pl.DataFrame(schema=columns)
    lost = [pl.lit(None).alias(name) for name in wanted.values() if name not in files.columns]
    named = files.with_columns(lost).filter(pl.col("num_records").fill_null(1) > 0)
    return named.select(path="path", day=f"partition.{table.partition}", **wanted).cast(columns)  # type: ignore[arg-type]
