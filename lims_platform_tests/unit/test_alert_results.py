"""Alerts about single results: critical ones nobody was called about, corrections that cross a limit."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lims_platform.alerting.desk import NotificationsError, critical_notifications, evaluate_alerts
from lims_platform.lakehouse.lake import Lake
from lims_platform_tests.alert_frames import NOW, REFERENCE, RULES, TODAY, ago, evaluated, rows, subjects


def critical(**more: Any) -> dict[str, Any]:
    usual = {
        "event_date": TODAY, "row_key": "lims|R1", "result_id": "R1", "is_critical": True, "loinc_code": "2823-3",
        "analyte": "Potassium", "value_number": 6.9, "unit": "mmol/L", "resulted_at": ago(minutes=61),
    }  # fmt: skip
    return usual | more


@pytest.mark.parametrize(("minutes", "fires"), [(61, 1), (60, 0), (59, 0), (72 * 60, 1), (72 * 60 + 1, 0)])
def test_critical_result_after_more_than_sixty_minutes_in_silver_and_quarantine(minutes: int, fires: int) -> None:
    row = critical(resulted_at=ago(minutes=minutes), event_date=ago(minutes=minutes).date())
    for table, other in (("standardized", "quarantine"), ("quarantine", "standardized")):
        tables = {
            f"lab_results_{table}": rows(f"lab_results_{table}", row),
            f"lab_results_{other}": rows(f"lab_results_{other}"),
        }
        result = evaluated("critical_result_not_notified", **tables)
        assert result.findings.height == fires
        assert not fires or result.findings["limit"][0] == 6.2
    calm = rows("lab_results_standardized", row | {"is_critical": False})
    quarantine = rows("lab_results_quarantine")
    assert subjects("critical_result_not_notified", lab_results_standardized=calm, lab_results_quarantine=quarantine) == []


def test_a_recorded_call_prevents_and_settles_the_alert() -> None:
    tables = {
        "lab_results_standardized": rows("lab_results_standardized", critical()),
        "lab_results_quarantine": rows("lab_results_quarantine"),
        "critical_notifications": pl.LazyFrame({"result_id": ["R1", "R0"], "notified_at": [ago(minutes=5), ago(days=9)]}),
    }
    result = evaluated("critical_result_not_notified", ("lims|R1", "lims|R0#0af3", "lims|R2"), **tables)
    assert result.findings.is_empty()
    assert sorted(result.settled) == ["lims|R0#0af3", "lims|R1"]


def test_the_list_of_calls_names_its_bad_cell(tmp_path: Path) -> None:
    path = tmp_path / "calls.csv"
    path.write_text("result_id,notified_at,by\nR1,2026-03-01T10:15:00+01:00,x\nR2,yesterday,x\n")
    with pytest.raises(NotificationsError, match="line 3, column notified_at"):
        critical_notifications(path)
    path.write_text("result_id,notified_at\nR1,2026-03-01T10:15:00+01:00\n")
    assert critical_notifications(path).collect()["notified_at"].dt.hour().to_list() == [9]
    path.write_text("result_id\nR1\n")
    with pytest.raises(NotificationsError, match="column notified_at is missing"):
        critical_notifications(path)


def test_an_unusable_list_of_calls_hides_no_critical_result(tmp_path: Path) -> None:
    lake, calls = Lake(tmp_path / "lake"), tmp_path / "calls.csv"
    calls.write_text("result_id,notified_at\nR1,yesterday\n")
    facts = {
        "lab_results_standardized": rows("lab_results_standardized", critical()),
        "lab_results_quarantine": rows("lab_results_quarantine"),
    }
    report = evaluate_alerts(lake, list(RULES.values()), REFERENCE, facts, NOW, notifications=calls)
    assert report.opened == 1 and report.broken == ["critical_result_not_notified"]
    assert "line 2, column notified_at" in report.verdicts["critical_result_not_notified"]


def versions(
    old: float | None, new: float | None, *, critical: tuple[bool, bool] = (False, False), **more: Any
) -> pl.LazyFrame:
    base = {"event_date": TODAY, "row_key": "lims|R1", "loinc_code": "2345-7", "analyte": "Glucose", "unit": "mg/dL"} | more
    made = [
        {"row_version": n, "change": c, "value_number": v, "result_text": str(v), "is_critical": k, "known_from": t}
        for n, c, v, k, t in (
            (1, "insert", old, critical[0], ago(days=30)), (2, "update", new, critical[1], ago(hours=1)),
        )
    ]  # fmt: skip
    return rows("lab_results_history", *[base | m for m in made])


@pytest.mark.parametrize(
    ("old", "new", "critical", "fires"),
    [
        (125.0, 126.0, (False, False), 1),  # from 126 on: diabetes
        (126.0, 125.0, (False, False), 1),
        (126.0, 199.0, (False, False), 0),
        (110.0, 120.0, (False, False), 0),
        (440.0, 460.0, (False, True), 1),
        (460.0, 480.0, (True, True), 0),
        (40.0, 480.0, (True, True), 1),
        (None, 460.0, (False, True), 1),
    ],
)
def test_corrected_report_crosses_a_limit(
    old: float | None, new: float | None, critical: tuple[bool, bool], fires: int
) -> None:
    found = subjects("corrected_report", lab_results_history=versions(old, new, critical=critical))
    assert found == ["lims|R1 v2"] * fires


@pytest.mark.parametrize(
    ("old", "new", "fires"),
    [
        (("<", 126.0), (None, 130.0), 1),
        (("<", 126.0), (None, 110.0), 0),
        (("<", 130.0), (None, 126.0), 0),  # it may have been 126 before
        (("<=", 126.0), (None, 110.0), 0),
        ((">", 126.0), (None, 110.0), 1),
        ((">", 110.0), (None, 126.0), 0),
    ],
)
def test_a_censored_value_crosses_a_limit_only_where_it_must(
    old: tuple[str | None, float], new: tuple[str | None, float], fires: int
) -> None:
    history = versions(old[1], new[1]).with_columns(
        comparator=pl.when(pl.col("row_version") == 1).then(pl.lit(old[0], pl.String)).otherwise(pl.lit(new[0], pl.String)),
        result_text=pl.col("row_version").cast(pl.String),
    )
    assert subjects("corrected_report", lab_results_history=history) == ["lims|R1 v2"] * fires


def test_a_critical_result_below_a_limit_is_told_with_its_sign() -> None:
    row = critical(value_number=2.8, comparator="<", value_kind="censored")
    tables = {
        "lab_results_standardized": rows("lab_results_standardized", row),
        "lab_results_quarantine": rows("lab_results_quarantine"),
    }
    found = evaluated("critical_result_not_notified", **tables).findings
    assert "<2.8" in found["message"][0] and "below the critical limit 2.8" in found["message"][0]
    assert found["limit"][0] == 2.8


def test_a_correction_is_found_when_the_result_moves_to_another_day_and_not_when_it_is_old() -> None:
    moved = pl.concat(
        [
            versions(100.0, 100.0).filter(pl.col("row_version") == 1),
            versions(100.0, 100.0).filter(pl.col("row_version") == 2).with_columns(change=pl.lit("delete")),
            versions(0.0, 130.0, event_date=TODAY - timedelta(1))
            .filter(pl.col("row_version") == 2)
            .with_columns(row_version=3),
        ]
    ).with_columns(pl.col("row_version").cast(pl.Int32))
    assert subjects("corrected_report", lab_results_history=moved) == ["lims|R1 v3"]
    old = versions(100.0, 130.0).with_columns(known_from=pl.lit(ago(hours=73)).cast(pl.Datetime("us", "UTC")))
    assert subjects("corrected_report", lab_results_history=old) == []


def test_messages_say_the_laboratorys_time() -> None:
    result = evaluated(
        "critical_result_not_notified",
        lab_results_standardized=rows("lab_results_standardized", critical(resulted_at=ago(hours=2))),
        lab_results_quarantine=rows("lab_results_quarantine"),
    )
    assert "released 2026-03-20 10:00;" in result.findings["message"][0]
