"""Report assets: files and plots for people, once per run. Here: which table goes into which file. Not here: layout."""

from typing import Any

import dagster as dg
import polars as pl

from lims_platform.assets.common import CODE_VERSION, ONE_RUN, OWNERS, asset_key, reads
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.qc_targets import judged
from lims_platform.lakehouse.catalog import build_catalog
from lims_platform.lakehouse.lake import Lake
from lims_platform.reporting import charts
from lims_platform.reporting.figures import newest_days, quarantine_reasons, results_per_day
from lims_platform.reporting.pages import overall_level, write_drift
from lims_platform.reporting.qc_page import level_charts, red_levels, trends, write_qc
from lims_platform.reporting.qc_page import qc_page as page_of_day
from lims_platform.reporting.workbook import write_workbook
from lims_platform.settings import settings

#: Days a plot looks back over.
PLOT_DAYS = 90

#: Tables that other assets write besides their own result.
WRITTEN_BY = {"model_ledger": [dg.AssetKey(["models", f"{name}_model"]) for name in ("device_failure", "contamination")]}


def report_asset(name: str, description: str, kinds: set[str], **extra: Any) -> dict[str, Any]:
    """Keyword arguments of ``@dg.asset`` for an unpartitioned report."""
    return {
        "key": ["reports", name],
        "group_name": "reports",
        "description": description,
        "kinds": kinds,
        "owners": [OWNERS["reports"]],
        "tags": {"layer": "reports"},
        "code_version": CODE_VERSION,
        "backfill_policy": ONE_RUN,
        **extra,
    }


def plots(*shown: Any, scale: float = 1.5) -> dg.MarkdownMetadataValue:
    """Charts as one metadata value: the UI opens Markdown by a click, so one click shows them all."""
    return dg.MetadataValue.md(charts.markdown(*shown, scale=scale))


@dg.asset(
    **report_asset(
        "device_risk_workbook",
        "Excel workbook of the newest complete day's device risk: High Risk Devices, All Devices, Summary.",
        {"excel"},
        ins={"scores": reads("device_risk_scores")},
    )
)
def device_risk_workbook(scores: pl.LazyFrame) -> dg.MaterializeResult:
    recent = newest_days(scores, settings().today, PLOT_DAYS)
    newest = newest_days(recent.lazy(), settings().today)
    path = settings().report_dir / "device_risk.xlsx"
    write_workbook(newest, path)
    metadata: dict[str, Any] = {"path": dg.MetadataValue.path(path), "dagster/row_count": newest.height}
    if newest.is_empty():
        return dg.MaterializeResult(metadata=metadata | {"outcome": "not evaluable: no device has been scored yet"})
    return dg.MaterializeResult(
        metadata=metadata
        | {"day": str(newest["as_of_date"][0]), "plots": plots(charts.risk_bars(newest), charts.risk_history(recent))}
    )


@dg.asset(
    **report_asset(
        "drift_report_page",
        "The newest complete day's drift report as HTML page, JSON and PNG plots.",
        {"html", "altair"},
        ins={"report": reads("drift_report"), "lookback": reads("drift_lookback")},
    )
)
def drift_report_page(report: pl.LazyFrame, lookback: pl.LazyFrame) -> dg.MaterializeResult:
    newest = newest_days(report, settings().today)
    if newest.is_empty():
        return dg.MaterializeResult(metadata={"outcome": "not evaluable: no drift statistics yet", "dagster/row_count": 0})
    day = newest["as_of_date"][0]
    affected = lookback.filter(pl.col("as_of_date") == day).collect()
    files = write_drift(newest, affected, day, settings().report_dir)
    return dg.MaterializeResult(
        metadata={
            "day": str(day),
            "alert_level": overall_level(newest),
            "dagster/row_count": newest.height,
            "page": dg.MetadataValue.path(files[1]),
            "plots": plots(charts.drift_devices(newest), charts.drift_analytes(newest)),
        }
    )


@dg.asset(
    **report_asset(
        "qc_page",
        "The newest complete day's quality control: rejected levels with Levey-Jennings charts, trends, sigma.",
        {"html", "altair"},
        ins={
            "controls": reads("quality_control_standardized"),
            "found": reads("westgard_violations"),
            "performance": reads("qc_performance"),
        },
    )
)
def qc_page(controls: pl.LazyFrame, found: pl.LazyFrame, performance: pl.LazyFrame) -> dg.MaterializeResult:
    figures = newest_days(performance, settings().today)
    if figures.is_empty():
        return dg.MaterializeResult(metadata={"outcome": "not evaluable: no controls yet", "dagster/row_count": 0})
    day = figures["as_of_date"][0]
    violations = found.filter(pl.col("as_of_date") <= day).collect()
    pictures = level_charts(judged(controls), violations, day)
    trend = trends(violations, day)
    path = write_qc(page_of_day(pictures, trend, violations, figures, day), day, settings().report_dir)
    return dg.MaterializeResult(
        metadata={
            "day": str(day),
            "page": dg.MetadataValue.path(path),
            "dagster/row_count": red_levels(violations, day).height,
            "plots": plots(*pictures, *trend),
        }
    )


@dg.asset(
    **report_asset(
        "laboratory_overview",
        "Results a day, why results are in quarantine, and turnaround, as plots.",
        {"altair"},
        ins={
            "valid": reads("lab_results_standardized"),
            "quarantined": reads("lab_results_quarantine"),
            "kpis": reads("turnaround_kpis"),
        },
    )
)
def laboratory_overview(valid: pl.LazyFrame, quarantined: pl.LazyFrame, kpis: pl.LazyFrame) -> dg.MaterializeResult:
    days = results_per_day(valid, quarantined)
    pictures = plots(
        charts.rows_per_day(days),
        charts.reasons(quarantine_reasons(quarantined)),
        charts.turnaround(newest_days(kpis, settings().today, PLOT_DAYS)),
    )
    return dg.MaterializeResult(metadata={"dagster/row_count": int(days["rows"].sum()), "plots": pictures})


@dg.asset(
    **report_asset(
        "duckdb_catalog",
        "One DuckDB file of views over every lake table, swapped in atomically; open it read-only.",
        {"duckdb"},
        deps=[key for name in TABLES for key in WRITTEN_BY.get(name, [asset_key(name)])],
    )
)
def duckdb_catalog(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    views = build_catalog(lake, TABLES.values(), settings().catalog_path)
    return dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(settings().catalog_path), "views": views})


REPORT_ASSETS = [device_risk_workbook, drift_report_page, qc_page, laboratory_overview, duckdb_catalog]
