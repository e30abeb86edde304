"""Look-back and the drift page: which results since the change, by how much, across which limits."""

from __future__ import annotations

import json
from datetime import date, timedelta

import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.lookback import drift_lookback
from lims_platform.reporting.pages import affected, drift_json, drift_page

TODAY = date(2024, 6, 30)
ANALYTES = pl.DataFrame(
    {
        "loinc_code": ["glu", "na"],
        "analyte": ["Glucose", "Sodium"],
        "plausible_low": [10.0, None],
        "tea_percent": [8.0, None],
        "tea_absolute": [6.0, 4.0],
        "decision_limits": ["126;200", None],
    }
)


def _report(level: str = "CRITICAL") -> pl.DataFrame:
    rows = [
        {"subject": "A", "loinc_code": "glu", "bias": 10.0, "reference_mean": 90.0, "alert_level": level},
        {"subject": "A", "loinc_code": "na", "bias": -2.0, "reference_mean": 140.0, "alert_level": "HIGH"},
        {"subject": "B", "loinc_code": "glu", "bias": 5.0, "reference_mean": 90.0, "alert_level": "MEDIUM"},
    ]
    common = {"kind": "device", "statistic": "z", "as_of_date": TODAY, "change_date": TODAY - timedelta(days=2)}
    counts = {"reference_rows": 100, "current_rows": 10, "outcome": "evaluated; no sister device"}
    return pl.DataFrame([row | common | counts for row in rows], schema=TABLES["drift_report"].dtypes)


def _results() -> pl.DataFrame:
    rows = [
        ("1", "A", "glu", 0, "number", 130.0, None, "p1"),
        ("2", "A", "glu", 1, "number", 100.0, None, "p1"),
        ("3", "A", "glu", 2, "censored", 30.0, "<", "p2"),
        ("4", "A", "glu", 3, "number", 130.0, None, "p3"),  # before the change
        ("5", "A", "na", 0, "number", 140.0, None, None),
        ("6", "B", "glu", 0, "number", 130.0, None, "p4"),  # no alarm
        ("7", "A", "glu", -1, "number", 130.0, None, "p5"),  # after the day
        ("8", "A", "glu", 0, "coded", None, None, "p6"),
    ]
    names = ["row_key", "device_id", "loinc_code", "age", "value_kind", "value_number", "comparator", "patient_hash"]
    return pl.DataFrame(rows, schema=names, orient="row").with_columns(
        event_date=pl.lit(TODAY) - pl.duration(days=pl.col("age"))
    )


def test_results_since_the_change_are_listed_with_their_bias_and_the_limits_they_crossed():
    out = drift_lookback(_report(), _results(), ANALYTES)
    TABLES["drift_lookback"].schema.validate(out)
    assert out["row_key"].to_list() == ["1", "2", "3", "5"]
    at = {row["row_key"]: row for row in out.iter_rows(named=True)}
    # proportional: 10 in 100
    assert at["1"]["estimated_bias"] == pytest.approx(13) and at["1"]["corrected"] == pytest.approx(117)
    assert at["1"]["limit_crossed"] == 126 and at["2"]["limit_crossed"] is None
    assert at["1"]["bias_in_tea"] == pytest.approx(13 / (0.08 * 117))
    assert at["3"]["corrected"] is None and at["3"]["reported"] == 30 and at["3"]["comparator"] == "<"
    assert at["5"]["corrected"] == 142 and at["5"]["bias_in_tea"] == pytest.approx(-0.5)


def test_without_an_alarm_there_is_nothing_to_look_back_at():
    quiet = _report().with_columns(alert_level=pl.lit("LOW"))
    assert drift_lookback(quiet, _results(), ANALYTES).is_empty()


def test_the_page_counts_patients_and_does_not_call_an_evaluated_row_unevaluated():
    report = _report()
    lookback = drift_lookback(report, _results(), ANALYTES)
    counts = affected(lookback).row(by_predicate=pl.col("loinc_code") == "glu", named=True)
    assert (counts["results"], counts["patients"], counts["limits_crossed"]) == (3, 2, 1)
    machine = json.loads(json.dumps(drift_json(report, lookback, TODAY)))
    assert machine["alert_level"] == "CRITICAL" and machine["not_evaluated"] == []
    assert machine["affected"][0]["change_date"] == "2024-06-28"
    silent = report.with_columns(outcome=pl.lit("not evaluable: no result on the day"))
    assert drift_json(silent, lookback, TODAY)["not_evaluated"][0]["count"] == 3
    page = drift_page(report, lookback, TODAY)
    assert "<h2>Devices that moved</h2>" in page and "Results since the change" in page and "data:image/png" in page
