"""Reference tables that watch: rules of controls, of alerts, of drift, limits of samples. No result changes with them.

Here: columns, keys and meaning of each. Not here: tables that say what a result means (``reference_results``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference_table import ReferenceColumn, ReferenceTable, number, text

#: Conditions an alert rule may name (``alerting.conditions`` tests them).
ALERT_CONDITIONS = (
    "device_drift", "device_risk", "outbreak", "qc_rejection", "critical_result", "corrected_report", "data_drift",
    "qc_fail_rate", "patient_qc", "critical_sample", "pipeline_failure", "api_latency", "freshness",
)  # fmt: skip

SIGMA_RULES = ReferenceTable(
    "sigma_rules",
    "Quality control by sigma: which Westgard rules, controls a run and patients between runs are enough",
    ("sigma_from",),
    (
        number("sigma_from", "From this sigma on, up to the next row's", required=True),
        text("rules", "Westgard rules joined by ';'", required=True),
        number("controls_per_run", "Control measurements a run needs", required=True),
        number("run_size", "Patient results between two runs of controls", required=True),
    ),
    standardises=False,
)

ALERT_RULES = ReferenceTable(
    "alert_rules",
    "What the platform tells people of, how gravely, by which channels and how often; docs/alerts.md explains them",
    ("rule",),
    (
        text("rule", "Name of the rule", required=True),
        text("condition", "What is tested, one of the platform's conditions", required=True, allowed=ALERT_CONDITIONS),
        ReferenceColumn("enabled", pl.Boolean(), "false: not evaluated, its open alerts are resolved", required=True),
        text("severity", "How grave", required=True, allowed=("LOW", "MEDIUM", "HIGH", "CRITICAL")),
        text("channels", "Names of LIMS_ALERT_TARGETS joined by ';'; log is the platform's own log", required=True),
        number("limit", "The condition's limit, in its own unit (score, minutes, percent, ms, hours)"),
        number("below", "Fires only below this: a graver rule takes over there"),
        number("least", "Fewest items that count (tests, control runs, days in alarm)"),
        text("among", "Alert levels, verdicts or control rules that count, joined by ';'"),
        number("window_hours", "How far back evidence counts"),
        number("cooldown_hours", "No second notification of one subject within this time; 0: none", required=True),
        text(
            "closes",
            "when_gone: as soon as the condition no longer holds; when_acknowledged: not before a person has seen it",
            required=True,
            allowed=("when_gone", "when_acknowledged"),
        ),
        text("title", "What people read first", required=True),
        text("action", "What to do", required=True),
    ),
    standardises=False,
)

DRIFT_LIMITS = ReferenceTable(
    "drift_limits",
    "What the laboratory chooses about drift alarms: false-alarm rates, effect floors, spans of days",
    ("name",),
    (
        text("name", "Name of the limit", required=True),
        number("value", "Its value; rates and shares as fractions", required=True),
        text("unit", "Unit of the value", required=True),
        text("meaning", "What it does", required=True),
    ),
    standardises=False,
)

SAMPLE_LIMITS = ReferenceTable(
    "sample_limits",
    "Measurements of batch samples: what a sensor can say, what is expected of it, and what is critical",
    ("measurement",),
    (
        text(
            "measurement",
            "Column of batch_results",
            required=True,
            allowed=(
                "ph_level",
                "storage_temp_c",
                "dissolved_oxygen_ppm",
                "turbidity_ntu",
                "processing_time_hours",
            ),
        ),
        text("label", "What people read", required=True),
        text("unit", "Unit; empty where there is none"),
        number("physical_low", "Below this no sample can be: the sensor failed", required=True),
        number("physical_high", "Above this no sample can be", required=True),
        number("expected_low", "Expected in normal operation from this value on; both empty: not watched"),
        number("expected_high", "Expected in normal operation up to this value"),
        number("critical_low", "A measurement below it is critical whatever its batch looks like; empty: none"),
        number("critical_high", "A measurement above it is critical; empty: none"),
        number("resolution", "Smallest difference that means anything; a batch's spread counts as no less", required=True),
        text(
            "scale",
            "cube_root where values pile up near zero with a long tail (Wilson and Hilferty 1931), else linear",
            required=True,
            allowed=("linear", "cube_root"),
        ),
        text("fault_codes", "Numbers the sensor or logger writes instead of a measurement, joined by ';'"),
    ),
    standardises=False,  # sample_measurements carries a digest of its own
)

WATCHING = (SIGMA_RULES, ALERT_RULES, DRIFT_LIMITS, SAMPLE_LIMITS)
