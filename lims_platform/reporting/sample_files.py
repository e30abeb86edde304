"""The four files of sample monitoring: dashboard_data.csv, critical_alerts.csv, monitoring_report.json, the dashboard PNG.

Here: what goes into which file and how it is written. Not here: verdicts and figures (``laboratory.sample_days``), how the
picture is drawn (``sample_chart``).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import polars as pl

from lims_platform.laboratory.sample_days import monitoring_report
from lims_platform.reporting.sample_chart import dashboard_png

#: Decimals of measurements and scores: beyond them no sensor says anything.
_DECIMALS = 4


def write_sample_files(alerts: pl.DataFrame, sample_limits: pl.DataFrame, folder: Path, at: datetime) -> dict[str, Path]:
    """Write the four files of one batch's verdicts (rows of ``watch``) into ``folder``; returns them by name.

    A reader never sees half a file: each is written beside its place and moved there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rounded = alerts.with_columns(pl.col(pl.Float64).round(_DECIMALS))  # before: a third of the time of rounding in the text
    critical = rounded.filter(pl.col("qa_alert") == "CRITICAL_FAILURE")
    report = json.dumps(monitoring_report(alerts, at), indent=2, ensure_ascii=False).encode()
    files = {}
    with ThreadPoolExecutor(1) as painter:  # drawing takes as long as writing the rows
        picture = painter.submit(dashboard_png, alerts, sample_limits)
        writers: dict[str, Callable[[Path], object]] = {
            "dashboard_data.csv": lambda path: rounded.write_csv(path),
            "critical_alerts.csv": lambda path: critical.write_csv(path),
            "monitoring_report.json": lambda path: path.write_bytes(report),
            "monitoring_dashboard.png": lambda path: path.write_bytes(picture.result()),
        }
        for name, write in writers.items():
            files[name] = folder / name
            beside = folder / f".{name}.part"
            write(beside)
            beside.replace(files[name])
    return files
