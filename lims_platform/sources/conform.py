"""Raw rows of any source to the contract's columns: dtypes, flags, and the day each row belongs to.

Here: what every kind of source shares once rows are in memory.
Not here: fetching (``sql``, ``files``), time parsing (``times``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import polars as pl

from lims_platform.contracts.extract import EXTRACT_COLUMNS, DayWindow, SourceError
from lims_platform.contracts.source import UTC, SourceColumn, SourceTable
from lims_platform.sources.config import SourceConfig, TableConfig
from lims_platform.sources.times import to_utc

_TRUE = ("1", "t", "true", "y", "yes", "1.0")
_FALSE = ("0", "f", "false", "n", "no", "0.0")


@dataclass(frozen=True)
class Layout:
    """How one table lies in one source.

    ``offered`` maps each contract column the source has to the source's own name of it; required columns are all there.
    """

    source: str
    table: SourceTable
    settings: SourceConfig
    entry: TableConfig
    calendar: str
    offered: dict[str, str]

    @property
    def event_time(self) -> str | None:
        """The contract column that dates a row; None for a register."""
        return self.entry.event_time or self.table.event_time

    @property
    def fallback_times(self) -> tuple[str, ...]:
        """Times tried, in this order, where the event time is absent."""
        names = (*self.table.fallback_times, *((self.table.event_time,) if self.entry.event_time else ()))
        return tuple(n for n in names if n != self.event_time and n in self.offered)

    @property
    def place(self) -> str:
        """Beginning of every message: source and table."""
        return f"source {self.source}, table {self.table.name}"


def match_columns(place: str, table: SourceTable, entry: TableConfig, names: Iterable[str]) -> dict[str, str]:
    """Contract column to source column, exact names first, then a unique match regardless of case.

    Raises:
        SourceError: a required or a declared column is missing; the message names it and what the source offers.
    """
    present = list(names)
    offered: dict[str, str] = {}
    for column in table.columns:
        if column.name in entry.constants:
            continue
        wanted = entry.columns.get(column.name, column.name)
        alike = [n for n in present if n == wanted] or [n for n in present if n.lower() == wanted.lower()]
        if len(alike) == 1:
            offered[column.name] = alike[0]
        elif alike:
            raise SourceError(f"{place}: column {wanted} is ambiguous: {', '.join(alike)}")
        elif column.required or column.name in entry.columns or column.name in (entry.event_time, entry.change_cursor):
            called = f"{wanted} (for {column.name})" if wanted != column.name else wanted
            raise SourceError(f"{place}: column {called} is missing; the source offers {', '.join(present) or 'none'}")
    return offered


def _number(series: pl.Series, decimal: Literal["point", "comma"]) -> tuple[pl.Series, pl.Series]:
    """Any column to finite floats and the mask of what is no number."""
    if series.dtype == pl.String:
        text = series.to_frame("t").select(pl.col("t").str.strip_chars()).to_series()
        if decimal == "comma":
            grouped = text.str.contains(r"^[+-]?\d{1,3}(?:\.\d{3})+(?:,\d+)?$").fill_null(False)
            text = text.zip_with(~grouped, text.str.replace_all(".", "", literal=True)).str.replace(",", ".", literal=True)
        values = text.cast(pl.Float64, strict=False)
        present = series.is_not_null() & (text != "").fill_null(False)
    else:
        values = series.cast(pl.Float64, strict=False)
        present = series.is_not_null()
    finite = values.is_finite().fill_null(False)
    return values.zip_with(finite, pl.Series([None], dtype=pl.Float64)), present & ~finite


def _flag(series: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Booleans, 0/1, t/f, Y/N, yes/no, true/false in any case; and the mask of anything else."""
    if series.dtype == pl.Boolean:
        return series, pl.repeat(False, series.len(), eager=True, dtype=pl.Boolean)
    word = series.cast(pl.String, strict=False).str.strip_chars().str.to_lowercase()
    true, false = word.is_in(_TRUE).fill_null(False), word.is_in(_FALSE).fill_null(False)
    frame = pl.DataFrame({"t": true, "f": false})
    values = frame.select(pl.when("t").then(True).when("f").then(False)).to_series()
    return values, series.is_not_null() & (word != "").fill_null(True) & ~true & ~false


def _text(series: pl.Series) -> pl.Series:
    """Any column as text, unchanged where it is text already."""
    if series.dtype == pl.Binary:
        return series.cast(pl.String, strict=False)
    return series if series.dtype == pl.String else series.cast(pl.String, strict=False)


def _convert(column: SourceColumn, series: pl.Series, layout: Layout) -> tuple[pl.Series, dict[str, pl.Series]]:
    """One column to its contract dtype, and its flags."""
    if column.dtype == UTC:
        done = to_utc(series, layout.settings.timezone, layout.entry.time_format)
        is_event = column.name in (layout.event_time, *layout.fallback_times)
        ranged = layout.settings.uri is not None and layout.entry.time_format is None
        if done.has_offset and is_event and ranged and not layout.entry.event_time_has_offset:
            raise SourceError(
                f"{layout.place}, column {column.name}: text times carry UTC offsets; set event_time_has_offset: true, "
                "else rows near midnight would be looked for on the wrong day"
            )
        return done.values, done.flags
    if column.dtype == pl.Float64:
        values, bad = _number(series, layout.settings.decimal)
    elif column.dtype == pl.Boolean:
        values, bad = _flag(series)
    else:
        text = _text(series)
        values, bad = text, series.is_not_null() & text.is_null()
    return values, ({f"uncastable_{column.name}": bad} if bad.any() else {})


