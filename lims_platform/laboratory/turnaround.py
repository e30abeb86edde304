"""Turnaround: how long results take, by site and priority.

Here: the daily figures of the current truth. Not here: the phases' own definition (silver) and targets (alert rules).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame

ALL_SITES = "ALL"
UNKNOWN = "UNKNOWN"

_PHASES = {
    "total": "turnaround_time_hours",
    "pre_analytical": "pre_analytical_hours",
    "in_lab": "in_lab_hours",
}


def turnaround_kpis(current: Frame) -> pl.DataFrame:
    """Median and 90th percentile of each phase per facility, priority and day of result; contract TurnaroundKpis.

    ``current``: silver lab_results_standardized (event_date, facility_id, priority, the three ``*_hours``). Negative
    and absent times are left out of the figures; a row whose total is one counts as flagged. Facility ALL is every
    row. Percentiles interpolate linearly.
    """
    rows = (
        current.lazy()
        .select(
            pl.col("event_date").alias("as_of_date"),
            pl.col("facility_id").fill_null(UNKNOWN),
            pl.col("priority").fill_null(UNKNOWN),
            *[pl.when(pl.col(c).is_finite() & (pl.col(c) >= 0)).then(pl.col(c)).alias(n) for n, c in _PHASES.items()],
        )
        .collect()
    )
    both = pl.concat([rows, rows.with_columns(facility_id=pl.lit(ALL_SITES))])
    out = both.group_by("as_of_date", "facility_id", "priority").agg(
        pl.col("total").count().alias("results"),
        pl.col("total").null_count().alias("flagged"),
        *[pl.col(name).median().alias(f"{name}_median_hours") for name in _PHASES],
        *[pl.col(name).quantile(0.9, "linear").alias(f"{name}_p90_hours") for name in _PHASES],
    )
    return out.select([pl.col(name).cast(dtype) for name, dtype in TABLES["turnaround_kpis"].dtypes.items()]).sort(
        "as_of_date", "facility_id", "priority"
    )
