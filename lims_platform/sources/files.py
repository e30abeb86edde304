"""A source that is a folder: CSV, JSON lines, JSON and Parquet, read file by file and window by window.

Not here: dtypes and days (``conform``), watching a folder for new files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import date, datetime, time, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv

from lims_platform.contracts.extract import DayWindow, Extract, SourceError
from lims_platform.contracts.source import SourceTable
from lims_platform.sources.changes import Marks, look_at_files, row_marks
from lims_platform.sources.config import SourceConfig, TableConfig, redacted
from lims_platform.sources.conform import Layout, conform, empty, keyed, match_columns, match_key
from lims_platform.sources.times import day_start, day_start_utc

#: Bytes of CSV parsed at a time; bounds the memory of a file of any size.
_BLOCK = 16 * 1024 * 1024
#: Batches being conformed while the next is read; polars leaves the interpreter free meanwhile.
_AHEAD = 2
_CSV, _LINES, _JSON, _PARQUET = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson"), (".json",), (".parquet", ".pq")


class FileSource:
    """Tables of one folder; every file of a table is read with its own columns."""

    def __init__(self, name: str, settings: SourceConfig, base: Path, calendar: str) -> None:
        assert settings.folder is not None
        self.name = name
        self.settings = settings
        self._calendar = calendar
        self._folder = base / settings.folder

    def _files(self, table: SourceTable) -> list[Path]:
        entry, place = self.settings.tables[table.name], f"source {self.name}, table {table.name}"
        if not self._folder.is_dir():
            raise SourceError(f"{place}: no folder {self._folder}")
        files = sorted(p for p in self._folder.glob(entry.files or "") if p.is_file())
        if not files and not entry.allow_empty:
            raise SourceError(
                f"{place}: no file matches {entry.files} in {self._folder}; set allow_empty: true if that is right"
            )
        return files

    def _say(self, error: Exception | str) -> str:
        return redacted(" ".join(str(error).split())[:300], dict(self.settings.identifier_patterns))

    def _layout(self, table: SourceTable, path: Path, names: list[str]) -> Layout:
        entry = self.settings.tables[table.name]
        place = f"source {self.name}, table {table.name}, file {path.name}"
        return Layout(self.name, table, self.settings, entry, self._calendar, match_columns(place, table, entry, names))

    def _batches(
        self,
        table: SourceTable,
        window: DayWindow | None,
        only: list[str] | None = None,
        among: dict[str, pl.Series] | None = None,
        files: list[Path] | None = None,
    ) -> Iterator[tuple[Layout, pl.DataFrame]]:
        """Raw rows in contract column names, file by file (of all, or of ``files``); Parquet cut to the window's days.

        ``among`` keeps the rows whose text in each of its columns is one of the values; a file without a column keeps all.
        """
        entry = self.settings.tables[table.name]
        for path in self._files(table) if files is None else files:
            suffix = next((s.lower() for s in reversed(path.suffixes) if s.lower() not in (".gz", ".bz2", ".zst")), "")
            place = f"source {self.name}, table {table.name}, file {path}"
            try:
                if suffix in _CSV:
                    for layout, raw in self._csv(path, table, entry, place, only):
                        yield layout, raw if among is None else raw.filter(_among(raw.columns, among))
                elif suffix in _LINES + _JSON + _PARQUET:
                    yield self._scan(path, suffix, table, window, only, among)
                else:
                    raise SourceError(f"{place}: unknown kind of file; known: csv, tsv, txt, jsonl, ndjson, json, parquet")
            except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
                raise SourceError(f"{place}: {self._say(error)}") from None

    def _csv(
        self, path: Path, table: SourceTable, entry: TableConfig, place: str, only: list[str] | None
    ) -> Iterator[tuple[Layout, pl.DataFrame]]:
        """Every column as text. A row with too few or too many fields stops the read, naming the row."""
        delimiter = "\t" if path.suffix.lower() == ".tsv" and entry.delimiter == "," else entry.delimiter

        def open_csv(threads: bool, note: Callable[[pacsv.InvalidRow], str] | None = None) -> pacsv.CSVStreamingReader:
            convert = pacsv.ConvertOptions(
                strings_can_be_null=True, null_values=[""], column_types=types, include_columns=include
            )
            return pacsv.open_csv(
                path,
                read_options=pacsv.ReadOptions(encoding=entry.encoding, block_size=_BLOCK, use_threads=threads),
                parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note),
                convert_options=convert,
            )

        types: dict[str, pa.DataType] = {}
        include: list[str] = []
        try:
            names = open_csv(False, lambda row: "skip").schema.names
            layout = self._layout(table, path, names)
            wanted = {c: s for c, s in layout.offered.items() if only is None or c in only}
            types, include = {s: pa.string() for s in wanted.values()}, list(dict.fromkeys(wanted.values()))
            for batch in open_csv(True):
                frame = pl.DataFrame(pl.from_arrow(batch))
                yield layout, frame.select(**{c: pl.col(s) for c, s in wanted.items()})
        except pa.ArrowInvalid as error:
            message = str(error)
            if "Empty CSV" in message:
                raise SourceError(f"{place}: the file is empty, it has not even a header") from None
            if "UTF8" in message or "UTF-8" in message:
                message = f"not {entry.encoding}; set encoding: ({message})"
            elif "columns, got" in message:
                message = self._bad_row(open_csv) or "a row has too few or too many fields, or a quote is never closed"
            raise SourceError(f"{place}: {self._say(message)}") from None

    @staticmethod
    def _bad_row(open_csv: Callable[..., pacsv.CSVStreamingReader]) -> str | None:
        """Where the ragged row is; the parser only counts rows when it runs in one thread."""
        found: list[str] = []

        def note(row: pacsv.InvalidRow) -> str:
            # never the row's text: it may name a patient
            found.append(
                f"row {row.number} (the header is row 1) has {row.actual_columns} fields, not {row.expected_columns}"
            )
            return "error"

        try:
            for _ in open_csv(False, note):
                pass
        except pa.ArrowInvalid:
            return found[0] if found else None
        return None

    def _scan(
        self,
        path: Path,
        suffix: str,
        table: SourceTable,
        window: DayWindow | None,
        only: list[str] | None,
        among: dict[str, pl.Series] | None,
    ) -> tuple[Layout, pl.DataFrame]:
        """Parquet with projection, day range and keys pushed down; JSON with every value as text."""
        if suffix in _PARQUET:
            scan = pl.scan_parquet(path, hive_partitioning=False)
            schema = scan.collect_schema()
        elif suffix in _LINES:
            names = pl.scan_ndjson(path, infer_schema_length=None).collect_schema().names()
            schema = pl.Schema({n: pl.String() for n in names})
            scan = pl.scan_ndjson(path, schema=schema)
        else:
            names = pl.read_json(path, infer_schema_length=None).columns
            schema = pl.Schema({n: pl.String() for n in names})
            scan = pl.read_json(path, schema=schema).lazy()
        layout = self._layout(table, path, schema.names())
        wanted = {c: s for c, s in layout.offered.items() if only is None or c in only}
        if suffix in _PARQUET and window is not None:
            near = self._near(layout, schema, window)
            scan = scan if near is None else scan.filter(near)
        raw = scan.select(**{c: pl.col(s) for c, s in wanted.items()})
        raw = raw if among is None else raw.filter(_among(list(wanted), among))
        return layout, raw.collect(engine="streaming")

    def _near(self, layout: Layout, schema: pl.Schema, window: DayWindow) -> pl.Expr | None:
        """Rows that can belong to the window, by statistics of row groups; exact days are cut afterwards."""
        event = layout.event_time
        if event is None or event not in layout.offered or window.with_strays:
            return None
        column = layout.offered[event]
        dtype, after = schema[column], window.last + timedelta(days=1)
        if not isinstance(dtype, pl.Datetime | pl.Date):
            return None
        low, high = self._moment(dtype, window.first, -1), self._moment(dtype, after, +1)
        return pl.col(column).is_between(low, high) | pl.col(column).is_null()

    def _moment(self, dtype: pl.DataType, day: date, slack: int) -> date | datetime:
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            return day_start_utc(day, self._calendar)
        start = day_start(day, self._calendar, self.settings.timezone, slack)
        if isinstance(dtype, pl.Datetime):
            return start
        return start.date() + timedelta(days=1 if slack > 0 and start.time() != time.min else 0)

    def check(self, table: SourceTable) -> None:
        """Fail now if the folder is empty or a file lacks a required column."""
        for _ in self._batches(table, None, self._dating(table)):
            pass

    def fetch(self, table: SourceTable, window: DayWindow | None) -> Extract:
        """Rows of the window (None: all), dated; memory is bounded by the window, not by the files."""
        return self._gather(table, window, lambda layout, raw: conform(raw, layout, window))

    def fetch_keys(self, table: SourceTable, keys: pl.DataFrame, window: DayWindow | None) -> Extract:
        """Rows having these keys, on whatever day; looks through every file."""
        among = {name: keys[name].cast(pl.String).unique() for name in match_key(table, keys)}
        return self._gather(
            table, None, lambda layout, raw: keyed(conform(raw, layout, window, within=False), table, keys), among
        )

    def _gather(
        self,
        table: SourceTable,
        window: DayWindow | None,
        keep: Callable[[Layout, pl.DataFrame], pl.DataFrame],
        among: dict[str, pl.Series] | None = None,
    ) -> Extract:
        frames: list[pl.DataFrame] = []
        pending: deque[Future[pl.DataFrame]] = deque()
        with ThreadPoolExecutor(_AHEAD) as pool:
            for layout, raw in self._batches(table, window, among=among):
                pending.append(pool.submit(keep, layout, raw))
                if len(pending) > _AHEAD:
                    frames.append(pending.popleft().result())
        frames += [future.result() for future in pending]
        entry = self.settings.tables[table.name]
        bare = Layout(self.name, table, self.settings, entry, self._calendar, {})
        frame = pl.concat([empty(bare), *frames])
        return Extract(table.name, frame, frame.height)

    def count_by_day(self, table: SourceTable, window: DayWindow) -> pl.DataFrame:
        """Rows per day of the window; reads only the columns that date a row."""
        schema = {"event_date": pl.Date(), "rows": pl.Int64()}
        frames = []
        event = self._event(table)
        for layout, raw in self._batches(table, window, self._dating(table)):
            parts = [raw]
            if event in raw.columns:  # only rows without it look at the times they fall back to
                absent = raw[event].is_null()
                parts = [raw.filter(~absent).select(event), raw.filter(absent)]
            for part in parts:
                dated = conform(part, layout, window)
                frames.append(dated.group_by("event_date").agg(rows=pl.len().cast(pl.Int64)))
        counted = pl.concat([pl.DataFrame(schema=schema), *frames])
        if event is None:
            return counted.group_by("event_date").agg(pl.col("rows").sum())
        inside = pl.col("event_date").is_between(window.first, window.last)
        return counted.filter(inside).group_by("event_date").agg(pl.col("rows").sum()).sort("event_date")

    def look(self, table: SourceTable, window: DayWindow, before: Marks | None) -> tuple[Marks, set[date]]:
        """See ``Sources.look`` and ``look_at_files``."""
        files = self._files(table)

        def days_of(fresh: list[Path]) -> set[date]:
            """Days of the rows in files that are new or changed, whatever their age."""
            batches = self._batches(table, None, self._dating(table), files=fresh)
            parts = [conform(raw, layout, None) for layout, raw in batches]
            return {day for part in parts for day in part["event_date"].drop_nulls().unique()}

        def rows() -> Iterator[pl.DataFrame]:
            return (conform(raw, layout, window) for layout, raw in self._batches(table, window))

        return look_at_files(files, lambda: row_marks(rows()), days_of, window, before)

    def _event(self, table: SourceTable) -> str | None:
        return self.settings.tables[table.name].event_time or table.event_time

    def _dating(self, table: SourceTable) -> list[str]:
        event = self._event(table)
        return [event, *table.fallback_times] if event else [table.key[0]]

    def identifiers(self, table: SourceTable) -> dict[str, set[str]]:
        """Different raw identifiers per domain."""
        domains = {c.name: c.identifies for c in table.columns if c.identifies}
        found: dict[str, set[str]] = {}
        if not domains:
            return found
        for _, raw in self._batches(table, None, list(domains)):
            for name in raw.columns:
                values = raw[name].cast(pl.String, strict=False).drop_nulls().unique().to_list()
                found.setdefault(domains[name] or "", set()).update(v for v in values if v.strip())
        return found


def _among(columns: list[str], values: dict[str, pl.Series]) -> pl.Expr:
    """Rows whose text in every column that is there is one of its ``values``; a null is one only of a null."""
    tests: list[pl.Expr] = []
    for name, wanted in values.items():
        if name in columns:
            text = pl.col(name).cast(pl.String, strict=False)
            found = text.is_in(wanted.implode(), nulls_equal=True)
            if wanted.null_count() == 0:  # statistics of a file's row groups spare those without any
                found &= text.is_between(pl.lit(wanted.min(), pl.String), pl.lit(wanted.max(), pl.String))
            tests.append(found)
    return pl.all_horizontal(True, *tests)
