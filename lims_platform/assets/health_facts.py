"""What Dagster knows about runs, checks, schedules and sensors, as the frames of the health page.

Here: records to frames. Not here: what follows from them (``reporting.health_figures``), deadlines (``automation``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord, AssetCheckExecutionRecordStatus

from lims_platform.reporting.health_figures import CHECKS_SCHEMA, CLOCKS_SCHEMA, FAILURES_SCHEMA, RUNS_SCHEMA

#: Characters of a failure's message that are shown; the run has all of it.
SHOWN_WORDS = 300
_NEVER = datetime.min.replace(tzinfo=UTC)
_ENDED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def _utc(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)


def run_name(run: dg.DagsterRun, groups: Mapping[dg.AssetKey, str]) -> str:
    """A run's job; of a run over chosen assets what started it and the groups of the assets: such runs share one job."""
    if not run.job_name.startswith("__ASSET_JOB"):
        return run.job_name
    chosen = sorted({groups.get(key, "unknown") for key in run.asset_selection or ()})
    return f"{run.tags.get('dagster/sensor_name', 'by hand')}: {', '.join(chosen) or 'assets'}"


def run_history(instance: dg.DagsterInstance, since: datetime, groups: Mapping[dg.AssetKey, str]) -> pl.DataFrame:
    """Runs that ended since then or have not ended, RUNS_SCHEMA. ``groups``: the group of every asset."""
    # Dagster's stores compare without a zone, PostgreSQL in its session's: ask for a day more, cut it off exactly below.
    wide = dg.RunsFilter(updated_after=since.astimezone(UTC) - timedelta(days=1))
    rows = [
        {
            "run_id": record.dagster_run.run_id,
            "job": run_name(record.dagster_run, groups),
            "status": record.dagster_run.status.value,
            "started_at": _utc(record.start_time),
            "ended_at": _utc(record.end_time or record.update_timestamp.timestamp())
            if record.dagster_run.status in _ENDED
            else None,
        }
        for record in instance.get_run_records(wide)
    ]
    reached = pl.col("ended_at").is_null() | (pl.col("ended_at") >= since.astimezone(UTC))
    return pl.DataFrame(rows, schema=RUNS_SCHEMA).filter(reached)


def failures(instance: dg.DagsterInstance, run_ids: Iterable[str]) -> pl.DataFrame:
    """Why runs failed, FAILURES_SCHEMA: the kind ``lims_platform.failures`` gave the first step that failed and its words.

    A step's error without a kind is a defect. A run that failed without a failed step was lost (its process died, or it
    never started); then the words are Dagster's.
    """
    rows = []
    for run_id in run_ids:
        step = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1).records
        if step:
            kind, words = _of_step(step[0].event_log_entry)
        else:
            run = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.RUN_FAILURE, limit=1).records
            event = run[0].event_log_entry.dagster_event if run else None
            kind, words = "lost", (event.message if event is not None else None) or "no reason was recorded"
        rows.append({"run_id": run_id, "kind": kind, "words": _short(words)})
    return pl.DataFrame(rows, schema=FAILURES_SCHEMA)


def _short(words: str) -> str:
    line = " ".join(words.split())
    return line if len(line) <= SHOWN_WORDS else line[:SHOWN_WORDS] + " …"


def _of_step(entry: dg.EventLogEntry) -> tuple[str, str]:
    event: Any = entry.dagster_event
    data = event.step_failure_data
    told = data.user_failure_data
    if told is not None and "kind" in told.metadata:
        return str(told.metadata["kind"].value), f"{entry.step_key}: {told.description}"
    error = data.error
    words = (error.cause or error).message if error is not None else "no error was recorded"
    return "defect", f"{entry.step_key}: {words}"


def check_states(instance: dg.DagsterInstance, keys: Iterable[dg.AssetCheckKey], unfinished: set[str]) -> pl.DataFrame:
    """The newest evaluation of every check, CHECKS_SCHEMA. ``unfinished``: ids of runs that still run.

    A run that ended before it reached a check is no evaluation of it: the one before still holds, and the run is named.
    """
    wanted = list(keys)
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(wanted)
    rows = []
    for key in wanted:
        row: dict[str, Any] = {"table": key.asset_key.to_user_string(), "check": key.name, "outcome": "never"}
        record = latest.get(key)
        if record is not None and record.status is AssetCheckExecutionRecordStatus.PLANNED:
            row["missed_run"] = None if record.run_id in unfinished else record.run_id
            record = _evaluated(instance, key)
        if record is not None:
            evaluation: Any = record.evaluation
            row |= {
                "outcome": "passed" if record.status is AssetCheckExecutionRecordStatus.SUCCEEDED else "failed",
                "severity": evaluation.severity.value,
                "at": _utc(record.event.timestamp if record.event else record.create_timestamp),
                "run_id": record.run_id,
                "words": evaluation.description,
            }
        rows.append(row)
    return pl.DataFrame(rows, schema=CHECKS_SCHEMA)


def _evaluated(instance: dg.DagsterInstance, key: dg.AssetCheckKey) -> AssetCheckExecutionRecord | None:
    history = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status={AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}
    )
    return history[0] if history else None


def clock_states(instance: dg.DagsterInstance, running_by_default: Mapping[str, bool]) -> pl.DataFrame:
    """Every schedule and sensor and its last tick, CLOCKS_SCHEMA; ``running_by_default``: their names.

    One that nobody switched runs or not by its default, but only once a daemon has looked at it. Of states that an earlier
    code location left under the same name the one with the newest tick counts.
    """
    known: dict[str, dict[str, Any]] = {}
    for state in instance.all_instigator_state():
        row: dict[str, Any] = {"status": "running" if state.is_running else "stopped"}
        for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1):
            error = _short(tick.error.message) if tick.error else None
            row |= {"tick_at": _utc(tick.timestamp), "tick": tick.status.value, "error": error}
        before = known.get(state.instigator_name)
        if before is None or row.get("tick_at", _NEVER) > before.get("tick_at", _NEVER):
            known[state.instigator_name] = row
    rows = [
        {"name": name, **known.get(name, {"status": "waits for the daemon" if default else "never started"})}
        for name, default in running_by_default.items()
    ]
    return pl.DataFrame(rows, schema=CLOCKS_SCHEMA)
