"""Has a distribution moved? Kolmogorov-Smirnov, Wasserstein and PSI of many subjects on many days at once.

Here: the statistics over trailing windows, and their p values against past weeks' own noise. Not here: which subjects
(``drift``), one device against another (``device_drift``).

Whole days move together (case mix, room, season), so p values that count rows as independent are worthless: with real
day-to-day noise a two-sample test at 5 % alarms in most weeks. Here the current days are compared with the past
blocks of as many days; each past block is compared with the other ones in the same way, and the mean of those squared
distances is what chance alone does. The noise of weeks is mostly one shift of the whole distribution, so a squared
distance has about one degree of freedom, and its ratio to that mean follows an F distribution with one and as many as
there are past blocks; with less noise of days than that the p values are too large, never too small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import special

from lims_platform.laboratory.censored import order_statistics
from lims_platform.laboratory.value_grid import Counts, Floats, Ints, Segments, grid_codes, grid_values

PSI_BINS = 10
STATISTICS = ("ks", "wasserstein", "psi")
#: Past blocks the noise is taken from, at least.
MIN_BLOCKS = 4
#: Above this share of censored values all are re-censored at the extreme limits, else they are left out.
CENSORED_SHARE = 0.05
#: Expected squared distance of independent values, times 1 / (1/n + 1/m): no null may be narrower.
_INDEPENDENT = {"ks": np.pi**2 / 12, "wasserstein": 0.0}
_IQR_PER_SD = 1.3489795003921634
#: Array cells (days × grid values) computed at a time.
_CELLS = 3_000_000
_DIGITS = 6


@dataclass(frozen=True)
class Windows:
    """The last ``current_days`` days against ``blocks`` blocks of as many days before them."""

    current_days: int
    blocks: int

    @property
    def days(self) -> int:
        """Days a comparison looks at."""
        return self.current_days * (self.blocks + 1)


def _added(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Sum of equally shaped arrays, in order."""
    return reduce(np.add, arrays)


def two_samples(reference: Floats, current: Floats, bits: int) -> dict[str, Floats]:
    """Samples without days, arrays of shape (features, rows): ks, wasserstein, psi and the rest of ``shifts``; no p values.

    A sample without days holds no past to take its noise from.
    """
    cells = []
    for day, sample in enumerate((reference, current)):
        codes = grid_codes(sample, bits)
        for subject, row in enumerate(codes):
            low = row.min()
            # codes of one sign lie close together: counting them needs no sort
            if row.max() - low < 4 * len(row) + 4096:
                rows = np.bincount(row - low)
                found = np.flatnonzero(rows)
                code, rows = found + low, rows[found]
            else:
                code, rows = np.unique(row, return_counts=True)
            place = {"subject": np.full(len(code), subject), "day": np.full(len(code), day)}
            cells.append(pl.DataFrame(place | {"value": grid_values(code, bits), "rows": rows}).with_columns(side=0))
    frame = pl.concat(cells).with_columns(pl.col("side").cast(pl.Int64))
    return shifts(frame, len(reference), np.array([1]), Windows(current_days=1, blocks=1))


def significant(values: Floats) -> Floats:
    """Rounded to six significant digits: sums over another set of days must not differ in their last bits."""
    size = np.where(np.isfinite(values) & (values != 0), np.abs(values), 1.0)
    unit = 10.0 ** (np.floor(np.log10(size)) - (_DIGITS - 1))
    return np.round(values / unit) * unit


def shifts(
    cells: pl.DataFrame, subjects: int, ends: Ints, windows: Windows, statistics: Sequence[str] = STATISTICS
) -> dict[str, Floats]:
    """The comparison of every subject on every day ``ends``; arrays of shape (days, subjects).

    cells: subject (0 to subjects − 1), day (column 0 on), value, side (0 a number, -1 censored below, 1 above), rows.
    The first of ``ends`` must be at least ``windows.days`` − 1.

    Returns the ``statistics`` ks, wasserstein (in robust SD of the reference), psi, each with its p (``ks_p`` …),
    reference_rows, current_rows, reference_mean, current_mean, reference_sd, blocks (past blocks with values),
    censored, recensored (1 if so), at_limit (share of rows at a limit), limit_low, limit_high. NaN where there is
    nothing to compare. Means of re-censored values are those of ``censored.order_statistics``, never means of limits.
    """
    found = [_chunk(part, count, ends, windows, statistics) for part, count in _chunks(cells, subjects, len(ends))]
    return {name: np.concatenate([f[name] for f in found], axis=1) for name in found[0]} if found else {}


def _chunks(cells: pl.DataFrame, subjects: int, days: int) -> Iterator[tuple[pl.DataFrame, int]]:
    """Cells of so many subjects at a time that the arrays stay small, the subjects numbered from 0 again."""
    size = np.zeros(subjects, dtype=np.int64)
    per = cells.group_by("subject").agg(pl.col("value").n_unique())
    size[per["subject"].to_numpy()] = per["value"].to_numpy()
    chunk = (np.cumsum(np.maximum(size, 1)) * days) // _CELLS
    for number in np.unique(chunk).tolist():
        here = np.flatnonzero(chunk == number)
        first, last = int(here[0]), int(here[-1])
        part = cells.filter(pl.col("subject").is_between(first, last))
        yield part.with_columns(pl.col("subject") - first), last - first + 1


