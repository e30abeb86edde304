"""Charts: one Altair specification each, rendered to PNG (no browser) for pages and for an asset's metadata.

Here: what a chart shows. Not here: the numbers (gold tables) or where the files go (``assets.reports``).
"""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import altair as alt

RISK_COLOURS = {"CRITICAL": "#b2182b", "HIGH": "#ef8a62", "MEDIUM": "#fddbc7", "LOW": "#92c5de"}
_WIDTH = 640


def _altair() -> Any:
    # altair costs half a second to import: the code location must load without it.
    import altair

    return altair


def _levels() -> Any:
    return _altair().Scale(domain=list(RISK_COLOURS), range=list(RISK_COLOURS.values()))


def png(chart: alt.TopLevelMixin, scale: float = 1.5) -> bytes:
    """The chart as PNG."""
    import vl_convert

    return deflated(bytes(vl_convert.vegalite_to_png(chart.to_json(), scale=scale)))


def deflated(image: bytes) -> bytes:
    """The same PNG, its pixels compressed as far as zlib goes: vl-convert hardly does, and plots live in the event log.

    Bars and lines shrink to a fifth and less. Chunks: length, name, content, CRC-32 (PNG specification, section 5).
    """
    signature, rest, pixels, after = image[:8], memoryview(image)[8:], b"", b""
    before = bytearray(signature)
    while rest:
        size = 12 + struct.unpack(">I", rest[:4])[0]
        chunk, rest = bytes(rest[:size]), rest[size:]
        if chunk[4:8] == b"IDAT":
            pixels += chunk[8:-4]
        elif pixels:
            after += chunk
        else:
            before += chunk
    data = b"IDAT" + zlib.compress(zlib.decompress(pixels), 9)
    packed = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return bytes(before) + packed + after


