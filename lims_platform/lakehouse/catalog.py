"""The DuckDB catalogue: one file of views over the lake that analysts and BI tools open.

Here: building it beside the old one and swapping it in atomically. Not here: any data; the truth stays in Delta.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlparse

import duckdb

from lims_platform.contracts.base import Table
from lims_platform.lakehouse.lake import Lake

#: Small tables BI tools open by their bare name: copied into the file, so that they work where the lake is not mounted.
MARTS = ("lims_daily_monitoring",)

#: DuckDB's name of each polars dtype a contract uses, for a table that has no files yet.
_SQL_TYPES = {
    "String": "VARCHAR",
    "Float64": "DOUBLE",
    "Int64": "BIGINT",
    "Int32": "INTEGER",
    "Boolean": "BOOLEAN",
    "Date": "DATE",
}


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _files(uris: Iterable[str]) -> list[str]:
    return [unquote(urlparse(uri).path) if uri.startswith("file:") else uri for uri in uris]


def _view(lake: Lake, table: Table) -> str:
    """SELECT of a table's columns over the files of its latest version."""
    delta = lake.open(table)
    files = _files(delta.file_uris()) if delta is not None else []
    if not files:
        nulls = ", ".join(
            f"CAST(NULL AS {_SQL_TYPES.get(type(dtype).__name__, 'TIMESTAMPTZ')}) AS {_quoted(name)}"
            for name, dtype in table.dtypes.items()
        )
        return f"SELECT {nulls} WHERE false"
    columns = ", ".join(_quoted(name) for name in table.dtypes)
    listing = ", ".join(_text(path) for path in sorted(files))
    types = f", hive_types={{{_text(table.partition)}: DATE}}" if table.partition else ""
    return f"SELECT {columns} FROM read_parquet([{listing}], union_by_name=true, hive_partitioning=true{types})"


def build_catalog(lake: Lake, tables: Iterable[Table], path: Path) -> int:
    """Write a catalogue of schemas (layers) and views beside ``path`` and swap it in; returns the number of views.

    Readers that have the old file open keep it; a reader that opens afterwards sees the new one. Views pin the files of the
    version that is latest now: rebuild after every run and before a vacuum.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    views = 0
    try:
        with duckdb.connect(str(beside)) as connection:
            for table in tables:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_quoted(table.layer)}")
                name = f"{_quoted(table.layer)}.{_quoted(table.name)}"
                connection.execute(f"CREATE VIEW {name} AS {_view(lake, table)}")
                connection.execute(f"COMMENT ON VIEW {name} IS {_text(table.description)}")
                for column, spec in table.schema.columns.items():
                    comment = f"COMMENT ON COLUMN {name}.{_quoted(column)} IS {_text(spec.description or '')}"
                    connection.execute(comment)
                if table.name in MARTS:
                    connection.execute(f"CREATE TABLE {_quoted(table.name)} AS FROM {name}")
                views += 1
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
        beside.with_name(beside.name + ".wal").unlink(missing_ok=True)
    return views
