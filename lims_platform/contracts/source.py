"""The LIMS contract: the tables and columns a laboratory's system offers, before the door.

Here: names, dtypes, keys, which columns identify a person, which time places a row in a day.
Not here: how a source is reached (``sources``) or how the lake stores it (``contracts.bronze``).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

#: Every source time is delivered in UTC with microseconds.
UTC = pl.Datetime("us", "UTC")


@dataclass(frozen=True)
class SourceColumn:
    """One column of a source table.

    ``identifies`` names the pseudonym domain ("patient", "technician"): such a column never reaches the disk; it becomes
    ``<domain>_hash`` at the door. ``free_text`` columns may carry identifiers inside a sentence and are redacted there.
    """

    name: str
    dtype: pl.DataType
    description: str
    required: bool = True
    identifies: str | None = None
    free_text: bool = False


@dataclass(frozen=True)
class SourceTable:
    """One table of the LIMS contract.

    ``event_time`` is None for a register (devices): a list of things, not of events: one slice.
    ``version_time`` is the source's own time of the last change of a row; orders versions, never enters the digest.
    """

    name: str
    key: tuple[str, ...]
    event_time: str | None
    columns: tuple[SourceColumn, ...]
    fallback_times: tuple[str, ...] = ()
    version_time: str | None = None

    def column(self, name: str) -> SourceColumn:
        """The column of that name; KeyError names the table."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.name} has no column {name}")

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Column name to polars dtype, in the contract's order, before the door."""
        return {c.name: c.dtype for c in self.columns}

    @property
    def stored_schema(self) -> dict[str, pl.DataType]:
        """The same after the door: identifying columns replaced by their ``<domain>_hash``."""
        return {f"{c.identifies}_hash" if c.identifies else c.name: c.dtype for c in self.columns}


def _text(
    name: str, description: str, *, required: bool = True, identifies: str | None = None, free_text: bool = False
) -> SourceColumn:
    return SourceColumn(name, pl.String(), description, required, identifies, free_text)


def _time(name: str, description: str, *, required: bool = True) -> SourceColumn:
    return SourceColumn(name, UTC, description, required)


def _number(name: str, description: str, *, required: bool = True) -> SourceColumn:
    return SourceColumn(name, pl.Float64(), description, required)


def _flag(name: str, description: str, *, required: bool = True) -> SourceColumn:
    return SourceColumn(name, pl.Boolean(), description, required)


#: How result_id and result_value of the row begin that stands for a message or line which could not be read.
REFUSED_ID, REFUSED_VALUE = "refused ", "[refused: "

LAB_RESULTS = SourceTable(
    name="lab_results",
    key=("result_id",),
    event_time="resulted_timestamp",
    fallback_times=("verified_timestamp", "received_timestamp", "collected_timestamp"),
    version_time="updated_at",
    columns=(
        _text("result_id", "The LIMS's own number of the result"),
        _text("patient_id", "The patient; pseudonymised at the door", identifies="patient"),
        _text("test_code", "The laboratory's local test code"),
        _text("result_value", "The result as written, always text", free_text=True),
        _text("result_unit", "The unit as written"),
        _text("device_id", "The analyser that measured it"),
        _time("collected_timestamp", "When the specimen was taken"),
        _time("resulted_timestamp", "When the result was released"),
        _text("technician_id", "Who ran it; pseudonymised at the door", identifies="technician"),
        _text("specimen_id", "The specimen's number", required=False),
        _text("specimen_type", "Serum, plasma, urine, …", required=False),
        _time("received_timestamp", "When the specimen reached the laboratory", required=False),
        _time("verified_timestamp", "When a person verified the result", required=False),
        _text("result_status", "P preliminary, F final, C corrected, X cancelled", required=False),
        _text("priority", "ROUTINE, STAT, …", required=False),
        _text("facility_id", "The site the order came from", required=False),
        _text("location_class", "inpatient, outpatient, emergency, intensive care, …", required=False),
        _text("age_band", "The patient's age band, e.g. 18-64", required=False),
        _text("sex", "F, M or other, as recorded", required=False),
        _text("loinc_code", "The source's own LOINC code, where it keeps one", required=False),
        _text("test_name", "The source's own name of the test", required=False),
        _time("updated_at", "When the source last changed the row", required=False),
    ),
)

