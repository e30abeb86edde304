"""The quality manager's page: what controls rejected today, Levey-Jennings charts of it, then trends.

Here: layout and charts. Not here: rules and figures (gold/westgard_violations, gold/qc_performance).
"""

from __future__ import annotations

import html as escaping
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from lims_platform.laboratory.westgard_rules import RULES
from lims_platform.reporting import charts
from lims_platform.reporting.pages import STYLE, html_table, put

if TYPE_CHECKING:
    import altair as alt

#: Days a chart looks back over.
CHART_DAYS = 30
#: Levels drawn at most; the table names all.
MOST_CHARTS = 8
_SERIES = ["device_id", "loinc_code", "qc_level"]
_COLOURS = {"in control": "#4d9221", "warning": "#f1a340", "rejection": "#b2182b"}


def red_levels(violations: pl.DataFrame, day: date) -> pl.DataFrame:
    """Device, analyte and level with a rejection on ``day``: rules broken, largest |z|, last run; most rejections first."""
    return (
        violations.filter((pl.col("as_of_date") == day) & (pl.col("severity") == "rejection"))
        .group_by(*_SERIES, "analyte")
        .agg(
            rules=pl.col("rule").unique().sort().str.join(", "),
            rejections=pl.len(),
            furthest_sd=pl.col("z").sort_by(pl.col("z").abs()).last(),
            last_run=pl.col("run_at").max().dt.strftime("%H:%M UTC"),
        )
        .sort(["rejections", *_SERIES], descending=[True, False, False, False])
    )


def levey_jennings(controls: pl.DataFrame, violations: pl.DataFrame, title: str) -> alt.Chart:
    """One level's controls in SD against time with limits at 1, 2 and 3 SD and every violation marked.

    controls: run_at, z, control_lot; violations of the same level: run_at, rule, severity. A dashed line is a new lot.
    """
    import altair as alt

    # one name a point, or the names cover each other: the rule that comes first on the laboratory's list
    rank = pl.col("rule").replace_strict({name: i for i, name in enumerate(RULES)}, default=len(RULES))
    worst = violations.group_by("run_at").agg(
        rules=pl.col("rule").sort_by(pl.col("severity") != "rejection", rank).first(),
        rejected=(pl.col("severity") == "rejection").any(),
    )
    shown = (
        controls.sort("run_at")
        .join(worst, on="run_at", how="left")
        .select(
            pl.col("run_at").dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "z",
            pl.col("rules").fill_null(""),
            verdict=pl.when("rejected")
            .then(pl.lit("rejection"))
            .when(pl.col("rules").is_not_null())
            .then(pl.lit("warning"))
            .otherwise(pl.lit("in control")),
            new_lot=(pl.col("control_lot") != pl.col("control_lot").shift(1)).fill_null(False),
        )
    )
    base = alt.Chart(alt.Data(values=shown.to_dicts())).encode(x=alt.X("run_at:T", title=None))
    reach = max(4.0, float(shown["z"].abs().max() or 0) + 0.5)  # type: ignore[arg-type]
    y = alt.Y("z:Q", title="SD from target", scale=alt.Scale(domain=[-reach, reach]))
    limits = alt.Chart(alt.Data(values=[{"limit": s * k, "k": str(k)} for k in (1, 2, 3) for s in (-1, 1)])).mark_rule(
        strokeWidth=0.7
    )
    colour = alt.Scale(domain=["1", "2", "3"], range=["#bbbbbb", _COLOURS["warning"], _COLOURS["rejection"]])
    verdicts = alt.Scale(domain=list(_COLOURS), range=list(_COLOURS.values()))
    colours = alt.Color("verdict:N", scale=verdicts, title=None, legend=alt.Legend(orient="bottom"))
    return (
        limits.encode(y=alt.Y("limit:Q"), color=alt.Color("k:N", scale=colour, legend=None))
        + base.transform_filter("datum.new_lot").mark_rule(strokeDash=[4, 4], color="gray")
        + base.mark_line(color="#999999", strokeWidth=0.8).encode(y=y)
        + base.mark_circle(size=45, opacity=1).encode(y=y, color=colours)
        + base.transform_filter("datum.verdict == 'rejection'").mark_text(dy=-9, fontSize=9).encode(y=y, text="rules:N")
    ).resolve_scale(color="independent").properties(title=title, width=640, height=190)  # fmt: skip


