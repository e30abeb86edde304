"""Gold: features, operational marts, scores and reports, each dated by the day it speaks of.

Here: one Pandera model per gold table. Feature tables are point-in-time: a row dated D uses what was known before the end
of D. Not here: formulas (``laboratory``), models (``learning``), what watches analysers (``watch``).
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from lims_platform.contracts.base import Table, UtcTime, column, table

RISK_LEVELS = ["LOW", "MEDIUM", "HIGH", "CRITICAL"]


class Dated(pa.DataFrameModel):
    """A row that speaks of one day."""

    as_of_date: pl.Date = column("The day the row speaks of, in the laboratory's calendar; partition column")


class DeviceFailureFeatures(Dated):
    """One row per device and day since its installation, on a complete calendar, as known at the end of the day."""

    device_id: str = column("The analyser")
    device_type: str = column("Chemistry, haematology, …", nullable=True)
    facility_id: str = column("Where it stands", nullable=True)
    calibration_overdue: bool = column("More than 30 days since the last calibration, or none known", nullable=True)
    maintenance_overdue: bool = column("More than 90 days since the last maintenance, or none known", nullable=True)
    calibration_overdue_days: float = column("Days beyond 30 since the last calibration", unit="d", nullable=True)
    maintenance_overdue_days: float = column("Days beyond 90 since the last maintenance", unit="d", nullable=True)
    error_rate_7d: float = column("Errors / (results + 1) over 7 calendar days", ge=0)
    warning_rate_7d: float = column("Warnings / (results + 1) over 7 calendar days", ge=0)
    qc_pass_rate_7d: float = column("Controls passed / controls, 7 days; null without any", nullable=True, ge=0, le=1)
    result_volume: pl.Int64 = column("Results of the day", ge=0)
    result_volume_trend: float = column("(volume - mean of 30 days) / (mean of 30 days + 1)")
    avg_turnaround_time_7d: float = column("Mean turnaround of 7 days", unit="h", nullable=True)
    device_age_months: float = column("Months since installation", nullable=True)
    last_failure_days: float = column("Days since the last FAILURE; null if none is known", unit="d", nullable=True)
    errors_1d: pl.Int64 = column("Errors of the day", ge=0)
    error_trend: float = column("(errors a day over 7 days - over 30) / (over 30 + 1)")
    warning_trend: float = column("(warnings a day over 7 days - over 30) / (over 30 + 1)")
    error_burst_7d: float = column("Most errors on one of 7 days / (errors a day over 30 + 1)", ge=0)
    qc_bias_7d: float = column("Mean over analyte and level of |mean z| of 7 days", nullable=True, ge=0)
    qc_bias_max_7d: float = column("Largest |mean z| of an analyte and level, 7 days", nullable=True, ge=0)
    qc_imprecision_7d: float = column("SD of z about its analyte-and-level mean, 7 days", nullable=True, ge=0)
    turnaround_trend: float = column("Mean turnaround of 7 days / of 30 days", nullable=True)
    sister_error_contrast: float = column("error_rate_7d minus the median of devices of its type", nullable=True)
    failures_90d: pl.Int64 = column("FAILURE episodes of 90 days", ge=0)
    errors_3d: pl.Int64 = column("Errors of 3 days", ge=0)
    warnings_3d: pl.Int64 = column("Warnings of 3 days", ge=0)
    error_ewma_3d: float = column("Errors a day, exponentially weighted, half-life 3 days", ge=0)
    error_ewma_10d: float = column("Errors a day, exponentially weighted, half-life 10 days", ge=0)
    warning_ewma_3d: float = column("Warnings a day, exponentially weighted, half-life 3 days", ge=0)
    warning_ewma_10d: float = column("Warnings a day, exponentially weighted, half-life 10 days", ge=0)
    qc_bias_3d: float = column("Mean over analyte and level of |mean z| of 3 days", nullable=True, ge=0)
    qc_bias_14d: float = column("Mean over analyte and level of |mean z| of 14 days", nullable=True, ge=0)
    qc_imprecision_3d: float = column("SD of z about its analyte-and-level mean, 3 days", nullable=True, ge=0)
    qc_imprecision_14d: float = column("SD of z about its analyte-and-level mean, 14 days", nullable=True, ge=0)
    qc_bias_trend: float = column("qc_bias_3d minus qc_bias_14d", nullable=True)
    turnaround_ratio_3d: float = column("Mean turnaround of 3 days / of 30 days", nullable=True)
    results_30d: pl.Int64 = column("Results of 30 days", ge=0)
    days_since_calibration: float = column("Days since the last known calibration", unit="d", nullable=True, ge=0)
    days_since_maintenance: float = column("Days since the last known maintenance", unit="d", nullable=True, ge=0)
    usage_since_maintenance: float = column("Results since the last known maintenance, 120 days at most", nullable=True)
    in_outage: bool = column("A FAILURE within the last 24 h, or a working day without a result after one")

    class Config:
        name = "device_failure_features"
        strict = True


class OutbreakRiskFeatures(Dated):
    """One row per pathogen, facility (ALL: every facility) and day of specimen collection, patients counted once."""

    loinc_code: str = column("LOINC code of the pathogen test")
    pathogen: str = column("Its name")
    facility_id: str = column("The site; ALL for the whole laboratory")
    positive_rate_7d: float = column("Positives / tests of the 7 days; null without tests", nullable=True, ge=0, le=1)
    total_tests_7d: pl.Int64 = column("Patients tested, once per episode window", ge=0)
    positive_tests_7d: pl.Int64 = column("Patients first positive, once per episode window", ge=0)
    case_count_delta: pl.Int64 = column("Positives of 7 days minus those of the 7 days before")
    seasonal_baseline: float = column("Expected positives of 7 days from the season; null if unknown", nullable=True)
    seasonal_deviation: float = column("(positives - baseline) / sqrt(baseline + 1)", nullable=True)
    expected_cases: float = column("Positives of 7 days the detector expects of so many tests", nullable=True)
    threshold_cases: float = column("More positives than this are an alarm; null where not evaluable", nullable=True)
    detector: str = column(
        "What expectation and threshold rest on, or not evaluable: and why; null in rows older than the column",
        nullable=True,
    )
    temporal_cluster_score: float = column("Poisson tail -log10 p against the 28 days before, 0-10", nullable=True)
    geographic_cluster_score: float = column("Share of the positives beyond the site's share of tests", nullable=True)
    outbreak_risk_score: float = column("0 to 100", ge=0, le=100)
    risk_level: str = column("LOW, MEDIUM or HIGH", isin=["LOW", "MEDIUM", "HIGH"])

    class Config:
        name = "outbreak_risk_features"
        strict = True


class QualityAnomalyFeatures(Dated):
    """One row per analyte and day with results."""

    loinc_code: str = column("LOINC code")
    analyte: str = column("Name of the analyte", nullable=True)
    results: pl.Int64 = column("Results of the day", ge=0)
    outlier_rate: float = column("Share beyond 3 robust SD of the 28 days before", nullable=True, ge=0, le=1)
    distribution_shift: float = column("|median - median of 28 days| / robust SD", nullable=True, ge=0)
    missing_data_rate: float = column("Quarantined / all rows of the analyte's codes", ge=0, le=1)
    device_consistency_score: float = column(
        "SD of device medians, net of sampling error, / allowable error", nullable=True, ge=0
    )
    quality_anomaly: bool = column("Any of the four beyond its limit")

    class Config:
        name = "quality_anomaly_features"
        strict = True


class TurnaroundKpis(Dated):
    """One row per facility, priority and day of result."""

    facility_id: str = column("The site; ALL for the whole laboratory")
    priority: str = column("Order priority; UNKNOWN where none is given")
    results: pl.Int64 = column("Results with a usable turnaround", ge=0)
    flagged: pl.Int64 = column("Results with a negative or absent time", ge=0)
    total_median_hours: float = column("Collected to resulted, median", unit="h", nullable=True)
    total_p90_hours: float = column("Collected to resulted, 90th percentile", unit="h", nullable=True)
    pre_analytical_median_hours: float = column("Collected to received, median", unit="h", nullable=True)
    pre_analytical_p90_hours: float = column("Collected to received, 90th percentile", unit="h", nullable=True)
    in_lab_median_hours: float = column("Received to verified or resulted, median", unit="h", nullable=True)
    in_lab_p90_hours: float = column("Received to verified or resulted, 90th percentile", unit="h", nullable=True)

    class Config:
        name = "turnaround_kpis"
        strict = True


class DataQualityScorecard(Dated):
    """One row per source, test code, device and day; shares from 0 to 1."""

    source: str = column("Source")
    test_code: str = column("Local test code; (none) where absent")
    device_id: str = column("Analyser; (none) where absent")
    rows: pl.Int64 = column("Live rows", ge=1)
    valid_rows: pl.Int64 = column("Rows in silver", ge=0)
    completeness: float = column("Rows with value, unit or coded value, and all times", ge=0, le=1)
    validity: float = column("Rows that could be standardised", ge=0, le=1)
    uniqueness: float = column("Rows without a conflicting duplicate", ge=0, le=1)
    timeliness: float = column("Rows known within a day of the result", ge=0, le=1)
    conformity: float = column("Rows whose unit and value were written in the standard form", ge=0, le=1)

    class Config:
        name = "data_quality_scorecard"
        strict = True


class UnmappedCodes(pa.DataFrameModel):
    """Local codes that no row of loinc_map.csv maps, with proposals; one line of that file accepts one."""

    source: str = column("Source")
    test_code: str = column("Local test code")
    test_name: str = column("Commonest name the source gives it", nullable=True)
    specimen_type: str = column("Commonest specimen", nullable=True)
    result_unit_text: str = column("Commonest unit, as written", nullable=True)
    rows: pl.Int64 = column("Results waiting in quarantine for it", ge=1)
    share: float = column("Of all results with an unmapped code", ge=0, le=1)
    median: float = column("Median of the numbers, as written", nullable=True)
    first_day: pl.Date = column("First day it was seen")
    last_day: pl.Date = column("Last day it was seen")
    proposal_1: str = column("LOINC code that fits best by name, unit and values", nullable=True)
    score_1: float = column("Its score; scores rank, they are no probabilities", nullable=True, ge=0, le=1)
    proposal_2: str = column("Second", nullable=True)
    score_2: float = column("Its score", nullable=True, ge=0, le=1)
    proposal_3: str = column("Third", nullable=True)
    score_3: float = column("Its score", nullable=True, ge=0, le=1)
    confidence: float = column("score_1 less half of score_2", nullable=True, ge=0, le=1)
    csv_line: str = column("The line of loinc_map.csv that accepts proposal_1", nullable=True)

    class Config:
        name = "unmapped_codes"
        strict = True


class DeviceRiskScores(Dated):
    """One row per device and day: the champion's score."""

    device_id: str = column("The analyser")
    device_type: str = column("Chemistry, haematology, …", nullable=True)
    facility_id: str = column("Where it stands", nullable=True)
    failure_probability: float = column("P(FAILURE within the next 7 days)", ge=0, le=1)
    risk_score: float = column(
        "100 × the probability restated for a fleet of which one in five fails within a week (see learning.scoring)",
        ge=0,
        le=100,
    )
    risk_level: str = column("LOW, MEDIUM, HIGH or CRITICAL", isin=RISK_LEVELS)
    recommended_action: str = column("What to do")
    top_factors: str = column("The three features that raise this score most", nullable=True)
    model_name: str = column("Registered model")
    model_version: str = column("Registry version that scored")
    scored_at: UtcTime = column("When it was scored")

    class Config:
        name = "device_risk_scores"
        strict = True


DAY = "as_of_date"
GOLD_TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        table("gold", ("device_id", DAY), DAY, DeviceFailureFeatures),
        table("gold", ("loinc_code", "facility_id", DAY), DAY, OutbreakRiskFeatures),
        table("gold", ("loinc_code", DAY), DAY, QualityAnomalyFeatures),
        table("gold", ("facility_id", "priority", DAY), DAY, TurnaroundKpis),
        table("gold", ("source", "test_code", "device_id", DAY), DAY, DataQualityScorecard),
        table("gold", ("source", "test_code"), None, UnmappedCodes),
        table("gold", ("device_id", DAY), DAY, DeviceRiskScores),
    )
}
