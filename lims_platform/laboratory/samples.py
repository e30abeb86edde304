"""Batch samples: sensor faults told from measurements, and what lies outside its expected range.

Here: fault codes, physical limits, expected ranges. Not here: alarms over several samples; a value just outside its
range is shown, not alarmed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.device_logs import lineage_reason

#: What sensors and loggers write instead of a measurement.
FAULT_CODES: tuple[float, ...] = (-999.0, -999.9, -999.99, -9999.0, -99.0, -99.9, -888.0, -777.0, 9999.0, 99999.0)

#: Beyond these no sample can be: the sensor failed.
PHYSICAL_LIMITS: dict[str, tuple[float, float]] = {
    "ph_level": (0.0, 14.0),
    "storage_temp_c": (-200.0, 200.0),
    "dissolved_oxygen_ppm": (0.0, 60.0),
    "turbidity_ntu": (0.0, 10_000.0),
    "processing_time_hours": (0.0, 10_000.0),
}

#: Expected in normal operation, ends included.
EXPECTED_RANGES: dict[str, tuple[float, float]] = {
    "ph_level": (7.0, 7.4),
    "storage_temp_c": (2.0, 8.0),
    "dissolved_oxygen_ppm": (7.0, 10.0),
    "turbidity_ntu": (0.0, 5.0),
}


def sample_measurements(
    rows: Frame,
    expected: Mapping[str, tuple[float, float]] = EXPECTED_RANGES,
    limits: Mapping[str, tuple[float, float]] = PHYSICAL_LIMITS,
    fault_codes: Sequence[float] = FAULT_CODES,
) -> pl.LazyFrame:
    """Bronze batch_results rows in the columns of SampleMeasurements, one row for one row.

    A fault code, a value that is not finite or one beyond its physical limits becomes null and its column is named in
    ``sensor_faults``; it is never imputed and never counts as out of range. A value that was null stays null, without
    a fault. ``reason`` is the first that holds of conflicting_duplicate, missing_sample, no_usable_time,
    outside_partitions.
    """
    digest = hashlib.sha256(
        json.dumps([dict(expected), dict(limits), list(fault_codes)], sort_keys=True).encode()
    ).hexdigest()
    faults = {
        name: (pl.col(name).is_in(list(fault_codes)) | ~pl.col(name).is_finite() | ~pl.col(name).is_between(low, high))
        for name, (low, high) in limits.items()
    }
    outside = {
        name: ~pl.col(name).is_between(low, high) & ~faults[name] if name in faults else ~pl.col(name).is_between(low, high)
        for name, (low, high) in expected.items()
    }
    out = rows.lazy().with_columns(
        pl.coalesce(
            lineage_reason("sample_id"), pl.when(pl.col("timestamp").is_null()).then(pl.lit("no_usable_time"))
        ).alias("reason"),
        _names(faults).alias("sensor_faults"),
        _names(outside).alias("out_of_range"),
        *[pl.when(~fault.fill_null(False)).then(pl.col(name)).alias(name) for name, fault in faults.items()],
        pl.col("timestamp").alias("measured_at"),
        pl.lit(digest).alias("reference_digest"),
    )
    return out.select(*[pl.col(name).cast(dtype) for name, dtype in TABLES["sample_measurements"].dtypes.items()])


def _names(conditions: Mapping[str, pl.Expr]) -> pl.Expr:
    """The columns whose condition holds, joined by ';'; null if none."""
    joined = pl.concat_str(
        [pl.when(condition).then(pl.lit(name)) for name, condition in conditions.items()], separator=";", ignore_nulls=True
    )
    return pl.when(joined != "").then(joined)
