"""Pages and JSON for people without SQL: the drift report. Here: layout. Not here: statistics (gold/drift_report)."""

from __future__ import annotations

import html as escaping
import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from lims_platform.reporting import charts
from lims_platform.reporting.charts import RISK_COLOURS

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#222}
table{border-collapse:collapse;width:100%;margin:1rem 0}
td,th{padding:.3rem .6rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}h1{font-weight:600}img{max-width:100%}"""


def overall_level(report: pl.DataFrame) -> str:
    """The gravest level of a day's report; LOW where nothing was reported."""
    present = set(report["alert_level"])
    return next((level for level in RISK_COLOURS if level in present), "LOW")


def affected(lookback: pl.DataFrame) -> pl.DataFrame:
    """Per device and analyte of a day's look-back: results and patients since the change, and limits crossed."""
    return (
        lookback.group_by("device_id", "loinc_code", "analyte", "change_date")
        .agg(
            results=pl.len(),
            patients=pl.col("patient_hash").drop_nulls().n_unique(),
            median_bias=pl.col("estimated_bias").median(),
            largest_bias_in_tea=pl.col("bias_in_tea").abs().max(),
            limits_crossed=pl.col("limit_crossed").count(),
        )
        .sort("device_id", "loinc_code")
    )


def drift_json(report: pl.DataFrame, lookback: pl.DataFrame, day: date) -> dict[str, Any]:
    """The day's drift report for machines: counts by kind and level, every row above LOW, affected results."""
    counts = report.group_by("kind", "alert_level").agg(rows=pl.len()).sort("kind", "alert_level")
    alarms = (
        report.filter(pl.col("alert_level") != "LOW")
        .sort("kind", "subject")
        .with_columns(pl.col("as_of_date", "change_date").cast(pl.String))
    )
    # an evaluated row's outcome may go on, with what was left out
    silent = report.filter(~pl.col("outcome").str.starts_with("evaluated"))
    not_evaluated = silent["outcome"].value_counts().sort("outcome")
    return {
        "as_of_date": day.isoformat(),
        "alert_level": overall_level(report),
        "statistics": report.height,
        "counts": counts.to_dicts(),
        "alarms": alarms.to_dicts(),
        "affected": affected(lookback).with_columns(pl.col("change_date").cast(pl.String)).to_dicts(),
        "not_evaluated": not_evaluated.to_dicts(),
    }


def html_table(frame: pl.DataFrame, links: Mapping[str, str] | None = None, shades: Mapping[str, str] | None = None) -> str:
    """The frame as an HTML table, numbers to three digits, text escaped.

    links: column to the address its values are appended to; shades: value of the column ``state`` to the cell's colour.
    """
    head = "".join(f"<th>{escaping.escape(name)}</th>" for name in frame.columns)
    body = []
    for row in frame.iter_rows():
        cells = []
        for name, value in zip(frame.columns, row, strict=True):
            number = isinstance(value, int | float)
            text = escaping.escape("" if value is None else f"{value:,.3g}" if isinstance(value, float) else str(value))
            shade = (shades or {}).get(str(value)) if name == "state" else None
            style = f" style='background:{shade}'" if shade else ""
            if links and name in links and value is not None:
                text = f'<a href="{escaping.escape(links[name] + str(value))}">{text[:8]}</a>'
            cells.append(f"<td{' class=n' if number else ''}{style}>{text}</td>")
        body.append("<tr>" + "".join(cells) + "</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def drift_page(report: pl.DataFrame, lookback: pl.DataFrame, day: date) -> str:
    """One self-contained HTML page: level, alarms, affected results, two charts; opens from a file, without a network."""
    level = overall_level(report)
    gravest = pl.col("alert_level").replace_strict({name: i for i, name in enumerate(RISK_COLOURS)}, return_dtype=pl.Int64)
    above = report.filter(pl.col("alert_level") != "LOW").sort(gravest, pl.col("effect").abs(), descending=[False, True])
    devices = above.filter(pl.col("kind") == "device").select(
        "alert_level", device="subject", analyte="name", moved="moved", since="change_date", z="value",
        bias_in_TEa="effect", bias="bias", SE="standard_error", baseline="reference_mean", z_own="z_own",
        z_sisters="z_sisters", z_controls="z_qc", note=pl.col("outcome").str.strip_prefix("evaluated").str.strip_chars("; "),
    )  # fmt: skip
    others = above.filter(pl.col("kind") != "device").select(
        "alert_level", "kind", "subject", "name", "statistic", "effect", "q_value", "reference_mean", "current_mean"
    )
    pictures = [charts.drift_devices(report), charts.drift_analytes(report)]
    images = "".join(f'<p><img alt="chart" src="{charts.data_uri(charts.png(chart))}"></p>' for chart in pictures)
    silent = report.filter(~pl.col("outcome").str.starts_with("evaluated"))
    parts = [
        ("Devices that moved", devices),
        ("Results since the change", affected(lookback)),
        ("Distributions that moved", others),
        ("Not evaluable", silent["outcome"].value_counts(sort=True)),
    ]
    tables = "".join(f"<h2>{title}</h2>{html_table(rows) if rows.height else '<p>None.</p>'}" for title, rows in parts)
    badge = f"<b style='background:{RISK_COLOURS[level]};padding:.1rem .5rem'>{level}</b>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Drift report {day}</title>"
        f"<style>{STYLE}\nbody{{max-width:85rem;padding:0 1rem}}</style>"
        f"<h1>Drift report {day}</h1>"
        f"<p>Alert level: {badge}, {report.height} statistics, {above.height} above LOW.</p>{tables}{images}</html>"
    )


def put(path: Path, content: bytes) -> Path:
    """Write a file beside its place and move it there: a reader sees the old one or the new one whole. Returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_bytes(content)
    beside.replace(path)
    return path


def write_drift(report: pl.DataFrame, lookback: pl.DataFrame, day: date, folder: Path) -> list[Path]:
    """Write drift_report.json, .html and two PNGs for the day; returns the files."""
    target = folder / "drift" / day.isoformat()
    contents: dict[str, bytes] = {
        "drift_report.json": json.dumps(drift_json(report, lookback, day), indent=2, default=str).encode(),
        "drift_report.html": drift_page(report, lookback, day).encode(),
        "drift_devices.png": charts.png(charts.drift_devices(report)),
        "drift_analytes.png": charts.png(charts.drift_analytes(report)),
    }
    return [put(target / name, content) for name, content in contents.items()]
