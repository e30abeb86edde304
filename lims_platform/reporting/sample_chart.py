"""The monitoring dashboard as one picture, drawn from figures per time slice, so that its cost does not grow with the batch.

Here: five panels as SVG, rendered to PNG. SVG by hand and not a chart specification: compiling a specification takes ten
times as long as watching 50,000 samples. Not here: any figure that is not a count, a median or an extreme.
"""

from __future__ import annotations

from html import escape

import polars as pl

from lims_platform.laboratory.sample_limits import Limit, read_limits

_ALERT_COLOURS = {"OK": "#92c5de", "WARNING": "#ef8a62", "CRITICAL_FAILURE": "#b2182b"}
_WIDTH, _PANEL, _GAP, _LEFT, _TOP = 900, 110, 46, 70, 66
_SLICES = 100


def dashboard_png(alerts: pl.DataFrame, sample_limits: pl.DataFrame) -> bytes:
    """PNG of a batch's verdicts (rows of ``watch``): per measurement median and extremes over time, verdicts below."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(dashboard_svg(alerts, sample_limits), scale=1))


def dashboard_svg(alerts: pl.DataFrame, sample_limits: pl.DataFrame) -> str:
    """The same as SVG."""
    limits = [limit for limit in read_limits(sample_limits).values() if limit.watched]
    slices = _slices(alerts, [limit.measurement for limit in limits])
    counts = dict(alerts["qa_alert"].value_counts().iter_rows())
    title = f"{alerts.height:,} samples: " + ", ".join(f"{counts.get(a, 0):,} {a}" for a in _ALERT_COLOURS)
    ends = alerts.select(
        first=pl.col("measured_at").min().dt.to_string("%Y-%m-%d %H:%M"),
        last=pl.col("measured_at").max().dt.to_string("%Y-%m-%d %H:%M"),
    ).row(0)
    if ends[0] is not None:
        title += f" · {ends[0]} to {ends[1]}"
    parts = [_text(_LEFT, 20, title, 15), _text(_LEFT, 36, "median, extremes; band: expected", 11)]
    for place, limit in enumerate(limits):
        parts.append(_measurement(slices, limit, _TOP + place * (_PANEL + _GAP)))
    parts.append(_verdicts(slices, _TOP + len(limits) * (_PANEL + _GAP)))
    height = _TOP + (len(limits) + 1) * (_PANEL + _GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif">'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>{"".join(parts)}</svg>'
    )


def _slices(alerts: pl.DataFrame, measurements: list[str]) -> pl.DataFrame:
    """At most _SLICES equal slices in time order: median, least and greatest per measurement, samples per verdict."""
    count = min(_SLICES, max(alerts.height, 1))
    return (
        alerts.lazy()
        .sort("measured_at", nulls_last=True, maintain_order=True)
        .group_by((pl.int_range(pl.len()) * count // pl.len()).alias("slice"))
        .agg(
            *[pl.col(m).median().alias(f"mid_{m}") for m in measurements],
            *[pl.col(m).min().alias(f"low_{m}") for m in measurements],
            *[pl.col(m).max().alias(f"high_{m}") for m in measurements],
            *[(pl.col("qa_alert") == alert).sum().alias(alert) for alert in _ALERT_COLOURS],
        )
        .sort("slice")
        .collect()
    )


def _text(x: float, y: float, words: str, size: int, anchor: str = "start") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" fill="#222">{escape(words)}</text>'


def _path(moves: list[str], look: str) -> str:
    """Upright and level lines as one path; smoothing their edges would take half of the picture's time."""
    return f'<path d="{"".join(moves)}" shape-rendering="crispEdges" {look}/>'


def _x(place: int, count: int) -> float:
    return _LEFT + (place + 0.5) * (_WIDTH - _LEFT - 20) / count


def _measurement(slices: pl.DataFrame, limit: Limit, top: float) -> str:
    """One panel: expected range as a band, extremes as strokes, median as a line. What lies beyond is drawn at its edge."""
    assert limit.expected_low is not None and limit.expected_high is not None
    room = limit.expected_high - limit.expected_low
    low, high = limit.expected_low - room, limit.expected_high + room

    def y(value: float) -> float:
        return top + _PANEL * (1 - (min(max(value, low), high) - low) / (high - low))

    label = f"{limit.label} [{limit.unit}]" if limit.unit else limit.label
    width, band = _WIDTH - _LEFT - 20, y(limit.expected_low) - y(limit.expected_high)
    parts = [
        _text(_LEFT, top - 6, label, 12),
        f'<rect x="{_LEFT}" y="{y(limit.expected_high):.1f}" width="{width}" height="{band:.1f}" fill="#e6f2e6"/>',
        _text(_LEFT - 6, y(limit.expected_high) + 4, f"{limit.expected_high:g}", 11, "end"),
        _text(_LEFT - 6, y(limit.expected_low) + 4, f"{limit.expected_low:g}", 11, "end"),
    ]
    name, line = limit.measurement, []
    strokes: dict[str, list[str]] = {_ALERT_COLOURS["WARNING"]: [], "#9ab": []}
    for row in slices.select("slice", f"low_{name}", f"mid_{name}", f"high_{name}").drop_nulls().iter_rows():
        x = _x(row[0], slices.height)
        beyond = row[1] < limit.expected_low or row[3] > limit.expected_high
        colour = _ALERT_COLOURS["WARNING"] if beyond else "#9ab"
        strokes[colour].append(f"M{x:.1f} {y(row[1]) + 1:.1f}V{y(row[3]) - 1:.1f}")
        line.append(f"{x:.1f},{y(row[2]):.1f}")
    parts += [_path(d, f'stroke="{colour}" stroke-width="3"') for colour, d in strokes.items() if d]
    parts.append(f'<polyline points="{" ".join(line)}" fill="none" stroke="#222" stroke-width="1.2"/>')
    return "".join(parts)


def _verdicts(slices: pl.DataFrame, top: float) -> str:
    """Samples per verdict and slice, stacked."""
    tallest = max(slices.select(pl.sum_horizontal(*_ALERT_COLOURS).max()).item() or 1, 1)
    width = max((_WIDTH - _LEFT - 20) / max(slices.height, 1) - 1, 1)
    parts = [_text(_LEFT, top - 6, "samples by verdict: " + ", ".join(_ALERT_COLOURS), 12)]
    parts.append(_text(_LEFT - 6, top + 8, f"{tallest}", 11, "end"))
    bars: dict[str, list[str]] = {colour: [] for colour in _ALERT_COLOURS.values()}
    for row in slices.select("slice", *_ALERT_COLOURS).iter_rows():
        bottom = top + _PANEL
        for colour, count in zip(bars, row[1:], strict=True):
            tall = _PANEL * count / tallest
            bottom -= tall
            if count:
                x = _x(row[0], slices.height) - width / 2
                bars[colour].append(f"M{x:.1f} {bottom:.1f}h{width:.1f}v{tall:.1f}h{-width:.1f}z")
    return "".join([*parts, *(_path(d, f'fill="{colour}"') for colour, d in bars.items() if d)])
