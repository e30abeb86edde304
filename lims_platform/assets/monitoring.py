"""Monitoring assets: the drift report and its look-back. Here: which tables feed them. Not here: statistics."""

import dagster as dg
import polars as pl

from lims_platform.assets.common import reads, run_range, table_asset
from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.drift import HISTORY_DAYS
from lims_platform.laboratory.drift import drift_report as report_of_days
from lims_platform.laboratory.drift_limits import DriftLimits
from lims_platform.laboratory.lookback import drift_lookback as lookback
from lims_platform.partitions import trailing


@dg.asset(
    **table_asset(
        "drift_report",
        kinds={"polars", "deltalake"},
        group="monitoring",
        ins={
            "results": reads("lab_results_standardized", trailing(HISTORY_DAYS)),
            "features": reads("device_failure_features", trailing(HISTORY_DAYS)),
            "controls": reads("quality_control_standardized", trailing(HISTORY_DAYS)),
            "scores": reads("device_risk_scores", trailing(HISTORY_DAYS)),
        },
    )
)
def drift_report(
    context: dg.AssetExecutionContext,
    results: pl.LazyFrame,
    features: pl.LazyFrame,
    controls: pl.LazyFrame,
    scores: pl.LazyFrame,
    reference: dg.ResourceParam[Reference],
) -> pl.DataFrame:
    days = pl.date_range(*run_range(context), "1d", eager=True).to_list()
    limits = DriftLimits.from_rows(reference.drift_limits)
    return report_of_days(results, features, reference.analytes, days, limits, controls, scores)


@dg.asset(
    **table_asset(
        "drift_lookback",
        kinds={"polars", "deltalake"},
        group="monitoring",
        ins={
            "report": reads("drift_report"),
            "results": reads("lab_results_standardized", trailing(HISTORY_DAYS)),
        },
    )
)
def drift_lookback(report: pl.LazyFrame, results: pl.LazyFrame, reference: dg.ResourceParam[Reference]) -> pl.DataFrame:
    return lookback(report.collect(), results, reference.analytes)


MONITORING_ASSETS = [drift_report, drift_lookback]