DEVICE_LOGS = SourceTable(
    name="device_logs",
    key=("device_id", "log_timestamp", "event_type", "severity", "message"),
    event_time="log_timestamp",
    columns=(
        _text("device_id", "The analyser"),
        _time("log_timestamp", "When it was logged"),
        _text("event_type", "ERROR, WARNING, INFO, FAILURE, CALIBRATION, MAINTENANCE"),
        _text("severity", "As the analyser wrote it"),
        _text("message", "Free text", free_text=True),
        _time("calibration_date", "Last calibration known to the analyser", required=False),
        _time("maintenance_date", "Last maintenance known to the analyser", required=False),
    ),
)

QUALITY_CONTROL = SourceTable(
    name="quality_control",
    key=("qc_id",),
    event_time="timestamp",
    version_time="updated_at",
    columns=(
        _text("qc_id", "The control measurement's number"),
        _text("device_id", "The analyser"),
        _text("test_code", "The laboratory's local test code"),
        _text("qc_level", "Control level, e.g. L1, L2, L3"),
        _number("expected_value", "Assigned target, in the test's unit"),
        _number("measured_value", "What was measured, in the test's unit"),
        _flag("passed", "The LIMS's own verdict"),
        _time("timestamp", "When the control ran"),
        _text("run_id", "The analytical run", required=False),
        _number("expected_sd", "Assigned SD, in the test's unit", required=False),
        _text("control_lot", "Control material lot", required=False),
        _text("reagent_lot", "Reagent lot", required=False),
        _text("calibrator_lot", "Calibrator lot", required=False),
        _flag("is_repeat", "A repeat after a rejection", required=False),
        _time("updated_at", "When the source last changed the row", required=False),
    ),
)

BATCH_RESULTS = SourceTable(
    name="batch_results",
    key=("sample_id",),
    event_time="timestamp",
    version_time="updated_at",
    columns=(
        _text("sample_id", "The sample"),
        _text("facility_id", "The site"),
        _text("batch_id", "The batch"),
        _time("timestamp", "When it was measured"),
        _number("ph_level", "pH"),
        _number("storage_temp_c", "Storage temperature, °C"),
        _number("dissolved_oxygen_ppm", "Dissolved oxygen, ppm"),
        _number("turbidity_ntu", "Turbidity, NTU"),
        _number("processing_time_hours", "Hours from taking to measuring", required=False),
        _flag("is_contaminated", "Confirmed contamination, where it is known", required=False),
        _time("updated_at", "When the source last changed the row", required=False),
    ),
)

DEVICES = SourceTable(
    name="devices",
    key=("device_id",),
    event_time=None,
    version_time="updated_at",
    columns=(
        _text("device_id", "The analyser"),
        _text("device_type", "Chemistry, haematology, …"),
        _text("model", "Make and model"),
        _text("facility_id", "Where it stands"),
        _time("installed_date", "When it went into service"),
        _time("updated_at", "When the source last changed the row", required=False),
    ),
)

PREDICTION_LOG = SourceTable(
    name="prediction_log",
    key=("prediction_id",),
    event_time="prediction_timestamp",
    columns=(
        _text("prediction_id", "Number of the answer the API gave"),
        _text("device_id", "The analyser scored"),
        _time("prediction_timestamp", "When it was answered"),
        _number("failure_probability", "P(failure within 7 days)"),
        _text("model_version", "Registry version that answered"),
        _text("variant", "champion, challenger, …", required=False),
        _text("features", "The request's features, JSON", required=False),
    ),
)

SOURCE_TABLES: dict[str, SourceTable] = {
    t.name: t for t in (LAB_RESULTS, DEVICE_LOGS, QUALITY_CONTROL, BATCH_RESULTS, DEVICES, PREDICTION_LOG)
}
