"""A text column as indices into a pool of distinct strings, so that millions of rows cost one gather.

Position 0 of every pool is null.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray


class TextColumn:
    """Strings by index; ``index`` has one entry per row."""

    def __init__(self, pool: pl.Series, index: NDArray[np.int64]) -> None:
        self._parts = [pool]
        self._size = len(pool)
        self.index = index

    def copy(self) -> TextColumn:
        """A column that can be written to without changing this one."""
        return TextColumn(pl.concat(self._parts), self.index.copy())

    def write(self, rows: NDArray[np.int64], text: Sequence[str | None] | pl.Series) -> None:
        """Put texts, one per row given, in place of what was there."""
        part = pl.Series(text, dtype=pl.String)
        if len(part) != len(rows):
            raise ValueError(f"{len(part)} texts for {len(rows)} rows")
        self.index[rows] = self._size + np.arange(len(part))
        self._parts.append(part)
        self._size += len(part)

    def read(self, rows: NDArray[np.int64] | None = None) -> pl.Series:
        """The strings of the rows given, or of all."""
        pool = pl.concat(self._parts)
        return pool.gather(self.index if rows is None else self.index[rows])


def choices(values: Sequence[str]) -> pl.Series:
    """A pool of null and these values; value ``i`` is at position ``i + 1``."""
    return pl.Series([None, *values], dtype=pl.String)


def numbered(prefix: str, number: NDArray[np.int64], digits: int) -> pl.Series:
    """'P0001234' and the like."""
    return prefix + pl.Series(number).cast(pl.String).str.zfill(digits)
