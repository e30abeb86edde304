"""The pipeline-health page: its asset, its job and its schedule.

Here: which facts are gathered for the page. The asset lives in this room because the deadlines do. Not here: deadlines
(``deadlines``), facts (``assets.health_facts``), figures and layout (``reporting``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl

from lims_platform.alerting.desk import listing
from lims_platform.assets.common import OWNERS
from lims_platform.assets.health_facts import check_states, clock_states, failures, run_history
from lims_platform.assets.reports import plots, report_asset
from lims_platform.automation.clocks import by_the_clock
from lims_platform.automation.deadlines import Deadline, deadlines
from lims_platform.automation.windows import now
from lims_platform.automation.written import last_written_whole
from lims_platform.contracts.base import Table
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.reporting.health_figures import LONG, ROWS_SCHEMA, TABLES_SCHEMA, job_states
from lims_platform.reporting.health_page import Health, health_charts, health_page, write_health
from lims_platform.settings import settings

KEY = dg.AssetKey(["reports", "pipeline_health"])

#: Tables whose rows a day are shown.
ROW_TABLES = [t for t in TABLES.values() if t.layer in ("bronze", "silver") and t.partition is not None]


@dataclass(frozen=True)
class Watched:
    """What the page watches: the group and deadline of every asset, checks, jobs, and each clock with its default."""

    groups: Mapping[dg.AssetKey, str]
    deadlines: Mapping[dg.AssetKey, Deadline]
    checks: Sequence[dg.AssetCheckKey]
    jobs: Sequence[str]
    clocks: Mapping[str, bool]


def watched(
    assets: Sequence[dg.AssetsDefinition], checks: Sequence[dg.AssetsDefinition], jobs: Sequence[Any], clocks: Sequence[Any]
) -> Watched:
    """All of the definitions given; ``clocks`` are schedules and sensors."""
    started = (dg.DefaultScheduleStatus.RUNNING, dg.DefaultSensorStatus.RUNNING)
    return Watched(
        {spec.key: spec.group_name or "default" for asset in assets for spec in asset.specs},
        deadlines(assets),
        sorted({key for one in (*assets, *checks) for key in one.check_keys}),
        sorted({job.name for job in jobs}),
        {clock.name: clock.default_status in started for clock in clocks},
    )


def _table_rows(instance: dg.DagsterInstance, watch: Watched, days: Mapping[str, Any], at: datetime) -> pl.DataFrame:
    rows = []
    for key, group in watch.groups.items():
        written, due, name = last_written_whole(instance, key), watch.deadlines.get(key), key.to_user_string()
        rows.append(
            {
                "table": name,
                "group": group,
                "newest_day": days.get(name),
                "written_at": written.at if written else None,
                "deadline": due.words if due else None,
                "late": due.late(instance, key, at) if due and written else None,
            }
        )
    return pl.DataFrame(rows, schema=TABLES_SCHEMA)


def _rows_by_day(lake: Lake, tables: Sequence[Table]) -> pl.DataFrame:
    counts = [lake.rows_by_day(table).select(pl.lit(table.path).alias("table"), "day", "rows") for table in tables]
    return pl.concat([pl.DataFrame(schema=ROWS_SCHEMA), *counts])


def health_now(instance: dg.DagsterInstance, lake: Lake, watch: Watched, own_run: str, at: datetime) -> Health:
    """The state of the platform at ``at`` (UTC); the run that draws the page, ``own_run``, is left out."""
    runs = run_history(instance, at - timedelta(days=LONG), watch.groups).filter(pl.col("run_id") != own_run)
    unfinished = {*runs.filter(pl.col("ended_at").is_null())["run_id"], own_run}
    failed = job_states(runs, [], at)["failed_run"].drop_nulls()
    dated = [table for table in TABLES.values() if table.partition is not None]
    rows = _rows_by_day(lake, dated)
    newest = dict(rows.filter(pl.col("rows") > 0).group_by("table").agg(pl.col("day").max()).iter_rows())
    names = [table.path for table in ROW_TABLES]
    return Health(
        now=at,
        zone=settings().zone,
        tables=_table_rows(instance, watch, newest, at),
        runs=runs,
        jobs=list(watch.jobs),
        failures=failures(instance, failed),
        checks=check_states(instance, watch.checks, unfinished),
        alerts=listing(lake),
        clocks=clock_states(instance, watch.clocks),
        rows=rows.filter(pl.col("table").is_in(names)),
        row_tables=names,
        run_address=f"{settings().dagster_url.rstrip('/')}/runs/",
    )


def pipeline_health_asset(watch: Watched) -> dg.AssetsDefinition:
    """The page as an asset. In a run over the whole graph it comes last; alone it needs nothing but the event log."""

    @dg.asset(
        **report_asset(
            "pipeline_health",
            "The platform's own health as one HTML page: tables against their deadlines, jobs, checks, alerts, rows a day.",
            {"html", "altair"},
            group_name="keeping",
            owners=[OWNERS["bronze"]],
            deps=[dg.AssetKey(["reports", "duckdb_catalog"])],
        )
    )
    def pipeline_health(context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.MaterializeResult:
        health = health_now(context.instance, lake, watch, context.run_id, now())
        pictures = health_charts(health)
        path = write_health(health_page(health, pictures), health.today, settings().report_dir)
        shown = {what.replace(" ", "_"): count for what, count in health.counts().items()}
        return dg.MaterializeResult(
            metadata={**shown, "page": dg.MetadataValue.path(path), "plots": plots(*pictures, scale=1)}
        )

    return pipeline_health


health_job = dg.define_asset_job(
    "pipeline_health",
    selection=dg.AssetSelection.assets(KEY),
    description="Draws the pipeline-health page from what Dagster and the lake know; reads no source.",
)
health_schedule = by_the_clock(
    health_job,
    "40 * * * *",
    "The pipeline-health page at twenty to every hour, ten minutes after the freshness checks.",
)
