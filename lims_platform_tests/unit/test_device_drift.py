"""Device drift: the known case, the false alarms a laboratory chose, sisters, controls, and what cannot be judged."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.laboratory.device_drift import device_drift
from lims_platform.laboratory.drift_limits import DriftLimits

TODAY = date(2024, 6, 30)
GLUCOSE = "2345-7"
LIMITS = DriftLimits()
DAYS = LIMITS.history_days + 1
ANALYTES = pl.DataFrame(
    {
        "loinc_code": [GLUCOSE, "x"],
        "analyte": ["Glucose", "X"],
        "plausible_low": [10.0, None],
        "tea_percent": [8.0, None],
        "tea_absolute": [6.0, None],
    }
)


def _results(values: np.ndarray, loinc: str = GLUCOSE) -> pl.DataFrame:
    """values: shape (devices, days, results a day), the last day being TODAY; NaN is no result."""
    grid = np.indices(values.shape)
    start = TODAY - timedelta(days=values.shape[1] - 1)
    return (
        pl.DataFrame(
            {
                "device_id": pl.Series(grid[0].ravel()).cast(pl.String),
                "event_date": pl.Series(np.datetime64(start) + grid[1].ravel()).cast(pl.Date),
                "value_number": values.ravel(),
            }
        )
        .filter(pl.col("value_number").is_not_nan())
        .with_columns(loinc_code=pl.lit(loinc), value_kind=pl.lit("number"), comparator=pl.lit(None, dtype=pl.String))
    )


def _controls(values: np.ndarray, expected: float = 95.0) -> pl.DataFrame:
    return (
        _results(values)
        .rename({"value_number": "measured_value"})
        .with_columns(expected_value=pl.lit(expected), reason=pl.lit(None, dtype=pl.String), is_repeat=pl.lit(False))
    )


def _row(out: pl.DataFrame, device: str = "0") -> dict[str, object]:
    return out.row(by_predicate=pl.col("subject") == device, named=True)


@pytest.mark.parametrize("sisters", [0, 4])
def test_glucose_95_to_105_at_150_results_a_day_is_critical_within_a_day(sisters):
    rng = np.random.default_rng(sisters)
    critical, effects, on_the_day = 0, [], 0
    for _ in range(10):
        values = rng.normal(95, 15, (1 + sisters, DAYS, 150)) + rng.normal(0, 1, (1, DAYS, 1))
        values[0, -1] += 10
        row = _row(device_drift(_results(values), ANALYTES, [TODAY]))
        critical += row["alert_level"] == "CRITICAL"
        on_the_day += row["change_date"] == TODAY
        effects.append(row["effect"])
    assert critical >= 9 and on_the_day >= 8
    assert np.mean(effects) == pytest.approx(10 / 7.6, abs=0.25)
    assert row["moved"] == ("analyser" if sisters else "analyser or patients")


@pytest.mark.parametrize("devices", [1, 2, 10])
def test_stationary_devices_alarm_in_no_more_than_the_chosen_share_of_weeks(devices):
    rng = np.random.default_rng(devices)
    chosen = DriftLimits(weekly_false_alarms=0.05, critical_effect=0.02, warning_effect=0.01)
    weeks, repeats = 4, 30 // devices
    monday = TODAY - timedelta(days=6 + 7 * (weeks - 1))
    assert monday.weekday() == 0
    alarm = total = 0
    for _ in range(repeats):
        span = (devices, DAYS + 7 * weeks, 1)
        noise = rng.normal(0, 0.08 * 15, (1, span[1], 1)) + rng.normal(0, 0.03 * 15, span)
        skewed = 95 + 15 * (rng.gamma(2.0, 1.0, (devices, span[1], 40)) - 2) / np.sqrt(2) + noise
        days = [monday + timedelta(days=k) for k in range(7 * weeks)]
        out = device_drift(_results(skewed), ANALYTES, days, chosen)
        assert out["outcome"].str.starts_with("evaluated").all()
        week = (pl.col("as_of_date") - monday).dt.total_days() // 7
        by_week = out.group_by("subject", week.alias("week")).agg(
            pl.col("alert_level").is_in(["HIGH", "CRITICAL"]).any().alias("alarm")
        )
        alarm, total = alarm + int(by_week["alarm"].sum()), total + by_week.height
    assert total == 4 * devices * repeats
    # weeks of one device share a baseline: the error is that of about half as many
    assert alarm / total <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / (total / 2))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 20))
def test_a_day_built_alone_is_the_day_of_a_range(seed, devices, length):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(95, 15, (devices, DAYS + length, 12)), 1)
    values[rng.random(values.shape) < 0.3] = np.nan
    values[0, : DAYS // 2] = np.nan  # a device installed later
    values[0, -3:] += 30
    results = _results(values)
    checks = _controls(rng.normal(95, 2, (devices, DAYS + length, 2)))
    days = [TODAY - timedelta(days=k) for k in range(length + 1)]
    together = device_drift(results, ANALYTES, days, controls=checks)
    for day in (days[0], days[-1], days[length // 2]):
        seen = pl.col("event_date").is_between(day - timedelta(days=LIMITS.history_days), day)
        alone = device_drift(
            results.filter(seen).sample(fraction=1, shuffle=True), ANALYTES, [day], controls=checks.filter(seen)
        )
        key = ["subject", "loinc_code"]
        assert together.filter(as_of_date=day).sort(key).equals(alone.sort(key))


def test_a_certain_shift_without_a_relevant_bias_is_no_alarm():
    rng = np.random.default_rng(6)
    values = rng.normal(95, 15, (1, DAYS, 4_000))
    values[0, -5:] += 1.2  # 0.16 of the allowable error
    row = _row(device_drift(_results(values), ANALYTES, [TODAY]))
    assert abs(row["value"]) > 5 and row["alert_level"] == "MEDIUM"


def test_patients_who_change_on_every_device_are_told_from_a_device_that_moved():
    rng = np.random.default_rng(7)
    values = rng.normal(95, 15, (6, DAYS, 150))
    values[:, -3:] += 10
    row = _row(device_drift(_results(values), ANALYTES, [TODAY]))
    assert row["alert_level"] == "MEDIUM" and row["moved"] == "patients" and "sister devices moved along" in row["outcome"]
    assert abs(row["z_own"]) > 5 and abs(row["z_sisters"]) < 4
    # the same with controls that moved too: a shared reagent
    checks = rng.normal(95, 2, (6, DAYS, 2))
    checks[:, -3:] += 10
    row = _row(device_drift(_results(values), ANALYTES, [TODAY], controls=_controls(checks)))
    assert row["alert_level"] == "CRITICAL" and row["moved"] == "analyser" and "and the controls" in row["outcome"]


def test_controls_find_what_patients_alone_cannot_and_a_moved_control_material_is_not_the_analyser():
    rng = np.random.default_rng(8)
    few = rng.normal(95, 15, (6, DAYS, 10))
    checks = rng.normal(95, 2, (6, DAYS, 4))
    few[0, -3:] += 5
    assert _row(device_drift(_results(few), ANALYTES, [TODAY]))["alert_level"] in ("LOW", "MEDIUM")
    checks[0, -3:] += 5
    row = _row(device_drift(_results(few), ANALYTES, [TODAY], controls=_controls(checks)))
    assert row["alert_level"] == "CRITICAL" and row["change_date"] == TODAY - timedelta(days=2)
    many = rng.normal(95, 15, (6, DAYS, 400))
    row = _row(device_drift(_results(many), ANALYTES, [TODAY], controls=_controls(checks)))
    assert row["alert_level"] != "CRITICAL" or row["moved"] != "analyser"
    assert abs(row["z_qc"]) > 5 and abs(row["z_sisters"]) < 4


def test_with_one_sister_the_device_that_moved_is_named_and_the_other_is_not():
    rng = np.random.default_rng(9)
    values = rng.normal(95, 15, (2, DAYS, 150))
    values[0, -4:] += 10
    out = device_drift(_results(values), ANALYTES, [TODAY])
    assert _row(out, "0")["alert_level"] == "CRITICAL"
    assert _row(out, "1")["alert_level"] == "LOW" and abs(_row(out, "1")["z_sisters"]) > 4


def test_the_change_is_dated_and_an_alarm_ends_when_the_device_is_back():
    rng = np.random.default_rng(10)
    values = rng.normal(95, 15, (8, DAYS, 150))
    values[3, -14:-4] -= 10
    days = [TODAY - timedelta(days=k) for k in range(14)]
    out = device_drift(_results(values), ANALYTES, days).filter(subject="3").sort("as_of_date")
    during = out.filter(pl.col("as_of_date") <= TODAY - timedelta(days=4))
    assert (during["alert_level"][1:] == "CRITICAL").all() and (during["bias"] < 0).all()
    assert (during["change_date"] - (TODAY - timedelta(days=13))).dt.total_days().abs().max() <= 1
    assert out["alert_level"][-1] == "LOW" and "had moved, has returned" in out["outcome"][-1]


def test_few_results_a_day_are_pooled_over_days_until_there_are_enough():
    rng = np.random.default_rng(11)
    values = rng.normal(95, 5, (1, DAYS, 6))
    values[0, -4:] += 12
    row = _row(device_drift(_results(values), ANALYTES, [TODAY]))
    assert row["current_rows"] >= 20 and row["alert_level"] == "CRITICAL"


def test_censored_results_keep_their_limit_and_say_so():
    rng = np.random.default_rng(12)
    frame = _results(rng.normal(95, 15, (3, DAYS, 60)))
    below = pl.col("value_number") < 80
    censored = frame.with_columns(
        value_kind=pl.when(below).then(pl.lit("censored")).otherwise("value_kind"),
        comparator=pl.when(below).then(pl.lit("<")).otherwise("comparator"),
        value_number=pl.when(below).then(80.0).otherwise("value_number"),
    )
    full, part = (_row(device_drift(f, ANALYTES, [TODAY])) for f in (frame, censored))
    assert "censored values" in part["outcome"] and part["reference_mean"] == pytest.approx(full["reference_mean"], rel=0.01)
    hopeless = frame.with_columns(value_kind=pl.lit("censored"), comparator=pl.lit("<"))
    outcome = _row(device_drift(hopeless, ANALYTES, [TODAY]))["outcome"]
    assert outcome == "not evaluable: more than half of the results are censored"


def test_unknown_allowable_error_and_everything_not_evaluable_is_said():
    rng = np.random.default_rng(13)
    moved = rng.normal(95, 15, (1, DAYS, 150))
    moved[0, -1] += 10
    row = _row(device_drift(_results(moved, "x"), ANALYTES, [TODAY]))
    assert "no allowable error" in row["outcome"] and "no sister device" in row["outcome"]
    assert row["effect"] is None and row["alert_level"] == "HIGH"
    one = _row(device_drift(_results(rng.normal(95, 15, (1, 1, 50))), ANALYTES, [TODAY]))
    assert one["outcome"] == "not evaluable: fewer than 14 baseline days"
    single = _row(device_drift(_results(np.full((1, 1, 1), 95.0)), ANALYTES, [TODAY]))
    assert single["outcome"].startswith("not evaluable")
    stopped = _results(moved).filter(pl.col("event_date") < TODAY)
    assert _row(device_drift(stopped, ANALYTES, [TODAY]))["outcome"] == "not evaluable: no result on the day"
    equal = _row(device_drift(_results(np.full((2, DAYS, 30), 7.0)), ANALYTES, [TODAY]))
    assert equal["outcome"] == "not evaluable: all values are equal" and equal["alert_level"] == "LOW"
    odd = _results(moved).with_columns(value_number=pl.lit(float("nan")))
    assert device_drift(odd, ANALYTES, [TODAY]).is_empty()
    assert device_drift(_results(moved), ANALYTES, []).is_empty()
