"""The device risk workbook a quality manager opens in Excel. Here: sheets and formats. Not here: scores."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from lims_platform.reporting.charts import RISK_COLOURS

SHEETS = ("High Risk Devices", "All Devices", "Summary")

_COLUMNS = {
    "device_id": "Device",
    "device_type": "Type",
    "facility_id": "Facility",
    "risk_score": "Risk score",
    "risk_level": "Level",
    "failure_probability": "P(failure in 7 days)",
    "recommended_action": "Recommended action",
    "top_factors": "Why",
    "model_version": "Model version",
}


def write_workbook(scores: pl.DataFrame, path: Path) -> None:
    """Write one day's scores (contract DeviceRiskScores) as three sheets; the file appears whole or not at all."""
    import xlsxwriter

    ordered = scores.sort("risk_score", "device_id", descending=[True, False])
    shown = ordered.select([pl.col(name).alias(title) for name, title in _COLUMNS.items()])
    urgent = shown.filter(pl.col("Level").is_in(["CRITICAL", "HIGH"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.xlsx")
    try:
        with xlsxwriter.Workbook(str(beside), {"constant_memory": False}) as book:
            levels = {
                level: {
                    "type": "cell",
                    "criteria": "==",
                    "value": f'"{level}"',
                    "format": book.add_format({"bg_color": colour}),
                }
                for level, colour in RISK_COLOURS.items()
            }
            for name, frame in zip(SHEETS, (urgent, shown, _summary(scores)), strict=True):
                frame.write_excel(
                    book,
                    worksheet=name,
                    autofit=True,
                    freeze_panes=(1, 0),
                    table_style="Table Style Light 1",
                    column_formats={"Risk score": "0.0", "P(failure in 7 days)": "0.0%"}
                    if "Level" in frame.columns
                    else None,
                    conditional_formats={"Level": list(levels.values())} if "Level" in frame.columns else None,
                )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _summary(scores: pl.DataFrame) -> pl.DataFrame:
    """Figure and value, one line each."""
    levels = dict(scores["risk_level"].value_counts().iter_rows())
    lines = [
        ("Day", str(scores["as_of_date"].max())),
        ("Devices scored", str(scores.height)),
        *[(f"{level} risk", str(levels.get(level, 0))) for level in RISK_COLOURS],
        ("Mean failure probability", f"{scores.select(pl.col('failure_probability').mean()).item() or 0.0:.1%}"),
        ("Model", ", ".join(scores["model_name"].unique()) + " version " + ", ".join(scores["model_version"].unique())),
        ("Scored at (UTC)", str(scores["scored_at"].max())),
    ]
    return pl.DataFrame(lines, schema=["Figure", "Value"], orient="row")
