"""Conditions about analysers: drift, risk of failure, rejected and failing controls, patient-based QC.

Here: which rows of which gold table are an alert, and in what words. Not here: the statistics (``laboratory``).
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from lims_platform.alerting.rules import (
    Evaluation,
    Rule,
    Situation,
    day_time,
    findings,
    joined_keys,
    newest_rows,
    shown,
)
from lims_platform.laboratory.qc_runs import run_verdicts

_DAY = pl.col("as_of_date").cast(pl.String)


def device_drift(rule: Rule, given: Situation) -> Evaluation:
    """gold/drift_report: a device's mean of an analyte at one of the levels ``among``, on its newest evaluated day."""
    evaluated = (pl.col("kind") == "device") & (pl.col("statistic") == "z") & pl.col("outcome").str.starts_with("evaluated")
    by = ["subject", "loinc_code"]
    rows = newest_rows(given.tables["drift_report"], by, rule, given.now, evaluated)
    if isinstance(rows, str):
        return Evaluation(not_evaluable=rows)
    name = pl.coalesce("name", "loinc_code")
    words = pl.format(
        "{} {}: mean {} on {}, usually {}; bias of {} allowable errors (z {})",
        "subject", name, shown(pl.col("current_mean"), 2), _DAY, shown(pl.col("reference_mean"), 2),
        pl.coalesce(shown(pl.col("effect"), 2), pl.lit("unknown")), shown(pl.col("value")),
    )  # fmt: skip
    return Evaluation(
        findings(
            rows.filter(pl.col("alert_level").is_in(rule.among)),
            subject=pl.format("{} {}", "subject", "loinc_code"),
            message=words,
            device_id=pl.col("subject"),
            value=pl.col("current_mean"),
            limit=pl.col("reference_mean"),
            evidence_at=day_time(pl.col("as_of_date")),
        )
    )


def device_risk(rule: Rule, given: Situation) -> Evaluation:
    """gold/device_risk_scores: a device's newest score is at least ``limit``, and less than ``below`` where given."""
    rows = newest_rows(given.tables["device_risk_scores"], ["device_id"], rule, given.now)
    if isinstance(rows, str):
        return Evaluation(not_evaluable=rows)
    limit = rule.number("limit")
    high = pl.col("risk_score") >= limit
    if rule.below is not None:
        high &= pl.col("risk_score") < rule.below
    words = pl.format(
        "{}: risk score {} on {}, alert from {}; {}{}",
        "device_id", shown(pl.col("risk_score")), _DAY, pl.lit(f"{limit:g}"), "recommended_action",
        pl.coalesce(pl.lit(" (because of ") + pl.col("top_factors") + ")", pl.lit("")),
    )  # fmt: skip
    return Evaluation(
        findings(
            rows.filter(high),
            subject=pl.col("device_id"),
            message=words,
            device_id=pl.col("device_id"),
            value=pl.col("risk_score"),
            limit=pl.lit(limit),
            evidence_at=day_time(pl.col("as_of_date")),
        )
    )


def qc_rejection(rule: Rule, given: Situation) -> Evaluation:
    """gold/westgard_violations: a rule of ``among`` was broken within the window; one alert per device and analyte."""
    since = given.now_utc - rule.window
    first = (given.now - rule.window).date() - timedelta(days=1)
    controls = given.tables["quality_control_standardized"].filter(pl.col("event_date") >= first, pl.col("run_at") >= since)
    if controls.select(pl.len()).collect().item() == 0:
        return Evaluation(not_evaluable=f"no control ran within {rule.window_hours:g} h")
    broken = (
        given.tables["westgard_violations"]
        .filter(pl.col("as_of_date") >= first, pl.col("run_at") >= since, pl.col("rule").is_in(rule.among))
        .collect()
        .sort("run_at", "rule")
    )
    rows = broken.group_by("device_id", "loinc_code", maintain_order=True).agg(
        pl.col("analyte").last(),
        rules=pl.col("rule").unique(maintain_order=True).sort().str.join(", "),
        violations=pl.len(),
        worst=pl.col("z").sort_by(pl.col("z").abs()).last(),
        levels=pl.col("qc_level").unique().sort().str.join(", "),
        run_at=pl.col("run_at").max(),
        runs=joined_keys(pl.col("run_id").drop_nulls().unique(maintain_order=True)),
    )
    words = pl.format(
        "{} {}: control rule {} broken, level {}, largest deviation {} SD, last at {}",
        "device_id", pl.coalesce("analyte", "loinc_code"), "rules", "levels", shown(pl.col("worst")),
        given.clock(pl.col("run_at")),
    )  # fmt: skip
    return Evaluation(
        findings(
            rows,
            subject=pl.format("{} {}", "device_id", "loinc_code"),
            message=words,
            device_id=pl.col("device_id"),
            row_keys=pl.col("runs"),
            value=pl.col("worst"),
            evidence_at=pl.col("run_at"),
        )
    )


