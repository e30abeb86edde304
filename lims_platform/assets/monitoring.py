"""Monitoring assets: the drift report. Here: which tables feed it. Not here: statistics (``laboratory``)."""

import dagster as dg
import polars as pl

from lims_platform.assets.common import reads, run_range, table_asset
from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.drift import drift_report as report_of_day
from lims_platform.partitions import BASELINE_DAYS, trailing


@dg.asset(
    **table_asset(
        "drift_report",
        kinds={"polars", "deltalake"},
        group="monitoring",
        ins={
            "results": reads("lab_results_standardized", trailing(BASELINE_DAYS)),
            "features": reads("device_failure_features", trailing(BASELINE_DAYS)),
        },
    )
)
def drift_report(
    context: dg.AssetExecutionContext,
    results: pl.LazyFrame,
    features: pl.LazyFrame,
    reference: dg.ResourceParam[Reference],
) -> pl.DataFrame:
    first, last = run_range(context)
    recent, known = results.collect(), features.collect()
    days = pl.date_range(first, last, "1d", eager=True)
    return pl.concat([report_of_day(recent, known, reference.analytes, day) for day in days])


MONITORING_ASSETS = [drift_report]
