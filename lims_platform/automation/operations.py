"""Jobs that keep the house in order: reconciliation, the rebuild of repaired days, maintenance; with schedules and a sensor.

Here: what runs when, and each table's pool. Not here: comparing, compacting, pruning.
"""

from datetime import date, timedelta
from itertools import groupby
from typing import Any

import dagster as dg

from lims_platform.assets.common import asset_key
from lims_platform.assets.operations import REPAIRED_DAYS
from lims_platform.automation.clocks import CAN_WAIT, SENSOR_STATUS, by_the_clock
from lims_platform.automation.keeping import BY_THE_CLOCK, announce, keep_house, may_delete
from lims_platform.automation.pruning import prune
from lims_platform.automation.windows import now
from lims_platform.contracts.base import Table
from lims_platform.contracts.operations import RETENTION
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.catalog import build_catalog
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.maintenance import expired_reports, retention, upkeep
from lims_platform.lakehouse.reference import load_table
from lims_platform.partitions import DAILY
from lims_platform.settings import settings

REPORT = asset_key("reconciliation_report")
_CONFIG_KEY = REPORT.to_python_identifier()


def _reconcile(name: str, days: int, description: str) -> Any:
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(REPORT),
        config={"ops": {_CONFIG_KEY: {"config": {"days": days}}}},
        tags=CAN_WAIT,
        description=description,
    )


reconcile_nightly = _reconcile(
    "reconcile_nightly", settings().reconcile_nightly_days, "The last days against the source, differences repaired."
)
reconcile_weekly = _reconcile(
    "reconcile_weekly", settings().reconcile_weekly_days, "The last weeks against the source, differences repaired."
)
rebuild_days = dg.define_asset_job(
    "rebuild_days",
    # not the features: those from the repair's knowledge day on follow by themselves (late_knowledge), none earlier
    selection=dg.AssetSelection.groups("silver", "operations") | dg.AssetSelection.assets(["reports", "duckdb_catalog"]),
    partitions_def=DAILY,
    tags=CAN_WAIT,
    description="Silver and operational marts of days whose bronze a reconciliation repaired; silver of days whose rows an "
    "edit of the reference tables changes (their marts follow).",
)


def stretches(days: list[date]) -> list[tuple[date, date]]:
    """First and last of every run of neighbouring days."""
    runs = groupby(enumerate(sorted(days)), key=lambda pair: pair[1] - timedelta(days=pair[0]))
    lists = [[day for _, day in run] for _, run in runs]
    return [(run[0], run[-1]) for run in lists]


@dg.asset_sensor(
    asset_key=REPORT,
    job=rebuild_days,
    default_status=SENSOR_STATUS,
    description="Rebuilds silver and marts of the days a reconciliation repaired.",
)
def repaired_days_sensor(context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry) -> dg.SensorResult:
    made = asset_event.asset_materialization
    told = made.metadata.get(REPAIRED_DAYS) if made else None
    days = [date.fromisoformat(day) for day in str(told.value).split(",") if day] if told else []
    requests = [
        dg.RunRequest(
            run_key=f"{asset_event.run_id}/{first}",
            tags={
                "dagster/asset_partition_range_start": first.isoformat(),
                "dagster/asset_partition_range_end": last.isoformat(),
            },
        )
        for first, last in stretches(days)
    ]
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else "nothing was repaired")


@dg.op(description="The catalogue names files: it is built anew before any of them goes.", out=dg.Out(dg.Nothing))
def catalogue_first(lake: dg.ResourceParam[Lake]) -> None:
    build_catalog(lake, TABLES.values(), settings().catalog_path)


@dg.op(
    description="Says in the audit trail what the rules in force let go. What was not announced for a week stays.",
    ins={"ready": dg.In(dg.Nothing)},
    out=dg.Out(dg.Nothing),
)
def notice(context: dg.OpExecutionContext, lake: dg.ResourceParam[Lake]) -> None:
    would_go = keep_house(settings(), context.instance, lake, dry_run=True)
    announce(settings(), would_go, BY_THE_CLOCK)
    if may_delete(settings()):
        context.log.info(f"announced a week ago or more; now goes: {would_go}")
    else:
        context.log.warning(f"nothing goes yet, the rules are new; the run of next week removes: {would_go}")


def upkeep_op(table: Table) -> dg.OpDefinition:
    """Compaction, retention and vacuum of one table, in the table's pool: never beside an overwrite of it."""

    @dg.op(
        name=f"upkeep_{table.name}",
        description=f"Compacts, expires and vacuums {table.path}.",
        ins={"ready": dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        pool=table.pool,
    )
    def run(context: dg.OpExecutionContext, lake: dg.ResourceParam[Lake]) -> None:
        rule = retention(load_table(settings().reference_dir, RETENTION), table, settings().today)
        done = upkeep(lake, table, rule, settings().keep_versions_days, dry_run=not may_delete(settings()))
        context.log.info(str(done))

    return run


@dg.op(description="Old runs, their events and logs, and dated report folders.", ins={"ready": dg.In(dg.Nothing)})
def prune_records(context: dg.OpExecutionContext) -> None:
    dry_run = not may_delete(settings())
    gone = prune(context.instance, now() - timedelta(days=settings().keep_runs_days), dry_run=dry_run)
    context.log.info(f"{len(gone.runs)} runs, {gone.bytes:,} bytes; {gone.kept} old runs hold a newest state and stay")
    rules = load_table(settings().reference_dir, RETENTION)
    pages = expired_reports(settings().report_dir, rules, settings().today, dry_run=dry_run)
    context.log.info(f"{len(pages)} report folders")


UPKEEP_OPS = [upkeep_op(table) for table in TABLES.values()]


@dg.job(
    tags=CAN_WAIT,
    description="Compaction, retention, vacuum of every table; old runs, logs and reports pruned. By rules announced in the "
    "audit trail a week before; until then it only says what would go. SPEC: keeping.",
)
def maintenance_weekly() -> None:
    ready = notice(ready=catalogue_first())
    prune_records(ready=[op(ready=ready) for op in UPKEEP_OPS])


def _at(job: Any, cron: str) -> dg.ScheduleDefinition:
    return by_the_clock(job, cron, f"{job.description} Cron {cron}.")


OPERATIONS_JOBS = [reconcile_nightly, reconcile_weekly, rebuild_days, maintenance_weekly]
NIGHTLY = _at(reconcile_nightly, "20 0 * * *")
#: Nightly before the features are made at 01:00; weekly when no training runs; maintenance after both.
OPERATIONS_SCHEDULES = [
    NIGHTLY,
    _at(reconcile_weekly, "30 5 * * 0"),
    _at(maintenance_weekly, "30 6 * * 0"),
]
OPERATIONS_SENSORS = [repaired_days_sensor]
