"""Device drift: a device's mean of an analyte against its own past and against its sisters.

Here: the standard error of daily means, limits from a false-alarm rate, bias in units of allowable error, alert
levels. Not here: whole distributions (``drift``), controls (``westgard``).

The error of a mean of n results is sqrt(τ² + σ²/n), not σ/sqrt(n): whole days differ by more than chance (case mix,
reagent, room), and τ, the SD of days beyond their sampling error, is estimated from the device's own daily means. Nor
is it σ, the population's SD, against which no shift of a mean would ever show.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
import scipy  # scipy.stats loads at its first use: the code location, which imports this module, has to be there at once

from lims_platform.contracts.tables import TABLES

_DEVICE = ["loinc_code", "device_id"]


@dataclass(frozen=True)
class DeviceDriftLimits:
    """What the laboratory chooses.

    ``weekly_false_alarms``: share of device-analyte-weeks that may hold an alarm by chance; the daily limit on |z|
    follows, 1 − (1 − rate)^(1/7). ``warning_false_alarms``: the same for MEDIUM. Effects are in units of allowable
    error.
    """

    weekly_false_alarms: float = 0.01
    warning_false_alarms: float = 0.05
    critical_effect: float = 0.25
    warning_effect: float = 0.10
    baseline_days: int = 56
    #: Days between baseline and today: a drift that has begun must not become its own baseline.
    guard_days: int = 7
    min_baseline_days: int = 14
    #: Today, and as many days before it as it takes to reach min_results, at most guard_days in all.
    min_results: int = 20
    #: Results are winsorised this many robust SD from the analyte's median: one absurd value is no drift.
    winsor_sd: float = 4.0

    def daily_alpha(self, weekly: float) -> float:
        """Two-sided level of a daily test that alarms in a share ``weekly`` of weeks."""
        return float(1 - (1 - weekly) ** (1 / 7))


def device_drift(results: pl.DataFrame, analytes: pl.DataFrame, as_of: date, limits: DeviceDriftLimits) -> pl.DataFrame:
    """Rows of kind 'device' of the contract DriftReport, without as_of_date and q_value; two per device and analyte.

    results: event_date, loinc_code, device_id, value_kind, value_number; only value_kind 'number' enters a mean,
    censored values are left out and counted in ``outcome``. analytes: loinc_code, analyte, tea_percent, tea_absolute;
    allowable error is the greater of the two at the baseline mean.

    statistic 'z': (mean now − baseline) / its standard error, as the normal quantile of a t with baseline days − 1
    degrees of freedom. statistic 'z_sisters': the same of the device's daily mean minus that of all other devices
    measuring the analyte: what the patients do to all of them cancels. ``effect``: bias in units of allowable error,
    signed; null without.

    alert_level of 'z': CRITICAL beyond the weekly limit with |bias| of at least 0.25 TEa, and beyond it against the
    sisters too where there are any; HIGH if the sisters moved along (the patients changed, or a shared reagent);
    MEDIUM beyond the warning limit with at least 0.10 TEa; without a known TEa at most HIGH, from 0.25 robust SD of
    the results. 'z_sisters' informs and is LOW always.
    """
    numbers, censored = _numbers(results, limits)
    daily = _daily_means(numbers)
    if daily.is_empty():
        return _empty()
    own = _statistics(daily, as_of, limits, "mean", "results")
    sisters = _statistics(_contrasts(daily), as_of, limits, "contrast", "weight")
    tea = _allowable(own, analytes)
    alpha = limits.daily_alpha(limits.weekly_false_alarms)
    limit = float(scipy.stats.norm.isf(alpha / 2))
    warning = float(scipy.stats.norm.isf(limits.daily_alpha(limits.warning_false_alarms) / 2))
    joined = (
        tea.join(censored, on=_DEVICE, how="left")
        .join(sisters.select(*_DEVICE, *[pl.col(c).name.prefix("sisters_") for c in ("z", "p_value", "bias")]),
              on=_DEVICE, how="left")
    )  # fmt: skip
    effect = pl.col("bias").abs() / pl.col("tea")
    in_sd = pl.col("bias").abs() / pl.col("scale")
    beyond, sister_moved = pl.col("z").abs() > limit, (pl.col("sisters_z").abs() <= limit).fill_null(False)
    known = pl.col("tea").is_not_null()
    large = pl.when(known).then(effect).otherwise(in_sd) >= limits.critical_effect
    level = (
        pl.when(beyond & large & known & ~sister_moved)
        .then(pl.lit("CRITICAL"))
        .when(beyond & large)
        .then(pl.lit("HIGH"))
        .when((pl.col("z").abs() > warning) & (effect >= limits.warning_effect))
        .then(pl.lit("MEDIUM"))
        .otherwise(pl.lit("LOW"))
    )
    left_out = pl.col("censored").cast(pl.String)
    outcome = pl.concat_str(
        pl.when(pl.col("z").is_null()).then("why_not").otherwise(pl.lit("evaluated")),
        pl.when(~known & pl.col("z").is_not_null()).then(pl.lit("; no allowable error")),
        pl.when(pl.col("censored") > 0).then(pl.lit("; ") + left_out + " censored values left out"),
        pl.when(sister_moved & beyond).then(pl.lit("; sister devices moved along")),
        ignore_nulls=True,
    )
    shared = {"kind": pl.lit("device"), "subject": pl.col("device_id"), "name": pl.col("analyte"), "outcome": outcome}
    first = joined.with_columns(
        **shared, statistic=pl.lit("z"), value=pl.col("z"), effect=pl.col("bias") / pl.col("tea"), alert_level=level
    )
    second = joined.filter(pl.col("sisters_z").is_not_null()).with_columns(
        **shared,
        statistic=pl.lit("z_sisters"),
        value=pl.col("sisters_z"),
        effect=pl.col("sisters_bias") / pl.col("tea"),
        p_value=pl.col("sisters_p_value"),
        alert_level=pl.lit("LOW"),
    )
    return pl.concat([first, second]).select([pl.col(n).cast(t) for n, t in _empty().schema.items()])


def _empty() -> pl.DataFrame:
    return TABLES["drift_report"].empty().drop("as_of_date", "q_value")


def _numbers(results: pl.DataFrame, limits: DeviceDriftLimits) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Winsorised numeric results with the analyte's robust SD ``scale``, and the count of censored ones per device."""
    rows = results.filter(pl.col("device_id").is_not_null(), pl.col("loinc_code").is_not_null())
    censored = (
        rows.filter(pl.col("value_kind") == "censored").group_by(_DEVICE).agg(pl.len().cast(pl.Int64).alias("censored"))
    )
    numbers = rows.filter(pl.col("value_kind") == "number", pl.col("value_number").is_finite())
    middle = numbers.group_by("loinc_code").agg(
        pl.col("value_number").median().alias("centre"),
        (
            (pl.col("value_number").quantile(0.75, "linear") - pl.col("value_number").quantile(0.25, "linear"))
            / 1.3489795003921634
        ).alias("scale"),
    )
    low = pl.col("centre") - limits.winsor_sd * pl.col("scale")
    high = pl.col("centre") + limits.winsor_sd * pl.col("scale")
    value = pl.when(pl.col("scale") > 0).then(pl.col("value_number").clip(low, high)).otherwise("value_number")
    return numbers.join(middle, on="loinc_code").with_columns(value.alias("value")), censored


