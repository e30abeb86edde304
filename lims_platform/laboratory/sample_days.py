"""Days of batch samples: each day watched as one batch, and its figures per facility.

Here: silver rows to the tables sample_alerts and lims_daily_monitoring, and the figures of the monitoring report. Not
here: the verdict on a sample (``sample_watch``), files (``reporting.sample_files``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl

from lims_platform.contracts.samples import QA_ALERTS, SAMPLE_TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.sample_watch import watch

ALL_FACILITIES, NO_FACILITY = "ALL", "(none)"
WATCHED = ("ph_level", "storage_temp_c", "dissolved_oxygen_ppm", "turbidity_ntu")


def sample_alerts(measurements: Frame, sample_limits: pl.DataFrame, false_alarms: float) -> pl.DataFrame:
    """The table sample_alerts of silver's sample_measurements; a row's verdict depends on the rows of its day only."""
    table = SAMPLE_TABLES["sample_alerts"]
    # one order, whatever files the rows came from: a rebuilt day is the identical day
    rows = measurements.lazy().sort("event_date", "measured_at", "row_key").collect()
    days = [
        watch(day, sample_limits, false_alarms).with_columns(as_of_date=day["event_date"], row_key=day["row_key"])
        for day in rows.partition_by("event_date", maintain_order=True)
    ]
    if not days:
        return table.empty()
    return pl.concat(days).select(pl.col(name).cast(dtype) for name, dtype in table.dtypes.items())


def _quality() -> pl.Expr:
    """Usable measurements of those due, percent."""
    usable = pl.sum_horizontal(pl.col(name).is_not_null().mean() for name in WATCHED)
    return (100.0 * usable / len(WATCHED)).alias("data_quality_score")


def daily_monitoring(alerts: Frame) -> pl.DataFrame:
    """The table lims_daily_monitoring of sample_alerts: one row per facility and day, and ALL."""
    table = SAMPLE_TABLES["lims_daily_monitoring"]
    rows = alerts.lazy().with_columns(pl.col("facility_id").fill_null(NO_FACILITY))
    both = pl.concat([rows, rows.with_columns(pl.lit(ALL_FACILITIES).alias("facility_id"))])
    counted = both.group_by("as_of_date", "facility_id").agg(
        pl.len().alias("samples"),
        *[
            (pl.col("qa_alert") == alert).sum().alias(name)
            for alert, name in zip(QA_ALERTS, ("ok", "warnings", "critical_failures"), strict=True)
        ],
        pl.col("sensor_faults", "out_of_range").count(),
        _quality(),
        # of a list: in an aggregation the optimiser drops a sort before a mean, and its last bit would follow the rows
        *[pl.col(name).sort().implode().list.mean().alias(f"mean_{name}") for name in WATCHED],
        (pl.col("outcome") != "evaluated").sum().alias("not_evaluable"),
    )
    typed = counted.select(pl.col(name).cast(dtype) for name, dtype in table.dtypes.items())
    return typed.sort("as_of_date", "facility_id").collect()


def monitoring_report(alerts: pl.DataFrame, at: datetime) -> dict[str, Any]:
    """What monitoring_report.json says of one batch's verdicts (rows of ``watch``).

    ``data_quality_score``: usable measurements of those due, percent; None without samples. ``at`` has a time zone.
    """
    counts = dict(alerts["qa_alert"].value_counts().iter_rows())
    critical = alerts.filter(pl.col("qa_alert") == "CRITICAL_FAILURE")
    alarmed = alerts.filter(pl.col("qa_alert") != "OK")
    score = alerts.select(_quality()).item() if alerts.height else None
    return {
        "run_timestamp": at.astimezone(UTC).isoformat(),
        "total_samples": alerts.height,
        "alert_summary": {alert: counts.get(alert, 0) for alert in QA_ALERTS},
        "critical_samples": critical["sample_id"].to_list(),
        "facilities_affected": sorted(alarmed["facility_id"].drop_nulls().unique().to_list()),
        "data_quality_score": None if score is None else round(score, 2),
    }
