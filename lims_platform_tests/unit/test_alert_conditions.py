"""Every alert rule as shipped: a case that fires, the nearest case that must not, no rows, no table."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import polars as pl
import pytest

from lims_platform.alerting.conditions import CONDITIONS, evaluate
from lims_platform.alerting.platform_health import LATENCY_SCHEMA, READINGS_SCHEMA, RUNS_SCHEMA
from lims_platform.alerting.rules import AlertRuleError, Situation, read_rules
from lims_platform.contracts.reference_watch import ALERT_CONDITIONS
from lims_platform.contracts.tables import TABLES
from lims_platform_tests.alert_frames import NOW, REFERENCE, RULES, TODAY, ago, evaluated, rows, subjects

FACTS = {"runs": RUNS_SCHEMA, "readings": READINGS_SCHEMA, "api_requests": LATENCY_SCHEMA}


def drift(level: str, day: date = TODAY, **more: Any) -> dict[str, Any]:
    usual = {
        "as_of_date": day, "kind": "device", "subject": "CHEM-1", "loinc_code": "2345-7", "name": "Glucose",
        "statistic": "z", "value": 5.0, "effect": 0.9, "reference_mean": 95.0, "current_mean": 105.0, "alert_level": level,
        "outcome": "evaluated",
    }  # fmt: skip
    return usual | more


def test_every_condition_of_the_contract_has_its_test() -> None:
    assert set(CONDITIONS) == set(ALERT_CONDITIONS) == {rule.condition for rule in RULES.values()}


@pytest.mark.parametrize("name", list(RULES))
def test_a_missing_table_is_not_evaluable(name: str) -> None:
    result = evaluated(name)
    assert result.not_evaluable and result.findings.is_empty()


@pytest.mark.parametrize("name", list(RULES))
def test_empty_tables_give_no_alert(name: str) -> None:
    needed = CONDITIONS[RULES[name].condition].tables
    empty = {t: TABLES[t].empty().lazy() if t in TABLES else pl.DataFrame(schema=FACTS[t]).lazy() for t in needed}
    assert evaluated(name, **empty).findings.is_empty()


def test_a_broken_table_silences_one_rule_only() -> None:
    broken = pl.LazyFrame({"as_of_date": ["today"]})
    risky = rows(
        "device_risk_scores", {"as_of_date": TODAY, "device_id": "D", "risk_score": 90.0, "recommended_action": "x"}
    )
    given = Situation({"drift_report": broken, "device_risk_scores": risky}, REFERENCE, NOW)
    results = evaluate(RULES.values(), given)
    assert results["device_drift"].broken and results["device_drift"].not_evaluable
    assert results["high_risk_device_critical"].findings.height == 1


def test_device_drift_fires_at_critical_only() -> None:
    message = evaluated("device_drift", drift_report=rows("drift_report", drift("CRITICAL"))).findings.row(0, named=True)
    assert message["subject"] == "CHEM-1 2345-7" and message["device_id"] == "CHEM-1"
    assert (
        "105.0" in message["message"]
        and "usually 95.0" in message["message"]
        and "0.9 allowable errors" in message["message"]
    )
    assert subjects("device_drift", drift_report=rows("drift_report", drift("HIGH"))) == []
    other = drift("CRITICAL", kind="analyte", statistic="ks")
    assert subjects("device_drift", drift_report=rows("drift_report", other)) == []


def test_device_drift_is_judged_on_the_newest_evaluated_day() -> None:
    yesterday, silent = drift("CRITICAL", TODAY - timedelta(1)), drift("LOW", outcome="not evaluable: no result on the day")
    assert subjects("device_drift", drift_report=rows("drift_report", yesterday, silent)) == ["CHEM-1 2345-7"]
    assert subjects("device_drift", drift_report=rows("drift_report", yesterday, drift("LOW"))) == []


def test_a_daily_table_that_stopped_says_nothing_about_now() -> None:
    old = rows("drift_report", drift("CRITICAL", TODAY - timedelta(30)))
    assert "no row of" in (evaluated("device_drift", drift_report=old).not_evaluable or "")


@pytest.mark.parametrize(("score", "critical", "high"), [(100, 1, 0), (80, 1, 0), (79.99, 0, 1), (60, 0, 1), (59.99, 0, 0)])
def test_device_risk_limits_are_inclusive_and_one_rule_takes_over_from_the_other(
    score: float, critical: int, high: int
) -> None:
    row = {"as_of_date": TODAY, "device_id": "D", "risk_score": score, "recommended_action": "inspect"}
    table = rows("device_risk_scores", row)
    assert len(subjects("high_risk_device_critical", device_risk_scores=table)) == critical
    assert len(subjects("high_risk_device_high", device_risk_scores=table)) == high


def test_outbreak_needs_a_threshold_and_more_than_it() -> None:
    row = {
        "as_of_date": TODAY,
        "loinc_code": "85477-8",
        "pathogen": "Influenza A RNA",
        "facility_id": "ALL",
        "positive_tests_7d": 9,
        "detector": "not evaluable: less than 6 weeks known",
    }
    without = evaluated("outbreak", outbreak_risk_features=rows("outbreak_risk_features", row))
    assert "less than 6 weeks known" in (without.not_evaluable or "")
    assert subjects("outbreak", outbreak_risk_features=rows("outbreak_risk_features", row | {"threshold_cases": 9.0})) == []
    fires = rows("outbreak_risk_features", row | {"threshold_cases": 8.9})
    assert subjects("outbreak", outbreak_risk_features=fires) == ["85477-8 ALL"]


def control(**more: Any) -> dict[str, Any]:
    usual = {
        "event_date": TODAY,
        "device_id": "D",
        "test_code": "GLU",
        "run_at": ago(hours=1),
        "passed": True,
        "run_id": "R",
    }
    return usual | more


@pytest.mark.parametrize(
    ("broken", "fires"), [("1-2s", 0), ("1-3s", 1), ("2-2s", 1), ("R-4s", 1), ("4-1s", 1), ("10x", 1), ("8x", 1), ("12x", 0)]
)
def test_qc_rejection_by_rule(broken: str, fires: int) -> None:
    row = {
        "as_of_date": TODAY, "device_id": "D", "loinc_code": "2345-7", "analyte": "Glucose", "qc_level": "L1",
        "rule": broken, "run_at": ago(hours=47), "z": -3.2, "run_id": "R",
    }  # fmt: skip
    tables = {"quality_control_standardized": rows("quality_control_standardized", control())}
    assert len(subjects("qc_rejection", westgard_violations=rows("westgard_violations", row), **tables)) == fires
    old = rows("westgard_violations", row | {"run_at": ago(hours=49)})
    assert subjects("qc_rejection", westgard_violations=old, **tables) == []
    silent = evaluated(
        "qc_rejection",
        westgard_violations=rows("westgard_violations", row),
        quality_control_standardized=rows("quality_control_standardized", control(run_at=ago(days=5), event_date=TODAY)),
    )
    assert silent.not_evaluable


@pytest.mark.parametrize(("runs", "failed", "fires"), [(20, 3, 1), (20, 2, 0), (19, 19, 0), (30, 3, 0), (39, 4, 1)])
def test_qc_fail_rate_is_strictly_above_ten_percent_of_at_least_twenty(runs: int, failed: int, fires: int) -> None:
    controls = [control(run_id=f"R{i}", passed=i >= failed) for i in range(runs)]
    table = rows("quality_control_standardized", *controls)
    assert len(subjects("qc_fail_rate", quality_control_standardized=table)) == fires


def test_qc_fail_rate_counts_runs_not_controls_and_no_repeats() -> None:
    # 20 runs of two controls: 3 runs fail in one control each (15 % of runs, 7.5 % of controls)
    two = [control(run_id=f"R{i}", passed=not (i < 3 and level)) for i in range(20) for level in (0, 1)]
    assert subjects("qc_fail_rate", quality_control_standardized=rows("quality_control_standardized", *two)) == ["D"]
    repeats = [control(run_id=f"X{i}", is_repeat=True) for i in range(50)]
    table = rows("quality_control_standardized", *two, *repeats)
    assert subjects("qc_fail_rate", quality_control_standardized=table) == ["D"]
    # without run_id: controls at most half an hour apart are one run
    unnamed = [control(run_id=None, run_at=ago(hours=1 + i), passed=i >= 3) for i in range(20)]
    assert subjects("qc_fail_rate", quality_control_standardized=rows("quality_control_standardized", *unnamed)) == ["D"]
    close = [control(run_id=None, run_at=ago(hours=1, minutes=i), passed=i >= 3) for i in range(20)]
    assert subjects("qc_fail_rate", quality_control_standardized=rows("quality_control_standardized", *close)) == []


def patients(day: date, alarm: bool | None, **more: Any) -> dict[str, Any]:
    usual = {
        "as_of_date": day, "device_id": "D", "loinc_code": "2951-2", "analyte": "Sodium", "monitor": "EWMA 0.05",
        "max_statistic": 3.25, "control_limit": 3.0, "direction": "high", "alarm": alarm,
    }  # fmt: skip
    return usual | more


@pytest.mark.parametrize(
    ("today", "yesterday", "before", "fires"),
    [
        (True, True, False, 1),
        (True, False, True, 1),
        (True, None, True, 1),
        (True, False, False, 0),  # one day alone is what chance is allowed
        (False, True, True, 0),  # over
        (None, True, True, 1),  # not judged today: the last verdict stands
        (False, False, False, 0),
    ],
)
def test_patient_qc_needs_two_days_of_three_and_the_newest_one(
    today: bool | None, yesterday: bool | None, before: bool, fires: int
) -> None:
    days = [patients(TODAY - timedelta(n), alarm) for n, alarm in enumerate((today, yesterday, before))]
    other = [patients(TODAY - timedelta(n), False, loinc_code="2823-3") for n in range(3)]
    found = evaluated("patient_qc", patient_qc=rows("patient_qc", *days, *other)).findings
    assert found["subject"].to_list() == ["D 2951-2"] * fires
    if fires:
        assert "Sodium: patients' results too high by EWMA 0.05" in found["message"][0]
        assert "2 days in alarm" in found["message"][0]
        assert (found["value"][0], found["limit"][0], found["device_id"][0]) == (3.25, 3.0, "D")


def test_patient_qc_that_judged_nobody_or_stopped_is_not_all_clear() -> None:
    assert evaluated("patient_qc", patient_qc=rows("patient_qc", patients(TODAY, None))).not_evaluable
    long_ago = [patients(TODAY - timedelta(n), True) for n in (4, 5)]
    assert evaluated("patient_qc", patient_qc=rows("patient_qc", *long_ago)).not_evaluable


def sample(**more: Any) -> dict[str, Any]:
    usual = {
        "as_of_date": TODAY, "row_key": "lims|S1", "sample_id": "S1", "facility_id": "FAC-01", "batch_id": "B7",
        "measured_at": ago(hours=3), "qa_alert": "CRITICAL_FAILURE",
        "reasons": "ph_level (pH) sensor fault: fault code -999",
    }  # fmt: skip
    return usual | more


def test_critical_samples_alert_one_by_one_with_their_reasons() -> None:
    table = rows(
        "sample_alerts",
        sample(),
        sample(row_key="lims|S2", sample_id=None, facility_id=None, batch_id=None, measured_at=None, reasons=None),
        sample(row_key="lims|S3", qa_alert="WARNING"),
        sample(row_key="lims|S4", qa_alert="OK", reasons=None),
        sample(row_key="lims|S5", as_of_date=TODAY - timedelta(3)),
    )
    found = evaluated("critical_sample", sample_alerts=table).findings
    assert sorted(found["subject"]) == ["lims|S1", "lims|S2"]
    told = dict(found.select("subject", "message").rows())
    assert told["lims|S1"] == (
        "sample S1 of FAC-01, batch B7, measured 2026-03-20 09:00: ph_level (pH) sensor fault: fault code -999"
    )
    assert told["lims|S2"] == "sample lims|S2, measured 2026-03-20: CRITICAL_FAILURE"
    assert RULES["critical_sample"].waits_for_person


def test_samples_that_stopped_coming_are_not_all_clear() -> None:
    old = rows("sample_alerts", sample(as_of_date=TODAY - timedelta(3)))
    assert "no row of" in (evaluated("critical_sample", sample_alerts=old).not_evaluable or "")


@pytest.mark.parametrize(("tests", "fires"), [(3, 1), (2, 0)])
def test_data_drift_from_three_tests(tests: int, fires: int) -> None:
    shifted = [
        drift("MEDIUM", kind="analyte", subject=f"{i}-1", name=f"Test {i}", statistic=s)
        for i in range(tests) for s in ("ks", "wasserstein")
    ]  # fmt: skip
    calm = drift("LOW", kind="analyte", subject="9-9", name="Calm", statistic="ks")
    feature = drift("HIGH", kind="feature", subject="error_rate_7d", name="error_rate_7d", statistic="psi")
    table = rows("drift_report", *shifted, calm, feature, drift("CRITICAL"))
    assert subjects("data_drift", drift_report=table) == ["all tests"] * fires


def run(job: str, status: str, hours: float, first: date | None = None, last: date | None = None) -> dict[str, Any]:
    return {
        "run_id": f"{job}{status}{hours}", "job": job, "status": status, "ended_at": ago(hours=hours), "first_day": first,
        "last_day": last or first, "failed_steps": "bronze" if status == "FAILURE" else None,
    }  # fmt: skip


def runs(*given: dict[str, Any]) -> pl.LazyFrame:
    return pl.DataFrame(list(given), schema=RUNS_SCHEMA).lazy()


def test_any_failed_run_is_an_alert_until_its_days_were_done() -> None:
    yesterday = TODAY - timedelta(1)
    failed = run("ingest", "FAILURE", 5, TODAY)
    assert subjects("pipeline_failure", runs=runs(failed)) == [f"ingest {TODAY}"]
    assert subjects("pipeline_failure", runs=runs(run("ingest", "SUCCESS", 5, TODAY))) == []
    other_day, same_day = run("ingest", "SUCCESS", 4, yesterday), run("ingest", "SUCCESS", 4, TODAY)
    assert subjects("pipeline_failure", runs=runs(failed, other_day)) == [f"ingest {TODAY}"]
    assert subjects("pipeline_failure", runs=runs(failed, run("ingest", "SUCCESS", 6, TODAY))) == [f"ingest {TODAY}"]
    done = evaluated("pipeline_failure", runs=runs(failed, same_day))
    assert done.findings.is_empty() and f"ingest {TODAY}" in done.settled
    covered = evaluated("pipeline_failure", runs=runs(failed, run("ingest", "SUCCESS", 4, yesterday, TODAY)))
    assert covered.findings.is_empty() and f"ingest {TODAY}" in covered.settled
    trained = evaluated("pipeline_failure", runs=runs(run("train", "FAILURE", 3), run("train", "SUCCESS", 2)))
    assert trained.findings.is_empty()
    named = evaluated("pipeline_failure", runs=runs(failed)).findings.row(0, named=True)
    assert named["dagster_run_id"] == failed["run_id"] and "step bronze" in named["message"]


@pytest.mark.parametrize(("slowest", "fires"), [(200.0, 0), (200.5, 1)])
def test_api_latency_is_strictly_above_200_ms_at_p95(slowest: float, fires: int) -> None:
    times = [10.0] * 18 + [slowest] * 3  # the 95th percentile of 21 is the 20th
    table = pl.DataFrame(
        [{"endpoint": "/predict", "at": ago(minutes=5), "milliseconds": t} for t in times], schema=LATENCY_SCHEMA
    )
    assert len(subjects("api_latency", api_requests=table.lazy())) == fires
    old = table.with_columns(at=pl.lit(ago(hours=2)).cast(pl.Datetime("us", "UTC")))
    assert evaluated("api_latency", api_requests=old.lazy()).not_evaluable


@pytest.mark.parametrize(("minutes", "fires"), [(119, 0), (120, 0), (121, 1), (None, 1)])
def test_freshness_is_strictly_older_than_two_hours(minutes: int | None, fires: int) -> None:
    read_at = None if minutes is None else ago(minutes=minutes)
    table = pl.DataFrame([{"table": "bronze/lab_results_raw", "read_at": read_at}], schema=READINGS_SCHEMA)
    assert len(subjects("freshness", readings=table.lazy())) == fires


def test_a_rule_without_its_number_names_rule_and_column() -> None:
    no_limit = replace(RULES["freshness"], limit=None)
    readings = pl.DataFrame([{"table": "t", "read_at": None}], schema=READINGS_SCHEMA).lazy()
    result = evaluate([no_limit], Situation({"readings": readings}, REFERENCE, NOW))["freshness"]
    assert result.broken and "rule freshness, column limit" in (result.not_evaluable or "")
    with pytest.raises(AlertRuleError, match="cooldown_hours"):
        read_rules(REFERENCE.alert_rules.with_columns(cooldown_hours=pl.lit(-1.0)))
