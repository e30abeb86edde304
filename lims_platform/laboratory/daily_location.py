"""One robust location per device, analyte and day: what drift statistics are built on.

Here: Huber's M-estimate of a day's results on the analyte's own scale, and its error per result. Not here: what a
location is compared with (``device_drift``).

A day's mean of a skewed analyte is mostly the noise of its few highest patients: on alanine aminotransferase and on
glucose the M-estimate on the log scale sees a shift of half the allowable error with 1.5 to 2 times the signal of the
mean (Huber 1964; on truncation in patient-based quality control: Bietenbeck et al., Clin Chem 2020;66:1072).
Every number depends on the results of that day alone, so a day computed by itself equals the day of a range.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.laboratory.asof import Frame

Floats = NDArray[np.float64]

#: Huber's constant: results further from the location count as this many robust SD. 90 % efficient for the normal, and
#: better than the usual 1.345 (95 %) where part of the patients are of another population, as diabetics for glucose.
HUBER = 1.0
#: Newton steps from the day's median of all devices; the third changes locations by less than a hundredth of their error.
STEPS = 3
#: The share of results within the clip is at least this in the steps' denominator: ties could make it tiny.
MIN_INSIDE = 0.25
_IQR_PER_SD = 1.3489795003921634

DAILY = {
    "loinc_code": pl.String(),
    "device_id": pl.String(),
    "event_date": pl.Date(),
    "location": pl.Float64(),
    "results": pl.Float64(),
    "variance": pl.Float64(),
    "scale": pl.Float64(),
    "censored": pl.Float64(),
    "left_out": pl.Float64(),
}


def ratio_scale(analytes: pl.DataFrame) -> pl.DataFrame:
    """loinc_code, is_ratio: analytes whose plausible range lies above zero are compared on the log scale."""
    return analytes.unique("loinc_code").select("loinc_code", is_ratio=(pl.col("plausible_low") > 0).fill_null(False))


def daily_locations(results: Frame, analytes: pl.DataFrame) -> pl.DataFrame:
    """One row per analyte, device and day with results, sorted, columns DAILY.

    results: event_date, loinc_code, device_id, value_kind, value_number, comparator. analytes: loinc_code,
    plausible_low. ``location`` and ``scale`` (the analyte's robust SD of the day) are on the log scale for ratio
    analytes. ``variance`` is the sampling variance of a location of one result; that of n is variance / n.

    A censored value counts as its limit, and on such a day no value counts as less than the highest lower limit or
    more than the lowest upper one (Helsel 2012). A limit on the far side of the median says nothing of where the value
    lies: it is left out and counted in ``left_out``. ``location`` is null where none is left.
    """
    rows = (
        results.lazy()
        .filter(
            pl.col("device_id").is_not_null(),
            pl.col("value_kind").is_in(["number", "censored"]),
            pl.col("value_number").is_finite(),
        )
        .join(ratio_scale(analytes).lazy(), on="loinc_code", how="left")
        .with_columns(
            # a value at or below zero on a ratio scale is as low as can be: the clip takes it to its edge
            pl.when(pl.col("is_ratio").fill_null(False))
            .then(pl.col("value_number").clip(lower_bound=1e-9).log())
            .otherwise("value_number")
            .alias("x"),
            pl.when(pl.col("value_kind") == "censored").then("comparator").str.slice(0, 1).fill_null("").alias("side"),
        )
        .select("loinc_code", "device_id", "event_date", "x", "side")
        # sums run in this order: identical rows give identical bits
        .sort("loinc_code", "event_date", "device_id", "x")
        .collect()
    )
    if rows.is_empty():
        return pl.DataFrame(schema=DAILY)
    day = rows.select(pl.struct("loinc_code", "event_date").rle_id()).to_series().to_numpy()
    cell = rows.select(pl.struct("loinc_code", "event_date", "device_id").rle_id()).to_series().to_numpy()
    first = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
    x, side = rows["x"].to_numpy(), rows["side"]
    below, above = (side == "<").to_numpy(), (side == ">").to_numpy()
    location, used, variance, scale = _locations(x, below, above, day, cell)
    days = day[first]
    censored = np.bincount(cell, (below | above).astype(float))
    return (
        rows[first]
        .select("loinc_code", "device_id", "event_date")
        .with_columns(
            location=pl.Series(location).fill_nan(None),
            results=pl.Series(np.bincount(cell, used.astype(float))),
            variance=pl.Series(variance[days]),
            scale=pl.Series(scale[days]),
            censored=pl.Series(censored),
            left_out=pl.Series(np.bincount(cell, (~used).astype(float))),
        )
        .sort("loinc_code", "device_id", "event_date")
    )


def _locations(
    x: Floats, below: NDArray[np.bool_], above: NDArray[np.bool_], day: NDArray[np.uint32], cell: NDArray[np.uint32]
) -> tuple[Floats, NDArray[np.bool_], Floats, Floats]:
    """Location per cell, which results were used, and per analyte-day the variance of one result and the robust SD."""
    quartiles = (
        pl.DataFrame({"day": day, "x": x})
        .group_by("day")
        .agg([pl.col("x").quantile(q, "linear").alias(str(q)) for q in (0.25, 0.5, 0.75)])
        .sort("day")
    )
    low, centre, high = (quartiles[str(q)].to_numpy() for q in (0.25, 0.5, 0.75))
    scale = (high - low) / _IQR_PER_SD
    squares = np.bincount(day, (x - centre[day]) ** 2) / np.bincount(day)
    scale = np.where(scale > 0, scale, np.sqrt(squares))
    used = ~((below & (x > centre[day])) | (above & (x < centre[day])))
    floor, ceiling = np.full(len(centre), -np.inf), np.full(len(centre), np.inf)
    np.maximum.at(floor, day[below & used], x[below & used])
    np.minimum.at(ceiling, day[above & used], x[above & used])
    weight = used.astype(float)
    count = np.bincount(cell, weight)
    reach = HUBER * scale

    def clipped(location: Floats) -> Floats:
        """Every result as it counts about ``location``, one per result."""
        return np.clip(x, np.maximum(location - reach[day], floor[day]), np.minimum(location + reach[day], ceiling[day]))

    about = clipped(centre[day])
    inside = np.maximum(np.bincount(day, weight * (about == x)) / np.maximum(np.bincount(day, weight), 1), MIN_INSIDE)
    spread = np.bincount(day, weight * (about - centre[day]) ** 2) / np.maximum(np.bincount(day, weight), 1)
    start = np.flatnonzero(np.r_[True, cell[1:] != cell[:-1]])
    of_day = day[start]
    location = centre[of_day]
    for _ in range(STEPS):
        about = clipped(location[cell])
        mean = np.bincount(cell, weight * (about - location[cell])) / np.maximum(count, 1)
        location = location + mean / inside[of_day]
    return np.where(count > 0, location, np.nan), used, spread / inside**2, scale
