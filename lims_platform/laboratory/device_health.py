"""Device failure features: what an analyser's signals said at the end of each day.

Here: the feature row of the contract DeviceFailureFeatures and its formulas. Not here: the signals' own windows
(``device_inputs``), labels and models (``learning``).

Every window is a window of calendar days ending on D, and the calendar is complete: a day without a log or a result
is a zero, before the first data too. The platform's first days therefore see part of a window as zeros; keep them out
of training for 30 days. A row depends on the HISTORY_DAYS up to its own and on nothing older: give them, and a day
is the same whether built alone or within a range.
"""

from __future__ import annotations

from datetime import date
from functools import reduce

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory import device_inputs as inputs
from lims_platform.laboratory.asof import Frame, days_between, local_date
from lims_platform.laboratory.device_inputs import DAY

CALIBRATION_DUE_DAYS = 30
MAINTENANCE_DUE_DAYS = 90
DAYS_PER_MONTH = 30.4375
OUTAGE_HOURS = 24
#: Days of logs, results and controls a row depends on, its own included.
HISTORY_DAYS = inputs.LOOKBACK_DAYS
#: Weekday numbers (Monday is 1) on which a device without a result is down even if the whole laboratory is silent.
WORKING_DAYS = (1, 2, 3, 4, 5)


def device_failure_features(
    devices: Frame, results: Frame, logs: Frame, controls: Frame, first: date, last: date, calendar: str
) -> pl.DataFrame:
    """One row per device and day of [first, last], columns and order of the contract DeviceFailureFeatures.

    devices: the register's live rows (device_id, device_type, facility_id, installed_date UTC). results:
    lab_results_history, quarantined results included: a result is work whether or not it could be standardised
    (device_id, resulted_at, turnaround_time_hours). logs: ``normalise_device_logs(…, history=True)``. controls:
    standardised control history (device_id, loinc_code, qc_level, z, passed). The last three with event_date,
    known_from, known_to, change, is_conflict.

    A device has rows from its installation on (without a known date: on every day). A device that logs or measures
    but is not in the register has rows while it was heard of in the last HISTORY_DAYS, with unknown type. The losers
    of conflicting duplicates in the register are left out; ValueError if a device is still there twice. ``calendar``
    is an IANA zone.
    """
    work = inputs.known_results(results, calendar)
    events = inputs.known_logs(logs, calendar)
    last_known = inputs.last_events(events, work, first, last, calendar)
    frames = [
        *inputs.log_counts(events, first, last),
        inputs.worst_day(events, first, last),
        *inputs.result_sums(work, first, last),
        *last_known,
        inputs.failure_counts(events, first, last),
        inputs.usage_since_maintenance(work, last_known[1], first, last),
        inputs.control_statistics(controls, first, last, calendar),
    ]
    calendar_rows = _device_days(devices.lazy().collect(), work, events, first, last, calendar)
    joined = reduce(lambda left, right: left.join(right, on=DAY, how="left"), frames, calendar_rows)
    return _features(joined, calendar)


def _device_days(
    devices: pl.DataFrame, work: pl.DataFrame, events: pl.DataFrame, first: date, last: date, calendar: str
) -> pl.DataFrame:
    """The complete calendar: device_id, as_of_date, device_type, facility_id, installed (day)."""
    devices = devices.filter(pl.col("device_id").is_not_null())
    if "is_conflict" in devices.columns:
        devices = devices.filter(~pl.col("is_conflict"))
    twice = devices.filter(pl.col("device_id").is_duplicated())
    if not twice.is_empty():
        raise ValueError(f"devices: device_id {twice['device_id'][0]!r} is in the register {twice.height} times")
    register = devices.select(
        "device_id",
        "device_type",
        "facility_id",
        local_date(pl.col("installed_date"), calendar).alias("installed"),
        pl.coalesce(local_date(pl.col("installed_date"), calendar), pl.lit(first)).alias("_from"),
    )
    days = days_between(first, last).to_frame()
    registered = register.join(days, how="cross").filter(pl.col("as_of_date") >= pl.col("_from")).drop("_from")
    strangers = inputs.heard_of(events, work, first, last).join(register, on="device_id", how="anti")
    return pl.concat([registered, strangers], how="diagonal")