def _chunk(cells: pl.DataFrame, subjects: int, ends: Ints, windows: Windows, statistics: Sequence[str]) -> dict[str, Floats]:
    grid = pl.concat(
        [cells.select("subject", "value"), pl.DataFrame({"subject": np.arange(subjects), "value": np.zeros(subjects)})]
    ).unique()
    grid = grid.sort("subject", "value").with_row_index("column")
    segments = Segments(grid["subject"].to_numpy().astype(np.int64), grid["value"].to_numpy(), subjects)
    placed = cells.join(grid, on=["subject", "value"], how="left")
    numbers, below, above = (
        _window_counts(placed.filter(pl.col("side") == side), grid.height, ends, windows) for side in (0, -1, 1)
    )
    rows, censored = (segments.sum(_added(group)) for group in (numbers, [*below, *above]))
    recensored = censored > CENSORED_SHARE * (rows + censored)
    if not recensored.any():
        return _distances(segments, numbers, None, statistics) | _uncensored(censored)
    wide = recensored[:, segments.subject]
    column = np.arange(grid.height)
    low = segments.max(np.where(wide & (_added(below) > 0), column, -1))
    low = np.where(low < 0, segments.start, low)
    high = -segments.max(np.where(wide & (_added(above) > 0), -column, -grid.height))
    kept = [n + np.where(wide, b + a, np.int32(0)) for n, b, a in zip(numbers, below, above, strict=True)]
    compared = (column >= low[:, segments.subject]) & (column < high[:, segments.subject])
    out = _distances(segments, kept, _Compared(compared, low, high), statistics)
    for name, part in (("reference", slice(1, None)), ("current", slice(0, 1))):
        regressed = order_statistics(segments, *(_added(c[part]) for c in (numbers, below, above)))
        out[f"{name}_mean"] = np.where(recensored, significant(regressed.mean), out[f"{name}_mean"])
    limit = np.where(recensored, 1.0, np.nan)
    total = segments.sum(_added(kept))
    inside = segments.sum(np.where(compared & (column > low[:, segments.subject]), _added(kept), 0))
    none_low, none_high = (segments.max(np.where(wide, _added(c), 0)) == 0 for c in (below, above))
    return out | {
        "censored": censored.astype(np.float64),
        "recensored": recensored.astype(np.float64),
        "at_limit": np.where(recensored & (total > 0), 1 - inside / np.maximum(total, 1), 0.0),
        "limit_low": np.where(none_low, np.nan, limit * segments.value[low]),
        "limit_high": np.where(none_high, np.nan, limit * segments.value[np.minimum(high, grid.height - 1)]),
    }


def _uncensored(censored: Counts) -> dict[str, Floats]:
    """What is said of censoring where nothing had to be re-censored."""
    zero, none = np.zeros(censored.shape), np.full(censored.shape, np.nan)
    return {
        "censored": censored.astype(np.float64),
        "recensored": zero,
        "at_limit": zero,
        "limit_low": none,
        "limit_high": none,
    }


def _window_counts(placed: pl.DataFrame, columns: int, ends: Ints, windows: Windows) -> list[Counts]:
    """Rows per grid value in the current window and in each past block; arrays of shape (days, columns)."""
    stops = [ends + 1 - windows.current_days * k for k in range(windows.blocks + 1)]
    inside = placed.filter(pl.col("day") <= int(ends.max()))
    if inside.is_empty():
        return [np.zeros((len(ends), columns), dtype=np.int32)] * len(stops)
    daily = np.zeros((int(ends.max()) + 2, columns), dtype=np.int32)
    np.add.at(daily, (inside["day"].to_numpy() + 1, inside["column"].to_numpy()), inside["rows"].to_numpy())
    total = np.cumsum(daily, axis=0, dtype=np.int32)
    return [total[stop] - total[stop - windows.current_days] for stop in stops]


@dataclass(frozen=True)
class _Compared:
    """Which grid values are compared where values are re-censored, and the columns of the limits."""

    columns: NDArray[np.bool_]
    low: Ints
    high: Ints