def _daily_means(numbers: pl.DataFrame) -> pl.DataFrame:
    return numbers.group_by(*_DEVICE, "event_date").agg(
        pl.col("value").mean().alias("mean"),
        pl.len().cast(pl.Float64).alias("results"),
        pl.col("value").var(ddof=0).alias("within"),
        pl.col("scale").first(),
    )


def _contrasts(daily: pl.DataFrame) -> pl.DataFrame:
    """Daily mean of a device minus that of all others with the analyte, on days both have results.

    ``weight`` is the size that gives the contrast's sampling error: 1 / (1/n + 1/n of the others).
    """
    total = (pl.col("mean") * pl.col("results")).sum().over("loinc_code", "event_date")
    count = pl.col("results").sum().over("loinc_code", "event_date")
    others = count - pl.col("results")
    return (
        daily.with_columns(others.alias("others"), (total - pl.col("mean") * pl.col("results")).alias("sum_others"))
        .filter(pl.col("others") > 0)
        .with_columns(
            (pl.col("mean") - pl.col("sum_others") / pl.col("others")).alias("contrast"),
            (1 / (1 / pl.col("results") + 1 / pl.col("others"))).alias("weight"),
        )
    )


def _statistics(daily: pl.DataFrame, as_of: date, limits: DeviceDriftLimits, value: str, size: str) -> pl.DataFrame:
    """z, p, bias and the parts of both, per device and analyte; z null and ``why_not`` set where it cannot be judged."""
    age = (pl.lit(as_of) - pl.col("event_date")).dt.total_days()
    rows = daily.with_columns(age.alias("age")).filter(pl.col("age") >= 0)
    guard, last = limits.guard_days, limits.guard_days + limits.baseline_days
    v, n = pl.col(value), pl.col(size)
    base = (
        rows.filter(pl.col("age").is_between(guard, last - 1))
        .group_by(_DEVICE)
        .agg(
            v.mean().alias("baseline"),
            v.var().alias("day_variance"),
            (1 / n).mean().alias("inverse_size"),
            (pl.col("within") * pl.col("results")).sum().alias("squares"),
            (pl.col("results") - 1).sum().alias("free"),
            pl.col("results").sum().alias("reference_rows"),
            pl.len().cast(pl.Float64).alias("days"),
        )
    )
    recent = (
        rows.filter(pl.col("age") < guard)
        .sort(*_DEVICE, "age")
        .with_columns((pl.col("results").cum_sum().over(_DEVICE) - pl.col("results")).alias("so_far"))
        # a day before today enters only while the days after it have too few results
        .filter(pl.col("so_far") < limits.min_results)
        .group_by(_DEVICE)
        .agg(
            ((v * n).sum() / n.sum()).alias("now"),
            n.sum().alias("size"),
            ((n / n.sum()) ** 2).sum().alias("day_share"),
            pl.col("results").sum().alias("current_rows"),
            pl.col("age").min().alias("youngest"),
        )
    )
    scale = daily.group_by(_DEVICE).agg(pl.col("scale").first())
    both = scale.join(base, on=_DEVICE, how="left").join(recent, on=_DEVICE, how="left")
    within = pl.when(pl.col("free") > 0).then(pl.col("squares") / pl.col("free"))
    between = (pl.col("day_variance") - pl.col("within") * pl.col("inverse_size")).clip(lower_bound=0.0)
    error_now = pl.col("between") * pl.col("day_share") + pl.col("within") / pl.col("size")
    error_baseline = pl.col("day_variance") / pl.col("days")
    both = (
        both.with_columns(within.alias("within"))
        .with_columns(between.alias("between"))
        .with_columns((error_now + error_baseline).alias("variance"), (pl.col("now") - pl.col("baseline")).alias("bias"))
    )
    why_not = (
        pl.when(pl.col("days").fill_null(0) < limits.min_baseline_days)
        .then(pl.lit(f"not evaluable: fewer than {limits.min_baseline_days} baseline days"))
        .when(pl.col("youngest").is_null() | (pl.col("youngest") > 0))
        .then(pl.lit("not evaluable: no result on the day"))
        .when(pl.col("current_rows") < limits.min_results)
        .then(pl.lit(f"not evaluable: fewer than {limits.min_results} results in {limits.guard_days} days"))
        .when(pl.col("variance").fill_null(0.0) <= 0)
        .then(pl.lit("not evaluable: all values are equal"))
    )
    both = both.with_columns(why_not.alias("why_not"))
    t = (both["bias"] / both["variance"].sqrt()).to_numpy()
    p = 2 * scipy.stats.t.sf(np.abs(t), np.maximum(both["days"].fill_null(2.0).to_numpy() - 1, 1))
    judged = pl.col("why_not").is_null()
    z = np.sign(t) * scipy.stats.norm.isf(np.maximum(p, 1e-300) / 2)
    return both.with_columns(pl.Series("p_value", p).fill_nan(None), pl.Series("z", z).fill_nan(None)).with_columns(
        pl.when(judged).then(c).alias(c) for c in ("z", "p_value", "bias")
    )


def _allowable(own: pl.DataFrame, analytes: pl.DataFrame) -> pl.DataFrame:
    """With name and allowable error ``tea`` in the analyte's unit, at the baseline mean; null if unknown."""
    known = analytes.select(
        "loinc_code", "analyte", pl.col("tea_percent").cast(pl.Float64), pl.col("tea_absolute").cast(pl.Float64)
    ).unique("loinc_code")
    relative = pl.col("tea_percent") / 100 * pl.col("baseline").abs()
    tea = pl.max_horizontal(relative, "tea_absolute")
    return own.join(known, on="loinc_code", how="left").with_columns(
        pl.when(tea > 0).then(tea).alias("tea"),
        pl.col("reference_rows").fill_null(0.0),
        pl.col("current_rows").fill_null(0.0),
        pl.col("baseline").alias("reference_mean"),
        pl.col("now").alias("current_mean"),
    )
