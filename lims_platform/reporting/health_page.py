"""The data engineer's page: what is late, what failed, what fails its checks; then every table, job and clock.

Here: layout and charts. Not here: the figures (``health_figures``), where the facts come from.
"""

from __future__ import annotations

import html as escaping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import polars as pl

from lims_platform.reporting import charts
from lims_platform.reporting import health_figures as figures
from lims_platform.reporting.pages import STYLE, html_table, put

if TYPE_CHECKING:
    import altair as alt

RED, AMBER, GREEN, GREY = "#ef8a62", "#fddbc7", "#d9f0d3", "#eeeeee"
SHADES = {
    **dict.fromkeys(("late", "failing", "failed", "never"), RED),
    **dict.fromkeys(("failed lately", "warning", "empty yesterday"), AMBER),
    **dict.fromkeys(("fresh", "good", "passed"), GREEN),
    **dict.fromkeys(("no deadline", "no run", "no rows", "never evaluated", "stopped", "never started"), GREY),
}
#: Counts that are no emergency by themselves.
MILD = ("checks warning", "checks missed")
#: Hours after which an opened page says that nothing has drawn it since.
STALE_HOURS = 2
#: Alerts listed at most, the gravest; the number is of all.
MOST_ALERTS = 50
_RUN_COLOURS = {"SUCCESS": "#92c5de", "FAILURE": "#b2182b", "CANCELED": "#bbbbbb"}


@dataclass(frozen=True)
class Health:
    """Everything the page shows, as known at ``now``; frames have the forms of ``health_figures``.

    alerts: unresolved rows of gold/alerts, the gravest and newest first (``alerting.desk.listing``). jobs, row_tables: names
    that are shown though nothing is known of them.
    """

    now: datetime
    zone: ZoneInfo
    tables: pl.DataFrame
    runs: pl.DataFrame
    jobs: list[str]
    failures: pl.DataFrame
    checks: pl.DataFrame
    alerts: pl.DataFrame
    clocks: pl.DataFrame
    rows: pl.DataFrame
    row_tables: list[str]
    run_address: str

    @property
    def today(self) -> date:
        """Today in the laboratory's calendar."""
        return self.now.astimezone(self.zone).date()

    @property
    def table_states(self) -> pl.DataFrame:
        """See ``health_figures.table_states``."""
        return figures.table_states(self.tables, self.now, self.today)

    @property
    def job_states(self) -> pl.DataFrame:
        """See ``health_figures.job_states``; with the kind and words of each job's last failure."""
        states = figures.job_states(self.runs, self.jobs, self.now)
        return states.join(self.failures, left_on="failed_run", right_on="run_id", how="left", maintain_order="left")

    @property
    def check_states(self) -> pl.DataFrame:
        """Every check; state failed, warning, never evaluated or passed, in this order."""
        warned = (pl.col("outcome") == "failed") & (pl.col("severity") == "WARN")
        never = pl.col("outcome") == "never"
        words = pl.when(warned).then(pl.lit("warning")).when(never).then(pl.lit("never evaluated")).otherwise("outcome")
        order = ["failed", "warning", "never evaluated", "passed"]
        rank = pl.col("state").replace_strict({name: i for i, name in enumerate(order)}, return_dtype=pl.Int8)
        return self.checks.with_columns(state=words).sort(rank, "table", "check")

    @property
    def missed_checks(self) -> pl.DataFrame:
        """Checks that a run ended before: per run the number of checks, and of which tables."""
        missed = self.checks.filter(pl.col("missed_run").is_not_null()).group_by(run="missed_run")
        counted = missed.agg(checks=pl.len(), tables=pl.col("table").unique().sort().str.join(", "))
        return counted.sort("checks", "run", descending=[True, False])

    def counts(self) -> dict[str, int]:
        """What is wrong, by kind; all zero is healthy."""
        tables, checks = self.table_states["state"], self.check_states["state"]
        return {
            "tables late": int((tables == "late").sum()),
            "tables never written": int((tables == "never").sum()),
            "jobs failing": int((self.job_states["state"] == "failing").sum()),
            "checks failing": int((checks == "failed").sum()),
            "checks warning": int((checks == "warning").sum()),
            "checks missed": int(self.checks["missed_run"].count()),
            "clocks failing": int((self.clocks["tick"] == "FAILURE").sum()),
            "alerts unresolved": self.alerts.height,
        }


