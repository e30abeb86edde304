"""The drift report: statistics against SciPy, false alarms with day-to-day noise, censored values, ranges of days."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory import drift
from lims_platform.laboratory.distribution_shift import two_samples
from lims_platform.laboratory.drift_limits import DriftLimitError, DriftLimits
from lims_platform.laboratory.value_grid import grid_codes, grid_values
from lims_platform.lakehouse.reference import load_reference

TODAY = date(2024, 6, 30)
DAYS = drift.RESULT_WINDOWS.days
RESULTS = {
    "event_date": pl.Date,
    "loinc_code": pl.String,
    "device_id": pl.String,
    "value_kind": pl.String,
    "value_number": pl.Float64,
    "comparator": pl.String,
}
ANALYTES = pl.DataFrame(
    {
        "loinc_code": ["1", "2"],
        "analyte": ["One", "Two"],
        "plausible_low": [0.0, None],
        "tea_percent": [8.0, None],
        "tea_absolute": [6.0, None],
    }
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


def _features(columns: dict[str, np.ndarray]) -> pl.DataFrame:
    """columns: arrays of shape (devices, days), the last day being TODAY."""
    devices, n_days = next(iter(columns.values())).shape
    days = np.datetime64(TODAY) - (n_days - 1) + np.arange(n_days)
    ids = np.repeat([f"D{i}" for i in range(devices)], n_days)
    return pl.DataFrame(
        {"as_of_date": np.tile(days, devices), "device_id": ids} | {name: v.ravel() for name, v in columns.items()}
    ).with_columns(pl.col("as_of_date").cast(pl.Date))


def _report(results: pl.DataFrame, features: pl.DataFrame = FEATURES, days: tuple[date, ...] = (TODAY,)) -> pl.DataFrame:
    out = drift.drift_report(results, features, ANALYTES, list(days))
    TABLES["drift_report"].schema.validate(out)
    assert dict(out.schema) == TABLES["drift_report"].dtypes
    assert out.select("as_of_date", "kind", "subject", "loinc_code", "statistic").is_duplicated().sum() == 0
    return out


def test_statistics_agree_with_scipy():
    rng = np.random.default_rng(1)
    a = np.round(rng.normal(100, 20, (2, 3000)))
    b = np.round(rng.normal(104, 20, (2, 700)))
    b[1] = np.round(rng.normal(-3, 2, 700))
    found = two_samples(a, b, bits=11)
    for i in range(2):
        assert found["ks"][0, i] == pytest.approx(stats.ks_2samp(a[i], b[i]).statistic)
        scale = stats.iqr(a[i], interpolation="inverted_cdf") / 1.3489795003921634
        assert found["wasserstein"][0, i] == pytest.approx(stats.wasserstein_distance(a[i], b[i]) / scale, rel=1e-5)
        edges = np.quantile(a[i], np.arange(1, 10) / 10, method="inverted_cdf")
        p, q = (np.bincount(np.searchsorted(edges, x), minlength=10) + 0.5 for x in (a[i], b[i]))
        p, q = p / p.sum(), q / q.sum()
        assert found["psi"][0, i] == pytest.approx(np.sum((p - q) * np.log(p / q)))
    assert found["reference_mean"][0, 0] == pytest.approx(a[0].mean(), rel=1e-4)


@given(st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), min_size=1))
def test_grid_values_are_near_and_in_order(values):
    array = np.sort(np.array(values))
    gridded = grid_values(grid_codes(array, 11), 11)
    assert np.all(np.abs(gridded - array) <= np.abs(array) * 2.0**-11)
    assert np.all(np.diff(gridded) >= 0)


def test_q_values_agree_with_scipy_day_by_day():
    rng = np.random.default_rng(1)
    p = rng.random((3, 60)) ** 2
    p[1, 7] = np.nan
    q = drift.benjamini_hochberg(p.ravel(), np.repeat(np.arange(3), 60)).reshape(3, 60)
    for day in (0, 2):
        assert np.allclose(q[day], stats.false_discovery_control(p[day]))
    assert np.isnan(q[1, 7])
    assert np.allclose(np.delete(q[1], 7), stats.false_discovery_control(np.delete(p[1], 7)))


def test_stationary_days_raise_fewer_than_one_false_alarm_in_a_hundred():
    rng = np.random.default_rng(4)
    alarms = tests = 0
    days = tuple(TODAY - timedelta(days=7 * k) for k in range(12))
    for _ in range(4):
        frames = []
        for i in range(12):
            values = rng.normal(size=(DAYS + 77, 60)) + rng.normal(0, rng.uniform(0.05, 0.4), (DAYS + 77, 1))
            frames.append(_results(100 + 10 * values, loinc=f"a{i}"))
        slow = rng.normal(size=(40, 1)) + np.cumsum(rng.normal(0, 0.02, (40, 210)), axis=1)
        noisy = rng.normal(size=(40, 210)) + rng.normal(0, 0.3, (1, 210))
        out = _report(pl.concat(frames), _features({"slow": slow, "noisy": noisy}), days).filter(pl.col("kind") != "device")
        assert out["outcome"].str.starts_with("evaluated").all()
        alarms += int((out["alert_level"] != "LOW").sum())
        tests += out.height
    assert tests == 4 * 12 * (12 * 2 + 2)
    assert alarms / tests < 0.01


def test_p_values_allow_for_days_that_move_together():
    rng = np.random.default_rng(5)
    days = tuple(TODAY - timedelta(days=7 * k) for k in range(20))
    frames = []
    for i in range(20):
        values = rng.normal(size=(DAYS + 140, 100)) + rng.normal(0, 0.3, (DAYS + 140, 1))
        frames.append(_results(100 + 10 * values, loinc=f"a{i}"))
    p = _report(pl.concat(frames), days=days).filter(statistic="ks")["p_value"]
    assert p.null_count() == 0
    assert 0.005 < (p < 0.05).mean() < 0.06  # of 400, which overlap


def test_a_moved_analyte_is_found_and_a_tiny_effect_in_many_values_is_none():
    rng = np.random.default_rng(5)
    moved, tiny = rng.normal(size=(DAYS, 100)), rng.normal(size=(DAYS, 4000))
    moved[-7:] += 0.6
    tiny[-7:] += 0.06
    out = _report(pl.concat([_results(moved, "1"), _results(tiny, "2")])).filter(kind="analyte")
    assert out.filter(subject="1", statistic="ks")["alert_level"].item() == "HIGH"
    assert out.filter(subject="1", statistic="wasserstein")["effect"].item() == pytest.approx(0.6, abs=0.1)
    second = out.filter(subject="2", statistic="ks")
    assert second["q_value"].item() < 0.05 and second["alert_level"].item() == "LOW"


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 15))
def test_a_day_built_alone_is_the_day_of_a_range(seed, length):
    rng = np.random.default_rng(seed)
    frames = []
    for i, censoring in enumerate((0.0, 0.02, 0.3, 0.95)):
        frame = _results(np.round(rng.lognormal(3, 0.5, (DAYS + 60, 15)), 1), loinc=str(i))
        cut = pl.Series(rng.random(frame.height) < censoring)
        frames.append(
            frame.with_columns(
                value_kind=pl.when(cut).then(pl.lit("censored")).otherwise("value_kind"),
                comparator=pl.when(cut).then(pl.lit("<")),
                value_number=pl.when(cut).then(pl.col("value_number").clip(5, 12).round(0)).otherwise("value_number"),
            )
        )
    results = pl.concat(frames)
    features = _features({"x": rng.normal(size=(45, 150)), "flag": (rng.random((45, 150)) < 0.1).astype(float)})
    days = tuple(TODAY - timedelta(days=k) for k in range(length + 1))
    together = _report(results, features, days)
    for day in (days[0], days[-1]):
        span = pl.lit(day - timedelta(days=drift.HISTORY_DAYS)), pl.lit(day)
        alone = _report(
            results.filter(pl.col("event_date").is_between(*span)).sample(fraction=1, shuffle=True, seed=seed % 1000),
            features.filter(pl.col("as_of_date").is_between(*span)),
            (day,),
        )
        assert together.filter(as_of_date=day).equals(alone)


def test_censored_values_are_recensored_or_left_out_and_the_outcome_says_so():
    rng = np.random.default_rng(6)
    frame = _results(rng.lognormal(0, 1, (DAYS, 50)))
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
    # the mean of values of which 12 and 24 % are hidden, not that of their limits
    full = _report(frame).filter(kind="analyte", statistic="ks").row(0, named=True)
    for period in ("reference_mean", "current_mean"):
        assert many[period] == pytest.approx(full[period], rel=0.01)
    few = _report(censor(pl.lit(0.1))).filter(kind="analyte", statistic="ks").row(0, named=True)
    assert "censored values left out" in few["outcome"]
    hopeless = _report(censor(pl.lit(50.0))).filter(kind="analyte", statistic="ks").row(0, named=True)
    assert hopeless["outcome"].startswith("not evaluable") and hopeless["value"] is None


def test_features_need_five_hundred_values_and_scores_are_watched_too():
    rng = np.random.default_rng(7)
    days = drift.FEATURE_WINDOWS.days
    slow = np.repeat(rng.normal(size=(80, 1)), days, axis=1) + 0.01 * rng.normal(size=(80, days))
    moved = np.where(np.arange(days) >= days - 14, 1.5, 0.0) + rng.normal(size=(80, days))
    features = _features({"slow": slow, "moved": moved})
    none = _results(np.zeros((0, 1)))
    at = {r["subject"]: r for r in _report(none, features).iter_rows(named=True)}
    assert at["slow"]["alert_level"] == "LOW" and at["moved"]["alert_level"] == "HIGH"
    few = _report(none, features.filter(pl.col("device_id") == "D0"))
    assert few["outcome"].str.starts_with("not evaluable").all()
    scores = features.rename({"moved": "risk_score"}).drop("slow")
    out = drift.drift_report(none, FEATURES, ANALYTES, [TODAY], scores=scores).filter(kind="prediction")
    assert out.row(0, named=True)["subject"] == "risk_score" and out["alert_level"].item() == "HIGH"


def test_what_cannot_be_compared_has_a_stated_outcome():
    constant = _report(_results(np.full((DAYS, 20), 5.0)))
    assert constant.filter(kind="analyte")["outcome"].unique().to_list() == ["not evaluable: all reference values are equal"]
    short = _report(_results(np.random.default_rng(0).normal(size=(3, 20))))
    assert short["outcome"].str.starts_with("not evaluable").all() and short["value"].null_count() == short.height
    young = _report(_results(np.random.default_rng(0).normal(size=(21, 40)))).filter(kind="analyte")
    assert young["outcome"].str.contains("fewer than 4 past periods").all()
    assert _report(_results(np.zeros((0, 1)))).height == 1  # the empty feature says so


def test_limits_are_the_shipped_ones_and_a_wrong_row_is_named():
    rows = load_reference(Path(__file__).parents[2] / "data" / "reference").drift_limits
    assert DriftLimits.from_rows(rows) == DriftLimits()
    for name, value, words in (
        ("weekly_false_alarms", 2.0, "row weekly_false_alarms, column value"),
        ("baseline_days", 10.5, "not a whole number"),
        ("psi_floor", 0.9, "row psi_floor"),
    ):
        wrong = rows.with_columns(value=pl.when(pl.col("name") == name).then(value).otherwise("value"))
        with pytest.raises(DriftLimitError, match=words):
            DriftLimits.from_rows(wrong)
    with pytest.raises(DriftLimitError, match="ks_high is missing"):
        DriftLimits.from_rows(rows.filter(pl.col("name") != "ks_high"))
    with pytest.raises(DriftLimitError, match="'ks_height' is not known"):
        DriftLimits.from_rows(
            rows.with_columns(pl.col("name").str.replace("ks_high", "ks_height")).vstack(rows.filter(name="ks_high"))
        )
