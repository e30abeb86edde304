"""Dagster's PostgreSQL event log without three ways in which its concurrency pools stop runs: what deploy/ names.

Here: the storage class. Not here: how a dead holder of a slot is told (``slots``); batches, which this storage can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import Field, StringSource
from dagster._core.storage.event_log.schema import ConcurrencyLimitsTable
from dagster._serdes import ConfigurableClassData
from dagster_postgres.event_log import PostgresEventLogStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy.dialects.postgresql import insert

from lims_platform.automation.slots import SlotsOfTheDead


class LocalPostgresEventLogStorage(SlotsOfTheDead, PostgresEventLogStorage):
    """PostgresEventLogStorage for processes on one machine, whose locks lie below ``base_dir``.

    Dagster's own lets a step wait for ever where two runs ask for a pool at an unlucky moment, keeps the slots of a killed
    run until somebody marks the run as failed, and fails one of two runs that are the first to use a pool.
    """

    def __init__(
        self, base_dir: str, postgres_url: str, inst_data: ConfigurableClassData | None = None, **more: Any
    ) -> None:
        self._base_dir = base_dir
        super().__init__(postgres_url=postgres_url, inst_data=inst_data, **more)

    @classmethod
    def config_type(cls) -> Any:
        """As the base class, and the folder of the locks."""
        parent: Any = PostgresEventLogStorage.config_type()
        return {**parent, "base_dir": Field(StringSource, is_required=True)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> LocalPostgresEventLogStorage:
        """Build from dagster.yaml; the base class would build itself."""
        return cls(
            base_dir=config_value["base_dir"],
            postgres_url=pg_url_from_config(config_value),
            inst_data=inst_data,
            should_autocreate_tables=config_value.get("should_autocreate_tables", True),
        )

    def initialize_concurrency_limit_to_default(self, concurrency_key: str) -> bool:
        """As the base class, in one statement: its insert-else-update does not survive in a PostgreSQL transaction.

        See Dagster's issue 33552. Falls back to the base class where no default limit is set.
        """
        limit = self._instance.global_op_concurrency_default_limit if self.has_instance else None
        if limit is None or not self.has_default_pool_limit_col:
            return super().initialize_concurrency_limit_to_default(concurrency_key)
        row = insert(ConcurrencyLimitsTable).values(concurrency_key=concurrency_key, limit=limit, using_default_limit=True)
        known = ConcurrencyLimitsTable.c.concurrency_key
        with self.index_transaction() as connection:
            connection.execute(row.on_conflict_do_update(index_elements=[known], set_={"limit": limit}))
            self._allocate_concurrency_slots(connection, concurrency_key, limit)
        return True
