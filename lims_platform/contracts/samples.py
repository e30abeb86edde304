"""Batch samples under watch: the verdict on every sample, and the day's figures for BI tools.

Here: one Pandera model per table. Not here: how a verdict is reached (``laboratory.sample_watch``).
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from lims_platform.contracts.base import Table, UtcTime, column, table

QA_ALERTS = ["OK", "WARNING", "CRITICAL_FAILURE"]


class SampleAlerts(pa.DataFrameModel):
    """One row per batch sample of silver: its verdict against the batch of its day, with the reasons in words."""

    as_of_date: pl.Date = column("The day the sample belongs to; partition column")
    row_key: str = column("Identity in bronze")
    sample_id: str = column("The sample", nullable=True)
    facility_id: str = column("The site", nullable=True)
    batch_id: str = column("The batch", nullable=True)
    measured_at: UtcTime = column("When it was measured", nullable=True)
    ph_level: float = column("pH; null where the sensor failed", nullable=True)
    storage_temp_c: float = column("Storage temperature", unit="°C", nullable=True)
    dissolved_oxygen_ppm: float = column("Dissolved oxygen", unit="ppm", nullable=True)
    turbidity_ntu: float = column("Turbidity", unit="NTU", nullable=True)
    qa_alert: str = column("OK, WARNING or CRITICAL_FAILURE", isin=QA_ALERTS)
    reasons: str = column("Why, in words, joined by '; '; null where OK", nullable=True)
    sensor_faults: str = column("Sensors that failed, joined by ';'", nullable=True)
    out_of_range: str = column("Measurements outside their expected range, joined by ';'; no alarm by itself", nullable=True)
    z_ph_level: float = column("SDs from the batch's centre", nullable=True)
    z_storage_temp_c: float = column("SDs from the batch's centre", nullable=True)
    z_dissolved_oxygen_ppm: float = column("SDs from the batch's centre", nullable=True)
    z_turbidity_ntu: float = column("SDs from the batch's centre, of the cube root", nullable=True)
    mahalanobis_distance: float = column("Distance of the combination from the batch's centre", nullable=True, ge=0)
    outcome: str = column("'evaluated', or what could not be tested and why")

    class Config:
        name = "sample_alerts"
        strict = True


class LimsDailyMonitoring(pa.DataFrameModel):
    """One row per facility and day, and one for all facilities: samples by verdict, faults, and how they measured."""

    as_of_date: pl.Date = column("The day; partition column")
    facility_id: str = column("The site; ALL: the whole laboratory; (none): samples without a site")
    samples: pl.Int64 = column("Samples", ge=1)
    ok: pl.Int64 = column("Samples in order", ge=0)
    warnings: pl.Int64 = column("Samples with a warning", ge=0)
    critical_failures: pl.Int64 = column("Samples with a critical failure", ge=0)
    sensor_faults: pl.Int64 = column("Samples with at least one failed sensor", ge=0)
    out_of_range: pl.Int64 = column("Samples with a measurement outside its expected range", ge=0)
    data_quality_score: float = column("Usable measurements of those due, percent", unit="%", ge=0, le=100)
    mean_ph_level: float = column("Mean pH", nullable=True)
    mean_storage_temp_c: float = column("Mean storage temperature", unit="°C", nullable=True)
    mean_dissolved_oxygen_ppm: float = column("Mean dissolved oxygen", unit="ppm", nullable=True)
    mean_turbidity_ntu: float = column("Mean turbidity", unit="NTU", nullable=True)
    not_evaluable: pl.Int64 = column("Samples some test could not be made for", ge=0)

    class Config:
        name = "lims_daily_monitoring"
        strict = True


_DAY = "as_of_date"
SAMPLE_TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        table("gold", ("row_key", _DAY), _DAY, SampleAlerts),
        table("gold", ("facility_id", _DAY), _DAY, LimsDailyMonitoring),
    )
}
