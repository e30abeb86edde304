"""Reads the reference tables from their CSV files and refuses what does not fit its schema.

Here: files to frames, with errors a person editing a CSV can act on (file, line, column). Not here: what the columns
mean (``contracts.reference``) or how they are used (``laboratory``).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from lims_platform.contracts.reference import REFERENCE_TABLES, Reference
from lims_platform.contracts.reference_results import LOINC_MAP
from lims_platform.contracts.reference_table import ReferenceTable

_LINE = "__line__"


class ReferenceTableError(ValueError):
    """A reference file is missing, unreadable, or holds a cell its schema does not allow."""

    transient = False
    advice = "Mend the named line of the reference table and run again."


def load_reference(folder: Path, extra_loinc_maps: Sequence[Path] = ()) -> Reference:
    """Every reference table of ``folder``, checked, with the digest of the bytes read.

    ``extra_loinc_maps`` are CSV files of the loinc_map schema, appended to it: a laboratory's own map beside the
    shipped one. Raises ReferenceTableError naming file, line and column of the first thing wrong.
    """
    digest = hashlib.sha256()
    frames: dict[str, pl.DataFrame] = {}
    for table in REFERENCE_TABLES.values():
        paths = [folder / f"{table.name}.csv", *(extra_loinc_maps if table is LOINC_MAP else ())]
        parts = []
        for path in paths:
            data = _bytes(path)
            if table.standardises:
                digest.update(f"{path.name}\0{len(data)}\0".encode())
                digest.update(data)
            parts.append(_checked(data, path, table))
        frames[table.name] = _unique(pl.concat(parts), table)
    for table in REFERENCE_TABLES.values():
        _references(frames, table)
    _map_targets(frames)
    return Reference(**{name: frame.drop(_LINE, "__file__") for name, frame in frames.items()}, digest=digest.hexdigest())


def load_table(folder: Path, table: ReferenceTable) -> pl.DataFrame:
    """One reference table that takes no part in standardising, and so not in the digest; checked like the others."""
    path = folder / f"{table.name}.csv"
    return _unique(_checked(_bytes(path), path, table), table).drop(_LINE, "__file__")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ReferenceTableError(f"{path}: cannot be read ({error.strerror})") from error


def _checked(data: bytes, path: Path, table: ReferenceTable) -> pl.DataFrame:
    """The file as a frame of the table's schema plus line and file, or the first cell that is not allowed."""
    try:
        raw = pl.read_csv(io.BytesIO(data), infer_schema=False)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ReferenceTableError(f"{path}: not a readable CSV file ({str(error).splitlines()[0]})") from error
    absent = [c.name for c in table.columns if c.name not in raw.columns]
    unknown = [name for name in raw.columns if name not in table.schema]
    if absent or unknown:
        words = [f"column {n} is missing" for n in absent] + [f"column {n} is not known" for n in unknown]
        raise ReferenceTableError(f"{path}, line 1: {'; '.join(words)}")
    text = raw.select([pl.col(c.name).fill_null("").str.strip_chars() for c in table.columns]).with_columns(
        pl.int_range(2, pl.len() + 2).alias(_LINE)
    )
    out = {}
    for column in table.columns:
        cell = pl.col(column.name)
        if column.required:
            _refuse(text.filter(cell == ""), path, column.name, "is empty")
        if column.allowed:
            _refuse(
                text.filter(~cell.is_in([*column.allowed, ""])), path, column.name, f"is none of {', '.join(column.allowed)}"
            )
        given = pl.when(cell != "").then(cell)
        if column.dtype == pl.Date:
            value = given.str.to_date("%Y-%m-%d", strict=False)
        elif column.dtype == pl.Boolean:
            value = given.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
        elif column.dtype == pl.Float64:
            value = given.cast(pl.Float64, strict=False)
            value = pl.when(value.is_finite()).then(value)
        else:
            value = given
        bad = text.filter(given.is_not_null() & value.is_null())
        _refuse(bad, path, column.name, f"is not a {column.dtype}")
        out[column.name] = value
    return text.select(**out, __line__=pl.col(_LINE).cast(pl.Int64), __file__=pl.lit(str(path)))


def _refuse(bad: pl.DataFrame, path: Path, column: str, words: str) -> None:
    if bad.height:
        raise ReferenceTableError(f"{path}, line {bad[_LINE][0]}, column {column}: {bad[column][0]!r} {words}")


def _unique(frame: pl.DataFrame, table: ReferenceTable) -> pl.DataFrame:
    twice = frame.filter(pl.struct(table.key).is_duplicated())
    if twice.height:
        first = twice.row(-1, named=True)
        key = ", ".join(f"{k}={first[k]}" for k in table.key)
        raise ReferenceTableError(
            f"{first['__file__']}, line {first[_LINE]}, column {table.key[0]}: the key {key} stands there twice"
        )
    return frame


def _references(frames: dict[str, pl.DataFrame], table: ReferenceTable) -> None:
    """Every cell that names a row of another table names one that exists."""
    frame = frames[table.name]
    for column, other, other_column in table.refers:
        known = frames[other][other_column].unique().to_list()
        lost = frame.filter(pl.col(column).is_not_null() & ~pl.col(column).is_in(known))
        if lost.height:
            row = lost.row(0, named=True)
            raise ReferenceTableError(
                f"{row['__file__']}, line {row[_LINE]}, column {column}: "
                f"{row[column]!r} is not in {other}.csv ({other_column})"
            )


def _map_targets(frames: dict[str, pl.DataFrame]) -> None:
    """A LOINC map row leads to an analyte the platform knows: an unknown one could not be converted."""
    known = frames["analytes"]["loinc_code"].to_list()
    lost = frames["loinc_map"].filter(~pl.col("loinc_code").is_in(known))
    if lost.height:
        row = lost.row(0, named=True)
        raise ReferenceTableError(
            f"{row['__file__']}, line {row[_LINE]}, column loinc_code: {row['loinc_code']!r} is not in analytes.csv; "
            "add the analyte there first"
        )
