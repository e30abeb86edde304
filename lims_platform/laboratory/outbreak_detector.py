"""Outbreak detection: how many positives a week should have, and how many are too many.

Here: expectation and threshold of a 7-day count from the weeks before it. Not here: who counts on which day, and from
when a site is known (``outbreaks``).

Farrington's flexible algorithm (Noufaily et al., Stat Med 2013;32:1206-1222): a quasi-Poisson model of the past weeks
with the season as a factor, weeks that were outbreaks themselves weighed down by their Anscombe residuals (over 2.58),
the last 26 weeks left out, the upper quantile of a negative binomial as threshold, and no alarm on less than five
positives in four weeks. With less than three years there is no trend, so the fit is a ratio of sums. What a laboratory
adds: it knows its tests. They are the model's offset, so that twice as many tests are no outbreak. Where no whole past
year is known, the same model without a season on the few weeks before, as EARS C1 looks at them (Hutwagner et al.,
J Urban Health 2003;80:i89-i96); a season's rise is then an alarm like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy  # scipy.stats loads at its first use: the code location, which imports this module, has to be there at once
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

YEAR_WEEKS: Final = 52
#: The season of a week: the same week of a past year and so many on either side.
HALF_WINDOW: Final = 3
#: The rest of the year is cut into so many further parts of equal length.
OTHER_PARTS: Final = 9
#: Weeks before the current one that the season does not look at: they may belong to the outbreak looked for.
LEFT_OUT: Final = 26
#: Without a whole past year: so many weeks just before, and the false alarms times this. A short past understates its
#: own dispersion; on simulated years a tenth of the rate is what keeps the rate.
RECENT_WEEKS: Final = 5
RECENT_FALSE_ALARMS: Final = 0.1
#: Standardised Anscombe residual from which a week is weighed down.
OUTBREAK_RESIDUAL: Final = 2.58
#: An alarm needs so many positives in so many weeks, the current one included.
LEAST_CASES: Final = 5
LEAST_WEEKS: Final = 4

TOO_SHORT: Final = f"not evaluable: less than {RECENT_WEEKS + 1} weeks known"
NO_TESTS: Final = "not evaluable: no tests in the weeks compared with"
RECENT: Final = f"{RECENT_WEEKS} recent weeks: season not known"
#: Rows judged at once, for a bounded memory.
_BLOCK = 50_000


@dataclass(frozen=True)
class Expectations:
    """Per row: expected positives of the week, the most it may have without an alarm (both NaN where there is no
    verdict), and how it was judged.
    """

    expected: Floats
    threshold: Floats
    detector: list[str]


def season_parts(years: int) -> Ints:
    """Part of the year of each week, counted back from the current one; 1 is the current season, 0 takes no part."""
    parts = np.zeros(YEAR_WEEKS * years + HALF_WINDOW + 1, dtype=np.int64)
    between = YEAR_WEEKS - 2 * HALF_WINDOW - 1
    for year in range(1, years + 1):
        same_week = YEAR_WEEKS * year
        parts[same_week - HALF_WINDOW : same_week + HALF_WINDOW + 1] = 1
        later = np.arange(between)  # weeks after the window of that year
        # what does not divide evenly lengthens the first parts
        size, longer = divmod(between, OTHER_PARTS)
        ends = np.cumsum([size + (part < longer) for part in range(OTHER_PARTS)])
        parts[same_week - HALF_WINDOW - 1 - later] = 2 + np.searchsorted(ends, later, side="right")
    parts[: LEFT_OUT + 1] = 0
    return parts


#: What a row is judged by, the longest history first.
DESIGNS: Final[dict[str, Ints]] = {
    "season of 2 years": season_parts(2),
    "season of 1 year": season_parts(1),
    RECENT: np.array([0] + [1] * RECENT_WEEKS),
}
#: Weeks a row can depend on, the current one included.
WEEKS: Final = max(len(parts) for parts in DESIGNS.values())


def expectations(cases: Ints, tests: Ints, known_days: Ints, false_alarms: float) -> Expectations:
    """Expected positives and threshold of each row's current week.

    cases, tests: shape (WEEKS, rows), the k-th the 7-day count of k weeks ago, the 0th the current one; tests may be all 1
    where there is no denominator. known_days: days since the row's first test, shape (rows,). false_alarms: chance that
    a week without an outbreak lies above the threshold, 0 to 1. An alarm is cases[0] > threshold; the threshold is at
    least what makes LEAST_CASES in LEAST_WEEKS. Independent of the other rows.
    """
    rows = len(known_days)
    expected, upper = np.full(rows, np.nan), np.full(rows, np.nan)
    detector = np.full(rows, TOO_SHORT, dtype=object)
    for name, parts in DESIGNS.items():
        # a site that did not test in the season of past years is judged by what comes next
        mine = np.flatnonzero(np.isnan(upper) & (known_days >= 7 * len(parts)))
        for first in range(0, len(mine), _BLOCK):
            some = mine[first : first + _BLOCK]
            weeks = slice(0, len(parts))
            rate = false_alarms * (RECENT_FALSE_ALARMS if name == RECENT else 1.0)
            expected[some], upper[some] = _judged(cases[weeks, some], tests[weeks, some], parts, rate)
        detector[mine] = np.where(np.isnan(upper[mine]), NO_TESTS, name)
    earlier = cases[1:LEAST_WEEKS].sum(axis=0)
    return Expectations(expected, np.maximum(upper, LEAST_CASES - 1 - earlier), detector.tolist())


def _judged(cases: Ints, tests: Ints, parts: Ints, false_alarms: float) -> tuple[Floats, Floats]:
    """Expectation and upper quantile of the current week, from the weeks that take part."""
    weights = np.ones(cases.shape)
    rates, dispersion = _fit(cases, tests, parts, weights)
    weights = _weights(cases, tests, parts, rates, dispersion)
    rates, dispersion = _fit(cases, tests, parts, weights)
    expected = np.round(rates[1] * tests[0], 6)  # the last bits of a power may depend on the rows beside it
    upper = _upper(expected, np.round(dispersion, 6), 1 - false_alarms)
    return np.where(np.isnan(upper), np.nan, expected), upper


def _weeks(parts: Ints) -> dict[int, list[int]]:
    return {int(part): np.flatnonzero(parts == part).tolist() for part in np.unique(parts[parts > 0])}


def _fit(cases: Ints, tests: Ints, parts: Ints, weights: Floats) -> tuple[dict[int, Floats], Floats]:
    """Rate of positives of each part of the year, and the dispersion (Pearson, at least 1; NaN without a residual).

    Weeks are added one after another: a sum over an axis would depend, in its last bit, on the number of rows.
    """
    rates: dict[int, Floats] = {}
    chi, free = np.zeros(cases.shape[1]), np.zeros(cases.shape[1])
    for part, weeks in _weeks(parts).items():
        found, looked = sum(weights[k] * cases[k] for k in weeks), sum(weights[k] * tests[k] for k in weeks)
        rate = np.divide(found, looked, out=np.full(cases.shape[1], np.nan), where=looked > 0)
        for k in weeks:
            mean = rate * tests[k]
            chi += np.divide(weights[k] * (cases[k] - mean) ** 2, mean, out=np.zeros_like(mean), where=mean > 0)
            free += tests[k] > 0
        free -= looked > 0
        rates[part] = rate
    return rates, np.maximum(np.divide(chi, free, out=np.full_like(chi, np.nan), where=free > 0), 1.0)


def _weights(cases: Ints, tests: Ints, parts: Ints, rates: dict[int, Floats], dispersion: Floats) -> Floats:
    """Weights of the weeks: r^-2 where the standardised Anscombe residual r is over the limit, scaled to mean 1."""
    weights = np.ones(cases.shape)
    total, taken = np.zeros(cases.shape[1]), np.zeros(cases.shape[1])
    for part, weeks in _weeks(parts).items():
        looked = sum(tests[k] for k in weeks)
        for k in weeks:
            mean = rates[part] * tests[k]
            room = dispersion * (1 - np.divide(tests[k], looked, out=np.ones_like(mean), where=looked > 0))
            fits = (mean > 0) & (room > 0)
            raw = 1.5 * (np.cbrt(cases[k]) ** 2 * np.where(fits, mean, 1.0) ** (-1 / 6) - np.sqrt(np.where(fits, mean, 1.0)))
            residual = np.where(fits, raw / np.sqrt(np.where(fits, room, 1.0)), 0.0)
            high = residual > OUTBREAK_RESIDUAL
            weights[k] = np.where(high, np.where(high, residual, 1.0) ** -2.0, 1.0)
            total += np.where(tests[k] > 0, weights[k], 0.0)
            taken += tests[k] > 0
    return weights * np.divide(taken, total, out=np.ones_like(total), where=total > 0)


def _upper(mean: Floats, dispersion: Floats, quantile: float) -> Floats:
    """Quantile of a negative binomial of this mean and variance dispersion × mean; Poisson at dispersion 1."""
    out = np.where(np.isnan(mean) | np.isnan(dispersion), np.nan, 0.0)
    poisson = (mean > 0) & (dispersion == 1)
    wider = (mean > 0) & (dispersion > 1)
    out[poisson] = scipy.stats.poisson.ppf(quantile, mean[poisson])
    out[wider] = scipy.stats.nbinom.ppf(quantile, mean[wider] / (dispersion[wider] - 1), 1 / dispersion[wider])
    return out