def trends(violations: pl.DataFrame, day: date) -> list[alt.Chart]:
    """Rejections a day by rule over the last CHART_DAYS; no chart where there was none."""
    import altair as alt

    recent = violations.filter((pl.col("severity") == "rejection") & (pl.col("as_of_date") > day - timedelta(CHART_DAYS)))
    if recent.is_empty():
        return []
    counts = recent.group_by("as_of_date", "rule").agg(rejections=pl.len()).sort("as_of_date", "rule")
    rows = counts.with_columns(pl.col("as_of_date").cast(pl.String)).to_dicts()
    chart = alt.Chart(alt.Data(values=rows), title="Rejections a day by rule", width=640, height=160).mark_bar()
    x, y = alt.X("as_of_date:T", title=None), alt.Y("rejections:Q", title=None)
    return [chart.encode(x=x, y=y, color=alt.Color("rule:N", title=None))]


def level_charts(controls: pl.DataFrame, violations: pl.DataFrame, day: date) -> list[alt.Chart]:
    """Levey-Jennings charts of the day's red levels, at most MOST_CHARTS; of a quiet day, none."""
    recent = controls.filter(pl.col("z").is_not_null() & (pl.col("event_date") > day - timedelta(CHART_DAYS)))
    drawn = []
    for row in red_levels(violations, day).head(MOST_CHARTS).iter_rows(named=True):
        own = pl.all_horizontal([pl.col(name) == row[name] for name in _SERIES])
        title = f"{row['device_id']} {row['analyte'] or row['loinc_code']} {row['qc_level']}: {row['rules']}"
        drawn.append(levey_jennings(recent.filter(own), violations.filter(own), title))
    return drawn


def qc_page(
    pictures: list[alt.Chart], trend: list[alt.Chart], violations: pl.DataFrame, performance: pl.DataFrame, day: date
) -> str:
    """The page of ``day``: red levels and their charts first, then trends, sigma and what could not be judged."""
    red = red_levels(violations, day)
    today = performance.filter(pl.col("as_of_date") == day)
    judged = pl.col("outcome").str.starts_with("evaluated")
    weakest = today.filter(judged).sort("sigma").head(20)
    sigma = weakest.select(
        "device_id", "analyte", "qc_level", "n", "bias_percent", "cv_percent", "tea_percent", "sigma",
        calls_for="rules", judged_by="rules_applied", controls="controls_per_run", run_size="run_size",
    )  # fmt: skip
    silent = today.filter(~judged)["outcome"].value_counts(sort=True)

    def image(chart: alt.Chart) -> str:
        return f'<p><img alt="{escaping.escape(str(chart.title))}" src="{charts.data_uri(charts.png(chart))}"></p>'

    parts = [f"<h1>Quality control {day}</h1>", f"<p>Levels rejected: {red.height}.</p>"]
    parts += [html_table(red) if red.height else "<p>No rejection.</p>", *map(image, pictures)]
    quiet = f"<p>No rejection in {CHART_DAYS} days.</p>"
    parts += ["<h2>Trends</h2>", *(map(image, trend) if trend else [quiet]), "<h2>Lowest sigma, last 30 days</h2>"]
    parts += [html_table(sigma) if sigma.height else "<p>No level had enough controls.</p>"]
    parts += ["<h2>Not evaluable</h2>", html_table(silent) if silent.height else "<p>None.</p>"]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Quality control {day}</title><style>{STYLE}</style>"
    return head + "".join(parts) + "</html>"


def write_qc(html: str, day: date, folder: Path) -> Path:
    """Write qc_page.html of the day; returns the file."""
    return put(folder / "qc" / day.isoformat() / "qc_page.html", html.encode())
