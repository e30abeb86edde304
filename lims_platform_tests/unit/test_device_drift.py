"""Device drift: the known case, the false alarms a laboratory chose, sisters, and what cannot be judged."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from lims_platform.laboratory.device_drift import DeviceDriftLimits, device_drift

TODAY = date(2024, 6, 30)
LIMITS = DeviceDriftLimits()
ANALYTES = pl.DataFrame(
    {"loinc_code": ["2345-7", "x"], "analyte": ["Glucose", "X"], "tea_percent": [8.0, None], "tea_absolute": [6.0, None]},
    schema_overrides={"tea_percent": pl.Float64, "tea_absolute": pl.Float64},
)


def _results(values: np.ndarray, loinc: str = "2345-7") -> pl.DataFrame:
    """values: shape (devices, days, results a day), the last day being TODAY."""
    days = values.shape[1]
    grid = np.indices(values.shape)
    start = TODAY - timedelta(days=days - 1)
    return pl.DataFrame(
        {
            "device_id": pl.Series(grid[0].ravel()).cast(pl.String),
            "event_date": pl.Series(np.datetime64(start) + grid[1].ravel()).cast(pl.Date),
            "value_number": values.ravel(),
        }
    ).with_columns(loinc_code=pl.lit(loinc), value_kind=pl.lit("number"))


def _z(out: pl.DataFrame, device: str = "0", statistic: str = "z") -> dict[str, object]:
    return out.row(by_predicate=(pl.col("subject") == device) & (pl.col("statistic") == statistic), named=True)


@pytest.mark.parametrize("sisters", [0, 4])
def test_glucose_95_to_105_at_150_results_a_day_is_critical_within_a_day(sisters):
    rng = np.random.default_rng(sisters)
    critical, effects = 0, []
    for _ in range(20):
        values = rng.normal(95, 15, (1 + sisters, 70, 150)) + rng.normal(0, 1, (1, 70, 1))
        values[0, -1] += 10
        row = _z(device_drift(_results(values), ANALYTES, TODAY, LIMITS))
        critical += row["alert_level"] == "CRITICAL"
        effects.append(row["effect"])
    assert critical >= 19
    # a day's mean has an SD of 1.6 mg/dL, 0.21 of the allowable 7.6
    assert np.mean(effects) == pytest.approx(10 / 7.6, abs=4 * 0.21 / np.sqrt(20))


def test_stationary_devices_alarm_in_less_than_the_chosen_share_of_weeks():
    rng = np.random.default_rng(5)
    weeks_with_alarm = weeks = 0
    for _ in range(8):
        noise = rng.normal(0, 0.08 * 15, (1, 91, 1)) + rng.normal(0, 0.03 * 15, (12, 91, 1))
        skewed = 95 + 15 * (rng.gamma(2.0, 1.0, (12, 91, 40)) - 2) / np.sqrt(2) + noise
        frame = _results(skewed)
        days = [TODAY - timedelta(days=k) for k in range(21)]
        reports = [
            device_drift(frame.filter(pl.col("event_date") <= d), ANALYTES, d, LIMITS)
            .filter(statistic="z")
            .select("subject", pl.col("alert_level").is_in(["HIGH", "CRITICAL"]).alias("alarm"), week=pl.lit(k // 7))
            for k, d in enumerate(days)
        ]
        by_week = pl.concat(reports).group_by("subject", "week").agg(pl.col("alarm").any())
        weeks_with_alarm += int(by_week["alarm"].sum())
        weeks += by_week.height
    assert weeks == 288
    assert weeks_with_alarm / weeks <= 0.01 + 2 * np.sqrt(0.01 * 0.99 / 288)


def test_a_large_z_without_a_relevant_bias_is_not_critical():
    rng = np.random.default_rng(6)
    values = rng.normal(95, 15, (1, 70, 20_000))
    values[0, -1] += 1.0  # 0.13 of the allowable error
    row = _z(device_drift(_results(values), ANALYTES, TODAY, LIMITS))
    assert row["value"] > 5 and row["alert_level"] == "MEDIUM"


def test_patients_who_change_on_every_device_are_told_from_a_device_that_moved():
    rng = np.random.default_rng(7)
    values = rng.normal(95, 15, (5, 70, 150))
    values[:, -1] += 10
    out = device_drift(_results(values), ANALYTES, TODAY, LIMITS)
    row = _z(out)
    assert row["alert_level"] == "HIGH" and "sister devices moved along" in row["outcome"]
    assert abs(_z(out, statistic="z_sisters")["value"]) < 4
    assert _z(out, statistic="z_sisters")["alert_level"] == "LOW"


def test_a_drop_is_found_like_a_rise():
    rng = np.random.default_rng(8)
    values = rng.normal(95, 15, (1, 70, 150))
    values[0, -1] -= 10
    row = _z(device_drift(_results(values), ANALYTES, TODAY, LIMITS))
    assert row["alert_level"] == "CRITICAL" and row["value"] < -4 and row["effect"] < -0.5


def test_few_results_a_day_are_pooled_over_days_until_there_are_enough():
    rng = np.random.default_rng(9)
    values = rng.normal(95, 5, (1, 70, 6))
    values[0, -4:] += 12
    row = _z(device_drift(_results(values), ANALYTES, TODAY, LIMITS))
    assert row["current_rows"] == 24 and row["alert_level"] == "CRITICAL"


def test_unknown_allowable_error_and_everything_not_evaluable_is_said():
    rng = np.random.default_rng(10)
    moved = rng.normal(95, 15, (1, 70, 150))
    moved[0, -1] += 10
    row = _z(device_drift(_results(moved, "x"), ANALYTES, TODAY, LIMITS))
    assert row["outcome"] == "evaluated; no allowable error" and row["effect"] is None and row["alert_level"] == "HIGH"
    one = device_drift(_results(rng.normal(95, 15, (1, 1, 50))), ANALYTES, TODAY, LIMITS)
    assert _z(one)["outcome"] == "not evaluable: fewer than 14 baseline days"
    stopped = _results(moved).filter(pl.col("event_date") < TODAY)
    assert _z(device_drift(stopped, ANALYTES, TODAY, LIMITS))["outcome"] == "not evaluable: no result on the day"
    equal = device_drift(_results(np.full((1, 70, 30), 7.0)), ANALYTES, TODAY, LIMITS)
    assert _z(equal)["outcome"] == "not evaluable: all values are equal" and _z(equal)["alert_level"] == "LOW"
    censored = _results(moved).with_columns(value_kind=pl.lit("censored"))
    assert device_drift(censored, ANALYTES, TODAY, LIMITS).is_empty()