def _day_axis(scale: alt.Scale | None = None) -> alt.X:
    """Days as names in order: as times, a browser or renderer in another zone would shift them by one."""
    import altair as alt

    axis = alt.Axis(labelAngle=0, labelOverlap="greedy", labelSeparation=20, ticks=False)
    return alt.X("day:O", title=None, axis=axis, sort=None, scale=scale or alt.Scale())


def run_chart(health: Health) -> alt.Chart:
    """Finished runs a day by outcome."""
    import altair as alt

    days = figures.runs_per_day(health.runs, health.now, health.zone.key).with_columns(pl.col("day").cast(pl.String))
    span = [str(health.today - timedelta(days=back)) for back in range(figures.LONG, -1, -1)]
    colours = alt.Scale(domain=list(_RUN_COLOURS), range=list(_RUN_COLOURS.values()))
    bars = alt.Chart(alt.Data(values=days.to_dicts()), title="Runs a day by outcome", width=640, height=120).mark_bar()
    colour = alt.Color("status:N", scale=colours, title=None)
    return bars.encode(
        x=_day_axis(alt.Scale(domain=span)), y=alt.Y("runs:Q", title=None, axis=alt.Axis(tickMinStep=1)), color=colour
    )


def rows_chart(health: Health) -> alt.Chart:
    """Rows a day of every table, each on a scale of its own; complete days only."""
    import altair as alt

    days = figures.rows_calendar(health.rows, health.today).with_columns(pl.col("day").cast(pl.String))
    bars = alt.Chart(alt.Data(values=days.to_dicts()), width=300, height=45).mark_bar(color="#92c5de")
    axis = alt.Axis(tickCount=2, grid=False)
    encoded = bars.encode(x=_day_axis(), y=alt.Y("rows:Q", title=None, axis=axis))
    header = alt.Header(title=None, labelOrient="top", labelAnchor="start")
    wrapped = encoded.facet(facet=alt.Facet("table:N", header=header), columns=2)
    return wrapped.resolve_scale(y="independent").properties(title="Rows a day")


def quarantine_chart(health: Health) -> alt.Chart:
    """Share of lab results in quarantine a day."""
    import altair as alt

    days = figures.quarantine_share(health.rows, health.today).with_columns(pl.col("day").cast(pl.String))
    base = alt.Chart(alt.Data(values=days.to_dicts()), title="Lab results in quarantine", width=640, height=120)
    y = alt.Y("share:Q", title=None, axis=alt.Axis(format="%"), scale=alt.Scale(zero=True))
    return base.mark_bar(color="#b2182b").encode(x=_day_axis(), y=y)


def health_charts(health: Health) -> list[alt.Chart]:
    """The page's charts, those that have something to show."""
    drawn = []
    if health.runs.filter(pl.col("ended_at").is_not_null()).height:
        drawn.append(run_chart(health))
    if figures.rows_calendar(health.rows, health.today).height:
        drawn.append(rows_chart(health))
    if figures.quarantine_share(health.rows, health.today).height:
        drawn.append(quarantine_chart(health))
    return drawn


def _clock(health: Health, name: str) -> pl.Expr:
    return pl.col(name).dt.convert_time_zone(health.zone.key).dt.strftime("%Y-%m-%d %H:%M")


