"""Quality features: does a day's work on an analyte look like the weeks before it?

Here: outliers, shift of the median, missing data and agreement between devices, per analyte and day, and their limits.
Not here: tests of drift (``drift``, ``device_drift``), the scorecard of the rows themselves (``scorecard``).

A row dated D uses results as known at the end of D (see ``asof``). Medians cannot be summed, but the counts of equal
values can: each day looks at its own five weeks of counted values. A laboratory reports in a few hundred steps an analyte,
so there are far fewer of them than rows; one turn of a loop per day, none per row.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame, days_between, known_days
from lims_platform.laboratory.censored import quantiles, side_of

BASELINE_DAYS = 28
#: Numeric or censored results the baseline needs.
MIN_BASELINE = 50
#: Results a device needs on the day for its median to count.
MIN_DEVICE_RESULTS = 5
OUTLIER_SD = 3.0
#: Limits of quality_anomaly; all but the third must also be LIMIT_SE standard errors beyond what chance does.
OUTLIER_LIMIT = 0.05
SHIFT_LIMIT = 0.5
MISSING_LIMIT = 0.10
CONSISTENCY_LIMIT = 0.5
LIMIT_SE = 4.0
#: Rows of the analyte's codes before their missing share can be an anomaly.
MIN_ROWS_FOR_MISSING = 20
#: Standard error of a median of n normal values, in SD / sqrt(n).
_MEDIAN_SE = 1.2533


def quality_anomaly_features(history: Frame, analytes: pl.DataFrame, first: date, last: date, calendar: str) -> pl.DataFrame:
    """One row per analyte and day of [first, last] with rows, columns and order of the contract QualityAnomalyFeatures.

    history: lab_results_history (event_date, source, test_code, loinc_code, device_id, value_kind, value_number,
    comparator, reason, known_from, known_to, change, is_conflict), from BASELINE_DAYS before ``first``. analytes:
    loinc_code, analyte, tea_percent, tea_absolute.

    results: standardised results of the day. outlier_rate: share of its numeric and censored ones beyond 3 robust SD
    (IQR / 1.349) of the median of the 28 days before. distribution_shift: |median of the day − median of the 28 days| /
    robust SD. Both null with fewer than 50 such results in the baseline, or if they do not vary. Medians and quartiles
    are Kaplan-Meier's (``censored.quantiles``): a censored value is an outlier only where its limit makes it one; a
    quartile the limits hide is taken as far from the median as the other one; with more than half of the baseline
    hidden both are null, and a day's hidden median counts as the nearest value it can have.
    missing_data_rate: quarantined / all rows; a quarantined row without LOINC code is counted with the
    analyte most of its source's rows of that test code had in the 28 days and the day. device_consistency_score: SD
    between the medians of devices with at least 5 results, less what sampling makes of it, in units of the allowable
    error at the baseline median. quality_anomaly: any of the four beyond its limit.
    """
    side = side_of(pl.col("value_kind"), pl.col("comparator"))
    summed = side.is_not_null() & pl.col("value_number").is_finite()
    rows = (
        known_days(history, calendar)
        .filter(pl.col("event_date").is_between(first - timedelta(days=BASELINE_DAYS), last))
        .select(
            "event_date", "first_day", "last_day", "source", "test_code", "loinc_code", "device_id",
            pl.when(summed).then(pl.col("value_number") + 0.0).alias("value"), pl.when(summed).then(side).alias("side"),
            pl.col("reason").is_null().alias("valid"),
        )
    )  # fmt: skip
    counted = rows.group_by(pl.exclude("device_id")).agg(n=pl.len()).collect(engine="streaming").sort("event_date")
    devices = _device_medians(rows.filter(pl.col("event_date") >= first))
    days = days_between(first, last)
    lows = counted["event_date"].search_sorted(days - timedelta(days=BASELINE_DAYS), "left").to_list()
    highs = counted["event_date"].search_sorted(days, "right").to_list()
    built = [
        _one_day(counted.slice(low, high - low), day)
        for low, high, day in zip(lows, highs, days.to_list(), strict=True)
        if high > low
    ]
    if not built:
        return TABLES["quality_anomaly_features"].empty()
    between = pl.concat(built).join(devices, on=["loinc_code", "as_of_date"], how="left")
    return _features(between, analytes)


def _device_medians(rows: pl.LazyFrame) -> pl.DataFrame:
    """Per loinc_code and as_of_date: how much the medians of the day's devices vary, and what sampling makes of it."""
    of_the_day = (pl.col("first_day") <= pl.col("event_date")) & (
        pl.col("last_day").is_null() | (pl.col("last_day") >= pl.col("event_date"))
    )
    keys = ["event_date", "loinc_code", "device_id"]
    measured = pl.col("device_id").is_not_null() & pl.col("value").is_not_null()
    named = rows.filter(of_the_day, "valid", measured).select(*keys, "value", "side")
    plain = (
        named.group_by(keys)
        .agg(n=pl.len().cast(pl.Int64), m=pl.col("value").median(), censored=(pl.col("side") != 0).any())
        .filter(pl.col("n") >= MIN_DEVICE_RESULTS)
        .collect(engine="streaming")
    )
    # a plain median is Kaplan-Meier's where nothing is censored, as on nearly every device, and takes a fifth of the time
    hidden = named.join(plain.lazy().filter("censored").select(keys), on=keys, how="semi")
    censored = quantiles(hidden, keys, [0.5]).rename({"q_0.5": "m"}).filter(pl.col("m").is_not_null())
    medians = pl.concat([frame.select(*keys, "n", "m") for frame in (plain.filter(~pl.col("censored")), censored)])
    return (
        medians.sort("m", "n")  # a sum depends on its order in the last bits, and a rebuilt row must be the identical one
        .group_by("loinc_code", pl.col("event_date").alias("as_of_date"))
        .agg(device_variance=pl.col("m").var(), inverse_n=(1 / pl.col("n")).mean(), devices=pl.len())
    )


