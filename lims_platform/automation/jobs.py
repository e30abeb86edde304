"""Jobs by their names: which assets run together. Not here: when they run (``schedules``, ``plan``)."""

from __future__ import annotations

import dagster as dg

from lims_platform.partitions import DAILY

_REPORTS = dg.AssetSelection.groups("reports")
_INGEST = dg.AssetSelection.groups("bronze", "silver")
_CATALOG = dg.AssetSelection.keys(["reports", "duckdb_catalog"])

everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all() - dg.AssetSelection.keys(["gold", "reconciliation_report"]),
    partitions_def=DAILY,
    description="The whole graph over a range of days: bronze to reports.",
)
ingest_hourly = dg.define_asset_job(
    "ingest_hourly",
    selection=_INGEST | _CATALOG,
    partitions_def=DAILY,
    description="Today's rows from every source into bronze and silver.",
)
features_daily = dg.define_asset_job(
    "features_daily",
    selection=dg.AssetSelection.groups("features", "operations")
    | dg.AssetSelection.keys(["reports", "sample_monitoring"])
    | _CATALOG,
    partitions_def=DAILY,
    description="Yesterday's features and operational marts.",
)
scoring_daily = dg.define_asset_job(
    "scoring_daily",
    selection=dg.AssetSelection.keys(["gold", "device_risk_scores"], ["reports", "device_risk_workbook"]) | _CATALOG,
    partitions_def=DAILY,
    description="Yesterday's device risk scores and the workbook.",
)
drift_daily = dg.define_asset_job(
    "drift_daily",
    selection=dg.AssetSelection.keys(["gold", "drift_report"], ["gold", "drift_lookback"], ["reports", "drift_report_page"])
    | _CATALOG,
    partitions_def=DAILY,
    description="Yesterday's drift report.",
)
tuning_monthly = dg.define_asset_job(
    "tuning_monthly",
    selection=dg.AssetSelection.keys(["gold", "patient_qc_settings"], ["gold", "patient_qc_verification"]) | _CATALOG,
    description="Patient-based QC tuned anew on the days so far, and verified.",
)
training_weekly = dg.define_asset_job(
    "training_weekly",
    selection=dg.AssetSelection.groups("models"),
    description="A new challenger; champion if it passes its gates.",
)

JOBS = [everything, ingest_hourly, features_daily, scoring_daily, drift_daily, training_weekly, tuning_monthly]
