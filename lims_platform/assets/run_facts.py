"""What Dagster knows about runs and materialisations, as the frames alert rules read.

Here: records to frames. Not here: what is wrong with them (``alerting.platform_health``).
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import dagster as dg
import polars as pl

from lims_platform.alerting.platform_health import READINGS_SCHEMA, RUNS_SCHEMA
from lims_platform.contracts.bronze import BRONZE_TABLES

_START, _END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]


def finished_runs(instance: dg.DagsterInstance, since: datetime) -> pl.LazyFrame:
    """Runs that succeeded or failed since then, RUNS_SCHEMA."""
    # Dagster's stores compare without a zone, PostgreSQL in its session's: ask for a day more, cut it off exactly below.
    wide = since.astimezone(UTC) - timedelta(days=1)
    records = instance.get_run_records(dg.RunsFilter(statuses=_FINISHED, updated_after=wide))
    rows = []
    for record in records:
        run, tags = record.dagster_run, record.dagster_run.tags
        day = tags.get("dagster/partition")
        failed = run.status is dg.DagsterRunStatus.FAILURE
        rows.append(
            {
                "run_id": run.run_id,
                "job": run.job_name,
                "status": run.status.value,
                "ended_at": datetime.fromtimestamp(record.end_time or record.update_timestamp.timestamp(), UTC),
                "first_day": tags.get(_START, day),
                "last_day": tags.get(_END, day),
                "failed_steps": ", ".join(_failed_steps(instance, run.run_id)) or None if failed else None,
            }
        )
    text = {**RUNS_SCHEMA, "first_day": pl.String(), "last_day": pl.String()}
    days = pl.col("first_day", "last_day").str.to_date("%Y-%m-%d", strict=False)
    recent = pl.col("ended_at") >= pl.lit(since.astimezone(UTC)).cast(RUNS_SCHEMA["ended_at"])
    return pl.DataFrame(rows, schema=text).lazy().with_columns(days).filter(recent)


def _failed_steps(instance: dg.DagsterInstance, run_id: str) -> list[str]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    return [step for step in (r.event_log_entry.step_key for r in records) if step]


def readings(instance: dg.DagsterInstance, now: datetime, tolerance: timedelta) -> pl.LazyFrame:
    """When each bronze table that was ever read was last read for a current day, READINGS_SCHEMA.

    Current are the days of ``now`` (in the laboratory's zone) and of ``now`` − ``tolerance``: filling an old day again
    makes nothing fresh.
    """
    days = sorted({now.date().isoformat(), (now - tolerance).date().isoformat()})
    rows = []
    for table in BRONZE_TABLES.values():
        key = dg.AssetKey([table.layer, table.name])
        if instance.get_latest_materialization_event(key) is not None:
            rows.append({"table": table.path, "read_at": _last(instance, key, days if table.partition else None)})
    return pl.DataFrame(rows, schema=READINGS_SCHEMA).lazy()


def _last(instance: dg.DagsterInstance, key: dg.AssetKey, days: Iterable[str] | None) -> datetime | None:
    chosen = dg.AssetRecordsFilter(asset_key=key, asset_partitions=list(days) if days is not None else None)
    records = instance.fetch_materializations(chosen, limit=1).records
    return datetime.fromtimestamp(records[0].timestamp, UTC) if records else None
