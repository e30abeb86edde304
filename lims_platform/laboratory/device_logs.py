"""Analyser log events in one vocabulary, and failures as episodes.

Here: spellings of event types and severities, what makes a log row unusable, FAILUREs within 24 h as one episode.
Not here: features made of the events (``device_health``).
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame

#: FAILUREs of a device closer together than this are one episode.
EPISODE_GAP = timedelta(hours=24)

#: Event type → spellings, compared in capitals without anything but letters.
EVENT_TYPES: dict[str, tuple[str, ...]] = {
    "ERROR": ("ERROR", "ERRORS", "ERR", "FEHLER"),
    "WARNING": ("WARNING", "WARNINGS", "WARN", "WRN", "WARNUNG"),
    "INFO": ("INFO", "INFORMATION", "INFORMATIONAL", "INF", "NOTICE"),
    "FAILURE": ("FAILURE", "FAILURES", "FAIL", "FAILED", "FAULT", "BREAKDOWN", "DEVICEFAILURE", "AUSFALL"),
    "CALIBRATION": ("CALIBRATION", "CALIBRATIONS", "CALIBRATED", "CALIB", "CAL", "RECALIBRATION", "KALIBRIERUNG"),
    "MAINTENANCE": ("MAINTENANCE", "MAINT", "SERVICE", "SERVICED", "PREVENTIVEMAINTENANCE", "PM", "WARTUNG"),
}

#: Severity → spellings, compared like the event types. Numbers are vendor-specific and stay unknown.
SEVERITIES: dict[str, tuple[str, ...]] = {
    "LOW": ("LOW", "MINOR", "INFO", "INFORMATIONAL", "NIEDRIG"),
    "MEDIUM": ("MEDIUM", "MED", "MODERATE", "WARNING", "WARN", "MITTEL"),
    "HIGH": ("HIGH", "MAJOR", "SEVERE", "ERROR", "HOCH"),
    "CRITICAL": ("CRITICAL", "CRIT", "FATAL", "EMERGENCY", "KRITISCH"),
}

#: Columns of history that ``history=True`` keeps beside the contract's.
HISTORY_COLUMNS = ("change", "known_to", "is_current", "is_conflict")


def vocabulary_digest() -> str:
    """SHA-256 of the spellings in force; stands in every row as reference_digest."""
    return hashlib.sha256(json.dumps([EVENT_TYPES, SEVERITIES], sort_keys=True).encode()).hexdigest()


def _normal(column: str, vocabulary: dict[str, tuple[str, ...]]) -> pl.Expr:
    spelling = {text: name for name, texts in vocabulary.items() for text in texts}
    letters = pl.col(column).str.to_uppercase().str.replace_all(r"\P{L}", "")
    return letters.replace_strict(spelling, default=None, return_dtype=pl.String)


def lineage_reason(key: str) -> pl.Expr:
    """What makes any dated silver row unusable: a losing duplicate, no ``key`` column, no usable time, a day outside."""
    return (
        pl.when(pl.col("is_conflict"))
        .then(pl.lit("conflicting_duplicate"))
        .when(pl.col(key).is_null() | (pl.col(key).str.strip_chars() == ""))
        .then(pl.lit(f"missing_{key.removesuffix('_id')}"))
        .when(pl.col("date_source") == "no_time")
        .then(pl.lit("no_usable_time"))
        .when(pl.col("date_source") == "outside")
        .then(pl.lit("outside_partitions"))
    )


def normalise_device_logs(rows: Frame, history: bool = False) -> pl.LazyFrame:
    """Bronze device_logs rows in the columns of DeviceMetricsNormalized, one row for one row.

    ``reason`` is the first that holds of conflicting_duplicate, missing_device, no_usable_time, outside_partitions,
    unknown_event_type; null where the row is usable. With ``history`` the columns change, known_to, is_current and
    is_conflict (see ``asof.validity``) follow the contract's: the input of the feature functions.
    """
    event_type = _normal("event_type", EVENT_TYPES)
    out = rows.lazy().with_columns(
        pl.coalesce(
            lineage_reason("device_id"),
            pl.when(pl.col("log_timestamp").is_null()).then(pl.lit("no_usable_time")),
            pl.when(event_type.is_null()).then(pl.lit("unknown_event_type")),
        ).alias("reason"),
        event_type.alias("event_type"),
        _normal("severity", SEVERITIES).alias("severity"),
        pl.col("device_id").str.strip_chars(),
        pl.col("log_timestamp").alias("logged_at"),
        pl.lit(vocabulary_digest()).alias("reference_digest"),
    )
    dtypes = TABLES["device_metrics_normalized"].dtypes
    return out.select(*[pl.col(name).cast(dtype) for name, dtype in dtypes.items()], *(HISTORY_COLUMNS if history else ()))


def failure_episodes(logs: Frame) -> pl.DataFrame:
    """FAILURE episodes: a FAILURE within 24 h of the one before it on the same device belongs to the same episode.

    ``logs`` are normalised rows (device_id, logged_at, event_type, event_date, reason). Returns device_id,
    started_at, last_at, event_date (of the first FAILURE), failures, sorted by device and time.
    """
    failures = (
        logs.lazy()
        .filter(pl.col("event_type") == "FAILURE", pl.col("reason").is_null())
        .sort("device_id", "logged_at")
        .with_columns(
            (pl.col("logged_at") - pl.col("logged_at").shift(1).over("device_id") > EPISODE_GAP)
            .fill_null(True)
            .cum_sum()
            .over("device_id")
            .alias("_episode")
        )
    )
    return (
        failures.group_by("device_id", "_episode")
        .agg(
            pl.col("logged_at").min().alias("started_at"),
            pl.col("logged_at").max().alias("last_at"),
            pl.col("event_date").min(),
            pl.len().cast(pl.Int64).alias("failures"),
        )
        .drop("_episode")
        .sort("device_id", "started_at")
        .collect()
    )
