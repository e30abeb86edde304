"""The figures of the health page: what is late, how jobs fared, rows a day. Pure frames in, frames out.

Here: the forms of the facts, and what follows from them. Not here: where facts come from (``assets.health_facts``,
``automation.deadlines``), layout (``health_page``).
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

import polars as pl

_UTC = pl.Datetime("us", "UTC")
Schema = dict[str, pl.DataType]

#: One row per asset; ``late`` says why it is late, null where it is not; both null where nothing is asked of it.
TABLES_SCHEMA: Schema = {
    "table": pl.String(),
    "group": pl.String(),
    "newest_day": pl.Date(),
    "written_at": _UTC,
    "deadline": pl.String(),
    "late": pl.String(),
}
#: One row per run that was under way within the page's reach; ``ended_at`` is null while it is.
RUNS_SCHEMA: Schema = {
    "run_id": pl.String(),
    "job": pl.String(),
    "status": pl.String(),
    "started_at": _UTC,
    "ended_at": _UTC,
}
#: The last failure of a job: kind transient, permanent, defect or lost; words.
FAILURES_SCHEMA: Schema = {"run_id": pl.String(), "kind": pl.String(), "words": pl.String()}
#: One row per check: outcome of the last evaluation (passed, failed, never); missed_run: a later run that ended before it.
CHECKS_SCHEMA: Schema = {
    "table": pl.String(),
    "check": pl.String(),
    "outcome": pl.String(),
    "severity": pl.String(),
    "at": _UTC,
    "run_id": pl.String(),
    "words": pl.String(),
    "missed_run": pl.String(),
}
#: One row per schedule and sensor: status running, stopped or never started; its last tick.
CLOCKS_SCHEMA: Schema = {
    "name": pl.String(),
    "status": pl.String(),
    "tick_at": _UTC,
    "tick": pl.String(),
    "error": pl.String(),
}
#: Rows stored for a day of a table.
ROWS_SCHEMA: Schema = {"table": pl.String(), "day": pl.Date(), "rows": pl.Int64()}

#: Days a job's runs are counted over.
SHORT, LONG = 7, 30
#: Days rows are shown for.
ROW_DAYS = 42
#: Quarantine, and what it is a share of.
VALID, HELD = "silver/lab_results_standardized", "silver/lab_results_quarantine"


def table_states(tables: pl.DataFrame, now: datetime, today: date) -> pl.DataFrame:
    """Every table's state (late, never, fresh, no deadline), the gravest first, the oldest of them first.

    ``hours_old`` is the age of the last write, ``days_old`` that of the newest day with rows (0 is today). A table that
    was never written is ``never``, whatever its deadline.
    """
    state = (
        pl.when(pl.col("written_at").is_null()).then(pl.lit("never"))
        .when(pl.col("late").is_not_null()).then(pl.lit("late"))
        .when(pl.col("deadline").is_null()).then(pl.lit("no deadline"))
        .otherwise(pl.lit("fresh"))
    )  # fmt: skip
    rank = pl.col("state").replace_strict({"late": 0, "never": 1, "no deadline": 2, "fresh": 3}, return_dtype=pl.Int8)
    age = (pl.lit(now).cast(_UTC) - pl.col("written_at")).dt.total_seconds() / 3600
    return tables.with_columns(
        state=state, hours_old=age, days_old=(pl.lit(today) - pl.col("newest_day")).dt.total_days()
    ).sort(rank, pl.col("written_at"), "table", nulls_last=False)


def job_states(runs: pl.DataFrame, jobs: list[str], now: datetime) -> pl.DataFrame:
    """How every job fared over SHORT and LONG days up to ``now``; those whose last run failed first.

    ``jobs``: the names of all jobs, so that one without runs is seen too. Shares are successes of successes and failures;
    a cancelled run is neither; null where nothing finished. Minutes are of finished runs, longest_hours of the run that is
    under way longest. state: failing (the last finished
    run failed), failed lately (within SHORT days), good, no run.
    """
    finished = runs.filter(pl.col("status").is_in(["SUCCESS", "FAILURE"])).sort("ended_at")
    minutes = (pl.col("ended_at") - pl.col("started_at")).dt.total_seconds() / 60
    failed = pl.col("status") == "FAILURE"

    def over(days: int) -> pl.DataFrame:
        within = pl.col("ended_at") > now - timedelta(days=days)
        share = (~failed).mean().alias(f"success_{days}d")
        return finished.filter(within).group_by("job").agg(pl.len().cast(pl.Int64).alias(f"runs_{days}d"), share)

    recent = finished.filter(pl.col("ended_at") > now - timedelta(days=LONG))
    last = recent.group_by("job").agg(
        last_ended=pl.col("ended_at").last(),
        last_status=pl.col("status").last(),
        median_minutes=minutes.median(),
        longest_minutes=minutes.max(),
        failed_at=pl.col("ended_at").filter(failed).last(),
        failed_run=pl.col("run_id").filter(failed).last(),
    )
    age = (pl.lit(now).cast(_UTC) - pl.col("started_at")).dt.total_seconds() / 3600
    open_runs = runs.filter(pl.col("ended_at").is_null()).group_by("job")
    under_way = open_runs.agg(under_way=pl.len().cast(pl.Int64), longest_hours=age.max())
    names = pl.DataFrame({"job": sorted({*jobs, *runs["job"]})}, schema={"job": pl.String})
    table = names
    for frame in (over(SHORT), over(LONG), last, under_way):
        table = table.join(frame, on="job", how="left")
    counts = [f"runs_{SHORT}d", f"runs_{LONG}d", "under_way"]
    state = (
        pl.when(pl.col("last_status") == "FAILURE").then(pl.lit("failing"))
        .when(pl.col("failed_at") > now - timedelta(days=SHORT)).then(pl.lit("failed lately"))
        .when(pl.col("last_status").is_null()).then(pl.lit("no run"))
        .otherwise(pl.lit("good"))
    )  # fmt: skip
    rank = pl.col("state").replace_strict({"failing": 0, "failed lately": 1, "good": 2, "no run": 3}, return_dtype=pl.Int8)
    return table.with_columns(pl.col(counts).fill_null(0), state=state).sort(rank, "job").drop("last_status")


def runs_per_day(runs: pl.DataFrame, now: datetime, zone: str) -> pl.DataFrame:
    """Finished runs by day (of the laboratory) and status over LONG days: day, status, runs."""
    finished = runs.filter(pl.col("ended_at") > now - timedelta(days=LONG))
    day = pl.col("ended_at").dt.convert_time_zone(zone).dt.date()
    return finished.group_by(day=day, status=pl.col("status")).agg(runs=pl.len()).sort("day", "status")


def rows_calendar(rows: pl.DataFrame, today: date, days: int = ROW_DAYS) -> pl.DataFrame:
    """Rows of every table on each of the last ``days`` complete days: table, day, rows; a day without rows is a zero.

    A table's calendar begins with its first day that has rows, if that is later.
    """
    first_days = rows.filter(pl.col("rows") > 0).group_by("table").agg(first=pl.col("day").min())
    calendar = pl.DataFrame({"day": [today - timedelta(days=back) for back in range(days, 0, -1)]}, schema={"day": pl.Date})
    return (
        first_days.join(calendar, how="cross")
        .filter(pl.col("day") >= pl.col("first"))
        .join(rows, on=["table", "day"], how="left")
        .select("table", "day", pl.col("rows").fill_null(0))
        .sort("table", "day")
    )


def row_states(rows: pl.DataFrame, tables: list[str], today: date) -> pl.DataFrame:
    """Per table: rows of today so far, of yesterday, the median of that weekday before, days without rows; empty first.

    state: no rows (none on any of these days), empty yesterday (where that weekday usually has rows), else good.
    """
    calendar, yesterday = rows_calendar(rows, today), today - timedelta(days=1)
    earlier = (pl.col("day") < yesterday) & (pl.col("day").dt.weekday() == yesterday.isoweekday())
    usual = calendar.group_by("table").agg(
        yesterday=pl.col("rows").filter(pl.col("day") == yesterday).first(),
        usual=pl.col("rows").filter(earlier).median(),
        days_without_rows=(pl.col("rows") == 0).sum().cast(pl.Int64),
        total=pl.col("rows").sum(),
    )
    now = rows.filter(pl.col("day") == today).select("table", today_so_far="rows")
    names = pl.DataFrame({"table": sorted({*tables, *rows["table"]})}, schema={"table": pl.String})
    known = names.join(usual, on="table", how="left").join(now, on="table", how="left")
    state = (
        pl.when(pl.col("total").fill_null(0) + pl.col("today_so_far").fill_null(0) == 0).then(pl.lit("no rows"))
        .when((pl.col("yesterday") == 0) & (pl.col("usual") > 0)).then(pl.lit("empty yesterday"))
        .otherwise(pl.lit("good"))
    )  # fmt: skip
    rank = pl.col("state").replace_strict({"empty yesterday": 0, "no rows": 1, "good": 2}, return_dtype=pl.Int8)
    columns = ["state", "table", "today_so_far", "yesterday", "usual", "days_without_rows"]
    return known.with_columns(state=state).sort(rank, "table").select(columns)


def quarantine_share(rows: pl.DataFrame, today: date) -> pl.DataFrame:
    """Share of a complete day's lab results in quarantine: day, results, share; days without results are left out."""
    calendar = rows_calendar(rows, today).filter(pl.col("table").is_in([VALID, HELD]))
    held = pl.col("rows").filter(pl.col("table") == HELD).sum()
    days = calendar.group_by("day").agg(results=pl.col("rows").sum(), held=held)
    return days.filter(pl.col("results") > 0).select("day", "results", share=pl.col("held") / pl.col("results")).sort("day")
