"""Seconds to store a range run's materialisation events: batched storage against Dagster's own SQLite storage.

Baseline: SqliteEventLogStorage.store_event_batch, in the same process, on the same events.
"""

from __future__ import annotations

import tempfile
import time

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType, StepMaterializationData
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from lims_platform.automation.event_log import BatchedSqliteEventLogStorage

DAYS, ASSETS, BATCH = 420, 2, 500


def events(run_id: str) -> list[EventLogEntry]:
    """Materialisations of ASSETS assets over DAYS partitions."""
    days = [f"2025-{1 + d // 28 % 12:02d}-{1 + d % 28:02d}-{d}" for d in range(DAYS)]
    out = []
    for asset in range(ASSETS):
        for day in days:
            made = dg.AssetMaterialization(
                ["gold", f"table_{asset}"], partition=day, metadata={"rows": 1600, "delta_version": 3}
            )
            event = DagsterEvent(
                DagsterEventType.ASSET_MATERIALIZATION.value,
                "everything",
                event_specific_data=StepMaterializationData(made, []),
            )
            out.append(EventLogEntry(None, "info", "", run_id, time.time(), job_name="everything", dagster_event=event))
    return out


def seconds(storage: SqliteEventLogStorage, run_id: str) -> float:
    """Time to store all events in batches."""
    batch = events(run_id)
    started = time.perf_counter()
    for low in range(0, len(batch), BATCH):
        storage.store_event_batch(batch[low : low + BATCH])
    return time.perf_counter() - started


def main() -> None:
    """Print events a second and the ratio."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        ours = seconds(BatchedSqliteEventLogStorage(one), "run-a")
        stock = seconds(SqliteEventLogStorage(two), "run-a")
    count = DAYS * ASSETS
    print(f"{count} events: batched {ours:.2f} s ({1000 * ours / count:.2f} ms each), stock {stock:.2f} s")
    print(f"ratio batched / stock = {ours / stock:.3f}")


if __name__ == "__main__":
    main()
