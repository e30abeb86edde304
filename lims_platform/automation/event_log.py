"""Dagster's SQLite event log with real batches: a range run writes hundreds of events a step, one commit each is too slow.

Here: the storage class dagster.yaml names. Not here: what is logged. PostgreSQL storage needs none of this.
See docs/adr/0003 for the measurement.
"""

from collections.abc import Sequence
from typing import Any

from dagster._core.events import ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData

from lims_platform.automation.slots import SlotsOfTheDead


class BatchedSqliteEventLogStorage(SlotsOfTheDead, SqliteEventLogStorage):
    """SqliteEventLogStorage whose ``store_event_batch`` is one transaction per database instead of one per event.

    The base class stores a batch event by event, each in its own connection and commit (about 7 ms). Same rows, same
    tables: only the transaction is wider. A process killed inside a batch loses the whole batch and nothing else; Dagster
    calls it with DAGSTER_EVENT_BATCH_SIZE events at a time and falls back to single events if it raises.
    """

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> "BatchedSqliteEventLogStorage":
        """Build from dagster.yaml; the base class would build itself."""
        return cls(inst_data=inst_data, **config_value)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store asset events of one run together; anything else goes the base class's way."""
        plain = [e for e in events if e.dagster_event_type in ASSET_EVENTS]
        if len(plain) != len(events) or len({e.run_id for e in events}) != 1:
            super().store_event_batch(events)
            return
        statements = [self.prepare_insert_event(event) for event in events]
        with self.run_connection(events[0].run_id) as connection:
            for statement in statements:
                connection.execute(statement)
        with self.index_transaction() as connection:
            ids = [connection.execute(statement).lastrowid for statement in statements]
            self._store_asset_event_tags(connection, events, ids)
            # The asset table keeps only the newest event of an asset: the last of the batch decides.
            newest = {
                (e.get_dagster_event().asset_key, e.dagster_event_type): (e, i) for e, i in zip(events, ids, strict=True)
            }
            for event, event_id in newest.values():
                self._store_asset_event(connection, event, event_id)
