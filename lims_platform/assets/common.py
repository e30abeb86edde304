"""What every asset of a table has in common: key, description, column schema, tags, owners, partitions.

Here: turning a contract into the keyword arguments of ``@dg.asset``. Not here: any one asset.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from lims_platform.contracts.base import Table
from lims_platform.contracts.tables import TABLES
from lims_platform.partitions import DAILY, ONE_RUN

#: Raised when what an asset writes changes meaning, so that Dagster shows older materialisations as stale.
CODE_VERSION = "1"

LAKE_IO = "lake_io"

OWNERS = {
    "bronze": "team:data-engineering",
    "silver": "team:laboratory",
    "gold": "team:laboratory",
    "models": "team:machine-learning",
    "reports": "team:quality-management",
}

_TYPES: dict[Any, str] = {pl.String: "text", pl.Float64: "number", pl.Int64: "integer", pl.Int32: "integer"}


def column_schema(table: Table) -> dg.TableSchema:
    """The contract's columns as Dagster shows them, with descriptions and units."""
    columns = []
    for name, column in table.schema.columns.items():
        dtype = table.dtypes[name]
        unit = (column.metadata or {}).get("unit")
        description = f"{column.description} [{unit}]" if unit else column.description
        shown = _TYPES.get(type(dtype), _TYPES.get(dtype, str(dtype).split("(")[0].lower()))
        constraints = dg.TableColumnConstraints(nullable=bool(column.nullable), unique=table.key == (name,))
        columns.append(dg.TableColumn(name, shown, description, constraints))
    return dg.TableSchema(columns)


def asset_key(name: str) -> dg.AssetKey:
    """Key of a lake table, its layer as prefix."""
    return dg.AssetKey([TABLES[name].layer, name])


def table_asset(name: str, *, kinds: set[str], group: str | None = None, **extra: Any) -> dict[str, Any]:
    """Keyword arguments of ``@dg.asset`` for a lake table written through the IO manager.

    ``extra`` overrides or adds arguments, e.g. ``ins``. The table's partition column becomes ``partition_expr``.
    """
    table = TABLES[name]
    metadata: dict[str, Any] = {"dagster/column_schema": column_schema(table), "dagster/table_name": f"{table.layer}.{name}"}
    arguments: dict[str, Any] = {
        "key": asset_key(name),
        "group_name": group or table.layer,
        "description": table.description,
        "kinds": kinds,
        "owners": [OWNERS[table.layer]],
        "tags": {"layer": table.layer},
        "code_version": f"{CODE_VERSION}.{table.code_version}",
        "io_manager_key": LAKE_IO,
        "pool": table.pool,
    }
    if table.partition is not None:
        metadata["partition_expr"] = table.partition
        arguments |= {"partitions_def": DAILY, "backfill_policy": ONE_RUN}
    else:
        arguments["backfill_policy"] = ONE_RUN
    return arguments | {"metadata": metadata} | extra


def reads(name: str, mapping: dg.PartitionMapping | None = None) -> dg.AssetIn:
    """An input from a lake table, by a trailing window where ``mapping`` says so."""
    return dg.AssetIn(key=asset_key(name), partition_mapping=mapping, input_manager_key=LAKE_IO)


def run_range(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """First and last day of the partition (range) a step materialises."""
    keys = context.partition_key_range
    return date.fromisoformat(keys.start), date.fromisoformat(keys.end)
