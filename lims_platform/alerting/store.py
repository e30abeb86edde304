"""The two alert tables on disk: read, and changed by whoever read the newest version.

Here: optimistic commits. Not here: what changes (``lifecycle``, ``delivery``). Every commit carries the next app
transaction of its table: two writers that read the same version cannot both commit, so that an acknowledgement is never
lost to an evaluation that ran meanwhile, nor a message claimed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import polars as pl
from deltalake import CommitProperties, Transaction, write_deltalake

from lims_platform.contracts.base import Table
from lims_platform.lakehouse.lake import Lake, conform, retry_on_conflict

Build = Callable[[pl.DataFrame], pl.DataFrame]


def read(lake: Lake, table: Table) -> pl.DataFrame:
    """All rows at the newest version; none where nothing was ever written."""
    return lake.scan(table).collect()


def _commit(lake: Lake, table: Table, mode: Literal["overwrite", "append"], build: Build) -> pl.DataFrame:
    def attempt() -> pl.DataFrame:
        delta = lake.create_if_absent(table)
        before = lake.scan(table, version=delta.version()).collect()
        rows = build(before)
        if rows.equals(before) if mode == "overwrite" else rows.is_empty():
            return rows
        number = (delta.transaction_version(table.name) or 0) + 1
        properties = CommitProperties(app_transactions=[Transaction(table.name, number)])
        frame = conform(rows.lazy(), table).collect()
        write_deltalake(delta, frame, mode=mode, commit_properties=properties)
        return rows

    return retry_on_conflict(attempt)


def update(lake: Lake, table: Table, change: Build) -> pl.DataFrame:
    """Replace the table by ``change`` of its newest rows; no commit where nothing changed. Returns the rows.

    ``change`` is called again when another writer committed first.
    """
    return _commit(lake, table, "overwrite", change)


def append(lake: Lake, table: Table, build: Build) -> pl.DataFrame:
    """Add the rows ``build`` makes of the table's newest rows; no commit for none. Returns the rows added."""
    return _commit(lake, table, "append", build)