def patient_qc(rule: Rule, given: Situation) -> Evaluation:
    """gold/patient_qc: patients' results of a device and analyte left their limits on its newest evaluated day, and on at
    least ``least`` days of the window: a single day is what the chosen false-alarm rate allows chance.
    """
    least = rule.number("least")
    by = ["device_id", "loinc_code"]
    first = (given.now - rule.window).date()
    in_window = pl.col("as_of_date").is_between(first, given.now.date())
    judged = given.tables["patient_qc"].filter(in_window, pl.col("alarm").is_not_null()).collect().sort("as_of_date")
    if judged.is_empty():
        return Evaluation(not_evaluable=f"no device and analyte was judged on {first} or later")
    counted = judged.with_columns(
        days=pl.col("alarm").sum().over(by), since=pl.col("as_of_date").filter("alarm").min().over(by)
    )
    newest = counted.unique(by, keep="last", maintain_order=True)
    bad = newest.filter("alarm", pl.col("days") >= least)
    words = pl.format(
        "{} {}: patients' results too {} by {} on {}, {} days in alarm since {} (statistic {}, limit {})",
        "device_id", pl.coalesce("analyte", "loinc_code"), pl.coalesce("direction", pl.lit("far off")),
        pl.coalesce("monitor", pl.lit("patient-based QC")), _DAY, "days", pl.col("since").cast(pl.String),
        shown(pl.col("max_statistic"), 2), shown(pl.col("control_limit"), 2),
    )  # fmt: skip
    return Evaluation(
        findings(
            bad,
            subject=pl.format("{} {}", "device_id", "loinc_code"),
            message=words,
            device_id=pl.col("device_id"),
            value=pl.col("max_statistic"),
            limit=pl.col("control_limit"),
            evidence_at=pl.coalesce("first_alarm_at", day_time(pl.col("as_of_date"))),
        )
    )


def qc_fail_rate(rule: Rule, given: Situation) -> Evaluation:
    """silver/quality_control_standardized: more than ``limit`` % of a device's runs of the window failed, of at least
    ``least`` runs.
    """
    limit, least = rule.number("limit"), rule.number("least")
    first = (given.now - rule.window).date() - timedelta(days=1)
    recent = given.tables["quality_control_standardized"].filter(
        pl.col("event_date") >= first, pl.col("run_at") > given.now_utc - rule.window, pl.col("run_at") <= given.now_utc
    )
    runs = run_verdicts(recent)
    if runs.is_empty():
        return Evaluation(not_evaluable=f"no control run with a verdict within {rule.window_hours:g} h")
    devices = runs.group_by("device_id", maintain_order=True).agg(
        runs=pl.len(),
        failed=pl.col("failed").sum(),
        run_at=pl.col("run_at").max(),
        keys=joined_keys(pl.col("run_id").filter("failed").drop_nulls()),
    )
    # 100 × failed > limit × runs: no division, so that exactly 10 % is exactly 10 %
    bad = devices.filter(pl.col("runs") >= least, 100 * pl.col("failed") > limit * pl.col("runs"))
    share = 100 * pl.col("failed") / pl.col("runs")
    words = pl.format(
        "{}: {} of {} control runs failed in {} days ({} %, limit {} %)",
        "device_id", "failed", "runs", pl.lit(f"{rule.number('window_hours') / 24:g}"), shown(share), pl.lit(f"{limit:g}"),
    )  # fmt: skip
    return Evaluation(
        findings(
            bad,
            subject=pl.col("device_id"),
            message=words,
            device_id=pl.col("device_id"),
            row_keys=pl.col("keys"),
            value=share,
            limit=pl.lit(limit),
            evidence_at=pl.col("run_at"),
        )
    )
