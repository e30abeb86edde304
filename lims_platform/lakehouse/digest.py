"""Row digests: the stable fingerprint by which history knows a changed row.

Here: the canonical text of a row and its SHA-256. Not here: what is compared with what (``history``).
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import polars as pl

#: Hex digits kept of the SHA-256: 128 bits make a collision among 10^12 rows less likely than 10^-14.
DIGEST_LENGTH = 32

_SEPARATOR = "\x1f"


def _canonical(name: str, dtype: pl.DataType) -> pl.Expr:
    """``<sep>name=value``, null where the value is: times as epoch microseconds, floats by their bits (−0 as 0)."""
    value = pl.col(name)
    if isinstance(dtype, pl.Datetime):
        value = value.dt.epoch("us")
    elif isinstance(dtype, pl.Date):
        value = value.to_physical()
    elif dtype == pl.Float64:
        value = (value + 0.0).reinterpret(signed=True)
    elif dtype == pl.Boolean:
        value = value.cast(pl.Int8)
    return pl.lit(f"{_SEPARATOR}{name}=") + value.cast(pl.String)


def row_digests(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """SHA-256 over ``name=value`` of ``columns`` in that order, nulls omitted.

    Stable across library versions because nothing in it is formatted by a library: polars' own ``hash`` is not.
    DuckDB hashes the column in one vectorised pass over the Arrow buffers.
    """
    if frame.is_empty():
        return pl.Series("row_digest", [], dtype=pl.String)
    parts = [_canonical(name, frame.schema[name]) for name in columns]
    text = frame.select(text=pl.concat_str(parts, ignore_nulls=True))
    with duckdb.connect() as connection:
        connection.register("canonical", text)
        digests = connection.sql(f"SELECT substring(sha256(text), 1, {DIGEST_LENGTH}) AS row_digest FROM canonical").pl()
    return digests["row_digest"]
