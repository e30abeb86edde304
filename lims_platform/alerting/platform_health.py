"""Conditions about the platform itself: failed runs, slow answers, data nobody reads any more.

Here: frames of runs, readings and request times in, findings out. Not here: where the frames come from
(``assets.run_facts``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.alerting.rules import Evaluation, Rule, Situation, findings, shown

#: What ``pipeline_failure`` reads: finished runs. first_day and last_day are null for a run without partitions.
RUNS_SCHEMA: dict[str, pl.DataType] = {
    "run_id": pl.String(),
    "job": pl.String(),
    "status": pl.String(),
    "ended_at": pl.Datetime("us", "UTC"),
    "first_day": pl.Date(),
    "last_day": pl.Date(),
    "failed_steps": pl.String(),
}
#: What ``freshness`` reads: per table when it was last read from the source for a day that is current, null if never.
READINGS_SCHEMA: dict[str, pl.DataType] = {"table": pl.String(), "read_at": pl.Datetime("us", "UTC")}
#: What ``api_latency`` reads.
LATENCY_SCHEMA: dict[str, pl.DataType] = {
    "endpoint": pl.String(),
    "at": pl.Datetime("us", "UTC"),
    "milliseconds": pl.Float64(),
}


def pipeline_failure(rule: Rule, given: Situation) -> Evaluation:
    """A run failed within the window and no later run of the same job has covered its days.

    One alert per job and days. It ends with that later run, or after a person acknowledged it.
    """
    recent = given.tables["runs"].filter(pl.col("ended_at") >= given.now_utc - rule.window)
    days = (
        pl.when(pl.col("first_day").is_null()).then(pl.lit(""))
        .when(pl.col("first_day") == pl.col("last_day")).then(pl.format(" {}", "first_day"))
        .otherwise(pl.format(" {} to {}", "first_day", "last_day"))
    )  # fmt: skip
    runs = recent.with_columns(subject=pl.format("{}{}", "job", days)).sort("ended_at").collect()
    failed, good = runs.filter(pl.col("status") == "FAILURE"), runs.filter(pl.col("status") == "SUCCESS")
    covered = (pl.col("first_day_good") <= pl.col("first_day")) & (pl.col("last_day_good") >= pl.col("last_day"))
    repaired = failed.join(good, on="job", suffix="_good").filter(
        pl.col("ended_at_good") > pl.col("ended_at"), pl.col("first_day").is_null() | covered
    )
    standing = failed.filter(~pl.col("run_id").is_in(repaired["run_id"].implode()))
    words = pl.format(
        "run of {} failed at {}{}",
        "subject", given.clock(pl.col("ended_at")),
        pl.coalesce(pl.lit(" in step ") + pl.col("failed_steps"), pl.lit("")),
    )  # fmt: skip
    found = findings(
        standing,
        subject=pl.col("subject"),
        message=words,
        evidence_at=pl.col("ended_at"),
        dagster_run_id=pl.col("run_id"),
    )
    over = pl.concat([repaired["subject"], good["subject"]]).unique()
    return Evaluation(found, settled=over.filter(~over.is_in(found["subject"].implode())))


def api_latency(rule: Rule, given: Situation) -> Evaluation:
    """The 95th percentile of an endpoint's answer times within the window is above ``limit`` ms."""
    limit = rule.number("limit")
    recent = given.tables["api_requests"].filter(pl.col("at") >= given.now_utc - rule.window)
    slow = (
        recent.group_by("endpoint")
        .agg(p95=pl.col("milliseconds").quantile(0.95, "linear"), requests=pl.len(), at=pl.col("at").max())
        .sort("endpoint")
        .collect()
    )
    if slow.is_empty():
        return Evaluation(not_evaluable=f"no request within {rule.window_hours:g} h")
    words = pl.format(
        "{}: 95 of 100 answers within {} ms, limit {} ms ({} requests)",
        "endpoint", shown(pl.col("p95"), 0), pl.lit(f"{limit:g}"), "requests",
    )  # fmt: skip
    return Evaluation(
        findings(
            slow.filter(pl.col("p95") > limit),
            subject=pl.col("endpoint"),
            message=words,
            value=pl.col("p95"),
            limit=pl.lit(limit),
            evidence_at=pl.col("at"),
        )
    )


def freshness(rule: Rule, given: Situation) -> Evaluation:
    """A bronze table was last read from its source more than ``limit`` hours ago."""
    limit = rule.number("limit")
    tables = given.tables["readings"].collect()
    if tables.is_empty():
        return Evaluation(not_evaluable="no bronze table was ever read")
    hours = (given.now_utc - pl.col("read_at")).dt.total_seconds() / 3600
    stale = tables.filter((hours > limit).fill_null(True))
    words = pl.format(
        "{}: last read from the LIMS {}, limit {} h",
        "table",
        pl.coalesce(given.clock(pl.col("read_at")), pl.lit("not yet today")),
        pl.lit(f"{limit:g}"),
    )  # fmt: skip
    return Evaluation(
        findings(
            stale,
            subject=pl.col("table"),
            message=words,
            limit=pl.lit(limit),
            evidence_at=pl.coalesce(pl.col("read_at"), given.now_utc.dt.truncate("1d")),
        )
    )
