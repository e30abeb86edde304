"""Sources made of messages: a result arrives, arrives corrected, arrives again; the latest version is the source's state.

Here: which version of a key is current, which it superseded, days and counts; shared by ``hl7`` and ``fhir``.
Not here: reading messages.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC as UTC_ZONE
from datetime import date, datetime
from pathlib import Path

import polars as pl

from lims_platform.contracts.extract import EXTRACT_COLUMNS, DayWindow, Extract, SourceError
from lims_platform.contracts.source import REFUSED_ID, REFUSED_VALUE, UTC, SourceTable
from lims_platform.sources.changes import Marks, look_at_files, row_marks
from lims_platform.sources.config import SourceConfig
from lims_platform.sources.conform import Layout, conform, empty, match_key

#: Besides the contract's columns (all text): when the version was made, the order of arrival, a flag of the row.
VERSION_COLUMNS: dict[str, pl.DataType] = {"_at": UTC, "_order": pl.Int64(), "_flag": pl.String()}


def refusal(content: bytes, place: str, reason: str) -> dict[str, str]:
    """The row that stands for a message or line that cannot be read: it waits in quarantine and says why and where.

    ``place`` must not hold a file's name, which may name a patient: see ``file_place``.
    """
    return {
        "result_id": f"{REFUSED_ID}{hashlib.sha256(content).hexdigest()[:32]}",
        "result_value": f"{REFUSED_VALUE}{reason}; {len(content):,} bytes, {place}]",
    }


def file_place(data: bytes, number: int) -> str:
    """Part ``number`` (from 1) of a file, told by what ``sha256sum`` prints for it."""
    return f"part {number} of the file with SHA-256 {hashlib.sha256(data).hexdigest()[:16]}"


class VersionedSource(ABC):
    """lab_results of one folder of messages."""

    def __init__(self, name: str, settings: SourceConfig, base: Path, calendar: str) -> None:
        assert settings.folder is not None
        self.name = name
        self.settings = settings
        self._calendar = calendar
        self._folder = base / settings.folder
        self._kept: tuple[tuple[object, ...], pl.DataFrame] | None = None

    @abstractmethod
    def _read(self, table: SourceTable, files: Sequence[Path]) -> pl.DataFrame:
        """Every version of every row of the files: contract columns as text, and VERSION_COLUMNS."""

    def _files(self, table: SourceTable) -> list[Path]:
        entry, place = self.settings.tables[table.name], f"source {self.name}, table {table.name}"
        if not self._folder.is_dir():
            if entry.allow_empty:
                return []
            raise SourceError(f"{place}: no folder {self._folder}")
        files = sorted(p for p in self._folder.glob(entry.files or "") if p.is_file())
        if not files and not entry.allow_empty:
            raise SourceError(
                f"{place}: no file matches {entry.files} in {self._folder}; set allow_empty: true if that is right"
            )
        return files

    def _layout(self, table: SourceTable) -> Layout:
        entry = self.settings.tables[table.name]
        return Layout(self.name, table, self.settings, entry, self._calendar, {c.name: c.name for c in table.columns})

    def _versions(self, table: SourceTable) -> pl.DataFrame:
        """All versions by key and age, with ``_day`` (of the laboratory's calendar) and ``_current``; read once."""
        files = self._files(table)
        stats = [(path, path.stat()) for path in files]
        state = (table.name, *((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats))
        if self._kept is None or self._kept[0] != state:
            # a stable order: equal times keep the order of arrival
            rows = self._read(table, files).sort("result_id", "_at", "_order")
            dated = conform(rows, self._layout(table), None)
            rows = rows.with_columns(
                _day=dated["event_date"], _current=(pl.col("result_id") != pl.col("result_id").shift(-1)).fill_null(True)
            )
            self._kept = (state, rows)
        return self._kept[1]

    def _conformed(self, rows: pl.DataFrame, table: SourceTable, window: DayWindow | None) -> pl.DataFrame:
        """Contract columns and EXTRACT_COLUMNS of exactly these rows, the source's own flags added to time_flag."""
        layout = self._layout(table)
        if rows.is_empty():
            return empty(layout)
        frame = conform(rows.drop("_day", "_current"), layout, window, within=False)
        flags = pl.concat_str("time_flag", rows["_flag"], separator=";", ignore_nulls=True)
        return frame.with_columns(time_flag=pl.when(flags != "").then(flags)).select([*table.schema, *EXTRACT_COLUMNS])

    def check(self, table: SourceTable) -> None:
        """Fail now if the folder or its files are not there."""
        self._files(table)

    def fetch(self, table: SourceTable, window: DayWindow | None) -> Extract:
        """The current version of each result of the window (None: of all), and the versions it superseded."""
        rows = self._versions(table)
        current = rows.filter("_current")
        if window is not None:
            inside = pl.col("_day").is_between(window.partitions_first, window.partitions_last).fill_null(False)
            wanted = inside & pl.col("_day").is_between(window.first, window.last)
            current = current.filter(wanted | ~inside if window.with_strays else wanted)
        earlier = rows.filter(~pl.col("_current")).join(current.select("result_id"), on="result_id", how="semi")
        frame = self._conformed(current, table, window)
        return Extract(table.name, frame, frame.height, self._conformed(earlier, table, window))

    def fetch_keys(self, table: SourceTable, keys: pl.DataFrame, window: DayWindow | None) -> Extract:
        """Current rows having these keys, on whatever day."""
        names = match_key(table, keys)
        rows = self._versions(table).filter("_current").join(keys.select(names).unique(), on=names, how="semi")
        frame = self._conformed(rows, table, window)
        return Extract(table.name, frame, frame.height)

    def count_by_day(self, table: SourceTable, window: DayWindow) -> pl.DataFrame:
        """Current rows per day of the window."""
        days = self._versions(table).filter("_current").group_by(event_date="_day").agg(rows=pl.len().cast(pl.Int64))
        return days.filter(pl.col("event_date").is_between(window.first, window.last)).sort("event_date")

    def look(self, table: SourceTable, window: DayWindow, before: Marks | None) -> tuple[Marks, set[date]]:
        """See ``Sources.look``. A folder of messages is read whole anyway: the look covers every day there is."""
        whole = replace(window, first=window.partitions_first, last=window.partitions_last)

        def every_day() -> dict[str, str]:
            # the place in the order of arrival changes with every file that is put before others
            known = row_marks([self._versions(table).drop("_order").rename({"_day": "event_date"})])
            return {day: mark for day, mark in known.items() if str(whole.first) <= day <= str(whole.last)}

        after, touched = look_at_files(self._files(table), every_day, lambda fresh: set(), whole, before)
        return after, touched if before is not None else {day for day in touched if day >= window.first}

    def identifiers(self, table: SourceTable) -> dict[str, set[str]]:
        """Different raw identifiers per domain, of every version."""
        rows = self._versions(table)
        domains = {c.name: c.identifies for c in table.columns if c.identifies}
        return {
            str(domain): {v for v in rows[name].drop_nulls().unique().to_list() if v.strip()}
            for name, domain in domains.items()
        }


def version_frame(rows: pl.DataFrame, table: SourceTable) -> pl.DataFrame:
    """``rows`` with every contract column (text, null where absent) and VERSION_COLUMNS; others are dropped."""
    missing = [pl.lit(None, pl.String).alias(c.name) for c in table.columns if c.name not in rows.columns]
    names = [c.name for c in table.columns]
    return rows.with_columns(missing).select(
        *[pl.col(n).cast(pl.String) for n in names], *[pl.col(n).cast(t) for n, t in VERSION_COLUMNS.items()]
    )


def file_time(path: Path) -> datetime:
    """When a file was last written, UTC: the time of its messages that carry none."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC_ZONE)