def conform(raw: pl.DataFrame, layout: Layout, window: DayWindow | None, *, within: bool = True) -> pl.DataFrame:
    """Rows in the contract's columns plus EXTRACT_COLUMNS.

    A row is dated by its event time; where that is absent by the first fallback time present (date_source ``fallback``). A
    time that is present but unreadable dates nothing (``no_time``): guessing another day would hide the fault.

    Args:
        raw: columns named as the contract's, dtypes as the source gave them.
        layout: the table in its source.
        window: days wanted; None keeps every row, and a row without a usable time then has no event_date.
        within: False keeps rows of other days too (they are only classified by the window's partitions).

    Returns:
        Frame of contract columns, source, event_date, date_source, time_flag. Flags of one row are joined by ";".
    """
    height = raw.height
    columns: list[pl.Series] = []
    flags: dict[str, pl.Series] = {}
    for column in layout.table.columns:
        if column.name in layout.entry.constants:
            series = pl.repeat(layout.entry.constants[column.name], height, dtype=pl.String, eager=True)
        elif column.name in raw.columns:
            series = raw[column.name]
        else:
            columns.append(pl.Series(column.name, [None], dtype=column.dtype).new_from_index(0, height))
            continue
        values, new = _convert(column, series.alias(column.name), layout)
        columns.append(values.alias(column.name))
        for name, mask in new.items():
            flags[name] = (flags[name] | mask) if name in flags else mask
    frame = pl.DataFrame(columns)
    joined = [pl.when(mask).then(pl.lit(name)) for name, mask in flags.items()]
    flag = pl.concat_str(joined, separator=";", ignore_nulls=True) if joined else pl.lit("")
    frame = frame.with_columns(
        pl.lit(layout.source).alias("source"),
        pl.when(flag != "").then(flag).cast(pl.String).alias("time_flag")
        if height
        else pl.lit(None, pl.String).alias("time_flag"),
    )
    return _dated(frame, raw, layout, window, within).select([*layout.table.schema, *EXTRACT_COLUMNS])


def _dated(frame: pl.DataFrame, raw: pl.DataFrame, layout: Layout, window: DayWindow | None, within: bool) -> pl.DataFrame:
    """Add event_date and date_source, and keep what the window asks for."""
    if layout.event_time is None:
        return frame.with_columns(pl.lit(None, pl.Date).alias("event_date"), pl.lit(None, pl.String).alias("date_source"))
    # "absent" is a fact of the raw value; an unreadable text is present
    names = (layout.event_time, *layout.fallback_times)
    marks = {}
    for name in names:
        if name in raw.columns:
            series = raw[name]
            there = series.is_not_null()
            there = there & (series != "").fill_null(False) if series.dtype == pl.String else there
        else:
            there = frame[name].is_not_null()
        marks[name] = there.alias(f"_has_{name}")
    frame = frame.with_columns(marks.values())
    chosen = pl.lit(None, UTC)
    for name in reversed(names):
        chosen = pl.when(f"_has_{name}").then(pl.col(name)).otherwise(chosen)
    frame = frame.with_columns(
        event_date=chosen.dt.convert_time_zone(layout.calendar).dt.date(),
        date_source=pl.when(f"_has_{layout.event_time}").then(pl.lit("event")).otherwise(pl.lit("fallback")),
    )
    frame = frame.with_columns(
        date_source=pl.when(pl.col("event_date").is_null()).then(pl.lit("no_time")).otherwise("date_source")
    )
    if window is None:
        return frame
    day = pl.col("event_date")
    inside = day.is_between(window.partitions_first, window.partitions_last).fill_null(False)
    frame = frame.with_columns(
        date_source=pl.when(day.is_not_null() & ~inside).then(pl.lit("outside")).otherwise("date_source"),
        _stray=~inside,
    )
    if within:
        wanted = day.is_between(window.first, window.last).fill_null(False) & ~pl.col("_stray")
        frame = frame.filter(wanted | pl.col("_stray") if window.with_strays else wanted)
    return frame.with_columns(event_date=pl.when("_stray").then(pl.lit(window.stray_day, pl.Date)).otherwise(day)).drop(
        "_stray"
    )


def empty(layout: Layout) -> pl.DataFrame:
    """No rows in the extract's columns."""
    return pl.DataFrame(schema=layout.table.schema | EXTRACT_COLUMNS)


def keyed(frame: pl.DataFrame, table: SourceTable, keys: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``frame`` whose key is in ``keys``; nulls match nulls.

    Free text and identifying columns take no part: after the door they are no longer what the source holds.
    """
    names = match_key(table, keys)
    return frame.join(keys.select(names).unique(), on=names, how="semi", nulls_equal=True)


def match_key(table: SourceTable, keys: pl.DataFrame) -> list[str]:
    """Key columns that mean the same before and after the door; KeyError-free error when ``keys`` lacks one."""
    names = [n for n in table.key if not table.column(n).free_text and not table.column(n).identifies]
    missing = [n for n in names if n not in keys.columns]
    if missing:
        raise SourceError(f"table {table.name}: keys lack column {', '.join(missing)}")
    return names