def _one_day(counted: pl.DataFrame, day: date) -> pl.DataFrame:
    """The counts and medians of one day; ``counted`` are the values of the day and of its baseline, n rows each."""
    known = counted.filter(pl.col("first_day") <= day, pl.col("last_day").is_null() | (pl.col("last_day") >= day))
    code = ["source", "test_code"]
    usual = (
        known.filter(pl.col("loinc_code").is_not_null())
        .group_by(*code, "loinc_code")
        .agg(pl.col("n").sum())
        .sort("n", "loinc_code", descending=[True, False])
        .unique(code, keep="first")
        .select(*code, pl.col("loinc_code").alias("usual"))
    )
    today = known.filter(pl.col("event_date") == day)
    today = today.join(usual, on=code, how="left", nulls_equal=True).with_columns(pl.coalesce("loinc_code", "usual"))
    before = known.filter(pl.col("event_date") < day, pl.col("valid"))
    baseline = _baseline(before)
    good = today.filter("valid").join(baseline, on="loinc_code", how="left")
    value, reach = pl.col("value"), OUTLIER_SD * pl.col("robust_sd")
    # a limit at the edge says that the value lies beyond it
    beyond = (
        pl.when(pl.col("side") == 0)
        .then((value - pl.col("base_median")).abs() > reach)
        .when(pl.col("side") < 0)
        .then(value <= pl.col("base_median") - reach)
        .otherwise(value >= pl.col("base_median") + reach)
    )
    outliers = good.group_by("loinc_code").agg(outliers=pl.col("n").filter(beyond).sum())
    medians = quantiles(good, ["loinc_code"], [0.5]).rename({"q_0.5": "median"})
    n = pl.col("n").cast(pl.Int64)
    return (
        today.filter(pl.col("loinc_code").is_not_null())
        .group_by("loinc_code")
        .agg(n.filter("valid").sum().alias("results"), n.sum().alias("rows"))
        .join(outliers, on="loinc_code", how="left")
        .join(medians, on="loinc_code", how="left")
        .join(baseline, on="loinc_code", how="left")
        .with_columns(pl.col("n").fill_null(0), pl.lit(day).alias("as_of_date"))
    )


def _baseline(before: pl.DataFrame) -> pl.DataFrame:
    """Median and robust SD of each analyte, with the number of results they stand on."""
    found = quantiles(before, ["loinc_code"], [0.25, 0.5, 0.75])
    lower, upper = pl.col("q_0.5") - pl.col("q_0.25"), pl.col("q_0.75") - pl.col("q_0.5")
    spread = pl.coalesce(pl.col("q_0.75") - pl.col("q_0.25"), 2 * upper, 2 * lower)
    return found.select("loinc_code", base_n="n", base_median="q_0.5", robust_sd=spread * (1 / 1.3489795003921634))


def _features(rows: pl.DataFrame, analytes: pl.DataFrame) -> pl.DataFrame:
    names = analytes.select("loinc_code", "analyte", "tea_percent", "tea_absolute").unique("loinc_code")
    rows = rows.join(names, on="loinc_code", how="left")
    n = pl.col("n")
    judged = (pl.col("base_n") >= MIN_BASELINE) & (pl.col("robust_sd") > 0) & (n > 0)
    tea = pl.max_horizontal(pl.col("tea_percent") * 0.01 * pl.col("base_median").abs(), "tea_absolute")
    sampling = _MEDIAN_SE**2 * pl.col("robust_sd") ** 2 * pl.col("inverse_n")
    between = (pl.col("device_variance") - sampling).clip(lower_bound=0.0).sqrt()
    # a hidden median lies below the lowest or above the highest value of the day; no further than it must
    nearest = pl.coalesce(
        "median",
        pl.when(pl.col("unknown_below") >= pl.col("unknown_above"))
        .then(pl.min_horizontal("lowest", "base_median"))
        .otherwise(pl.max_horizontal("highest", "base_median")),
    )
    rows = rows.with_columns(
        pl.when(judged).then(pl.col("outliers") / n).alias("outlier_rate"),
        pl.when(judged).then((nearest - pl.col("base_median")).abs() / pl.col("robust_sd")).alias("distribution_shift"),
        (1 - pl.col("results") / pl.col("rows")).alias("missing_data_rate"),
        pl.when((pl.col("base_n") >= MIN_BASELINE) & (tea > 0)).then(between / tea).alias("device_consistency_score"),
    )
    chance = LIMIT_SE * np.sqrt(OUTLIER_LIMIT * (1 - OUTLIER_LIMIT)) / n.sqrt()
    anomaly = [
        pl.col("outlier_rate") > OUTLIER_LIMIT + chance,
        (pl.col("distribution_shift") > SHIFT_LIMIT) & (pl.col("distribution_shift") > LIMIT_SE * _MEDIAN_SE / n.sqrt()),
        (pl.col("missing_data_rate") > MISSING_LIMIT) & (pl.col("rows") >= MIN_ROWS_FOR_MISSING),
        (pl.col("device_consistency_score") > CONSISTENCY_LIMIT)
        & (pl.col("device_variance") > sampling * (1 + LIMIT_SE * (2 / (pl.col("devices") - 1)).sqrt())),
    ]
    rows = rows.with_columns(pl.any_horizontal(*[a.fill_null(False) for a in anomaly]).alias("quality_anomaly"))
    dtypes = TABLES["quality_anomaly_features"].dtypes
    return rows.select([pl.col(name).cast(dtype) for name, dtype in dtypes.items()]).sort("as_of_date", "loinc_code")
