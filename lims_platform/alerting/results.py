"""Conditions about results: critical ones nobody called, corrections, shifted tests, outbreaks.

Here: which rows are an alert, and in what words. Not here: limits and statistics (``laboratory``).
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from lims_platform.alerting.rules import Evaluation, Rule, Situation, day_time, findings, newest_rows, shown
from lims_platform.laboratory.corrections import crossing_corrections
from lims_platform.laboratory.limits import limits_for

_RESULT = [
    "row_key", "result_id", "device_id", "loinc_code", "analyte", "test_code", "result_text", "unit", "value_number",
    "comparator", "resulted_at", "known_from", "age_band", "location_class",
]  # fmt: skip


def critical_result(rule: Rule, given: Situation) -> Evaluation:
    """Silver and quarantine: a critical result released more than ``limit`` minutes ago and not recorded as notified.

    Recorded means a row of critical_notifications (the list the LIMS or the call log exports, LIMS_CRITICAL_NOTIFICATIONS).
    The alert ends when the call is recorded or a person acknowledges the alert.
    """
    limit = rule.number("limit")
    first = (given.now - rule.window).date() - timedelta(days=1)
    parts = [given.tables["lab_results_standardized"], given.tables["lab_results_quarantine"]]
    recent = [p.filter(pl.col("event_date") >= first, pl.col("is_critical")) for p in parts]
    rows = pl.concat([recent[0].select(_RESULT), recent[1].select(*_RESULT, "reason")], how="diagonal").collect()
    called = _called(given)
    released = pl.coalesce("resulted_at", "known_from")
    limits = limits_for(
        rows.select(std_loinc="loinc_code", age_band="age_band", location_class="location_class"), given.reference
    )
    late = (
        pl.concat([rows, limits], how="horizontal")
        .with_columns(released=released)
        .filter(
            pl.col("released") >= given.now_utc - rule.window,
            pl.col("released") < given.now_utc - timedelta(minutes=limit),
            pl.col("result_id").is_null() | ~pl.col("result_id").is_in(called.implode()),
        )
        .sort("released")
    )
    # "<2.8" is below a limit of 2.8
    low = pl.col("value_number") < pl.col("critical_low")
    low = (low | (pl.col("comparator") == "<") & (pl.col("value_number") <= pl.col("critical_low"))).fill_null(False)
    limit_now = pl.when(low).then("critical_low").otherwise("critical_high")
    words = pl.format(
        "{}: {} {}{}, released {}; no call recorded within {} minutes (result {}{})",
        pl.coalesce("analyte", "test_code", pl.lit("unknown test")),
        pl.coalesce(pl.col("comparator").fill_null("") + shown(pl.col("value_number"), 2), "result_text", pl.lit("?")),
        pl.coalesce("unit", pl.lit("")),
        pl.coalesce(
            pl.format(" {} the critical limit {}", pl.when(low).then(pl.lit("below")).otherwise(pl.lit("above")), limit_now),
            pl.lit(""),
        ),
        given.clock(pl.col("released")), pl.lit(f"{limit:g}"), "row_key",
        pl.coalesce(pl.lit(", in quarantine: ") + pl.col("reason"), pl.lit("")),
    )  # fmt: skip
    found = findings(
        late,
        subject=pl.col("row_key"),
        message=words,
        device_id=pl.col("device_id"),
        row_keys=pl.col("row_key"),
        value=pl.col("value_number"),
        limit=limit_now,
        evidence_at=pl.col("released"),
    )
    return Evaluation(found, settled=_settled(rule, given, called))


def _called(given: Situation) -> pl.Series:
    """result_id of every recorded call; none where the laboratory keeps no such list."""
    table = given.tables.get("critical_notifications")
    if table is None:
        return pl.Series("result_id", [], dtype=pl.String)
    return table.filter(pl.col("notified_at") <= given.now_utc).select("result_id").collect().to_series()


def _settled(rule: Rule, given: Situation, called: pl.Series) -> pl.Series:
    """Open alerts of the rule whose result (row_key without source and conflict digest) was called."""
    mine = given.open_subjects.filter(pl.col("rule") == rule.name)["subject"]
    return mine.filter(mine.str.replace(r"^[^|]*\|", "").str.replace(r"#[0-9a-f]+$", "").is_in(called.implode()))


def corrected_report(rule: Rule, given: Situation) -> Evaluation:
    """silver/lab_results_history: a correction known within the window crosses a decision or critical limit."""
    history = given.tables["lab_results_history"]
    amended = (
        history.filter(pl.col("known_from") >= given.now_utc - rule.window, pl.col("row_version") > 1)
        .select("row_key", "row_version", "event_date")
        .collect()
    )
    # A moved result is deleted on its old day in the same commit: both days are among those of its new versions.
    days, keys = amended["event_date"].unique().implode(), amended["row_key"].unique().implode()
    versions = history.filter(pl.col("event_date").is_in(days), pl.col("row_key").is_in(keys)).collect()
    crossed = crossing_corrections(versions, given.reference).join(
        amended.select("row_key", "row_version"), on=["row_key", "row_version"], how="semi"
    )
    words = pl.format(
        "{}: corrected from {} to {} {} on {}; crosses the {} (result {})",
        pl.coalesce("analyte", "loinc_code", pl.lit("unknown test")),
        pl.coalesce(shown(pl.col("old_value"), 2), "old_text", pl.lit("?")),
        pl.coalesce(shown(pl.col("new_value"), 2), "new_text", pl.lit("?")),
        pl.coalesce("unit", pl.lit("")),
        given.clock(pl.col("known_from")), "crossed", "row_key",
    )  # fmt: skip
    return Evaluation(
        findings(
            crossed.sort("row_key", "row_version"),
            subject=pl.format("{} v{}", "row_key", "row_version"),
            message=words,
            device_id=pl.col("device_id"),
            row_keys=pl.col("row_key"),
            value=pl.col("new_value"),
            limit=pl.col("limit"),
            evidence_at=pl.col("known_from"),
        )
    )


def data_drift(rule: Rule, given: Situation) -> Evaluation:
    """gold/drift_report: at least ``least`` tests at one of the levels ``among`` on the newest day; one alert for all."""
    least = rule.number("least")
    analytes = pl.col("kind") == "analyte"
    rows = newest_rows(given.tables["drift_report"], ["kind", "subject", "statistic"], rule, given.now, analytes)
    if isinstance(rows, str):
        return Evaluation(not_evaluable=rows)
    today = rows.filter(pl.col("as_of_date") == pl.col("as_of_date").max(), pl.col("alert_level").is_in(rule.among))
    tests = today.select("as_of_date", test=pl.coalesce("name", "subject")).unique("test").sort("test")
    all_tests = tests.select(
        day=pl.col("as_of_date").max(), tests=pl.len().cast(pl.Int64), names=pl.col("test").str.join(", ")
    ).filter(pl.col("tests") >= least)
    words = pl.format(
        "results of {} tests have shifted on {}, alert from {}: {}",
        "tests", pl.col("day").cast(pl.String), pl.lit(f"{least:g}"), "names",
    )  # fmt: skip
    return Evaluation(
        findings(
            all_tests,
            subject=pl.lit("all tests"),
            message=words,
            value=pl.col("tests"),
            limit=pl.lit(least),
            evidence_at=day_time(pl.col("day")),
        )
    )


def outbreak(rule: Rule, given: Situation) -> Evaluation:
    """gold/outbreak_risk_features: the week's positives lie above the detector's threshold on the newest day."""
    by = ["loinc_code", "facility_id"]
    rows = newest_rows(given.tables["outbreak_risk_features"], by, rule, given.now)
    if isinstance(rows, str):
        return Evaluation(not_evaluable=rows)
    judged = rows.filter(pl.col("threshold_cases").is_not_null())
    if judged.is_empty():
        why = rows["detector"].drop_nulls().unique(maintain_order=True).to_list()
        return Evaluation(not_evaluable="; ".join(["no site has a threshold", *why]))
    cases = pl.col("positive_tests_7d")
    words = pl.format(
        "{} at {}: {} positive patients in 7 days to {}, expected {}, threshold {}",
        "pathogen", pl.when(pl.col("facility_id") == "ALL").then(pl.lit("all sites")).otherwise("facility_id"), cases,
        pl.col("as_of_date").cast(pl.String), pl.coalesce(shown(pl.col("expected_cases")), pl.lit("unknown")),
        shown(pl.col("threshold_cases")),
    )  # fmt: skip
    return Evaluation(
        findings(
            judged.filter(cases > pl.col("threshold_cases")),
            subject=pl.format("{} {}", "loinc_code", "facility_id"),
            message=words,
            value=cases,
            limit=pl.col("threshold_cases"),
            evidence_at=day_time(pl.col("as_of_date")),
        )
    )
