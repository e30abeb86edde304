"""The algebra of row versions: identity, duplicates, the latest of several, and when a version became known.

Pure frames in, frames out. Here: what ``history`` decides with. Not here: the lake, commits, the source.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

import polars as pl

from lims_platform.contracts.source import UTC, SourceTable
from lims_platform.lakehouse.digest import row_digests

#: The day of every row of a register: devices are things, not events.
REGISTER_DAY = date(1970, 1, 1)

#: Rows without a usable time, or dated outside the partitions.
STRAY_ORIGINS = ["no_time", "outside"]
STRAY = pl.col("date_source").is_in(STRAY_ORIGINS)


def digest_columns(table: SourceTable) -> list[str]:
    """The business columns a row's digest covers: all but the source's own version time."""
    return [name for name in table.stored_schema if name != table.version_time]


def prepared(frame: pl.DataFrame, table: SourceTable, source: str) -> pl.DataFrame:
    """The extract with base_key (source and key), row_digest and version_time.

    A row without a key is known by its content, so that it is kept once and can be quarantined.
    """
    if table.event_time is None:
        frame = frame.with_columns(event_date=pl.lit(REGISTER_DAY), date_source=pl.lit("register"))
    parts = [pl.col(name).cast(pl.String) for name in table.key]
    key = parts[0] if len(parts) == 1 else pl.concat_str([part.fill_null("") for part in parts], separator="|")
    version_time = pl.col(table.version_time) if table.version_time else pl.lit(None, dtype=UTC)
    return frame.with_columns(row_digests(frame, digest_columns(table)).alias("row_digest")).with_columns(
        base_key=pl.lit(f"{source}|") + key.fill_null(pl.lit("?") + pl.col("row_digest")), version_time=version_time
    )


def resolve_duplicates(rows: pl.DataFrame) -> pl.DataFrame:
    """Rank rows that share a key and differ in content; add row_key and is_conflict.

    ``rows``: prepared and already distinct. The winner of a key is the highest (version_time, row_digest); a loser's
    row_key carries its digest, so it is a row of its own that can come and go.
    """
    plain = rows.with_columns(row_key=pl.col("base_key"), is_conflict=pl.lit(False))
    repeated = pl.col("base_key").is_duplicated()
    many = plain.filter(repeated)
    if many.is_empty():
        return plain
    ranked = many.sort("version_time", "row_digest", descending=True, nulls_last=True).with_columns(
        is_conflict=pl.int_range(pl.len()).over("base_key") > 0
    )
    losers = pl.col("base_key") + "#" + pl.col("row_digest")
    ranked = ranked.with_columns(row_key=pl.when("is_conflict").then(losers).otherwise("base_key"))
    return pl.concat([plain.filter(~repeated), ranked])


def latest_versions(rows: pl.DataFrame) -> pl.DataFrame:
    """Per row_key the row of the highest row_version; only keys with more than one version are compared."""
    several = rows.filter(pl.col("row_version") > 1).select("row_key").unique()
    if several.is_empty():
        return rows
    many = rows.join(several, on="row_key", how="semi")
    newest = many.sort("row_version", descending=True).unique("row_key", keep="first", maintain_order=True)
    return pl.concat([rows.join(several, on="row_key", how="anti"), newest])


def with_knowledge(
    rows: pl.DataFrame, table: SourceTable, loaded_days: pl.Series, now: datetime, late_after: timedelta
) -> pl.DataFrame:
    """Add known_from and knowledge_origin: the source's own time where it has one that can be believed, else ``now``.

    ``rows``: prepared rows with ``before`` and ``before_known``, the version they follow (null for a first version).
    A first version of a day loaded before, seen more than ``late_after`` after its result, became known when it was read:
    otherwise a feature row of a day long gone would change when rebuilt.
    """
    moment = pl.lit(now).cast(UTC)
    times = [c for c in (table.event_time, *table.fallback_times) if c]
    result_time = pl.coalesce(times) if times else pl.lit(None, dtype=UTC)
    version_time = pl.col("version_time")
    is_new = pl.col("before").is_null()
    believed = pl.col("event_date").is_in(loaded_days.implode()).not_() | ((moment - result_time) <= late_after)
    origin = (
        pl.when(version_time.is_not_null() & (version_time > result_time).fill_null(True))
        .then(pl.lit("update_time"))
        .when(is_new & result_time.is_not_null() & believed)
        .then(pl.lit("result_time"))
        .otherwise(pl.lit("ingestion"))
    )
    known = (
        pl.when(pl.col("knowledge_origin") == "update_time")
        .then(version_time)
        .when(pl.col("knowledge_origin") == "result_time")
        .then(result_time)
        .otherwise(moment)
    )
    # An amendment whose version time did not move was not dated by the source: it became known now.
    stale = pl.col("known_from") <= pl.col("before_known")
    return (
        rows.with_columns(knowledge_origin=origin)
        .with_columns(known_from=pl.min_horizontal(known, moment))
        .with_columns(
            known_from=pl.when(stale).then(moment).otherwise("known_from"),
            knowledge_origin=pl.when(stale).then(pl.lit("ingestion")).otherwise("knowledge_origin"),
        )
    )