def data_uri(image: bytes) -> str:
    """The PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def markdown(*charts: alt.Chart, scale: float = 1.5) -> str:
    """The charts one below the other as Markdown images that need no file, for an asset's metadata.

    What is drawn every hour or five at a time is drawn at scale 1: half the bytes for the event log to keep.
    """
    return "\n\n".join(f"![{chart.title}]({data_uri(png(chart, scale))})" for chart in charts)


def risk_bars(scores: pl.DataFrame, count: int = 15) -> alt.Chart:
    """The riskiest devices of one day (contract DeviceRiskScores)."""
    alt = _altair()
    worst = scores.sort("risk_score", descending=True).head(count)
    rows = worst.select("device_id", "device_type", "risk_score", "risk_level", "recommended_action").to_dicts()
    return (
        alt.Chart(alt.Data(values=rows), title="Riskiest devices", width=_WIDTH)
        .mark_bar()
        .encode(
            x=alt.X("risk_score:Q", title="risk score", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y("device_id:N", sort="-x", title=None),
            color=alt.Color("risk_level:N", scale=_levels(), title="level"),
            tooltip=["device_id:N", "device_type:N", "risk_score:Q", "recommended_action:N"],
        )
    )


def risk_history(scores: pl.DataFrame, count: int = 6) -> alt.Chart:
    """Risk scores over the days given of the devices that are riskiest on the last of them."""
    alt = _altair()
    last = scores["as_of_date"].max()
    top = scores.filter(pl.col("as_of_date") == last).sort("risk_score", descending=True).head(count)
    rows = scores.join(top.select("device_id"), on="device_id", how="semi").with_columns(
        pl.col("as_of_date").cast(pl.String)
    )
    return (
        alt.Chart(
            alt.Data(values=rows.select("as_of_date", "device_id", "risk_score").to_dicts()),
            title="Risk score of today's riskiest devices",
            width=_WIDTH,
        )
        .mark_line()
        .encode(
            x=alt.X("as_of_date:T", title=None),
            y=alt.Y("risk_score:Q", title="risk score"),
            color=alt.Color("device_id:N", title="device"),
        )
    )


def drift_devices(report: pl.DataFrame) -> alt.Chart:
    """Device drift of one day: bias in allowable errors against z in standard errors (contract DriftReport)."""
    alt = _altair()
    rows = report.filter((pl.col("kind") == "device") & pl.col("value").is_not_null() & pl.col("effect").is_not_null())
    values = rows.select("subject", "name", "value", "effect", "alert_level").to_dicts()
    return (
        alt.Chart(alt.Data(values=values), title="Devices: bias against its standard error", width=_WIDTH, height=320)
        .mark_circle(size=70, opacity=0.8)
        .encode(
            x=alt.X("effect:Q", title="bias / allowable error"),
            y=alt.Y("value:Q", title="z (bias / standard error of daily means)"),
            color=alt.Color("alert_level:N", scale=_levels(), title="level"),
            tooltip=["subject:N", "name:N", "value:Q", "effect:Q", "alert_level:N"],
        )
    )


def drift_analytes(report: pl.DataFrame) -> alt.Chart:
    """Data drift of one day: KS distance per analyte, coloured by level."""
    alt = _altair()
    rows = report.filter((pl.col("kind") == "analyte") & (pl.col("statistic") == "ks") & pl.col("value").is_not_null())
    values = rows.select("subject", "name", "value", "q_value", "alert_level").to_dicts()
    return (
        alt.Chart(alt.Data(values=values), title="Analytes: distance from the reference period", width=_WIDTH)
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title="Kolmogorov-Smirnov distance"),
            y=alt.Y("name:N", sort="-x", title=None),
            color=alt.Color("alert_level:N", scale=_levels(), title="level"),
            tooltip=["subject:N", "name:N", "value:Q", "q_value:Q"],
        )
    )


def rows_per_day(days: pl.DataFrame) -> alt.Chart:
    """Valid and quarantined results a day. ``days``: event_date, state, rows."""
    alt = _altair()
    values = days.with_columns(pl.col("event_date").cast(pl.String)).to_dicts()
    return (
        alt.Chart(alt.Data(values=values), title="Results a day", width=_WIDTH, height=220)
        .mark_area()
        .encode(
            x=alt.X("event_date:T", title=None),
            y=alt.Y("rows:Q", title="results"),
            color=alt.Color(
                "state:N", scale=alt.Scale(domain=["standardised", "quarantined"], range=["#92c5de", "#b2182b"]), title=None
            ),
        )
    )


def reasons(counts: pl.DataFrame) -> alt.Chart:
    """Quarantine reasons. ``counts``: reason, rows."""
    alt = _altair()
    return (
        alt.Chart(alt.Data(values=counts.to_dicts()), title="Why results are in quarantine", width=_WIDTH)
        .mark_bar(color="#b2182b")
        .encode(x=alt.X("rows:Q", title="results"), y=alt.Y("reason:N", sort="-x", title=None))
    )


def turnaround(kpis: pl.DataFrame) -> alt.Chart:
    """Median and 90th percentile of total turnaround by priority, whole laboratory (contract TurnaroundKpis)."""
    alt = _altair()
    rows = kpis.filter(pl.col("facility_id") == "ALL").select(
        pl.col("as_of_date").cast(pl.String), "priority", median="total_median_hours", p90="total_p90_hours"
    )
    long = rows.unpivot(index=["as_of_date", "priority"], variable_name="figure", value_name="hours").drop_nulls("hours")
    return (
        alt.Chart(alt.Data(values=long.to_dicts()), title="Turnaround, collected to resulted", width=_WIDTH, height=220)
        .mark_line()
        .encode(
            x=alt.X("as_of_date:T", title=None),
            y=alt.Y("hours:Q", title="hours"),
            color=alt.Color("priority:N", title=None),
            strokeDash=alt.StrokeDash("figure:N", title=None),
        )
    )


def share_trend(days: pl.DataFrame, share: str, goal: float) -> alt.Chart:
    """A share of the data-quality scorecard a day, one line per source, the goal dashed. ``days``: as_of_date, source."""
    alt = _altair()
    values = days.select(pl.col("as_of_date").cast(pl.String), "source", share).to_dicts()
    lowest = min(float(days[share].min() or 0.0), goal)  # type: ignore[arg-type]
    y = alt.Y(f"{share}:Q", title=None, axis=alt.Axis(format=".1%"), scale=alt.Scale(domain=[lowest - 0.002, 1], clamp=True))
    lines = alt.Chart(alt.Data(values=values)).mark_line()
    limit = alt.Chart(alt.Data(values=[{"goal": goal}])).mark_rule(strokeDash=[4, 4], color="gray").encode(y="goal:Q")
    drawn = lines.encode(x=alt.X("as_of_date:T", title=None), y=y, color=alt.Color("source:N", title=None))
    return (drawn + limit).properties(title=f"{share.capitalize()} a day", width=_WIDTH, height=200)
