"""Drift statistics against SciPy, false alarms on stationary data with day-to-day noise, and censored values."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy import stats

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory import drift

TODAY = date(2024, 6, 30)
RESULTS = {
    "event_date": pl.Date,
    "loinc_code": pl.String,
    "device_id": pl.String,
    "value_kind": pl.String,
    "value_number": pl.Float64,
    "comparator": pl.String,
}
ANALYTES = pl.DataFrame(
    {"loinc_code": ["1", "2"], "analyte": ["One", "Two"], "tea_percent": [8.0, None], "tea_absolute": [6.0, None]},
    schema_overrides={"tea_percent": pl.Float64, "tea_absolute": pl.Float64},
)
FEATURES = pl.DataFrame(schema={"as_of_date": pl.Date, "device_id": pl.String, "x": pl.Float64})


def _results(values: np.ndarray, loinc: str = "1", device: str = "A") -> pl.DataFrame:
    """values: shape (days, results a day), the last row being TODAY."""
    n_days, per_day = values.shape
    first = np.datetime64(TODAY) - (n_days - 1)
    frame = pl.DataFrame({"event_date": np.repeat(first + np.arange(n_days), per_day), "value_number": values.ravel()})
    return frame.with_columns(
        loinc_code=pl.lit(loinc),
        device_id=pl.lit(device),
        value_kind=pl.lit("number"),
        comparator=pl.lit(None, dtype=pl.String),
    ).select([pl.col(n).cast(t) for n, t in RESULTS.items()])


def _report(results: pl.DataFrame, features: pl.DataFrame = FEATURES) -> pl.DataFrame:
    out = drift.drift_report(results, features, ANALYTES, TODAY)
    TABLES["drift_report"].schema.validate(out)
    assert dict(out.schema) == TABLES["drift_report"].dtypes
    assert out.select("kind", "subject", "loinc_code", "statistic").is_duplicated().sum() == 0
    return out


def test_ks_wasserstein_and_q_values_agree_with_scipy():
    rng = np.random.default_rng(1)
    a, b = np.round(rng.normal(size=3000), 1), np.round(rng.normal(0.2, 1, 700), 1)
    reference = stats.ks_2samp(a, b, method="asymp")
    assert drift.ks_two_sample(a, b) == pytest.approx(reference.statistic)
    assert drift.ks_p_value(float(reference.statistic), 3000, 700) == pytest.approx(reference.pvalue, rel=0.1)
    assert drift.normed_wasserstein(a, b) * drift.robust_sd(a) == pytest.approx(stats.wasserstein_distance(a, b))
    p = rng.random(60) ** 2
    assert np.allclose(drift.benjamini_hochberg(p), stats.false_discovery_control(p))
    with_gaps = np.insert(p, 7, np.nan)
    assert np.allclose(np.delete(drift.benjamini_hochberg(with_gaps), 7), stats.false_discovery_control(p))


def test_psi_of_equal_samples_follows_its_size_matched_null():
    rng = np.random.default_rng(2)
    p = [drift.psi_p_value(*drift.psi(rng.normal(size=2000), rng.normal(size=600)), 2000, 600) for _ in range(600)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08
    assert drift.psi(rng.normal(size=5000), rng.normal(1, 1, 5000))[0] > 0.5


def test_effective_size_sees_values_that_move_together():
    rng = np.random.default_rng(3)
    cluster = np.repeat(np.arange(100), 50)
    assert drift.effective_size(rng.normal(size=5000), cluster) > 3500
    tied = np.repeat(rng.normal(size=100), 50) + 1e-6 * rng.normal(size=5000)
    assert drift.effective_size(tied, cluster) == pytest.approx(100, rel=0.02)
    half = np.repeat(rng.normal(size=100), 50) + rng.normal(size=5000)
    assert 150 < drift.effective_size(half, cluster) < 260  # 5000 / (1 + 49 / 2) = 196


def test_stationary_days_raise_fewer_than_one_false_alarm_in_a_hundred():
    rng = np.random.default_rng(4)
    alarms = tests = 0
    for _ in range(60):
        frames = []
        for i in range(10):
            values = rng.normal(size=(63, 60)) + rng.normal(0, 0.15, (63, 1))
            frames.append(_results(100 + 10 * values, loinc=f"a{i}"))
        analyte = _report(pl.concat(frames)).filter(kind="analyte")
        alarms += int((analyte["alert_level"] != "LOW").sum())
        tests += analyte.height
    assert tests == 1200
    assert alarms / tests < 0.01


def test_a_moved_analyte_is_found_and_a_tiny_effect_in_many_values_is_none():
    rng = np.random.default_rng(5)
    moved, tiny = rng.normal(size=(63, 100)), rng.normal(size=(63, 4000))
    moved[-7:] += 0.6
    tiny[-7:] += 0.05
    out = _report(pl.concat([_results(moved, "1"), _results(tiny, "2")])).filter(kind="analyte")
    assert out.filter(subject="1", statistic="ks")["alert_level"].item() == "HIGH"
    assert out.filter(subject="1", statistic="wasserstein")["effect"].item() == pytest.approx(0.6, abs=0.1)
    second = out.filter(subject="2", statistic="ks")
    assert second["q_value"].item() < 0.05 and second["alert_level"].item() == "LOW"


def test_censored_values_are_recensored_or_left_out_and_the_outcome_says_so():
    rng = np.random.default_rng(6)
    values = rng.lognormal(0, 1, (63, 50))
    frame = _results(values)
    limit = pl.when(pl.col("event_date") > TODAY - timedelta(days=7)).then(0.5).otherwise(0.3)  # a new method's limit

    def censor(share_limit: pl.Expr) -> pl.DataFrame:
        below = pl.col("value_number") < share_limit
        return frame.with_columns(
            pl.when(below).then(pl.lit("censored")).otherwise("value_kind").alias("value_kind"),
            pl.when(below).then(pl.lit("<")).alias("comparator"),
            pl.when(below).then(share_limit).otherwise("value_number").alias("value_number"),
        )

    many = _report(censor(limit)).filter(kind="analyte", statistic="ks").row(0, named=True)
    assert many["outcome"] == "evaluated; re-censored at < 0.5" and many["alert_level"] == "LOW"
    few = _report(censor(pl.lit(0.1))).filter(kind="analyte", statistic="ks").row(0, named=True)
    assert "censored values left out" in few["outcome"]
    hopeless = _report(censor(pl.lit(50.0))).filter(kind="analyte", statistic="ks").row(0, named=True)
    assert hopeless["outcome"].startswith("not evaluable") and hopeless["value"] is None


def test_features_need_five_hundred_values_and_repeated_values_of_a_device_are_not_independent():
    rng = np.random.default_rng(7)
    level = rng.normal(size=(80, 1))
    values = np.repeat(level, 70, axis=1) + 0.01 * rng.normal(size=(80, 70))
    moved = np.where(np.arange(70) >= 56, 1.5, 0.0) + rng.normal(size=(80, 70))
    days = np.datetime64(TODAY) - 69 + np.arange(70)
    features = pl.DataFrame(
        {
            "as_of_date": np.tile(days, 80),
            "device_id": np.repeat([f"D{i}" for i in range(80)], 70),
            "slow": values.ravel(),
            "moved": moved.ravel(),
        }
    )
    out = _report(_results(np.zeros((0, 1))), features)
    at = {r["subject"]: r for r in out.iter_rows(named=True)}
    assert at["slow"]["alert_level"] == "LOW" and at["slow"]["p_value"] > 0.5
    assert at["moved"]["alert_level"] == "HIGH"
    few = _report(_results(np.zeros((0, 1))), features.filter(pl.col("device_id") == "D0"))
    assert few["outcome"].str.starts_with("not evaluable").all()


def test_what_cannot_be_compared_has_a_stated_outcome():
    constant = _report(_results(np.full((63, 20), 5.0)))
    assert constant.filter(kind="analyte")["outcome"].unique().to_list() == ["not evaluable: all reference values are equal"]
    assert constant.filter(kind="device")["outcome"].str.starts_with("not evaluable").all()
    short = _report(_results(np.random.default_rng(0).normal(size=(3, 20))))
    assert short["outcome"].str.starts_with("not evaluable").all() and short["value"].null_count() == short.height
