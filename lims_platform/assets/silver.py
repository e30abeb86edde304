"""Silver assets: bronze versions standardised, the live ones chosen, what cannot be used kept with its reason.

Here: which bronze table feeds which function. Not here: values, units, codes (``laboratory``).
"""

import dagster as dg
import polars as pl

from lims_platform.assets.common import reads, table_asset
from lims_platform.assets.door import Door
from lims_platform.contracts.reference import Reference
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import validity
from lims_platform.laboratory.device_logs import normalise_device_logs
from lims_platform.laboratory.samples import sample_measurements as measured_samples
from lims_platform.laboratory.standardise import standardise_lab_results
from lims_platform.laboratory.standardise_qc import standardise_qc
from lims_platform.laboratory.unit_evidence import unit_evidence
from lims_platform.lakehouse.versions import live_rows


def current(history: pl.LazyFrame) -> pl.LazyFrame:
    """The history's rows that are true now."""
    return history.filter(pl.col("is_current") & (pl.col("change") != "delete"))


def columns_of(name: str) -> list[str]:
    """A table's columns in its contract's order."""
    return list(TABLES[name].dtypes)


def controls(bronze: pl.LazyFrame, reference: Reference) -> pl.LazyFrame:
    """Rows of quality_control_standardized."""
    made = standardise_qc(live_rows(bronze), reference).rename({"timestamp": "run_at"})
    return made.select(columns_of("quality_control_standardized"))


def samples(bronze: pl.LazyFrame, reference: Reference) -> pl.LazyFrame:
    """Rows of sample_measurements."""
    return measured_samples(live_rows(bronze), reference.sample_limits).select(columns_of("sample_measurements"))


@dg.asset(**table_asset("lab_results_history", kinds={"polars", "deltalake"}, ins={"rows": reads("lab_results_raw")}))
def lab_results_history(
    rows: pl.LazyFrame, door: dg.ResourceParam[Door], reference: dg.ResourceParam[Reference]
) -> pl.LazyFrame:
    evidence = unit_evidence(rows, reference)
    standardised = standardise_lab_results(validity(rows), reference, door.locales(LAB_RESULTS), evidence)
    return standardised.select(columns_of("lab_results_history"))


@dg.asset(
    **table_asset("lab_results_standardized", kinds={"polars", "deltalake"}, ins={"history": reads("lab_results_history")})
)
def lab_results_standardized(history: pl.LazyFrame) -> pl.LazyFrame:
    return current(history).filter(pl.col("reason").is_null()).select(columns_of("lab_results_standardized"))


@dg.asset(
    **table_asset("lab_results_quarantine", kinds={"polars", "deltalake"}, ins={"history": reads("lab_results_history")})
)
def lab_results_quarantine(history: pl.LazyFrame) -> pl.LazyFrame:
    return current(history).filter(pl.col("reason").is_not_null()).select(columns_of("lab_results_quarantine"))


@dg.asset(**table_asset("device_metrics_normalized", kinds={"polars", "deltalake"}, ins={"rows": reads("device_logs_raw")}))
def device_metrics_normalized(rows: pl.LazyFrame) -> pl.LazyFrame:
    return normalise_device_logs(live_rows(rows)).select(columns_of("device_metrics_normalized"))


@dg.asset(
    **table_asset("quality_control_standardized", kinds={"polars", "deltalake"}, ins={"rows": reads("quality_control_raw")})
)
def quality_control_standardized(rows: pl.LazyFrame, reference: dg.ResourceParam[Reference]) -> pl.LazyFrame:
    return controls(rows, reference)


@dg.asset(**table_asset("sample_measurements", kinds={"polars", "deltalake"}, ins={"rows": reads("batch_results_raw")}))
def sample_measurements(rows: pl.LazyFrame, reference: dg.ResourceParam[Reference]) -> pl.LazyFrame:
    return samples(rows, reference)


SILVER_ASSETS = [
    lab_results_history,
    lab_results_standardized,
    lab_results_quarantine,
    device_metrics_normalized,
    quality_control_standardized,
    sample_measurements,
]
