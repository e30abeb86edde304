"""How far a value, a combination of values or a run of values lies from the rest of its batch, and how far is too far.

Here: robust estimates from the batch itself, and three tests with a stated false-alarm rate: single values, combinations
(Mahalanobis distance), runs in time order (a scan for shifts, a trend test). Not here: limits, words, severities
(``sample_watch``).

References: one-step reweighted estimates: Rousseeuw and Leroy 1987, ch. 4; scan statistics for a changed segment:
Siegmund 1985, ch. 4; Mahalanobis distance with a reweighted estimate and its F limit: Hardin and Rocke 2005.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

#: Values beyond this many SDs do not take part in estimating centre and spread.
TRUNCATION = 3.0
#: Fewer values than this give no estimate to test with (see ``effective_df``).
LEAST_VALUES = 12
#: Fewest complete rows for a correlation, per measurement.
_ROWS_PER_MEASUREMENT = 5
#: Pulls the correlation towards none, so that two sensors that always agree do not make it singular.
_RIDGE = 0.01
#: A run has at least three values: two outliers side by side are not a shift.
SHORTEST_RUN = 3
#: What lasts longer is the sensor's new normal.
LONGEST_RUN = 500
#: Successive window lengths differ by this factor; a run between two of them loses at most 8 % of its score.
_LENGTH_STEP = 1.4
#: Share of the limit one value may add to a run: two outliers cannot exceed it (2 × 0.7 / √3 < 1), three can.
_CLIP = 0.7
#: A run's values may spread about its own mean by at most that many SDs: gross outliers make no run of their neighbours.
_UNLIKE = 2.0
#: Rounds per window length; each finds at most one run of each connected stretch.
_ROUNDS = 3
#: Variance of a normal sample over that of its part within TRUNCATION.
_NORMAL_CORRECTION = 1 / (
    1 - 2 * TRUNCATION * math.exp(-(TRUNCATION**2) / 2) / math.sqrt(2 * math.pi) / math.erf(TRUNCATION / math.sqrt(2))
)


@dataclass(frozen=True)
class Centre:
    """A batch's own centre and spread of one measurement. ``count``: values they rest on."""

    centre: float
    spread: float
    count: int


@dataclass(frozen=True)
class Runs:
    """Runs found, one entry each: first and last place (in the order scanned), mean z, t value of growth inside it."""

    first: Ints
    stop: Ints
    level: Floats
    growth: Floats


def robust_centre(values: Floats, floor: float) -> Centre | None:
    """Centre and SD of the finite ``values``: mean and SD of those within 3 SD of the median by the MAD; None below
    LEAST_VALUES.

    The SD is corrected for what truncation takes from a normal sample and is never below ``floor``. One step, not iterated:
    five values in fifty on one side would be let in step by step.
    """
    x = values[np.isfinite(values)]
    if x.size < LEAST_VALUES:
        return None
    middle = float(np.median(x))
    core = x[np.abs(x - middle) <= TRUNCATION * max(1.4826 * float(np.median(np.abs(x - middle))), floor)]
    return Centre(float(core.mean()), max(float(np.sqrt(core.var(ddof=1) * _NORMAL_CORRECTION)), floor), x.size)


def effective_df(count: int) -> float:
    """Degrees of freedom of a value against a truncated estimate that rests on ``count`` values.

    0.6 (n - 1) - 3, found by simulation (n = 12 to 200, tails from 1e-3 to 2e-5, within a factor of 3, mostly below the
    nominal rate): truncation makes the spread less certain than an SD, and an outlying value removes itself from it.
    """
    return max(0.6 * (count - 1) - 3.0, 1.5)


def _t_exceeded(probability: float, df: float) -> float:
    """What Student's t exceeds with that probability (one-sided)."""
    return -float(special.stdtrit(df, probability))


def value_limit(share: float, count: int) -> float:
    """|z| one of ``count`` values exceeds with probability ``share`` / ``count`` if nothing is wrong (two-sided)."""
    return _t_exceeded(share / count / 2, effective_df(count)) * math.sqrt(1 + 1 / count)


def centre_limit(share: float, count: int) -> float:
    """Standard errors the batch's centre lies from its true place with probability ``share``."""
    return _t_exceeded(share, effective_df(count))


