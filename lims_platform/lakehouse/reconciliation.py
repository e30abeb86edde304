"""Reconciliation: a source's days against bronze's live rows, by counts and digests.

Here: fingerprints of both sides, their comparison, the rows of the report. Not here: reading the source, pseudonyms and the
repair, which is the normal merge (``history``).
"""

from __future__ import annotations

from datetime import date, datetime

import duckdb
import polars as pl

from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.operations import RECONCILIATION_REPORT
from lims_platform.contracts.source import SourceTable
from lims_platform.lakehouse.digest import DIGEST_LENGTH
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import STRAY, base_key, live_rows, prepared

#: What identifies a row and its content; two sides agree on a day when they hold the same set of these.
FINGERPRINT = ["event_date", "base_key", "row_digest"]


def source_fingerprints(
    frame: pl.DataFrame, table: SourceTable, source: str, first: date | None = None, last: date | None = None
) -> pl.DataFrame:
    """FINGERPRINT of a protected extract's days: identical duplicates collapsed, rows without a usable time left out."""
    rows = prepared(frame, table, source).filter(~STRAY)
    if first is not None and last is not None:
        rows = rows.filter(pl.col("event_date").is_between(first, last))
    return rows.select(FINGERPRINT).unique()


def live_fingerprints(
    lake: Lake, table: SourceTable, source: str, first: date | None = None, last: date | None = None
) -> pl.DataFrame:
    """FINGERPRINT of bronze's live rows of one source, of the days ``first`` to ``last``."""
    columns = ["event_date", "row_key", "row_version", "row_digest", "change", "is_conflict"]
    scan = lake.scan(BRONZE_TABLES[table.name], first, last)
    rows = live_rows(scan.filter((pl.col("source") == source) & ~STRAY).select(columns))
    return pl.DataFrame(rows.with_columns(base_key()).select(FINGERPRINT).collect())


def live_elsewhere(lake: Lake, table: SourceTable, source: str, keys: pl.DataFrame) -> pl.DataFrame:
    """base_key of those of ``keys`` that are live in bronze on any day."""
    if keys.is_empty():
        return keys.select("base_key")
    scan = lake.scan(BRONZE_TABLES[table.name]).filter(pl.col("source") == source).with_columns(base_key())
    named = scan.join(keys.lazy().select("base_key").unique(), on="base_key", how="semi")
    rows = live_rows(named.select("row_key", "row_version", "change", "base_key"))
    return pl.DataFrame(rows.select("base_key").unique().collect())


def stored_keys(lake: Lake, table: SourceTable, source: str, keys: pl.DataFrame) -> pl.DataFrame:
    """The contract's key columns of the rows with these base keys, to ask the source for them."""
    names = list(table.key)
    scan = lake.scan(BRONZE_TABLES[table.name]).filter(pl.col("source") == source).with_columns(base_key())
    return scan.join(keys.lazy().select("base_key"), on="base_key", how="semi").select(names).unique().collect().drop_nulls()


def missing(source: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
    """Fingerprints ``source`` has and ``live`` has not."""
    return source.join(live, on=FINGERPRINT, how="anti")


def differences(
    source: pl.DataFrame, live: pl.DataFrame, live_other_day: pl.DataFrame, source_other_day: pl.DataFrame
) -> pl.DataFrame:
    """What separates the two sides, per day: columns event_date, inserted, updated, deleted, moved.

    Args:
        source: FINGERPRINT of the source.
        live: FINGERPRINT of bronze.
        live_other_day: base_key of rows bronze has live on some day, of those missing here.
        source_other_day: base_key of rows the source has on some day, of those surplus here.
    """
    new, old = missing(source, live), missing(live, source)

    def known(rows: pl.DataFrame, same_day: pl.DataFrame, other_day: list[pl.DataFrame]) -> pl.DataFrame:
        on_day = same_day.select("event_date", "base_key", on_day=pl.lit(True)).unique()
        on_any = pl.concat([f.select("base_key") for f in other_day]).unique().with_columns(on_any=pl.lit(True))
        joined = rows.join(on_day, on=["event_date", "base_key"], how="left").join(on_any, on="base_key", how="left")
        return joined.with_columns(pl.col("on_day", "on_any").fill_null(False))

    arrived, left = known(new, old, [old, live_other_day]), known(old, new, [new, source_other_day])
    moved = pl.col("on_any") & ~pl.col("on_day")
    counts = [
        arrived.group_by("event_date").agg(
            inserted=(~pl.col("on_day") & ~pl.col("on_any")).sum(), updated=pl.col("on_day").sum(), came=moved.sum()
        ),
        left.group_by("event_date").agg(deleted=(~pl.col("on_day") & ~pl.col("on_any")).sum(), went=moved.sum()),
    ]
    both = counts[0].join(counts[1], on="event_date", how="full", coalesce=True).fill_null(0)
    return both.select(
        "event_date",
        *[pl.col(name).cast(pl.Int64) for name in ("inserted", "updated", "deleted")],
        moved=(pl.col("came") + pl.col("went")).cast(pl.Int64),
    )


def day_digests(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Per event_date: ``<name>_rows`` and ``<name>_digest``, SHA-256 over the sorted keys and row digests."""
    with duckdb.connect() as connection:
        connection.register("fingerprints", rows)
        return connection.sql(
            f"""SELECT event_date, count(*) AS {name}_rows,
            substring(sha256(string_agg(base_key || chr(31) || row_digest, chr(30) ORDER BY base_key, row_digest)), 1,
            {DIGEST_LENGTH}) AS {name}_digest FROM fingerprints GROUP BY event_date"""
        ).pl()


def report(
    days: pl.Series,
    source: pl.DataFrame,
    live: pl.DataFrame,
    found: pl.DataFrame,
    *,
    table: SourceTable,
    source_name: str,
    run_id: str,
    checked_at: datetime,
) -> pl.DataFrame:
    """Rows of the reconciliation report, ``repaired`` and ``detail`` still null: one per day compared, matching or not."""
    sides = (
        pl.DataFrame({"event_date": days})
        .join(day_digests(source, "source"), on="event_date", how="left")
        .join(day_digests(live, "live"), on="event_date", how="left")
        .join(found, on="event_date", how="left")
        .with_columns(pl.col("source_digest", "live_digest").fill_null(""))
        .fill_null(0)
    )
    return sides.select(
        run_id=pl.lit(run_id),
        checked_at=pl.lit(checked_at).cast(RECONCILIATION_REPORT.dtypes["checked_at"]),
        table_name=pl.lit(table.name),
        source=pl.lit(source_name),
        day="event_date",
        source_rows=pl.col("source_rows").cast(pl.Int64),
        live_rows=pl.col("live_rows").cast(pl.Int64),
        inserted="inserted",
        updated="updated",
        deleted="deleted",
        moved="moved",
        source_digest="source_digest",
        live_digest="live_digest",
        digest_match=pl.col("source_digest") == pl.col("live_digest"),
        repaired=pl.lit(None, dtype=pl.Boolean),
        detail=pl.lit(None, dtype=pl.String),
    )
