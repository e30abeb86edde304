"""Targets of control materials: what a level of a lot should read, and how far a control lies from it.

Here: assigned and estimated means and SDs, z, and why a control cannot be judged. Not here: rules over several controls
(``westgard``), performance of an assay (``qc_performance``).

An assigned SD is used as it is. Where none is given the laboratory's own history of the lot is (CLSI C24-Ed4: at least
20 measurements, never the insert's range): a control is judged by the measurements of its level before it, at most the
first ``HISTORY``, so that a drift does not teach the target to follow. Repeats and outliers do not teach: a
measurement further than ``OUTLIER`` robust SDs (1.4826 MAD, Hampel 1974) from the median of the start-up is left out of
means and SDs, though it is judged like any other as soon as there are targets.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from lims_platform.laboratory.asof import Frame

#: Measurements of a lot before its own history can judge.
START_UP: Final = 20
#: Measurements of a lot that make its targets; later ones are judged by them and change nothing.
HISTORY: Final = 100
#: Robust SDs beyond which a value is a blunder: of 20 values the MAD itself is uncertain by a fifth.
OUTLIER: Final = 5.0
_MAD_TO_SD: Final = 1.4826

LEVEL: Final = ["device_id", "loinc_code", "qc_level"]
LOT: Final = [*LEVEL, "control_lot"]
EVALUATED: Final = "evaluated"


def judged(controls: Frame) -> pl.DataFrame:
    """Every control with target, target_sd, target_source (assigned, own history), z and outcome.

    controls: rows of quality_control_standardized, of each lot from its first measurement on for own targets that do
    not depend on where the frame begins. outcome: "evaluated", else "not evaluable: …" with z null: the row's own
    reason for being unusable, no device, analyte, level or time; an assigned SD of zero or less; a start-up of fewer
    than 20 measurements; a start-up whose values are all equal.
    """
    rows = controls.lazy().collect().sort(*LOT, "run_at", "qc_id", nulls_last=True)
    value = pl.col("measured_value")
    assigned = pl.col("expected_sd").is_finite() & (pl.col("expected_sd") > 0) & pl.col("expected_value").is_finite()
    keys = pl.all_horizontal(pl.col(*LEVEL, "run_at").is_not_null())
    # a missing target is no flaw where the lot's own history makes one
    usable = (pl.col("reason").is_null() | (pl.col("reason") == "missing_target")) & value.is_finite() & keys
    rows = rows.with_columns(usable.fill_null(False).alias("_usable"), assigned.fill_null(False).alias("_assigned"))
    rows = _own_targets(rows)
    own = pl.col("_usable") & ~pl.col("_assigned")
    ready = pl.col("_own_sd") > 0
    zero_sd = pl.col("_usable") & (pl.col("expected_sd") <= 0)
    outcome = (
        pl.when(~keys).then(pl.lit("not evaluable: device, analyte, level or time is missing"))
        .when(~pl.col("_usable")).then(pl.concat_str(pl.lit("not evaluable: "), pl.col("reason").fill_null("missing_value")))
        .when(pl.col("_assigned")).then(pl.lit(EVALUATED))
        .when(zero_sd.fill_null(False)).then(pl.lit("not evaluable: the assigned SD is not positive"))
        .when(pl.col("_taught") < START_UP)
        .then(pl.format("not evaluable: {} of {} measurements of the lot's start-up", pl.col("_taught"), START_UP))
        .when(ready).then(pl.lit(EVALUATED))
        .otherwise(pl.lit("not evaluable: all values of the lot's start-up are equal"))
    )  # fmt: skip
    rows = rows.with_columns(outcome.alias("outcome"))
    good = pl.col("outcome") == EVALUATED
    return rows.with_columns(
        pl.when(good & own).then("_own_mean").when(good).then("expected_value").alias("target"),
        pl.when(good & own).then("_own_sd").when(good).then("expected_sd").alias("target_sd"),
        pl.when(good & own).then(pl.lit("own history")).when(good).then(pl.lit("assigned")).alias("target_source"),
    ).with_columns(((value - pl.col("target")) / pl.col("target_sd")).alias("z")).drop("^_.*$")  # fmt: skip


def _own_targets(rows: pl.DataFrame) -> pl.DataFrame:
    """Mean and SD of the lot's measurements before each row, outliers and repeats left out.

    ``_taught``: how many measurements there were to learn from."""
    value = pl.col("measured_value")
    teaches = pl.col("_usable") & ~pl.col("is_repeat").fill_null(False)
    rows = rows.with_columns((teaches.cum_sum() - teaches.cast(pl.UInt32)).over(LOT).cast(pl.Int64).alias("_taught"))
    start = teaches & (pl.col("_taught") < START_UP)
    rows = rows.with_columns(value.filter(start).median().over(LOT).alias("_median"))
    distance = (value - pl.col("_median")).abs()
    rows = rows.with_columns((_MAD_TO_SD * distance.filter(start).median()).over(LOT).alias("_spread"))
    # with a spread of zero more than half the start-up is one value: nothing says what an outlier is
    kept = teaches & (pl.col("_taught") < HISTORY) & ((distance <= OUTLIER * pl.col("_spread")) | (pl.col("_spread") == 0))
    shifted = pl.when(kept).then(value - pl.col("_median")).otherwise(0.0)
    sums = {"_n": kept.cast(pl.Float64), "_sum": shifted, "_squares": shifted**2}
    rows = rows.with_columns([(x.cum_sum() - x).over(LOT).alias(name) for name, x in sums.items()])
    n = pl.col("_n")
    variance = (pl.col("_squares") - pl.col("_sum") ** 2 / n) / (n - 1)
    # what rounding leaves of equal values is no spread
    real = variance > 1e-18 * (pl.col("_median") ** 2 + 1)
    return rows.with_columns(
        (pl.col("_median") + pl.col("_sum") / n).alias("_own_mean"),
        pl.when((n > 1) & real).then(variance.sqrt()).alias("_own_sd"),
    )


def qc_runs(controls: Frame, logs: Frame | None = None) -> pl.DataFrame:
    """Rows as ``westgard.violations`` wants them: judged controls with their lot and their last calibration.

    ``lot`` joins control, reagent and calibrator lot: a change of any is a break point, and so is a CALIBRATION in
    ``logs`` (device_metrics_normalized).
    """
    lot = pl.concat_str(
        [pl.col(f"{kind}_lot").fill_null("") for kind in ("control", "reagent", "calibrator")], separator="/"
    )
    rows = judged(controls).filter(pl.col("outcome") == EVALUATED)
    rows = rows.select(*LEVEL, "analyte", lot.alias("lot"), "run_id", "run_at", "z", "event_date").sort("run_at")
    if logs is None:
        return rows
    calibrated = (pl.col("event_type") == "CALIBRATION") & pl.col("reason").is_null()
    events = logs.lazy().filter(calibrated).select("device_id", "logged_at").sort("logged_at").collect()
    events = events.with_columns(calibrated_at="logged_at")
    joined = rows.join_asof(events, left_on="run_at", right_on="logged_at", by="device_id", check_sortedness=False)
    return joined.drop("logged_at", strict=False)
