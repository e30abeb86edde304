"""The summary at the end of ``make run``: what a newcomer wants to know, read from the lake and the registry.

Here: words and layout for a terminal. Not here: any number that is not in a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl

from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.tables import TABLES
from lims_platform.credentials import without_password
from lims_platform.lakehouse.lake import Lake
from lims_platform.reporting.figures import newest_days, quarantine_reasons
from lims_platform.settings import Settings

_SHOWN = 5


def _rows(lake: Lake, name: str) -> int:
    return int(lake.scan(TABLES[name]).select(pl.len()).collect().item())


def _rows_in(lake: Lake) -> Iterator[str]:
    yield "Rows in (every version of every row, bronze)"
    for table in BRONZE_TABLES.values():
        if (count := _rows(lake, table.name)) > 0:
            yield f"  {table.name:<24}{count:>12,}"


def _results(lake: Lake) -> Iterator[str]:
    valid, held = _rows(lake, "lab_results_standardized"), _rows(lake, "lab_results_quarantine")
    if valid + held == 0:
        yield "Lab results: none"
        return
    yield f"Lab results: {valid:,} standardised ({valid / (valid + held):.1%}), {held:,} in quarantine, because"
    for reason, rows in quarantine_reasons(lake.scan(TABLES["lab_results_quarantine"])).head(8).iter_rows():
        yield f"  {reason:<24}{rows:>12,}"


def _devices(lake: Lake, today: date) -> Iterator[str]:
    scores = newest_days(lake.scan(TABLES["device_risk_scores"]), today)
    if scores.is_empty():
        yield "Device risk: no scores yet"
        return
    levels = dict(scores["risk_level"].value_counts().iter_rows())
    listing = ", ".join(f"{levels.get(level, 0)} {level}" for level in ("CRITICAL", "HIGH", "MEDIUM", "LOW"))
    yield f"Device risk on {scores['as_of_date'][0]}: {scores.height} devices scored, {listing}; the riskiest"
    worst = scores.sort("risk_score", descending=True).head(_SHOWN)
    for row in worst.iter_rows(named=True):
        yield (
            f"  {row['device_id']:<10} {row['device_type'] or '':<14} risk {row['risk_score']:5.1f} {row['risk_level']:<8} "
            f"P(failure in 7 days) {row['failure_probability']:.0%}  {row['recommended_action']}"
        )


def _drift(lake: Lake, today: date) -> Iterator[str]:
    report = newest_days(lake.scan(TABLES["drift_report"]), today)
    if report.is_empty():
        yield "Drift: not evaluated yet"
        return
    alarms = report.filter(pl.col("alert_level").is_in(["HIGH", "CRITICAL"]))
    yield f"Drift on {report['as_of_date'][0]}: {report.height} statistics, {alarms.height} at HIGH or CRITICAL"
    gravest = alarms.sort(pl.col("effect").abs(), descending=True, nulls_last=True).head(_SHOWN)
    for row in gravest.iter_rows(named=True):
        subject = f"{row['kind']} {row['subject']} {row['name'] or ''}"
        since = f", {row['effect']:+.2f} TEa since {row['change_date']}" if row["change_date"] and row["effect"] else ""
        yield f"  {row['alert_level']:<8} {subject}: {row['statistic']} {row['value']:.2f}{since}"


def _alerts(lake: Lake) -> Iterator[str]:
    alerts = lake.scan(TABLES["alerts"]).filter(pl.col("state") != "resolved").collect()
    levels = dict(alerts["severity"].value_counts().iter_rows())
    listed = ", ".join(f"{levels[level]} {level}" for level in ("CRITICAL", "HIGH", "MEDIUM", "LOW") if level in levels)
    yield f"Alerts: {listed or 'none open'}" + ("; python -m lims_platform alerts list" if levels else "")


def _model(settings: Settings, lake: Lake) -> Iterator[str]:
    ledger = lake.scan(TABLES["model_ledger"]).sort("at").collect()
    if ledger.is_empty():
        yield "Model: none trained yet"
        return
    for last in ledger.group_by("model_name", maintain_order=True).last().sort("model_name").iter_rows(named=True):
        yield f"Model: {last['model_name']} version {last['version']} was {last['action']}: {last['reason']}"
    yield f"  tracking store {without_password(settings.tracking_uri)}"


def _files(settings: Settings) -> Iterator[str]:
    yield "Files"
    candidates = [settings.report_dir / "device_risk.xlsx", settings.catalog_path]
    for pages in ("drift/*/drift_report.html", "qc/*/qc_page.html", "health/*/pipeline_health.html"):
        candidates += sorted(settings.report_dir.glob(pages))[-1:]
    for path in candidates:
        if path.exists():
            yield f"  {path}"
    yield f"  {settings.lake_dir}  (Delta tables)"


def summary(settings: Settings) -> str:
    """The whole summary as text."""
    lake = Lake(settings.lake_dir)
    parts = [
        _rows_in(lake),
        _results(lake),
        _devices(lake, settings.today),
        _drift(lake, settings.today),
        _alerts(lake),
        _model(settings, lake),
        _files(settings),
    ]
    lines = [line for part in parts for line in [*part, ""]]
    return "\n".join([*lines, f"Open the Dagster UI on it:  {_dev_command(settings)}"])


def _dev_command(settings: Settings) -> str:
    default = Path(__file__).resolve().parents[2] / "data"
    return "make dev" if settings.data_dir == default else f"LIMS_DATA_DIR={settings.data_dir} make dev"
