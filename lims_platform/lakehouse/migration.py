"""Schema migration: stored tables brought to their contracts without losing history.

Here: what separates a stored table from its contract, and the two ways to close the gap. Not here: filling a rebuilt table
again, which is an ordinary run over its days.

- A new nullable column is added to the table's metadata; old rows have nulls.
- Anything else (a type, a new name, a column gone) makes a derived table empty under the new schema, in one commit; its days
  are then made again from bronze. The old version stays readable until it is vacuumed.
- A table that cannot be made again (bronze, ledgers) only ever gains nullable columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl
from deltalake import DeltaTable
from deltalake.schema import Field, Schema

from lims_platform.contracts.base import Table
from lims_platform.lakehouse.lake import Lake

ADD, REBUILD, REFUSED = "add columns", "rebuild", "refused"


@dataclass(frozen=True)
class Migration:
    """One table's way to its contract: ``action`` is ADD, REBUILD or REFUSED; ``changes`` says what differs, in words."""

    table: Table
    action: str
    added: tuple[str, ...]
    changes: tuple[str, ...]


def migrations(lake: Lake, tables: Iterable[Table]) -> list[Migration]:
    """What every stored table needs; a table that agrees with its contract, or was never written, is left out."""
    return [found for table in tables if (found := _migration(lake, table)) is not None]


def _migration(lake: Lake, table: Table) -> Migration | None:
    delta = lake.open(table)
    if delta is None:
        return None
    stored, wanted = pl.scan_delta(delta).collect_schema(), table.dtypes
    added = tuple(name for name in wanted if name not in stored)
    forced = [name for name in added if not table.schema.columns[name].nullable]
    changes = [f"{name}: new, {wanted[name]}" for name in added]
    other = [f"{name}: stored but not in the contract" for name in stored if name not in wanted]
    other += [
        f"{name}: stored as {stored[name]}, the contract says {dtype}"
        for name, dtype in wanted.items()
        if name in stored and stored[name] != dtype
    ]
    if not added and not other:
        return None
    if not other and not forced:
        return Migration(table, ADD, added, tuple(changes))
    is_derived = table.layer in ("silver", "gold") and table.partition is not None
    return Migration(table, REBUILD if is_derived else REFUSED, added, (*changes, *other))


def migrate(lake: Lake, migration: Migration) -> int:
    """Carry out one migration; returns the committed version. ValueError for one that is refused."""
    table = migration.table
    delta = DeltaTable(str(lake.path(table)))
    schema = Schema.from_arrow(table.empty().to_arrow().schema)
    if migration.action == ADD:
        delta.alter.add_columns([Field(f.name, f.type, nullable=True) for f in schema.fields if f.name in migration.added])
    elif migration.action == REBUILD:
        DeltaTable.create(
            str(lake.path(table)),
            schema=schema,
            partition_by=[table.partition] if table.partition else None,
            mode="overwrite",
            description=table.description,
        )
    else:
        raise ValueError(
            f"{table.path}: {'; '.join(migration.changes)}. This table cannot be made again, so no column of it may go or "
            "change: keep the old one in the contract, nullable, and add a new one beside it"
        )
    return int(DeltaTable(str(lake.path(table))).version())
