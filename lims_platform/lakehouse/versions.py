"""The algebra of row versions: identity, duplicates, the latest of several, and when a version became known.

Pure frames in, frames out. Here: what ``history`` decides with. Not here: the lake, commits, the source.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta

import polars as pl

from lims_platform.contracts.extract import DayWindow
from lims_platform.contracts.source import UTC, SourceTable
from lims_platform.lakehouse.digest import DIGEST_LENGTH, row_digests

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
    many = rows.select("base_key", "version_time", "row_digest").with_row_index("_at").filter(repeated(rows))
    losers = (
        many.sort("version_time", "row_digest", descending=True, nulls_last=True)
        .filter(pl.int_range(pl.len()).over("base_key") > 0)
        .sort("_at")
    )
    conflict = pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True).scatter(losers["_at"], True)
    row_key = rows["base_key"].clone()
    if losers.height:
        row_key = row_key.scatter(losers["_at"], losers["base_key"] + "#" + losers["row_digest"])
    return rows.with_columns(row_key.alias("row_key"), conflict.alias("is_conflict"))


def repeated(rows: pl.DataFrame) -> pl.Series:
    """Which prepared rows share their base_key with another one."""
    suspect = suspected(rows["base_key"].hash())
    if not suspect.any():
        return suspect
    names = rows["base_key"].filter(suspect)
    return suspect.clone().scatter(suspect.arg_true(), names.is_duplicated())


def suspected(hashes: pl.Series) -> pl.Series:
    """Which hashes occur more than once. Nearly no key repeats, and sorted hashes show it in a quarter of the time of a
    table of them."""
    ordered = hashes.sort()
    return hashes.is_in(ordered.filter(ordered == ordered.shift()).unique().implode())


def live_rows(versions: pl.LazyFrame) -> pl.LazyFrame:
    """The rows that are true now: of each row_key the highest row_version, unless that is a delete.

    Nearly every key has one version; only the others are grouped, and collected at once: a join of two plans may hold the
    long side in memory instead of the short one.
    """
    amended = versions.filter(pl.col("row_version") > 1).group_by("row_key").agg(_newest=pl.col("row_version").max())
    newest = amended.collect(engine="streaming").lazy()
    return (
        versions.join(newest, on="row_key", how="left", maintain_order="left")
        .filter(pl.col("row_version") == pl.col("_newest").fill_null(1), pl.col("change") != "delete")
        .drop("_newest")
    )


def base_key() -> pl.Expr:
    """The key a row_key stands for: a conflicting duplicate's carries ``#`` and its digest at the end."""
    row_key = pl.col("row_key")
    return pl.when("is_conflict").then(row_key.str.head(-(DIGEST_LENGTH + 1))).otherwise(row_key).alias("base_key")


def distinct_rows(rows: pl.DataFrame) -> pl.DataFrame:
    """Prepared rows without identical duplicates; the first of each stays."""
    many = repeated(rows)
    if not many.any():
        return rows
    known = ["base_key", "event_date", "row_digest"]
    first = rows.select(*known).with_row_index("_at").filter(many).unique(known, keep="first", maintain_order=True)["_at"]
    return rows.filter((~many).scatter(first, True))


def dated(rows: pl.DataFrame, live: pl.DataFrame, window: DayWindow) -> pl.DataFrame:
    """Prepared rows with their day and date_source settled, distinct again.

    A stray belongs to the day it was first ingested (else it would move every day), a new one to the window's stray day.
    ``live``: live rows with base_key, row_digest, event_date and date_source.
    """
    outside = ~pl.col("event_date").is_between(window.partitions_first, window.partitions_last)
    origin = pl.when(outside & ~STRAY).then(pl.lit("outside")).otherwise("date_source")
    rows = rows.with_columns(date_source=pl.when(pl.col("event_date").is_null()).then(pl.lit("no_time")).otherwise(origin))
    is_stray = rows.select(STRAY).to_series()
    if not is_stray.any():
        return rows
    strays = live.filter(STRAY).sort("event_date")
    exact = strays.unique(["base_key", "row_digest"], keep="first").select("base_key", "row_digest", day="event_date")
    any_day = strays.unique("base_key", keep="first").select("base_key", key_day="event_date")
    lost = rows.filter(is_stray).join(exact, on=["base_key", "row_digest"], how="left")
    lost = lost.join(any_day, on="base_key", how="left")
    stray_day = pl.coalesce("day", "key_day", pl.lit(window.stray_day or window.last))
    # only strays change their day, so only they can become equal
    settled = distinct_rows(lost.with_columns(event_date=stray_day).drop("day", "key_day"))
    return pl.concat([rows.filter(~is_stray), settled])


def with_knowledge(
    rows: pl.DataFrame, table: SourceTable, first_loads: Collection[date], now: datetime, late_after: timedelta
) -> pl.DataFrame:
    """Add known_from and knowledge_origin: the source's own time where it has one that can be believed, else ``now``.

    ``rows``: prepared rows with ``before`` and ``before_known``, the version they follow (null for a first version).
    ``first_loads``: days this merge loads for the first time. A first version of any other day, seen more than
    ``late_after`` after its result, became known when it was read: otherwise a feature row of a day long gone would change
    when rebuilt.
    """
    moment = pl.lit(now).cast(UTC)
    times = [c for c in (table.event_time, *table.fallback_times) if c]
    result_time = pl.coalesce(times) if times else pl.lit(None, dtype=UTC)
    version_time = pl.col("version_time")
    is_new = pl.col("before").is_null()
    believed = pl.col("event_date").is_in(list(first_loads)) | ((moment - result_time) <= late_after)
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
