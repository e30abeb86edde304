"""Sequential detection of a lasting shift in daily values, many series at once.

Here: the window-limited generalised likelihood ratio (Willsky and Jones 1976; Lai, J R Stat Soc B 1995;57:613-658), its
control limit from a weekly false-alarm rate, the noise of days from a series' own past. Not here: what the values are.

For each length L up to the window, the mean of the last L days is compared with the baseline; the L with the largest
|t| is the maximum-likelihood estimate of the change (Hinkley, Biometrika 1970;57:1-17). Unlike a CUSUM the statistic
is a function of a fixed span of days and keeps no state: a day computed alone equals the day of a range. Sums run in
one order, day by day, so the results agree to the last bit however many series or days are computed together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_IQR_PER_SD = 1.3489795003921634
#: Weeks simulated for a limit: its false-alarm rate is known to 3 % of itself at a rate of 1 %.
_SIMULATED_WEEKS = 100_000
#: Residuals of the baseline count up to this many robust SD: an old drift must not hide the next one.
_WINSOR_SD = 3.0
_CENTRE_WINSOR_SD = 2.0
#: Log likelihood by which the last days must speak for the baseline, against the shift, to call it over.
_RETURNED = 3.0
_RETURN_DAYS = 7


@dataclass(frozen=True)
class Limit:
    """|z| beyond which a day alarms, and the number of independent looks a day's largest |z| is worth."""

    z: float
    looks: float

    def p_value(self, z: Floats) -> Floats:
        """P(the largest |z| of a stationary day is at least ``z``)."""
        return np.minimum(1.0, self.looks * 2 * special.ndtr(-np.abs(z)))


@lru_cache(maxsize=32)
def weekly_limit(rate: float, window_days: int, baseline_days: int) -> Limit:
    """The limit that a stationary series exceeds on any day in a share ``rate`` of weeks.

    By simulation of independent normal days (fixed seed), the error of the baseline included.
    """
    rng = np.random.Generator(np.random.PCG64(20240101))
    days = rng.standard_normal((window_days + 6, _SIMULATED_WEEKS))
    error = rng.standard_normal(_SIMULATED_WEEKS) / np.sqrt(baseline_days)
    total = np.concatenate([np.zeros((1, _SIMULATED_WEEKS)), np.cumsum(days, axis=0)])
    best = np.zeros(_SIMULATED_WEEKS)
    last = best
    for end in range(window_days, window_days + 7):
        last = np.zeros(_SIMULATED_WEEKS)
        for length in range(1, window_days + 1):
            shift = (total[end] - total[end - length]) / length - error
            np.maximum(last, np.abs(shift) / np.sqrt(1 / length + 1 / baseline_days), out=last)
        np.maximum(best, last, out=best)
    limit = float(np.quantile(best, 1 - rate))
    daily = float(np.quantile(last, 1 - rate))
    return Limit(limit, rate / (2 * float(special.ndtr(-daily))))


@dataclass(frozen=True)
class Baseline:
    """Per series: ``centre`` and its variance, days with values, degrees of freedom, residuals and variance per day.

    ``residual`` and ``variance`` have shape (series, days); the rest (series,). Series that cannot be judged have NaN.
    """

    centre: Floats
    centre_variance: Floats
    days: Floats
    freedom: Floats
    residual: Floats
    variance: Floats


def day_sums(values: Floats) -> Floats:
    """Sums over days of an array (series, days), NaN as 0, added day by day."""
    if not values.shape[1]:
        return np.zeros(values.shape[0])
    total: Floats = np.cumsum(np.where(np.isfinite(values), values, 0.0), axis=1)[:, -1]
    return total


def day_means(values: Floats) -> Floats:
    """Means over the days that have a value; NaN where none has."""
    count = np.isfinite(values).sum(axis=1)
    return np.where(count > 0, day_sums(values) / np.maximum(count, 1), np.nan)


def quartiles(values: Floats) -> tuple[Floats, Floats, Floats]:
    """Quartiles over days (linear interpolation), NaN left out; NaN where a series has none."""
    ordered = np.sort(values, axis=1)
    count = np.isfinite(values).sum(axis=1)
    found = []
    for share in (0.25, 0.5, 0.75):
        position = np.maximum(share * (count - 1), 0.0)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, np.maximum(count - 1, 0))
        a = np.take_along_axis(ordered, low[:, None], 1)[:, 0]
        b = np.take_along_axis(ordered, high[:, None], 1)[:, 0]
        found.append(a + (position - low) * (b - a))
    return found[0], found[1], found[2]


