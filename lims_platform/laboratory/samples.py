"""Batch samples: sensor faults told from measurements, and what lies outside its expected range.

Here: one bronze row becomes one silver row. Not here: the limits (``sample_limits``) and what is more than chance
(``sample_watch``): a value just outside its range is shown, not alarmed.
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.device_logs import lineage_reason
from lims_platform.laboratory.sample_limits import limits_digest, names_where, read_limits


def sample_measurements(rows: Frame, sample_limits: pl.DataFrame) -> pl.LazyFrame:
    """Bronze batch_results rows in the columns of SampleMeasurements, one row for one row.

    A fault code, a value that is not finite or one beyond its physical limits becomes null and its column is named in
    ``sensor_faults``; it is never imputed and never counts as out of range. A value that was null stays null, without
    a fault. ``reason`` is the first that holds of conflicting_duplicate, missing_sample, no_usable_time,
    outside_partitions. ``sample_limits``: the table of that name.
    """
    limits = read_limits(sample_limits)
    faults = {name: limit.fault(pl.col(name)) for name, limit in limits.items()}
    outside = {name: limit.outside(pl.col(name)) & ~faults[name] for name, limit in limits.items() if limit.watched}
    out = rows.lazy().with_columns(
        pl.coalesce(
            lineage_reason("sample_id"), pl.when(pl.col("timestamp").is_null()).then(pl.lit("no_usable_time"))
        ).alias("reason"),
        names_where(faults).alias("sensor_faults"),
        names_where(outside).alias("out_of_range"),
        *[pl.when(~fault.fill_null(False)).then(pl.col(name)).alias(name) for name, fault in faults.items()],
        pl.col("timestamp").alias("measured_at"),
        pl.lit(limits_digest(limits)).alias("reference_digest"),
    )
    return out.select(*[pl.col(name).cast(dtype) for name, dtype in TABLES["sample_measurements"].dtypes.items()])