def _tables(health: Health) -> list[tuple[str, pl.DataFrame, str]]:
    """The page's sections: title, rows, and what to say where there are none; what is wrong comes first."""
    tables = health.table_states.select(
        "state", "table", "group", written=_clock(health, "written_at"), hours_old=pl.col("hours_old").round(1),
        newest_day="newest_day", days_old="days_old", deadline="deadline", why="late",
    )  # fmt: skip
    spans = (figures.SHORT, figures.LONG)
    percent = [pl.format("{} %", (100 * pl.col(f"success_{days}d")).round(1)).alias(f"success_{days}d") for days in spans]
    jobs = health.job_states.select(
        "state", "job", *(pl.col(f"runs_{days}d") for days in spans), *percent,
        "median_minutes", "longest_minutes", "under_way", for_hours=pl.col("longest_hours").round(1),
        last_ended=_clock(health, "last_ended"), failed_at=_clock(health, "failed_at"),
        last_failure="kind", run="failed_run", why="words",
    )  # fmt: skip
    checks = health.check_states.select("state", "table", "check", evaluated=_clock(health, "at"), run="run_id", why="words")
    opened = _clock(health, "opened_at")
    alerts = health.alerts.select("severity", "state", "rule", "message", opened=opened, run="dagster_run_id")
    clocks = health.clocks.select(state="status", name="name", last_tick=_clock(health, "tick_at"), tick="tick", why="error")
    failed = ["state", "job", "last_failure", "why", "run", "failed_at", "runs_7d", "success_7d", "runs_30d", "success_30d"]
    wrong = pl.col("state").is_in(["late", "never", "failing", "failed lately", "failed", "warning"])
    return [
        ("Late tables", tables.filter(wrong).drop("group"), "Every table that has a deadline met it."),
        ("Jobs that failed", jobs.filter(wrong).select(*failed), "No job failed its last run, or any of the last week."),
        ("Failing checks", checks.filter(wrong), "No check fails."),
        ("Checks a run ended before", health.missed_checks, "Every run reached its checks."),
        (f"Unresolved alerts: {alerts.height}", alerts.head(MOST_ALERTS), "No alert is open."),
        ("Ticks that failed", clocks.filter(pl.col("tick") == "FAILURE"), "No schedule's or sensor's last tick failed."),
        ("Rows a day", figures.row_states(health.rows, health.row_tables, health.today), "No table has rows."),
        ("Every table", tables, "No table is defined."),
        ("Every job", jobs.drop("why", "run", "last_failure"), "No job is defined."),
        ("Schedules and sensors", clocks, "None is defined."),
        ("Checks never evaluated", checks.filter(pl.col("state") == "never evaluated").select("table", "check"), "None."),
    ]


def health_page(health: Health, pictures: list[alt.Chart]) -> str:
    """The page: counts, what is wrong, charts, then everything.

    Opened too long after it was drawn it says so itself: a daemon that died draws no page with itself on it.
    """
    made = health.now.astimezone(health.zone)
    badges = "".join(
        f"<td style='background:{GREEN if not count else AMBER if what in MILD else RED}'>"
        f"<b>{count}</b> {escaping.escape(what)}</td>"
        for what, count in health.counts().items()
    )
    links = {"run": health.run_address}
    sections = []
    for title, rows, none in _tables(health):
        if title == "Rows a day":
            sections += [f'<p><img alt="{c.title}" src="{charts.data_uri(charts.png(c))}"></p>' for c in pictures]
        body = html_table(rows, links, SHADES) if rows.height else f"<p>{none}</p>"
        sections.append(f"<h2>{title}</h2>{body}")
    stale = (
        f"<p id=stale hidden style='background:{RED};padding:.5rem'><b>This page is old: nothing has drawn it for more than "
        f"{STALE_HOURS} hours.</b> Look at the daemon, then at job pipeline_health.</p>"
        f"<script>if(Date.now()-{int(health.now.astimezone(UTC).timestamp())}e3>{STALE_HOURS}*36e5)"
        "document.getElementById('stale').hidden=false</script>"
    )
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<title>Pipeline health {made:%Y-%m-%d %H:%M}</title><style>{STYLE}\nbody{{max-width:90rem;padding:0 1rem}}</style>"
    )
    title = f"<h1>Pipeline health</h1><p>As of {made:%Y-%m-%d %H:%M} {escaping.escape(health.zone.key)}.</p>"
    return f"{head}{title}{stale}<table><tr>{badges}</tr></table>{''.join(sections)}</html>"


def write_health(html: str, day: date, folder: Path) -> Path:
    """Write pipeline_health.html of the day, replacing the one of an hour ago in one step; returns the file."""
    return put(folder / "health" / day.isoformat() / "pipeline_health.html", html.encode())
