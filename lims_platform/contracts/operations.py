"""Tables about the platform's own housekeeping: what reconciliation found, how long things are kept.

Here: their contracts. Not here: comparing (``lakehouse.reconciliation``) or deleting (``lakehouse.maintenance``).
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from lims_platform.contracts.base import Table, UtcTime, column, table
from lims_platform.contracts.reference_table import ANY, ReferenceColumn, ReferenceTable


class ReconciliationReport(pa.DataFrameModel):
    """One row per comparison of one source table's day with its live rows in bronze; append-only.

    Counts and digests are those found before the repair. Rows without a usable time belong to no day and take no part:
    every ingestion reads all of them.
    """

    run_id: str = column("Dagster run that compared")
    checked_at: UtcTime = column("When it compared")
    table_name: str = column("Source table")
    source: str = column("Name of the source in sources.yaml")
    day: pl.Date = column("The day compared, in the laboratory's calendar; a register has 1970-01-01")
    source_rows: pl.Int64 = column("Distinct rows of the source on that day", ge=0)
    live_rows: pl.Int64 = column("Live rows of bronze on that day", ge=0)
    inserted: pl.Int64 = column("Rows bronze did not have at all", ge=0)
    updated: pl.Int64 = column("Rows whose content differed", ge=0)
    deleted: pl.Int64 = column("Live rows the source has no more", ge=0)
    moved: pl.Int64 = column("Rows that changed their day: counted on the day they left and on the day they came to", ge=0)
    source_digest: str = column("SHA-256 over the sorted keys and row digests of the source's day")
    live_digest: str = column("The same over bronze's day")
    digest_match: bool = column("The two agree: same keys, same content")
    repaired: bool = column("After the repair the two agree; null where there was nothing to repair", nullable=True)
    detail: str = column("Why a difference was not repaired", nullable=True)

    class Config:
        name = "reconciliation_report"
        strict = True


RECONCILIATION_REPORT: Table = table("gold", ("run_id", "table_name", "source", "day"), None, ReconciliationReport)
OPERATIONS_TABLES: dict[str, Table] = {RECONCILIATION_REPORT.name: RECONCILIATION_REPORT}


RETENTION = ReferenceTable(
    "retention",
    f"How long the rows of a table are kept; the most exact rule counts: (layer, table), (layer, {ANY}), ({ANY}, {ANY})",
    ("layer", "table"),
    (
        ReferenceColumn("layer", pl.String(), f"Layer of the lake, 'reports' for dated report folders, or {ANY}", True),
        ReferenceColumn("table", pl.String(), f"Table, report folder, or {ANY}", True),
        ReferenceColumn("keep_days", pl.Float64(), "Rows of days older than this go; empty: kept for ever"),
        ReferenceColumn("day_column", pl.String(), "Date or time column that counts; empty: the table's partition column"),
        ReferenceColumn("reason", pl.String(), "Why so long", True),
    ),
)
