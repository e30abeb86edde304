"""Summaries and comparisons of results of which some are only known to lie below or above a limit.

Here: Kaplan-Meier and regression on order statistics for summaries, re-censoring at the highest limit for comparisons.
Not here: reading "<0.5" (``values``), or what a feature does with a summary.

A censored result is never replaced by its limit, half of it or zero: every such choice invents a value and biases means,
spreads and tests (Helsel, Statistics for Censored Environmental Data Using Minitab and R, 2nd ed., Wiley 2012, ch. 1, 6
and 9).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Regression on order statistics needs a line through this many detected values (Helsel 2012, ch. 6).
SMALLEST_DETECTED = 3


@dataclass(frozen=True)
class Summary:
    """Mean, SD and quartiles of a sample, in its unit; NaN where the censoring leaves them undetermined.

    ``below`` is the share of values known only to lie below a limit, ``method`` what was used.
    """

    n: int
    below: float
    mean: float
    sd: float
    q25: float
    median: float
    q75: float
    method: str


def kaplan_meier(values: Floats, is_below: Flags) -> Summary:
    """Summary of a left-censored sample by Kaplan-Meier of the flipped values (Helsel 2012, ch. 6.3).

    ``values`` (n,): the result, or the limit where ``is_below``. Without an assumption on the distribution; a quartile
    below the lowest detected value is NaN, and the mean is Efron's: a lowest value that is censored counts as its limit,
    an upper bound of the true mean. Raises ValueError for an empty sample or shapes that differ.
    """
    values, is_below = _checked(values, is_below)
    distinct, inverse = np.unique(values, return_inverse=True)
    detected = np.bincount(inverse, weights=~is_below, minlength=distinct.size)
    # at risk at x: all values at or below it, for "<x" may be anything below x
    at_risk = np.cumsum(np.bincount(inverse, minlength=distinct.size))
    # probability of lying strictly below each distinct value: product over the values at and above it
    survive = 1 - detected / at_risk
    below = np.cumprod(survive[::-1])[::-1]
    upto = np.append(below[1:], 1.0)
    mass = upto - below
    mass[0] += below[0]
    mean = float(mass @ distinct)
    sd = float(np.sqrt(mass @ (distinct - mean) ** 2 * values.size / max(values.size - 1, 1)))
    q25, median, q75 = (_quantile(distinct, upto, float(below[0]), p) for p in (0.25, 0.5, 0.75))
    return Summary(values.size, float(is_below.mean()), mean, sd, q25, median, q75, "kaplan-meier")


def _quantile(distinct: Floats, upto: Floats, unknown: float, p: float) -> float:
    """Smallest value with at least ``p`` of the mass at or below it; NaN in the mass below every detected value."""
    if p <= unknown:
        return float("nan")
    return float(distinct[np.searchsorted(upto, p - 1e-12)])


def order_statistics(values: Floats, is_below: Flags) -> Summary:
    """Summary of a left-censored sample by robust regression on order statistics (Helsel & Cohn 1988; Helsel 2012, ch. 6.2).

    Logarithms of the detected values are regressed on their normal scores, with Hirsch-Stedinger plotting positions for
    several limits; the censored values, and only they, are read off the line. Needs positive values and SMALLEST_DETECTED
    distinct detected ones; with fewer the summary is NaN and ``method`` says so. Raises ValueError for an empty sample,
    shapes that differ, or a value that is not positive.
    """
    values, is_below = _checked(values, is_below)
    if (values <= 0).any():
        raise ValueError("order_statistics: values and limits must be positive; use kaplan_meier")
    share = float(is_below.mean())
    if np.unique(values[~is_below]).size < SMALLEST_DETECTED:
        nan = float("nan")
        return Summary(values.size, share, nan, nan, nan, nan, nan, "too few detected values")
    scores = norm.ppf(_plotting_positions(values, is_below))
    slope, intercept = np.polyfit(scores[~is_below], np.log(values[~is_below]), 1)
    filled = np.where(is_below, np.exp(intercept + slope * scores), values)
    q25, median, q75 = (float(q) for q in np.quantile(filled, (0.25, 0.5, 0.75)))
    spread = float(filled.std(ddof=1)) if values.size > 1 else float("nan")
    return Summary(values.size, share, float(filled.mean()), spread, q25, median, q75, "regression on order statistics")


def _plotting_positions(values: Floats, is_below: Flags) -> Floats:
    """Probability positions for each value (Hirsch & Stedinger 1987): ranks between limits, by the share above each."""
    limits = np.unique(values[is_below])
    edges = np.concatenate([[-np.inf], limits, [np.inf]])
    found = values[~is_below]
    position = np.empty(values.size)
    exceed = np.zeros(edges.size)
    # from the highest limit down: the share at or above it is that above the next, plus what lies between of what could
    for j in range(limits.size, -1, -1):
        between = int(((found >= edges[j]) & (found < edges[j + 1])).sum())
        lower = int((found < edges[j]).sum()) + int((values[is_below] <= edges[j]).sum())
        exceed[j] = exceed[j + 1] + (1 - exceed[j + 1]) * between / max(between + lower, 1) if j else 1.0
        inside = np.flatnonzero(~is_below & (values >= edges[j]) & (values < edges[j + 1]))
        ranks = np.argsort(np.argsort(values[inside], kind="stable"), kind="stable") + 1
        position[inside] = (1 - exceed[j]) + (exceed[j] - exceed[j + 1]) * ranks / (inside.size + 1)
        censored = np.flatnonzero(is_below & (values == edges[j]))
        position[censored] = (1 - exceed[j]) * np.arange(1, censored.size + 1) / (censored.size + 1)
    return position


def _checked(values: Floats, is_below: Flags) -> tuple[Floats, Flags]:
    values, is_below = np.asarray(values, dtype=np.float64), np.asarray(is_below, dtype=np.bool_)
    if values.ndim != 1 or values.shape != is_below.shape:
        raise ValueError(f"censored: values {values.shape} and flags {is_below.shape} must be one-dimensional and equal")
    if not values.size or not np.isfinite(values).all():
        raise ValueError("censored: the sample is empty or holds a value that is not finite")
    return values, is_below


def recensored(value: pl.Expr, comparator: pl.Expr, *, over: str | list[str] | None = None) -> pl.Expr:
    """Values made comparable: everything below the highest lower limit, and above the lowest upper limit, of its group ties.

    ``value`` is a number or the limit of a censored one, ``comparator`` null, <, <=, > or >=; ``over`` names the group's
    columns. The result keeps the order of what can be ordered and ties the rest at the limit: for rank tests
    (Mann-Whitney, KS, Kruskal-Wallis), never for means (Helsel 2012, ch. 9). Null stays null; a group whose limits cross
    ("<5" and ">2") ties as a whole at the upper one.
    """
    below, above = comparator.str.starts_with("<").fill_null(False), comparator.str.starts_with(">").fill_null(False)
    floor = pl.when(below).then(value).max()
    ceiling = pl.when(above).then(value).min()
    if over is not None:
        floor, ceiling = floor.over(over), ceiling.over(over)
    return pl.min_horizontal(
        pl.max_horizontal(value, pl.when(value.is_not_null()).then(floor)), pl.when(value.is_not_null()).then(ceiling)
    )
