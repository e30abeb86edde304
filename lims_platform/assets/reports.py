"""Report assets: files and plots for people, once per run. Here: which table goes into which file. Not here: layout."""

from typing import Any

import dagster as dg
import polars as pl

from lims_platform.assets.common import CODE_VERSION, ONE_RUN, OWNERS, asset_key, reads
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.catalog import build_catalog
from lims_platform.lakehouse.lake import Lake
from lims_platform.reporting import charts
from lims_platform.reporting.pages import overall_level, write_drift
from lims_platform.reporting.workbook import write_workbook
from lims_platform.settings import settings

#: Days a plot looks back over.
PLOT_DAYS = 90


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


def newest_days(frame: pl.LazyFrame, day: str, days: int = 1) -> pl.DataFrame:
    """The rows of the last ``days`` days that have any."""
    last = pl.col(day).max()
    return frame.filter(pl.col(day) > last - pl.duration(days=days)).collect()


@dg.asset(
    **report_asset(
        "device_risk_workbook",
        "Excel workbook of the newest day's device risk: High Risk Devices, All Devices, Summary.",
        {"excel"},
        ins={"scores": reads("device_risk_scores")},
    )
)
def device_risk_workbook(scores: pl.LazyFrame) -> dg.MaterializeResult:
    recent = newest_days(scores, "as_of_date", PLOT_DAYS)
    today = newest_days(recent.lazy(), "as_of_date")
    path = settings().report_dir / "device_risk.xlsx"
    write_workbook(today, path)
    plots = {"riskiest devices": charts.risk_bars(today), "risk over time": charts.risk_history(recent)}
    pictures = {title: dg.MetadataValue.md(charts.markdown_image(charts.png(c), title)) for title, c in plots.items()}
    return dg.MaterializeResult(
        metadata={"path": dg.MetadataValue.path(path), "dagster/row_count": today.height, **pictures}
    )


@dg.asset(
    **report_asset(
        "drift_report_page",
        "The newest day's drift report as HTML page, JSON and PNG plots.",
        {"html", "altair"},
        ins={"report": reads("drift_report")},
    )
)
def drift_report_page(report: pl.LazyFrame) -> dg.MaterializeResult:
    today = newest_days(report, "as_of_date")
    if today.is_empty():
        return dg.MaterializeResult(metadata={"outcome": "not evaluable: no drift statistics yet", "dagster/row_count": 0})
    day = today["as_of_date"][0]
    files = write_drift(today, day, settings().report_dir)
    devices = charts.markdown_image(charts.png(charts.drift_devices(today)), "devices")
    analytes = charts.markdown_image(charts.png(charts.drift_analytes(today)), "analytes")
    return dg.MaterializeResult(
        metadata={
            "alert_level": overall_level(today),
            "dagster/row_count": today.height,
            "page": dg.MetadataValue.path(files[1]),
            "devices": dg.MetadataValue.md(devices),
            "analytes": dg.MetadataValue.md(analytes),
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
    states = [
        valid.select("event_date", state=pl.lit("standardised")),
        quarantined.select("event_date", state=pl.lit("quarantined")),
    ]
    days = pl.concat(states).group_by("event_date", "state").agg(rows=pl.len()).sort("event_date").collect()
    why = quarantined.group_by("reason").agg(rows=pl.len()).sort("rows", descending=True).collect()
    plots = {
        "results a day": charts.rows_per_day(days),
        "quarantine reasons": charts.reasons(why),
        "turnaround": charts.turnaround(newest_days(kpis, "as_of_date", PLOT_DAYS)),
    }
    pictures = {title: dg.MetadataValue.md(charts.markdown_image(charts.png(c), title)) for title, c in plots.items()}
    return dg.MaterializeResult(metadata={"dagster/row_count": int(days["rows"].sum()), **pictures})


@dg.asset(
    **report_asset(
        "duckdb_catalog",
        "One DuckDB file of views over every lake table, swapped in atomically; open it read-only.",
        {"duckdb"},
        deps=[asset_key(name) for name in TABLES],
    )
)
def duckdb_catalog(lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
    views = build_catalog(lake, TABLES.values(), settings().catalog_path)
    return dg.MaterializeResult(metadata={"path": dg.MetadataValue.path(settings().catalog_path), "views": views})


REPORT_ASSETS = [device_risk_workbook, drift_report_page, laboratory_overview, duckdb_catalog]
