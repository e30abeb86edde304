"""Silver: the current truth, standardised, and the history it was chosen from.

Here: one Pandera model per silver table. A row silver cannot use keeps its place with a ``reason``: for lab results in a
table of its own (lab_results_quarantine), elsewhere in the ``reason`` column. Not here: how a value is standardised.
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from lims_platform.contracts.base import Table, UtcTime, column, table


class _Lineage(pa.DataFrameModel):
    source: str = column("Name of the source in sources.yaml")
    event_date: pl.Date = column("The day the row belongs to, in the laboratory's calendar; partition column")
    date_source: str = column("event, fallback, no_time or outside: how the row came by its day")
    time_flag: str = column("What was wrong with the row's times or numbers, joined by ';'", nullable=True)
    row_key: str = column("Identity in bronze")
    row_version: pl.Int32 = column("Version in bronze this row was made of", ge=1)
    row_digest: str = column("Digest of that version's business columns")
    known_from: UtcTime = column("When this version became known")
    knowledge_origin: str = column("result_time, update_time or ingestion")
    reference_digest: str = column("Digest of the reference tables that produced the row")


class _LabResult(_Lineage):
    result_id: str = column("The LIMS's own number of the result", nullable=True)
    patient_hash: str = column("Pseudonym of the patient", nullable=True)
    technician_hash: str = column("Pseudonym of the technician", nullable=True)
    device_id: str = column("The analyser", nullable=True)
    test_code: str = column("Local test code", nullable=True)
    test_name: str = column("The source's name of the test", nullable=True)
    source_loinc: str = column("LOINC code of what the source measured, before standardisation", nullable=True)
    loinc_code: str = column("LOINC code of the standardised result", nullable=True)
    analyte: str = column("Name of the analyte", nullable=True)
    specimen_id: str = column("Specimen number", nullable=True)
    specimen_type: str = column("Specimen type", nullable=True)
    result_text: str = column("The result as the source wrote it", nullable=True)
    result_unit_text: str = column("The unit as the source wrote it", nullable=True)
    value_kind: str = column("number, censored, range, titre, ordinal, coded; or what kept it from being one", nullable=True)
    value_number: float = column("The value in the standard unit; a censored value's limit", nullable=True)
    value_upper: float = column("Upper end of a range, in the standard unit", nullable=True)
    comparator: str = column("<, <=, > or >= of a censored value", nullable=True)
    value_code: str = column("Code of a coded or ordinal result, e.g. POSITIVE", nullable=True)
    unit: str = column("Standard unit, UCUM", nullable=True)
    unit_origin: str = column(
        "reported, alias, converted, inferred (from the day's results), assumed or none", nullable=True
    )
    is_critical: bool = column("Beyond a critical limit; tested for quarantined values too")
    result_status: str = column("P, F, C or X", nullable=True)
    priority: str = column("Order priority", nullable=True)
    facility_id: str = column("Site of the order", nullable=True)
    location_class: str = column("Kind of ward", nullable=True)
    age_band: str = column("Age band", nullable=True)
    sex: str = column("Sex as recorded", nullable=True)
    collected_at: UtcTime = column("Specimen taken", nullable=True)
    received_at: UtcTime = column("Specimen received", nullable=True)
    resulted_at: UtcTime = column("Result released", nullable=True)
    verified_at: UtcTime = column("Result verified", nullable=True)
    updated_at: UtcTime = column("Source's last change", nullable=True)
    turnaround_time_hours: float = column("Resulted minus collected", unit="h", nullable=True)
    pre_analytical_hours: float = column("Received minus collected", unit="h", nullable=True)
    in_lab_hours: float = column("Verified, else resulted, minus received", unit="h", nullable=True)


class LabResultsStandardized(_LabResult):
    """Live lab results that could be standardised: one row per result, latest version."""

    loinc_code: str = column("LOINC code of the standardised result")
    value_kind: str = column(
        "number, censored, range, titre, ordinal or coded",
        isin=["number", "censored", "range", "titre", "ordinal", "coded"],
    )

    class Config:
        name = "lab_results_standardized"
        strict = True


class LabResultsQuarantine(_LabResult):
    """Live lab results that could not be standardised, with the reason and, where there is one, a proposed fix."""

    reason: str = column("Why, one word of the platform's list")
    detail: str = column("Why, in words", nullable=True)
    proposal: str = column("Proposed fix", nullable=True)
    confidence: float = column("Confidence in the proposal, 0 to 1", nullable=True, ge=0, le=1)

    class Config:
        name = "lab_results_quarantine"
        strict = True


class LabResultsHistory(_LabResult):
    """Every version of every lab result, standardised as it was written, with the time it was the one known."""

    change: str = column("insert, update or delete", isin=["insert", "update", "delete"])
    known_to: UtcTime = column("When the next version of the row on this day became known", nullable=True)
    is_current: bool = column("The latest version of its row_key on this day")
    is_conflict: bool = column("A duplicate with other content that did not win")
    reason: str = column("Why the version could not be standardised; null where it could", nullable=True)
    detail: str = column("Why, in words", nullable=True)
    proposal: str = column("Proposed fix", nullable=True)
    confidence: float = column("Confidence in the proposal, 0 to 1", nullable=True, ge=0, le=1)

    class Config:
        name = "lab_results_history"
        strict = True


class DeviceMetricsNormalized(_Lineage):
    """Live device log events with normalised event type and severity."""

    device_id: str = column("The analyser", nullable=True)
    logged_at: UtcTime = column("When it was logged", nullable=True)
    event_type: str = column("ERROR, WARNING, INFO, FAILURE, CALIBRATION, MAINTENANCE; null if unknown", nullable=True)
    severity: str = column("LOW, MEDIUM, HIGH, CRITICAL; null if unknown", nullable=True)
    message: str = column("Free text, identifiers redacted", nullable=True)
    calibration_date: UtcTime = column("Last calibration known to the analyser", nullable=True)
    maintenance_date: UtcTime = column("Last maintenance known to the analyser", nullable=True)
    reason: str = column("Why the row is unusable; null where it is usable", nullable=True)

    class Config:
        name = "device_metrics_normalized"
        strict = True


class QualityControlStandardized(_Lineage):
    """Live control measurements with LOINC code, z score and bias."""

    qc_id: str = column("Control measurement", nullable=True)
    device_id: str = column("The analyser", nullable=True)
    test_code: str = column("Local test code", nullable=True)
    loinc_code: str = column("LOINC code", nullable=True)
    analyte: str = column("Name of the analyte", nullable=True)
    qc_level: str = column("Control level", nullable=True)
    run_id: str = column("Analytical run", nullable=True)
    run_at: UtcTime = column("When the control ran", nullable=True)
    expected_value: float = column("Assigned target", nullable=True)
    expected_sd: float = column("Assigned SD", nullable=True)
    measured_value: float = column("Measured", nullable=True)
    z: float = column("(measured - expected) / expected SD", nullable=True)
    bias_percent: float = column("100 × (measured - expected) / expected", unit="%", nullable=True)
    passed: bool = column("The LIMS's verdict", nullable=True)
    is_repeat: bool = column("A repeat after a rejection", nullable=True)
    control_lot: str = column("Control lot", nullable=True)
    reagent_lot: str = column("Reagent lot", nullable=True)
    calibrator_lot: str = column("Calibrator lot", nullable=True)
    reason: str = column("Why the row is unusable; null where it is usable", nullable=True)

    class Config:
        name = "quality_control_standardized"
        strict = True


class SampleMeasurements(_Lineage):
    """Live batch samples; sensor fault codes are named as faults, never kept as numbers."""

    sample_id: str = column("The sample", nullable=True)
    facility_id: str = column("The site", nullable=True)
    batch_id: str = column("The batch", nullable=True)
    measured_at: UtcTime = column("When it was measured", nullable=True)
    ph_level: float = column("pH; null where the sensor failed", nullable=True)
    storage_temp_c: float = column("Storage temperature", unit="°C", nullable=True)
    dissolved_oxygen_ppm: float = column("Dissolved oxygen", unit="ppm", nullable=True)
    turbidity_ntu: float = column("Turbidity", unit="NTU", nullable=True)
    processing_time_hours: float = column("Taking to measuring", unit="h", nullable=True)
    is_contaminated: bool = column("Confirmed contamination", nullable=True)
    sensor_faults: str = column("Sensors that failed, joined by ';'", nullable=True)
    out_of_range: str = column("Measurements outside their expected range, joined by ';'", nullable=True)
    reason: str = column("Why the row is unusable; null where it is usable", nullable=True)

    class Config:
        name = "sample_measurements"
        strict = True


_KEY = ("row_key",)
SILVER_TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        table("silver", _KEY, "event_date", LabResultsStandardized),
        table("silver", ("row_key", "row_version"), "event_date", LabResultsHistory),
        table("silver", _KEY, "event_date", LabResultsQuarantine),
        table("silver", _KEY, "event_date", DeviceMetricsNormalized),
        table("silver", _KEY, "event_date", QualityControlStandardized),
        table("silver", _KEY, "event_date", SampleMeasurements),
    )
}
