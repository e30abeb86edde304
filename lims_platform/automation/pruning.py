"""Pruning of Dagster's own records: runs, their events and logs, that no table's newest state needs any more.

Here: which runs may go, and their removal. Not here: the lake's files (``lakehouse.maintenance``); ticks, which Dagster
prunes itself (``retention`` in dagster.yaml). MLflow is left alone: a model's run is the proof of what it was trained on.

A run is kept while it holds the newest materialisation of any day of any asset: the UI's partition status, freshness and
every automation condition are read from those events, and a day whose event is gone would look as if it had never been made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

_PAGE = 500
_MADE = dg.DagsterEventType.ASSET_MATERIALIZATION


@dataclass(frozen=True)
class Pruned:
    """Runs that go, those past the age that stay because a newest state is theirs, and the bytes of the logs that go."""

    runs: tuple[str, ...]
    kept: int
    bytes: int


def prune(instance: dg.DagsterInstance, before: datetime, *, dry_run: bool) -> Pruned:
    """Delete finished runs created before ``before`` with their events and logs; with ``dry_run`` only say which."""
    filters = dg.RunsFilter(statuses=FINISHED_STATUSES, created_before=before)
    old = [record.dagster_run.run_id for record in instance.get_run_records(filters)]
    needed = runs_needed(instance) if old else set()
    going = tuple(run_id for run_id in old if run_id not in needed)
    size = sum(file.stat().st_size for run_id in going for file in _files(instance, run_id))
    for run_id in () if dry_run else going:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        for file in _files(instance, run_id):
            file.unlink()  # one event database per run: delete_run only empties it
    return Pruned(going, len(old) - len(going), size)


def runs_needed(instance: dg.DagsterInstance) -> set[str]:
    """Runs holding the newest materialisation of an asset or of one of its days."""
    needed = set()
    for key in instance.all_asset_keys():
        last = instance.get_latest_materialization_event(key)
        if last is not None:
            needed.add(last.run_id)
        newest = sorted(instance.event_log_storage.get_latest_storage_id_by_partition(key, _MADE).values())
        for at in range(0, len(newest), _PAGE):
            wanted = dg.AssetRecordsFilter(asset_key=key, storage_ids=newest[at : at + _PAGE])
            needed |= {record.run_id for record in instance.fetch_materializations(wanted, limit=_PAGE).records}
    return needed


def _files(instance: dg.DagsterInstance, run_id: str) -> Iterator[Path]:
    """A run's own files: its event database (SQLite) and its compute logs (local)."""
    storage, logs = instance.event_log_storage, instance.compute_log_manager
    if isinstance(storage, SqliteEventLogStorage):
        database = Path(storage.path_for_shard(run_id))
        yield from sorted(database.parent.glob(f"{database.name}*"))
    if isinstance(logs, LocalComputeLogManager):
        folder = Path(logs.get_captured_local_path([run_id, "any"], "out")).parent
        yield from sorted(file for file in folder.rglob("*") if file.is_file())
