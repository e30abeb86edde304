"""Targets of controls, and what cannot be judged; performance of an assay from its controls."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.qc_performance import qc_performance
from lims_platform.laboratory.qc_targets import START_UP, judged, qc_runs

T0 = datetime(2024, 1, 1, 6, tzinfo=UTC)
SCHEMA = TABLES["quality_control_standardized"].dtypes
ANALYTES = pl.DataFrame({"loinc_code": ["2345-7"], "tea_percent": [8.0], "tea_absolute": [6.0]})
SIGMA = pl.DataFrame(
    {
        "sigma_from": [6, 5, 4, 0],
        "rules": ["a", "b", "c", "d"],
        "controls_per_run": [2, 2, 4, 4],
        "run_size": [1000, 450, 200, 45],
    }
)


def controls(
    values: list[float | None], expected: float | None = None, sd: float | None = None, **extra: object
) -> pl.DataFrame:
    """One control a day of one level of one lot."""
    rows = [
        {
            "qc_id": f"q{i:04d}", "device_id": "A", "test_code": "GLU", "loinc_code": "2345-7", "qc_level": "L1",
            "run_at": T0 + timedelta(days=i), "event_date": (T0 + timedelta(days=i)).date(), "control_lot": "C1",
            "measured_value": value, "expected_value": expected, "expected_sd": sd,
            "reason": "missing_value" if value is None else None, **extra,
        }
        for i, value in enumerate(values)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema={name: SCHEMA[name] for name in SCHEMA})


def normal(n: int, mean: float = 100.0, sd: float = 2.0, seed: int = 1) -> list[float]:
    return np.random.default_rng(seed).normal(mean, sd, n).tolist()


def test_an_assigned_sd_is_used_as_it_is():
    out = judged(controls([104.0, 96.0], 100.0, 2.0))
    assert out["z"].to_list() == [2.0, -2.0]
    assert set(out["target_source"]) == {"assigned"}


def test_own_history_judges_after_the_start_up_and_only_by_what_came_before():
    values = normal(60)
    out = judged(controls(values))
    assert (
        out["outcome"][:START_UP].str.starts_with("not evaluable: ").all() and out["z"][:START_UP].null_count() == START_UP
    )
    assert out["outcome"][0] == "not evaluable: 0 of 20 measurements of the lot's start-up"
    past = np.array(values[:40])
    assert out["target"][40] == pytest.approx(past.mean()) and out["target_sd"][40] == pytest.approx(past.std(ddof=1))
    cut = judged(controls(values[:41]))
    assert cut["z"][40] == out["z"][40]


def test_an_outlier_in_the_start_up_does_not_teach():
    values = normal(40)
    spoiled = [*values[:7], 180.0, *values[8:]]
    clean, out = judged(controls(values)), judged(controls(spoiled))
    assert out["target_sd"][30] == pytest.approx(clean["target_sd"][30], rel=0.25)
    # a drift after HISTORY measurements does not move the target
    drifting = judged(controls([*normal(120), *normal(100, 110, 2)]))
    assert drifting["target"][219] == pytest.approx(drifting["target"][130])


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (controls([100.0], 100.0, 0.0), "the assigned SD is not positive"),
        (controls([100.0] * 30), "all values of the lot's start-up are equal"),
        (controls(normal(3)), "2 of 20 measurements"),
        (controls([None]), "missing_value"),
        (controls([float("nan")], 100.0, 2.0), "missing_value"),
        (controls([100.0], 100.0, 2.0, qc_level=None), "device, analyte, level or time is missing"),
    ],
)
def test_what_cannot_be_judged_says_why_and_reaches_no_rule(frame: pl.DataFrame, words: str):
    last = judged(frame).row(-1, named=True)
    assert last["outcome"].startswith("not evaluable: ") and words in last["outcome"] and last["z"] is None
    assert qc_runs(frame).is_empty()


def test_a_missing_target_is_made_from_the_lots_own_history():
    out = judged(controls(normal(25), reason="missing_target"))
    assert out["outcome"][-1] == "evaluated" and out["target_source"][-1] == "own history"


def test_the_last_calibration_before_a_run_is_its_break_point():
    logs = pl.DataFrame(
        [("A", T0 + timedelta(hours=1), "CALIBRATION", None), ("A", T0 + timedelta(days=9), "ERROR", None)],
        schema={
            name: TABLES["device_metrics_normalized"].dtypes[name]
            for name in ("device_id", "logged_at", "event_type", "reason")
        },
        orient="row",
    )
    out = qc_runs(controls([100.0, 101.0], 100.0, 2.0), logs)
    assert out["calibrated_at"].to_list() == [None, T0 + timedelta(hours=1)]


def test_performance_of_a_known_assay():
    values = normal(400, 101.0, 1.5, seed=3)
    frame = controls(values, 100.0, 1.5)
    last = frame["event_date"].max()
    out = qc_performance(frame, ANALYTES, SIGMA, last, last)
    assert dict(out.schema) == TABLES["qc_performance"].dtypes
    row, tail = out.row(0, named=True), np.array(values[-30:])
    assert row["n"] == 30 and row["bias_percent"] == pytest.approx(tail.mean() - 100)
    assert row["cv_percent"] == pytest.approx(tail.std(ddof=1))
    assert row["sigma"] == pytest.approx((8.0 - abs(tail.mean() - 100)) / tail.std(ddof=1))
    assert 5 < row["sigma"] < 6 and row["rules"] == "b" and row["run_size"] == 450 and row["outcome"] == "evaluated"


def test_performance_of_a_range_is_that_of_its_days():
    frame = controls(normal(50), 100.0, 2.0)
    days = sorted(frame["event_date"].to_list())[30:40]
    whole = qc_performance(frame, ANALYTES, SIGMA, days[0], days[-1])
    single = pl.concat([qc_performance(frame.filter(pl.col("event_date") <= d), ANALYTES, SIGMA, d, d) for d in days])
    assert whole.equals(single)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (controls(normal(5), 100.0, 2.0), "not evaluable: 5 of 20 controls"),
        (controls([100.0] * 30, 100.0, 2.0), "not evaluable: all values equal"),
        (controls(normal(30), 100.0, 2.0, loinc_code="1-1"), "not evaluable: no allowable error"),
        (controls(normal(45)), "evaluated, no bias assumed"),
    ],
)
def test_performance_that_cannot_be_known_says_why(frame: pl.DataFrame, words: str):
    last = frame["event_date"].max()
    row = qc_performance(frame, ANALYTES, SIGMA, last, last).row(-1, named=True)
    assert row["outcome"].startswith(words)
    assert (row["sigma"] is None) == words.startswith("not") and (row["rules"] is None) == words.startswith("not")
    assert qc_performance(frame.clear(), ANALYTES, SIGMA, date(2024, 1, 1), date(2024, 2, 1)).is_empty()