def baseline(values: Floats, sampling: Floats, group: Ints, days: int, min_days: int) -> Baseline:
    """Centre and noise of each series from its first ``days`` columns.

    values, sampling: shape (series, all days); ``sampling`` is the sampling variance of a day's value, NaN where the
    day has none. ``group``: number of the analyte; its series share what is not known well of one alone.

    A day's variance is a + sampling, a the variance of whole days beyond their sampling error (case mix, reagent,
    room), by moments over the group; then each series' own ratio of observed to expected counts half (Smyth 2004's
    moderated variance with a prior worth as many days as the series has). Never σ²/n alone.
    """
    past, error = values[:, :days], sampling[:, :days]
    count = np.isfinite(past).sum(axis=1).astype(float)
    judged = count >= min_days
    low, middle, high = quartiles(past)
    scale = (high - low) / _IQR_PER_SD
    reach = _CENTRE_WINSOR_SD * scale[:, None]
    about = np.where(reach > 0, np.clip(past - middle[:, None], -reach, reach), past - middle[:, None])
    centre = np.where(judged, middle + day_sums(about) / np.maximum(count, 1), np.nan)
    residual = values - centre[:, None]
    reach = _WINSOR_SD * scale[:, None]
    kept = np.where(reach > 0, np.clip(residual[:, :days], -reach, reach), residual[:, :days])
    squares = day_sums(kept**2) * count / np.maximum(count - 1, 1)
    expected = day_sums(np.where(np.isfinite(past), error, np.nan))
    weight = judged.astype(float)
    pooled = [np.bincount(group, weight * np.nan_to_num(v))[group] for v in (squares, expected, count, np.ones(len(count)))]
    between = np.maximum(pooled[0] - pooled[1], 0.0) / np.maximum(pooled[2], 1)
    own = _ratio(squares, expected + between * count)
    shared = _ratio(np.asarray(pooled[0], dtype=np.float64), pooled[1] + between * pooled[2])
    several = pooled[3] > 1
    ratio = np.where(several, (own + shared) / 2, own)
    variance = ratio[:, None] * (between[:, None] + sampling)
    variance = np.where(np.isfinite(values) & (variance > 0), variance, np.nan)
    centre_variance = day_sums(variance[:, :days]) / np.maximum(count, 1) ** 2
    return Baseline(
        centre=centre,
        centre_variance=centre_variance,
        days=count,
        freedom=np.maximum(count - 1, 1) * np.where(several, 2, 1),
        residual=residual,
        variance=variance,
    )


def _ratio(a: Floats, b: Floats) -> Floats:
    return np.where(b > 0, a / np.where(b > 0, b, 1.0), 0.0)


@dataclass(frozen=True)
class Shift:
    """The most likely shift up to a day, per series; NaN where there is none to judge.

    ``z``: normal quantile of the t of ``bias`` on ``error``; ``length``: days since the change, that of the shift
    included; ``returned``: the last days speak for the baseline again; ``bias_by_length``, ``variance_by_length``:
    shape (series, window), the same for every length.
    """

    z: Floats
    bias: Floats
    error: Floats
    length: Ints
    returned: NDArray[np.bool_]
    size: Floats
    bias_by_length: Floats
    variance_by_length: Floats


def largest_shift(base: Baseline, sizes: Floats, end: int, window_days: int, min_size: float) -> Shift:
    """The shift over the last L days up to column ``end`` with the largest |t|, over L of 1 to ``window_days``.

    sizes: shape (series, days), results of a day; a mean of fewer than ``min_size`` is not looked at. A series
    without a value on the day itself is not judged.
    """
    columns = np.arange(end, end - window_days, -1)
    residual, variance = base.residual[:, columns], base.variance[:, columns]
    here = np.isfinite(residual) & np.isfinite(variance)
    weight = np.where(here, 1 / np.where(here, variance, 1.0), 0.0)
    value = np.where(here, residual, 0.0)
    precision = np.cumsum(weight, axis=1)
    sums = np.cumsum(weight * value, axis=1)
    size = np.cumsum(np.where(here, sizes[:, columns], 0.0), axis=1)
    judged = here[:, :1] & (size >= min_size)
    safe = np.where(precision > 0, precision, 1.0)
    bias = np.where(precision > 0, sums / safe, np.nan)
    squared_error = 1 / safe + base.centre_variance[:, None]
    t = np.where(judged, np.abs(bias) / np.sqrt(squared_error), -1.0)
    best = np.argmax(t, axis=1)[:, None]
    found = np.take_along_axis(judged, best, 1)[:, 0]
    chosen = np.take_along_axis(bias, best, 1)[:, 0]
    t_best = np.take_along_axis(t, best, 1)[:, 0]
    # a tail of 0 would make z infinite
    tail = np.maximum(special.stdtr(base.freedom, -np.maximum(t_best, 0.0)), 1e-300)
    z = np.where(found, -np.sign(chosen) * special.ndtri(tail), np.nan)
    recent = slice(0, min(_RETURN_DAYS, window_days))
    step = weight[:, recent] * (value[:, recent] * chosen[:, None] - chosen[:, None] ** 2 / 2)
    within = np.arange(step.shape[1])[None, :] < best
    returned = found & (np.where(within, np.cumsum(step, axis=1), 0.0).min(axis=1) < -_RETURNED)
    nothing = ~found
    return Shift(
        z=z,
        bias=np.where(nothing, np.nan, chosen),
        error=np.where(nothing, np.nan, np.sqrt(np.take_along_axis(squared_error, best, 1)[:, 0])),
        length=best[:, 0] + 1,
        returned=returned,
        size=np.take_along_axis(size, best, 1)[:, 0],
        bias_by_length=bias,
        variance_by_length=squared_error,
    )
