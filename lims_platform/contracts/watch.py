"""Watching analysers: controls against Westgard's rules, and drift of devices and data. Gold tables, dated by day.

Here: one Pandera model per table. Not here: patient-based QC (``patient_qc``), samples (``samples``), formulas
(``laboratory``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.base import Table, UtcTime, UtcTimes, column, table
from lims_platform.contracts.gold import DAY, RISK_LEVELS, Dated


class WestgardViolations(Dated):
    """One row per violated rule, run and control level."""

    device_id: str = column("The analyser")
    loinc_code: str = column("LOINC code")
    analyte: str = column("Name of the analyte", nullable=True)
    qc_level: str = column("Control level")
    rule: str = column("Name of the Westgard rule, e.g. 1-3s")
    severity: str = column("warning or rejection", isin=["warning", "rejection"])
    run_id: str = column("Analytical run", nullable=True)
    run_at: UtcTime = column("When the run that completed the violation ran")
    first_run_at: UtcTime = column("When the first run involved ran")
    runs_involved: UtcTimes = column("When each control the rule counted ran, in order")
    z: float = column("z of the completing control")

    class Config:
        name = "westgard_violations"
        strict = True


class QcPerformance(Dated):
    """One row per device, analyte, level and control lot measured that day: bias, imprecision and sigma of 30 days."""

    device_id: str = column("The analyser")
    loinc_code: str = column("LOINC code")
    analyte: str = column("Name of the analyte", nullable=True)
    qc_level: str = column("Control level", nullable=True)
    control_lot: str = column("Control lot", nullable=True)
    controls: pl.Int64 = column("Controls measured in the window", ge=0)
    n: pl.Int64 = column("Of them usable and no repeats: they make the figures", ge=0)
    target: float = column("What the level should read", nullable=True)
    target_source: str = column("assigned, or own history of the lot", nullable=True, isin=["assigned", "own history"])
    mean: float = column("Mean of the window", nullable=True)
    sd: float = column("SD of the window", nullable=True)
    bias_percent: float = column("100 × (mean − target) / target", unit="%", nullable=True)
    cv_percent: float = column("100 × SD / target", unit="%", nullable=True)
    tea_percent: float = column("Allowable total error at the target", unit="%", nullable=True)
    sigma: float = column("(allowable error − |bias|) / CV", nullable=True)
    beyond_3sd: pl.Int64 = column("Controls beyond 3 SD", ge=0)
    rules: str = column("Westgard rules this sigma calls for", nullable=True)
    rules_applied: str = column("Westgard rules the day's controls were judged by, joined by ';'", nullable=True)
    controls_per_run: pl.Int64 = column("Controls a run needs at this sigma", nullable=True)
    run_size: pl.Int64 = column("Patient results between runs at this sigma", nullable=True)
    outcome: str = column("evaluated, or why not")

    class Config:
        name = "qc_performance"
        strict = True


class DriftReport(Dated):
    """One row per subject and statistic: analytes (KS, Wasserstein), features and scores (PSI), devices (z)."""

    kind: str = column("analyte, feature, prediction or device", isin=["analyte", "feature", "prediction", "device"])
    subject: str = column("LOINC code, feature or score name, or device")
    loinc_code: str = column("LOINC code of an analyte's or a device's row", nullable=True)
    name: str = column("Readable name", nullable=True)
    statistic: str = column("ks, wasserstein, psi or z", isin=["ks", "wasserstein", "psi", "z"])
    value: float = column("The statistic", nullable=True)
    effect: float = column("Its effect size: KS distance, SDs, PSI, or bias in units of allowable error", nullable=True)
    p_value: float = column("p value against past weeks' own noise", nullable=True, ge=0, le=1)
    q_value: float = column("Benjamini-Hochberg over the day's distributions; null for devices", nullable=True, ge=0, le=1)
    reference_rows: pl.Int64 = column("Rows of the reference period", ge=0)
    current_rows: pl.Int64 = column("Rows of the current period; of a device, since the change", ge=0)
    reference_mean: float = column("Mean of the reference period; of a device, its baseline location", nullable=True)
    current_mean: float = column("Mean of the current period; of a device, baseline plus bias", nullable=True)
    z_own: float = column("Device against its own past, in standard errors of daily values", nullable=True)
    z_sisters: float = column("The same of its difference from the sister devices", nullable=True)
    z_qc: float = column("The same of its controls", nullable=True)
    bias: float = column("Device's estimated shift, in the analyte's unit", nullable=True)
    standard_error: float = column("Standard error of bias, between-day variance included", nullable=True)
    allowable_error: float = column("Allowable total error at the baseline, in the analyte's unit", nullable=True)
    moved: str = column(
        "Who moved: analyser, patients (or a reagent they share), controls, 'analyser or patients'; null: nobody",
        nullable=True,
        isin=["analyser", "patients", "controls", "analyser or patients"],
    )
    change_date: pl.Date = column("Most likely first day of a device's shift", nullable=True)
    alert_level: str = column("LOW, MEDIUM, HIGH or CRITICAL", isin=RISK_LEVELS)
    outcome: str = column("Starts with 'evaluated', or 'not evaluable: ' and why")

    class Config:
        name = "drift_report"
        strict = True


class DriftLookback(Dated):
    """One row per result measured since a device's shift began, for every device at HIGH or CRITICAL on the day."""

    device_id: str = column("The analyser")
    loinc_code: str = column("LOINC code")
    analyte: str = column("Name of the analyte", nullable=True)
    change_date: pl.Date = column("Most likely first day of the shift")
    alert_level: str = column("HIGH or CRITICAL", isin=["HIGH", "CRITICAL"])
    row_key: str = column("The result, as in silver/lab_results_standardized")
    patient_hash: str = column("Pseudonym of the patient", nullable=True)
    event_date: pl.Date = column("Day of the result")
    value_kind: str = column("number or censored", isin=["number", "censored"])
    comparator: str = column("Comparator of a censored result", nullable=True)
    reported: float = column("Reported value; of a censored result its limit")
    estimated_bias: float = column("Estimated bias at this value")
    corrected: float = column("Reported minus estimated bias; null for a censored result", nullable=True)
    bias_in_tea: float = column("Estimated bias in allowable errors at this value", nullable=True)
    limit_crossed: float = column("Decision limit between reported and corrected value, the nearest", nullable=True)

    class Config:
        name = "drift_lookback"
        strict = True


WATCH_TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        table("gold", ("device_id", "loinc_code", "qc_level", "rule", "run_at"), DAY, WestgardViolations),
        table("gold", ("device_id", "loinc_code", "qc_level", "control_lot", DAY), DAY, QcPerformance),
        table("gold", ("kind", "subject", "loinc_code", "statistic", DAY), DAY, DriftReport),
        table("gold", ("device_id", "loinc_code", "row_key", DAY), DAY, DriftLookback),
    )
}