def combined_distance(z: Floats) -> tuple[Floats, Ints]:
    """Mahalanobis distance of each row of ``z`` (rows, measurements; NaN where unknown), and the measurements it rests on.

    The correlation is that of the complete rows without a value beyond 3 SD. A row with fewer than two known
    measurements has no combination: NaN and 0; so have all rows where too few are complete.
    """
    distance, used = np.full(len(z), np.nan), np.zeros(len(z), dtype=np.int64)
    columns = np.flatnonzero(np.isfinite(z).sum(0) >= LEAST_VALUES)
    if columns.size < 2:
        return distance, used
    x = z[:, columns]
    known = np.isfinite(x)
    core = x[(np.abs(np.where(known, x, np.inf)) <= TRUNCATION).all(1)]
    if core.shape[0] < _ROWS_PER_MEASUREMENT * columns.size:
        return distance, used
    spread = core.std(0)
    if not (spread > 0).all():
        return distance, used
    correlation = (1 - _RIDGE) * np.corrcoef(core, rowvar=False) + _RIDGE * np.eye(columns.size)
    # rows with the same sensors known share one inverse: at most 2^measurements patterns
    code = known @ (1 << np.arange(columns.size))
    for pattern in np.unique(code):
        have = np.flatnonzero((pattern >> np.arange(columns.size)) & 1)
        if have.size < 2:
            continue
        rows = np.flatnonzero(code == pattern)
        part = x[np.ix_(rows, have)]
        inverse = np.linalg.inv(correlation[np.ix_(have, have)])
        distance[rows] = np.sqrt(np.einsum("ij,jk,ik->i", part, inverse, part))
        used[rows] = have.size
    return distance, used


def distance_limit(share: float, count: int, width: int) -> float:
    """Mahalanobis distance of ``width`` measurements one of ``count`` rows exceeds with probability share / count."""
    df = effective_df(count) - width + 1
    if df <= 1:
        return float("inf")
    # the upper point of F by way of beta keeps its precision far in the tail
    beta = float(special.betaincinv(df / 2, width / 2, share / count))
    return math.sqrt(effective_df(count) * (1 - beta) / beta * (1 + 1 / count))


def run_limit(share: float, count: int) -> float:
    """Standardised sum any window of any length exceeds with probability at most ``share`` (Bonferroni, two-sided).

    n - 1 degrees of freedom: no single value decides, so that the loss ``effective_df`` states is not met here
    (simulated, n = 20 to 2,000: the true probability is at most the nominal one).
    """
    windows = max(count * len(_lengths(count)), 1)
    return _t_exceeded(share / windows / 2, max(count - 1, 1))


