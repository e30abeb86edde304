"""Summaries of results of which some are only known to lie below or above a limit ("<0.5", ">60").

Here: quantiles by Kaplan-Meier, means and SDs by regression on order statistics, for many groups at once. Not here: reading
"<0.5" (``values``), what a feature does with a summary, comparisons of two samples: those are re-censored at the extreme
limits (``distribution_shift``) or winsorised at them (``daily_location``, ``patient_qc_rows``).

A censored result is never replaced by its limit, half of it or zero: every such choice invents a value and biases means,
spreads and tests (Helsel, Statistics for Censored Environmental Data Using Minitab and R, 2nd ed., Wiley 2012, ch. 1, 6
and 9). What the censoring leaves undetermined is null or NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy.special import log_ndtr, ndtri

from lims_platform.laboratory.value_grid import Counts, Floats, Segments

#: A line through order statistics needs this many distinct detected values, and at least this share of the results
#: detected (Helsel 2012, ch. 6 and 13: no method is worth its name with more than 80 % censored).
SMALLEST_DETECTED, SMALLEST_SHARE = 3, 0.2
_EPSILON = 1e-6


def side_of(kind: pl.Expr, comparator: pl.Expr) -> pl.Expr:
    """0 for a number, -1 for a value known to lie below its limit, 1 above; null for what is neither. Int8."""
    below, above = (comparator == "<") | (comparator == "<="), (comparator == ">") | (comparator == ">=")
    censored = pl.when(below).then(pl.lit(-1, pl.Int8)).when(above).then(pl.lit(1, pl.Int8))
    return pl.when(kind == "number").then(pl.lit(0, pl.Int8)).when(kind == "censored").then(censored)


def quantiles(rows: pl.DataFrame | pl.LazyFrame, by: Sequence[str], shares: Sequence[float]) -> pl.DataFrame:
    """Quantiles of every group by Kaplan-Meier of the flipped values (Helsel 2012, ch. 6.3); one row per group.

    ``rows``: the columns ``by``, value (the limit where censored) and side (``side_of``), and, where equal rows are counted
    already, n; rows with a null of value or side are left out. Returns ``by``, n (results), q_<share> for each of
    ``shares`` (null where the censoring leaves it undetermined), lowest and highest (the range in which quantiles are
    determined: an undetermined one lies beyond), unknown_below and unknown_above (the share of results out there).

    Interpolated linearly as polars and NumPy do; without censored values the same number. A value above its limit counts as
    greater than every other value, unless the group has more of those than of values below a limit: then the two sides
    change their parts, and the values below count as less than every other.
    """
    keys, lazy = list(by), rows.lazy()
    counted = pl.col("n").sum() if "n" in lazy.collect_schema() else pl.len()
    on_side = [pl.col("n").filter(pl.col("side") == side).sum() for side in (1, -1)]
    turn = pl.when("flip").then(-1.0).otherwise(1.0)
    # the side Kaplan-Meier deals with is below after the turn
    turned = pl.col("side").cast(pl.Float64) * turn
    cells = (
        lazy.filter(pl.col("value").is_not_null(), pl.col("side").is_not_null())
        # laboratory results repeat themselves: from here on few rows are left
        .group_by(*keys, "value", "side")
        .agg(n=counted.cast(pl.Float64))
        .with_columns(flip=(on_side[0] > on_side[1]).over(keys))
        .with_columns(x=pl.when(turned == 1).then(float("inf")).otherwise(pl.col("value") * turn + 0.0), known=turned != -1)
        .group_by(*keys, "flip", "x")
        .agg(pl.col("n").sum(), detected=pl.col("n").filter("known").sum())
        .sort(*keys, "x")
        # at risk at x: all values at or below it, for "<x" may be anything below x
        .with_columns(free=1 - pl.col("detected") / pl.col("n").cum_sum().over(keys), total=pl.col("n").sum().over(keys))
        # expected number of results strictly below x, and up to it
        .with_columns(below=pl.col("free").cum_prod(reverse=True).over(keys))
        .with_columns(upto=pl.col("below").shift(-1, fill_value=1.0).over(keys) * pl.col("total"))
        .with_columns(unknown=pl.col("below").first().over(keys) * pl.col("total"))
    )
    places = {share: _place(share) for share in shares}
    detected, finite = pl.col("detected") > 0, pl.col("x").is_finite()
    found = cells.group_by(*keys, "flip", "total", "unknown", maintain_order=True).agg(
        *[_order_statistic(place).alias(f"low_{share}") for share, (place, _) in places.items()],
        *[_order_statistic(place + 1).alias(f"high_{share}") for share, (place, _) in places.items()],
        # what is hidden lies below the highest limit that no detected value lies below
        first=pl.coalesce(
            pl.col("x").filter(finite & (detected.cast(pl.Int8).cum_max() == 0)).max(), pl.col("x").filter(finite).min()
        ),
        last=pl.col("x").filter(finite).max(),
        infinite=pl.col("n").filter(~finite).sum() / pl.col("total").first(),
    )
    answer = {}
    for share, (place, part) in places.items():
        low, high = pl.col(f"low_{share}"), pl.col(f"high_{share}")
        value = pl.when(part == 0).then(low).otherwise(low + (high - low) * part)
        sure = (place > pl.col("unknown") + _EPSILON) & value.is_finite()
        answer[f"q_{share}"] = pl.when(sure).then(value * turn + 0.0)
    unknown = pl.col("unknown") / pl.col("total")
    return found.select(
        *keys,
        n=pl.col("total").cast(pl.Int64),
        **answer,
        lowest=pl.when("flip").then(-pl.col("last")).otherwise("first"),
        highest=pl.when("flip").then(-pl.col("first")).otherwise("last"),
        unknown_below=pl.when("flip").then("infinite").otherwise(unknown),
        unknown_above=pl.when("flip").then(unknown).otherwise("infinite"),
    ).collect()


def _place(share: float) -> tuple[pl.Expr, pl.Expr]:
    """Number of the order statistic (from 1) at or before the quantile, and the part of the way to the next one."""
    height = pl.when("flip").then(1 - share).otherwise(share) * (pl.col("total") - 1)
    return height.floor() + 1, height - height.floor()


def _order_statistic(place: pl.Expr) -> pl.Expr:
    return pl.col("x").filter(pl.col("upto") >= place - _EPSILON).min()


@dataclass(frozen=True)
class Regressed:
    """Per day and subject, shape (days, subjects): mean and SD, and the line log value = location + slope × normal score.

    NaN where there is a value that is not positive, or too few detected ones.
    """

    mean: Floats
    sd: Floats
    location: Floats
    slope: Floats

    def quantile(self, share: float) -> Floats:
        """Read off the line; for quantiles in the censored part."""
        return np.exp(self.location + self.slope * float(ndtri(share)))


def order_statistics(segments: Segments, numbers: Counts, below: Counts, above: Counts) -> Regressed:
    """Means and SDs by robust regression on order statistics (Helsel & Cohn 1988; Helsel 2012, ch. 6.2).

    ``numbers``, ``below`` and ``above``: rows per day and grid column of detected values and of values censored there.
    Logarithms of the detected values are regressed on normal scores of their Kaplan-Meier positions (Michael & Schucany
    1986). Detected values count as they are; a censored one counts as what the line expects of a value beyond its limit
    (in place of Helsel's order statistics of the line, whose mean it is for many).
    """
    seen, rows = numbers > 0, numbers + below + above
    subject, value = segments.subject, segments.value
    log = np.log(np.where(value > 0, value, 1.0))
    position = _positions(segments, (numbers + above).astype(np.float64), segments.cumulative(rows))
    weight = numbers.astype(np.float64)
    score = ndtri(np.clip(position, 1e-12, 1 - 1e-12))
    size, detected = segments.sum(rows).astype(np.float64), segments.sum(weight)

    def average(cells: Floats) -> Floats:
        return segments.sum(weight * cells) / np.maximum(detected, 1)

    centre, height = average(score), average(np.broadcast_to(log, score.shape))
    off = score - centre[:, subject]
    spread = segments.sum(weight * off**2)
    usable = (segments.sum(seen.astype(np.int64)) >= SMALLEST_DETECTED) & (detected >= SMALLEST_SHARE * size)
    usable &= segments.sum(np.where(value > 0, 0, rows)) == 0
    slope = np.where(usable, segments.sum(weight * off * log) / np.where(spread > 0, spread, np.nan), np.nan)
    location = height - slope * centre
    totals = [segments.sum(weight * value**power) for power in (1, 2)]
    for power in (1, 2):
        for censored, sign in ((below, 1.0), (above, -1.0)):
            if censored.any():
                expected = _expected_beyond(log, location[:, subject], slope[:, subject], power, sign)
                totals[power - 1] = totals[power - 1] + segments.sum(np.where(censored > 0, censored * expected, 0.0))
    n = np.maximum(size, 1)
    mean = totals[0] / n
    variance = np.maximum(totals[1] / n - mean**2, 0.0) * size / np.maximum(size - 1, 1)
    nothing = np.where(usable, 0.0, np.nan)
    return Regressed(mean + nothing, np.sqrt(variance) + nothing, location + nothing, slope)


def _positions(segments: Segments, events: Floats, at_risk: Counts) -> Floats:
    """Middle of each column's Kaplan-Meier step: the probability of a value up to there."""
    free = np.where(at_risk > 0, 1 - events / np.maximum(at_risk, 1), 1.0)
    log = np.log(np.maximum(free, 1e-300))
    # running sum from each segment's last column down to this one
    total = np.cumsum(log[:, ::-1], axis=1)[:, ::-1]
    after = np.concatenate([total[:, 1:], np.zeros((len(total), 1))], axis=1)
    after = after - after[:, segments.last][:, segments.subject]
    upto = np.exp(after)
    return (upto + upto * free) / 2


def _expected_beyond(limit: Floats, location: Floats, slope: Floats, power: int, sign: float) -> Floats:
    """E[X^power | X below (sign 1) or above (−1) its limit] of a lognormal X; ``limit`` on the log scale."""
    with np.errstate(invalid="ignore"):
        at = (limit - location) / slope
        log = power * location + (power * slope) ** 2 / 2
        return np.exp(log + log_ndtr(sign * (at - power * slope)) - log_ndtr(sign * at))