def _distances(
    segments: Segments, counts: list[Counts], within: _Compared | None, statistics: Sequence[str]
) -> dict[str, Floats]:
    """Statistics of the current window (the first of ``counts``), their p values, sizes and means."""
    cumulated = [segments.cumulative(c) for c in counts]
    sizes = [segments.sum(c) for c in counts]
    past, past_size = _added(cumulated[1:]), _added(sizes[1:])
    quarter = [segments.quantile(past, past_size, share) for share in (0.25, 0.75)]
    if within is not None:
        quarter = [np.clip(q, within.low, within.high) for q in quarter]
    last = len(segments.value) - 1
    spread = (segments.value[np.minimum(quarter[1], last)] - segments.value[np.minimum(quarter[0], last)]) / _IQR_PER_SD
    moments = [segments.sum(_added(counts[1:]) * segments.value**power) for power in (1, 2)]
    mean = moments[0] / np.maximum(past_size, 1)
    sd = np.sqrt(np.maximum(moments[1] / np.maximum(past_size, 1) - mean**2, 0.0))
    # rounding leaves a trace of variance in equal values
    scale = np.where(spread > 0, spread, np.where(sd > 1e-6 * np.abs(mean), sd, 0.0))
    edges = _bin_edges(segments, past, past_size) if "psi" in statistics else []
    found: dict[str, list[Floats]] = {name: [] for name in statistics}
    weights, bins = [], np.ones(past_size.shape)
    for k, (cumulative, size) in enumerate(zip(cumulated, sizes, strict=True)):
        other, other_size = (past, past_size) if k == 0 else (past - cumulative, past_size - size)
        there = (size > 0) & (other_size > 0)
        n, m = np.maximum(size, 1), np.maximum(other_size, 1)
        value: dict[str, Floats] = {}
        if "psi" in statistics:
            value["psi"], bins = _psi(cumulative, other, n, m, edges, segments.last)
        if "ks" in statistics or "wasserstein" in statistics:
            gap = np.abs(cumulative / n[:, segments.subject] - other / m[:, segments.subject])
            gap = gap if within is None else np.where(within.columns, gap, 0.0)
            distance = segments.sum(gap * segments.gap) / np.where(scale > 0, scale, np.nan)
            value |= {"ks": segments.max(gap), "wasserstein": significant(distance)}
        for name in statistics:
            found[name].append(np.where(there, value[name], np.nan))
        weights.append(np.where(there, 1 / (1 / n + 1 / m), np.nan))
    out = {name: values[0] for name, values in found.items()}
    blocks = np.isfinite(np.stack(weights[1:])).sum(axis=0)
    for name, values in found.items():
        power = 1 if name == "psi" else 2
        floor = bins - 1 if name == "psi" else np.full(blocks.shape, _INDEPENDENT[name])
        out[f"{name}_p"] = _against_past([v**power * w for v, w in zip(values, weights, strict=True)], floor)
    current_mean = segments.sum(counts[0] * segments.value) / np.maximum(sizes[0], 1)
    return out | {
        "reference_rows": past_size.astype(np.float64),
        "current_rows": sizes[0].astype(np.float64),
        "reference_mean": np.where(past_size > 0, significant(mean), np.nan),
        "current_mean": np.where(sizes[0] > 0, significant(current_mean), np.nan),
        "reference_sd": scale,
        "blocks": blocks.astype(np.float64),
    }


def _against_past(values: list[Floats], floor: Floats) -> Floats:
    """P(a stationary day's squared distance is at least the first of ``values``), the others being past blocks'."""
    total, count = np.zeros(floor.shape), np.zeros(floor.shape)
    for value in values[1:]:
        total += np.nan_to_num(value)
        count += np.isfinite(value)
    expected = np.maximum(total / np.maximum(count, 1), floor)
    enough = (count >= MIN_BLOCKS) & (expected > 0) & np.isfinite(values[0])
    ratio = np.where(enough, values[0] / np.where(expected > 0, expected, 1.0), np.nan)
    return np.where(enough, special.fdtrc(1.0, np.maximum(count, 1.0), ratio), np.nan)


def _bin_edges(segments: Segments, past: Counts, size: Counts) -> list[Ints]:
    """Columns of the reference's deciles, the last value of each bin but the last."""
    return [segments.quantile(past, size, k / PSI_BINS) for k in range(1, PSI_BINS)]


def _psi(current: Counts, other: Counts, n: Counts, m: Counts, edges: list[Ints], last: Ints) -> tuple[Floats, Floats]:
    """Population stability index and the number of bins left; equal edges merge, half a row is added to every bin.

    current, other: cumulated rows, shape (days, columns); n, m: their sizes; ``last``: last column of each subject.
    """
    rows = np.arange(len(n))[:, None]
    value, bins = np.zeros(n.shape), np.zeros(n.shape)
    below = [np.zeros(n.shape), np.zeros(n.shape)]
    previous = np.full(n.shape, -1)
    parts: list[tuple[Floats, Floats, NDArray[np.bool_]]] = []
    for edge in [*edges, np.broadcast_to(last, n.shape)]:
        up_to = [current[rows, edge], other[rows, edge]]
        parts.append((up_to[0] - below[0], up_to[1] - below[1], edge > previous))
        below, previous = [np.asarray(u, dtype=np.float64) for u in up_to], edge
    count = _added([real.astype(np.float64) for _, _, real in parts])
    for p_rows, q_rows, real in parts:
        p, q = (p_rows + 0.5) / (n + 0.5 * count), (q_rows + 0.5) / (m + 0.5 * count)
        value += np.where(real, (p - q) * np.log(p / q), 0.0)
        bins += real
    return value, bins
