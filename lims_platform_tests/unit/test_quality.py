"""Quality features on planted faults, on quiet days, and rebuilt after later changes."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import validity
from lims_platform.laboratory.quality import quality_anomaly_features

CALENDAR = "Europe/Berlin"
DAY = date(2024, 6, 28)
ANALYTES = pl.DataFrame(
    {"loinc_code": ["1", "2"], "analyte": ["One", "Two"], "tea_percent": [8.0, None], "tea_absolute": [6.0, None]},
    schema_overrides={"tea_percent": pl.Float64, "tea_absolute": pl.Float64},
)


def _bronze(values: np.ndarray, loinc: str | None = "1", reason: str | None = None, code: str = "GLU") -> pl.DataFrame:
    """values: shape (days, devices, results a day), the last day being DAY."""
    days, _, _ = values.shape
    grid = np.indices(values.shape)
    day = np.datetime64(DAY) - (days - 1) + grid[0].ravel()
    return pl.DataFrame({"event_date": pl.Series(day).cast(pl.Date), "value_number": values.ravel()}).with_columns(
        pl.Series("device_id", grid[1].ravel()).cast(pl.String),
        pl.lit(loinc, dtype=pl.String).alias("loinc_code"),
        pl.lit("lims").alias("source"),
        pl.lit(code).alias("test_code"),
        pl.lit("number").alias("value_kind"),
        pl.lit(None, dtype=pl.String).alias("comparator"),
        pl.lit(reason, dtype=pl.String).alias("reason"),
        pl.lit("insert").alias("change"),
        pl.lit(False).alias("is_conflict"),
        pl.lit(1, dtype=pl.Int32).alias("row_version"),
        (pl.col("event_date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC") + pl.duration(hours=9)).alias(
            "known_from"
        ),
    )


def _features(*frames: pl.DataFrame, first: date = DAY) -> pl.DataFrame:
    bronze = pl.concat(frames)
    if "row_key" not in bronze.columns:
        bronze = bronze.with_columns(pl.int_range(pl.len()).cast(pl.String).alias("row_key"))
    out = quality_anomaly_features(validity(bronze.lazy()).collect(), ANALYTES, first, DAY, CALENDAR)
    TABLES["quality_anomaly_features"].schema.validate(out)
    assert dict(out.schema) == TABLES["quality_anomaly_features"].dtypes
    return out


def test_quiet_days_are_quiet():
    rng = np.random.default_rng(1)
    values = 95 + 15 * rng.normal(size=(78, 4, 30)) + rng.normal(0, 1, (78, 1, 1))
    out = _features(_bronze(values), first=DAY - timedelta(days=49))
    assert out.height == 50
    assert out["quality_anomaly"].sum() == 0
    assert out["outlier_rate"].mean() == pytest.approx(0.0027, abs=0.002)
    assert out["device_consistency_score"].median() < 0.1  # what sampling makes of equal devices is taken off


def test_outliers_a_shift_and_a_device_that_disagrees_are_seen():
    rng = np.random.default_rng(2)
    values = rng.normal(95, 15, (29, 4, 50))
    values[-1, :, :12] += 150
    spoilt = _features(_bronze(values)).row(0, named=True)
    assert spoilt["outlier_rate"] == pytest.approx(0.24, abs=0.01) and spoilt["quality_anomaly"] is True
    values = rng.normal(95, 15, (29, 4, 50))
    values[-1] += 15
    shifted = _features(_bronze(values)).row(0, named=True)
    assert shifted["distribution_shift"] == pytest.approx(1.0, abs=0.3) and shifted["quality_anomaly"] is True
    values = rng.normal(95, 15, (29, 4, 200))
    values[-1, 0] += 12
    apart = _features(_bronze(values)).row(0, named=True)  # SD of (12, 0, 0, 0) is 6, allowable 7.6
    assert apart["device_consistency_score"] == pytest.approx(6 / 7.6, abs=0.2) and apart["quality_anomaly"] is True


def test_quarantined_rows_count_with_the_analyte_their_code_usually_has():
    rng = np.random.default_rng(3)
    good = _bronze(rng.normal(95, 15, (29, 2, 30)))
    lost = _bronze(np.zeros((1, 2, 10)), loinc=None, reason="ambiguous_number")
    row = _features(good, lost).row(0, named=True)
    assert row["results"] == 60 and row["missing_data_rate"] == pytest.approx(0.25) and row["quality_anomaly"] is True
    assert _features(good, _bronze(np.zeros((1, 1, 10)), loinc=None, reason="unmapped_code", code="??")).height == 1


def test_what_cannot_be_judged_is_null_and_no_anomaly():
    rng = np.random.default_rng(4)
    few = _features(_bronze(rng.normal(95, 15, (2, 1, 4)))).row(0, named=True)
    assert few["results"] == 4
    assert (few["outlier_rate"], few["distribution_shift"], few["device_consistency_score"]) == (None, None, None)
    equal = _features(_bronze(np.full((29, 2, 30), 5.0), loinc="2")).row(0, named=True)
    assert equal["outlier_rate"] is None and equal["device_consistency_score"] is None
    assert equal["quality_anomaly"] is False


def _cut(frame: pl.DataFrame, limit: float, instead: float | None = None) -> pl.DataFrame:
    """Values below ``limit`` as the analyser reports them: "<limit"; or another number in their place."""
    below = pl.col("value_number") < limit
    return frame.with_columns(
        value_kind=pl.when(below & (instead is None)).then(pl.lit("censored")).otherwise("value_kind"),
        comparator=pl.when(below & (instead is None)).then(pl.lit("<")).otherwise("comparator"),
        value_number=pl.when(below).then(limit if instead is None else instead).otherwise("value_number"),
    )


def test_censored_values_take_part_without_a_number_of_their_own():
    rng = np.random.default_rng(6)
    values = rng.normal(95, 15, (29, 4, 100))
    values[-1, :, :5] += 150
    seen = ["results", "outlier_rate", "distribution_shift", "quality_anomaly"]
    full = _features(_bronze(values)).row(0, named=True)
    # 20 % below the limit: medians, and so the outliers, stay where they are
    told = _features(_cut(_bronze(values), 82.0)).row(0, named=True)
    assert [told[c] for c in seen] == pytest.approx(
        [full[c] for c in seen], abs=0.003
    )  # one low outlier is not known to be one
    assert told["device_consistency_score"] == pytest.approx(full["device_consistency_score"])
    # 35 %: the lower quartile is hidden, the upper one speaks for it
    half = _features(_cut(_bronze(values), 89.0)).row(0, named=True)
    assert half["distribution_shift"] == pytest.approx(full["distribution_shift"], rel=0.1)
    assert half["outlier_rate"] == pytest.approx(full["outlier_rate"], abs=0.01)
    # the limit's half in their place would hide the outliers behind a spread that is not there
    substituted = _features(_cut(_bronze(values), 89.0, 44.5)).row(0, named=True)
    assert substituted["outlier_rate"] < 0.05 <= half["outlier_rate"]


def test_a_day_that_falls_below_its_limit_is_seen():
    values = np.random.default_rng(7).normal(95, 15, (29, 2, 50))
    values[-1] -= 60
    lost = _features(_cut(_bronze(values), 70.0)).row(0, named=True)
    assert lost["distribution_shift"] >= 1.5 and lost["quality_anomaly"] is True
    # more than half of the weeks before hidden: nothing to compare with
    hidden = _features(_cut(_bronze(values), 100.0)).row(0, named=True)
    assert (hidden["outlier_rate"], hidden["distribution_shift"]) == (None, None)


def test_a_later_amendment_does_not_change_an_old_day():
    rng = np.random.default_rng(5)
    bronze = _bronze(rng.normal(95, 15, (35, 2, 30))).with_columns(pl.int_range(pl.len()).cast(pl.String).alias("row_key"))
    noon = datetime.combine(DAY, time(12), UTC)
    later = bronze.filter(pl.col("row_key").cast(pl.Int64) % 9 == 0).with_columns(
        pl.lit(2, dtype=pl.Int32).alias("row_version"),
        pl.col("value_number") + 100,
        pl.lit("update").alias("change"),
        (pl.max_horizontal("known_from", pl.lit(noon)) + pl.duration(days=1)).alias("known_from"),
    )
    assert _features(bronze).equals(_features(bronze, later))
    known_that_day = later.with_columns(pl.lit(noon).alias("known_from"))
    assert not _features(bronze).equals(_features(bronze, known_that_day))
