"""Random numbers by seed, subject and day: the reason the laboratory can be continued, chunked and extended.

Each (seed, subject, day) owns its own generator. A day's rows are therefore the same whether the day is simulated alone,
in a chunk of thirty or while the demo lives on by the hour, and a new subject changes no other subject's numbers.
Not here: what the numbers mean.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

#: Days before the first simulated day get non-negative keys too (seed sequences take no negative numbers).
_DAY_ORIGIN = 100_000


def generator(seed: int, subject: str, day: int | None = None) -> np.random.Generator:
    """The generator of a subject (and day, counted from the laboratory's first day; may be negative)."""
    key = [seed, zlib.crc32(subject.encode())]
    if day is not None:
        key.append(_DAY_ORIGIN + day)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))


def uniforms(seed: int, subject: str, days: Sequence[int], counts: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1), shape (width, sum(counts)); day ``i`` fills its own ``counts[i]`` columns."""
    out = np.empty((width, int(counts.sum())))
    stop = 0
    for day, count in zip(days, counts.tolist(), strict=True):
        start, stop = stop, stop + count
        # drawn row by row of the day, so that a wider matrix keeps the numbers of the narrower one
        out[:, start:stop] = generator(seed, subject, day).random((width, count))
    return out


def normals(seed: int, subject: str, days: Sequence[int], counts: NDArray[np.int64], width: int) -> NDArray[np.float32]:
    """Standard normal draws as float32, shape (width, sum(counts)), laid out as in :func:`uniforms`."""
    out = np.empty((width, int(counts.sum())), dtype=np.float32)
    stop = 0
    for day, count in zip(days, counts.tolist(), strict=True):
        start, stop = stop, stop + count
        out[:, start:stop] = generator(seed, subject, day).standard_normal((width, count), dtype=np.float32)
    return out
