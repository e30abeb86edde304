"""Values on a grid, side by side for many subjects: what makes two-sample statistics a matter of counting.

Here: values to grid codes and back, sums, maxima and quantiles per subject. Not here: any statistic
(``distribution_shift``).

Values are counted on a grid of relative width 2**-bits: with 11 bits integers up to 4095 are exact and others within
0.025 %, as fine as laboratory results are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Counts of rows: half the width of Int64 is half the time.
Counts = NDArray[np.int32]


def grid_codes(values: Floats, bits: int) -> Ints:
    """A whole number for each value rounded to ``bits`` binary digits after the leading one; ``grid_values`` undoes it."""
    dropped = np.int64(52 - bits)
    # adding 0.0 makes -0.0 and 0.0 one value
    return ((np.asarray(values, dtype=np.float64) + 0.0).view(np.int64) + (np.int64(1) << (dropped - 1))) >> dropped


def grid_values(codes: Ints, bits: int) -> Floats:
    """The values of ``grid_codes``."""
    return (codes << np.int64(52 - bits)).view(np.float64)


class Segments:
    """Grid values of several subjects side by side: columns of one subject are a segment. Every subject has one."""

    def __init__(self, subject: Ints, value: Floats, count: int) -> None:
        self.subject, self.value = subject, value
        self.start = np.searchsorted(subject, np.arange(count))
        self.last = np.append(self.start[1:], len(subject)) - 1
        self.gap = np.append(np.diff(value), 0.0)
        self.gap[self.last] = 0.0

    def sum(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Per subject, shape (days, subjects)."""
        return np.add.reduceat(cells, self.start, axis=1)

    def max(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Largest per subject, shape (days, subjects)."""
        return np.maximum.reduceat(cells, self.start, axis=1)

    def cumulative(self, cells: Counts) -> Counts:
        """Running sum within each subject, from its smallest value on."""
        total = np.cumsum(cells, axis=1, dtype=np.int32)
        before = np.where(self.start > 0, total[:, self.start - 1], np.int32(0))
        total -= before[:, self.subject]
        return total

    def quantile(self, cumulative: Counts, size: Counts, share: float) -> Ints:
        """Column of the first value whose cumulated count reaches ``share`` of ``size``; shape (days, subjects)."""
        short = cumulative < share * size[:, self.subject]
        return np.minimum(self.start + self.sum(short.astype(np.int64)), self.last)