def _days_since(column: str) -> pl.Expr:
    return (pl.col("as_of_date") - pl.col(column)).dt.total_days().cast(pl.Float64)


def _overdue(column: str, due: int) -> tuple[pl.Expr, pl.Expr]:
    """More than ``due`` days since, or never; the days beyond, null if never."""
    return (_days_since(column) > due).fill_null(True), (_days_since(column) - due).clip(lower_bound=0.0)


def _ratio(numerator: str, denominator: str) -> pl.Expr:
    return pl.when(pl.col(denominator) > 0).then(pl.col(numerator) / pl.col(denominator))


def _trend(short: str, short_days: int, long: str, long_days: int) -> pl.Expr:
    """(short per day − long per day) / (long per day + 1)."""
    # as one quotient of integers, which has the same bits whatever the frame's size
    return (pl.col(short) * long_days - pl.col(long) * short_days) / ((pl.col(long) + long_days) * short_days)


def _features(rows: pl.DataFrame, calendar: str) -> pl.DataFrame:
    dtypes = TABLES["device_failure_features"].dtypes
    counts = [c for c in rows.columns if c.startswith(("errors_", "warnings_", "results_", "failures_")) or "_ewma_" in c]
    rows = rows.with_columns(pl.col(counts).fill_null(0))
    calibration_overdue, calibration_days = _overdue("last_calibration", CALIBRATION_DUE_DAYS)
    maintenance_overdue, maintenance_days = _overdue("last_maintenance", MAINTENANCE_DUE_DAYS)
    rows = rows.with_columns(
        calibration_overdue=calibration_overdue,
        maintenance_overdue=maintenance_overdue,
        calibration_overdue_days=calibration_days,
        maintenance_overdue_days=maintenance_days,
        days_since_calibration=_days_since("last_calibration"),
        days_since_maintenance=_days_since("last_maintenance"),
        error_rate_7d=pl.col("errors_7d") / (pl.col("results_7d") + 1),
        warning_rate_7d=pl.col("warnings_7d") / (pl.col("results_7d") + 1),
        result_volume=pl.col("results_1d"),
        result_volume_trend=_trend("results_1d", 1, "results_30d", 30),
        avg_turnaround_time_7d=pl.col("turnaround_7d"),
        device_age_months=_days_since("installed") * (1 / DAYS_PER_MONTH),
        last_failure_days=(pl.col("as_of_date") - local_date(pl.col("last_failure_at"), calendar))
        .dt.total_days()
        .cast(pl.Float64),
        error_trend=_trend("errors_7d", 7, "errors_30d", 30),
        warning_trend=_trend("warnings_7d", 7, "warnings_30d", 30),
        error_burst_7d=pl.col("errors_worst_day") * 30 / (pl.col("errors_30d") + 30),
        turnaround_trend=_ratio("turnaround_7d", "turnaround_30d"),
        turnaround_ratio_3d=_ratio("turnaround_3d", "turnaround_30d"),
        qc_bias_trend=pl.col("qc_bias_3d") - pl.col("qc_bias_14d"),
        in_outage=_in_outage(calendar),
    )
    sisters = pl.col("error_rate_7d").median().over("device_type", "as_of_date")
    contrast = pl.when(pl.col("device_type").is_not_null()).then(pl.col("error_rate_7d") - sisters)
    rows = rows.with_columns(sister_error_contrast=contrast)
    return rows.select([pl.col(name).cast(dtype) for name, dtype in dtypes.items()]).sort("as_of_date", "device_id")


def _in_outage(calendar: str) -> pl.Expr:
    """A FAILURE in the last 24 h of the day, or a working day on which the device has had no result since its last
    FAILURE.

    A working day is Monday to Friday, or any day on which some other device has results.
    """
    day_end = (pl.col("as_of_date") + pl.duration(days=1)).cast(pl.Datetime("us")).dt.replace_time_zone(calendar)
    failed_at = pl.col("last_failure_at")
    just_failed = day_end - failed_at.dt.convert_time_zone(calendar) <= pl.duration(hours=OUTAGE_HOURS)
    silent = pl.col("last_result_at").is_null() | (pl.col("last_result_at") <= failed_at)
    working = pl.col("as_of_date").dt.weekday().is_in(WORKING_DAYS) | (pl.col("results_1d").sum().over("as_of_date") > 0)
    return (just_failed | (silent & working)).fill_null(False)
