"""Row digests: the stable fingerprint by which history knows a changed row.

Here: the canonical text of a row and its SHA-256. Not here: what is compared with what (``history``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import polars as pl

#: Hex digits kept of the SHA-256: 128 bits make a collision among 10^12 rows less likely than 10^-14.
DIGEST_LENGTH = 32

_SEPARATOR = "\x1f"
#: Rows hashed at a time: their text (about 0.5 KB a row) is all that is held beside the frame.
_SLICE = 50_000


def _canonical(values: pl.Series) -> list[pl.Expr]:
    """``<sep>name=value``, nothing where the value is null: times as epoch microseconds, floats by their bits (−0 as 0)."""
    if values.null_count() == values.len():
        return []
    value, dtype = pl.col(values.name), values.dtype
    if isinstance(dtype, pl.Datetime):
        value = value.dt.epoch("us")
    elif isinstance(dtype, pl.Date):
        value = value.to_physical()
    elif dtype == pl.Float64:
        value = (value + 0.0).reinterpret(signed=True)
    elif dtype == pl.Boolean:
        value = value.cast(pl.Int8)
    parts = [pl.lit(f"{_SEPARATOR}{values.name}="), value.cast(pl.String)]
    # a name is left out with its value; where every value is there, one text less is made
    return parts if values.null_count() == 0 else [pl.concat_str(parts)]


def row_digests(frame: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """SHA-256 over ``name=value`` of ``columns`` in that order, nulls omitted.

    Stable across library versions because nothing in it is formatted by a library: polars' own ``hash`` is not.
    Two slices are under way at a time: one's text is put together by polars while the other's is hashed by OpenSSL, which
    uses the processor's SHA instructions (DuckDB's sha256 does not, and takes twice as long).
    """

    def hashed(start: int) -> pl.Series:
        rows = frame.slice(start, _SLICE)
        parts = [part for name in columns for part in _canonical(rows[name])] or [pl.repeat("", pl.len())]
        texts = rows.select(pl.concat_str(parts, ignore_nulls=True)).to_series().cast(pl.Binary)
        digests = [hashlib.sha256(text).hexdigest()[:DIGEST_LENGTH] for text in texts.to_list()]
        return pl.Series("row_digest", digests, dtype=pl.String)

    with ThreadPoolExecutor(2) as pool:
        slices = list(pool.map(hashed, range(0, frame.height, _SLICE)))
    return pl.concat([pl.Series("row_digest", [], dtype=pl.String), *slices])
