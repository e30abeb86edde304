"""Bronze: append-only history, one row per version of a source row.

Here: the columns history adds to a source table's own. Not here: how versions are found (``lakehouse.history``).
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from lims_platform.contracts.base import Table
from lims_platform.contracts.source import SOURCE_TABLES, UTC, SourceTable

#: Column → (dtype, nullable, description); the order is the table's.
HISTORY_COLUMNS: dict[str, tuple[pl.DataType, bool, str]] = {
    "source": (pl.String(), False, "Name of the source in sources.yaml"),
    "event_date": (pl.Date(), False, "The day the row belongs to, in the laboratory's calendar; partition column"),
    "date_source": (pl.String(), False, "event, fallback, no_time, outside or register: how the row came by its day"),
    "time_flag": (pl.String(), True, "What was wrong with the row's times or numbers, joined by ';'"),
    "row_key": (pl.String(), False, "Identity within the day: source and key; a conflicting duplicate adds its digest"),
    "row_version": (pl.Int32(), False, "1, 2, 3, … per row_key over the whole table"),
    "change": (pl.String(), False, "insert, update or delete"),
    "is_conflict": (pl.Boolean(), False, "A duplicate of a key with other content, and not the one that won"),
    "row_digest": (pl.String(), False, "SHA-256 of the business columns, nulls and version time left out"),
    "known_from": (UTC, False, "When this version became known"),
    "knowledge_origin": (pl.String(), False, "result_time, update_time or ingestion: what known_from is based on"),
    "ingested_at": (UTC, False, "When the platform wrote it"),
    "ingest_run_id": (pl.String(), False, "The run that wrote it"),
}


def _bronze(source: SourceTable) -> Table:
    columns: dict[str, pa.Column] = {}
    for col in source.columns:
        name = f"{col.identifies}_hash" if col.identifies else col.name
        columns[name] = pa.Column(col.dtype, nullable=True, description=col.description)
    for name, (dtype, nullable, description) in HISTORY_COLUMNS.items():
        checks = []
        if name == "change":
            checks = [pa.Check.isin(["insert", "update", "delete"])]
        elif name == "row_version":
            checks = [pa.Check.ge(1)]
        columns[name] = pa.Column(dtype, checks=checks, nullable=nullable, description=description)
    name = f"{source.name}_raw"
    return Table(
        "bronze",
        name,
        ("row_key", "row_version"),
        "event_date" if source.event_time else None,
        f"Every version of every row of the source's {source.name} ever seen, pseudonymised at the door.",
        pa.DataFrameSchema(columns, strict=True, ordered=False, name=name),
    )


BRONZE_TABLES: dict[str, Table] = {name: _bronze(source) for name, source in SOURCE_TABLES.items()}