def _lengths(count: int) -> list[int]:
    longest, lengths, length = min(count // 2, LONGEST_RUN), [], float(SHORTEST_RUN)
    while round(length) <= longest:
        lengths.append(round(length))
        length = max(length * _LENGTH_STEP, round(length) + 1.0)
    return lengths


def find_runs(z: Floats, group: Ints, limit: float) -> Runs:
    """Runs of consecutive values whose mean lies above (level > 0) or below the rest.

    z: standardised values in time order, finite; ``group``: no run crosses a change of it; ``limit``: ``run_limit``.
    A window whose sum / √length exceeds the limit, each value clipped so that two outliers cannot do it alone, tells that
    there is a run; its ends are then those of the greatest likelihood. Short windows come first and take what they find
    out of the longer ones, which would otherwise join one run with the next.
    """
    left, clipped = z.copy(), np.clip(z, -_CLIP * limit, _CLIP * limit)
    total = np.zeros(z.size + 1)
    np.cumsum(clipped, out=total[1:])
    none = np.empty(0, dtype=np.int64)
    found = [(none, none, np.empty(0))]
    change = np.flatnonzero(np.diff(group)) + 1
    bounds = (np.concatenate([[0], change]), np.append(change, z.size))
    for length in _lengths(z.size):
        least = limit * math.sqrt(length)
        over = np.flatnonzero(np.abs(total[length:] - total[:-length]) > least)
        over = over[group[over] == group[over + length - 1]]
        for _ in range(_ROUNDS):
            raised = total[over + length] - total[over]
            up, down = np.flatnonzero(raised > least), np.flatnonzero(raised < -least)
            # one side after the other: stretches of both may overlap
            still = np.concatenate([up, down])
            if not still.size:
                break
            runs = _likely_runs(left, bounds, limit, over[still], raised[still] / math.sqrt(length), length)
            if not runs[0].size:
                break
            inside = places(runs[0], runs[1])
            left[inside] = clipped[inside] = 0.0
            found.append(runs)
            np.cumsum(clipped, out=total[1:])
    first, stop, level = (np.concatenate(column) for column in zip(*found, strict=True))
    return Runs(first, stop, level, np.sign(level) * _growth(z, first, stop))


def _sums(values: Any, first: Ints, stop: Ints) -> Floats:
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(total[stop] - total[first], dtype=np.float64)


def places(first: Ints, stop: Ints) -> Ints:
    """Every place of the runs [first, stop)."""
    length = stop - first
    return np.repeat(first - np.concatenate([[0], np.cumsum(length)[:-1]]), length) + np.arange(length.sum())


def _likely_runs(
    z: Floats, bounds: tuple[Ints, Ints], limit: float, over: Ints, score: Floats, length: int
) -> tuple[Ints, Ints, Floats]:
    """First, stop and level of the most likely run of every stretch of windows over the limit to one side.

    ``bounds``: first and stop of each group; ``over``: where windows of ``length`` start, those above before those below,
    each in order; ``score``: theirs.
    """
    # a window's length to both sides within its group, for the ends of the run may lie beyond the windows
    within = np.searchsorted(bounds[1], over, side="right")
    low = np.maximum(over - length, bounds[0][within])
    high = np.minimum(over + 2 * length, bounds[1][within])
    opens = np.concatenate([[0], np.flatnonzero((low[1:] >= high[:-1]) | (score[1:] * score[:-1] < 0)) + 1])
    low, high = low[opens], high[np.append(opens[1:], over.size) - 1]
    sign = np.sign(score[opens])
    inside = places(low, high)
    begin = np.cumsum(high - low) - (high - low)
    rising = np.clip(np.repeat(sign, high - low) * z[inside], -2 * _CLIP * limit, 2 * _CLIP * limit)
    # the level to begin with is that of the stretch's highest window
    level = np.maximum.reduceat(np.abs(score), opens) / np.sqrt(length)
    for _ in range(2):  # the level tells the ends, the ends the level
        first, stop = _likeliest(rising, begin, level)
        level = _sums(rising, first, stop) / (stop - first)
    clipped = np.minimum(rising, _CLIP * limit)
    kept = (stop - first >= SHORTEST_RUN) & (_sums(clipped, first, stop) > limit * np.sqrt(stop - first))
    first, stop, level, sign = first[kept], stop[kept], level[kept], sign[kept]
    run = np.repeat(np.arange(first.size), stop - first)
    apart = (rising[places(first, stop)] - level[run]) ** 2
    alike = np.bincount(run, apart, minlength=first.size) <= _UNLIKE**2 * (stop - first - 1)
    return inside[first[alike]], inside[stop[alike] - 1] + 1, (sign * level)[alike]


def _argmax(values: Floats, begin: Ints) -> Ints:
    """Place of the first greatest value of each stretch that starts at ``begin``."""
    stretch = np.repeat(np.arange(begin.size), np.diff(np.append(begin, values.size)))
    greatest = np.flatnonzero(values == np.maximum.reduceat(values, begin)[stretch])
    return np.asarray(greatest[np.searchsorted(greatest, begin)], dtype=np.int64)


def _likeliest(z: Floats, begin: Ints, level: Floats) -> tuple[Ints, Ints]:
    """Per stretch, the segment [first, stop) with the greatest log-likelihood ratio of mean ``level`` against mean 0."""
    stretch = np.repeat(np.arange(begin.size), np.diff(np.append(begin, z.size)))
    here = level[stretch]
    gain = here * (np.clip(z, -here, here) - here / 2)
    total = np.cumsum(gain)
    before = total - gain
    # each stretch lies below all earlier ones, so that the running minimum starts anew with it
    drop = stretch * (2 * np.abs(gain).sum() + 1.0)
    lowest = np.minimum.accumulate(before - drop)
    last = _argmax(total - drop - lowest, begin)
    # the start is the last place at which the running minimum was reached
    at_minimum = np.where(before - drop <= lowest, np.arange(z.size), 0)
    first = np.maximum.accumulate(at_minimum)[last]
    return first, last + 1


def _growth(z: Floats, first: Ints, stop: Ints) -> Floats:
    """t value of the slope of z within each run (SD 1)."""
    length, inside = (stop - first).astype(np.float64), places(first, stop)
    run = np.repeat(np.arange(first.size), stop - first)
    cross = np.bincount(run, (inside - ((first + stop - 1) / 2)[run]) * z[inside], minlength=first.size)
    return np.asarray(cross / np.sqrt(length * (length**2 - 1) / 12), dtype=np.float64)


def trend(z: Floats) -> tuple[float, Floats, Centre] | None:
    """t value of a straight line through ``z`` over time, the line, and the residuals' spread; None for too few values.

    Values beyond 3 SD do not take part. The line covers every place.
    """
    core = np.flatnonzero(np.abs(z) <= TRUNCATION)
    if core.size < LEAST_VALUES:
        return None
    place = core - core.mean()
    across = float((place**2).sum())
    slope = float((place * z[core]).sum()) / across
    line = z[core].mean() + slope * (np.arange(z.size) - core.mean())
    rest = robust_centre(z[core] - line[core], 1e-9)
    if rest is None:
        return None
    return slope * float(np.sqrt(across)) / rest.spread, line, rest
