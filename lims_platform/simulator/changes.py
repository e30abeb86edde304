"""Random changes to the results of a LIMS, with a log: what a test of change history needs to know what happened.

Works on any lab_results table with the contract's columns, not only on a simulated one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl

from lims_platform.simulator.randomness import generator
from lims_platform.simulator.writer import TIME_FORMAT, Connection, connect

#: amended: other value, status C. moved: resulted one to three days off. flipped: A becomes B until :func:`flip_back`.
KINDS = ("amended", "deleted", "moved", "duplicated", "flipped")
#: Wall hours that a zone may skip or repeat: a row is not moved into them.
_UNSAFE_HOURS = (0, 1, 2, 3)


def apply_changes(uri: str, count: int, seed: int, now: datetime | None = None) -> pl.DataFrame:
    """Change ``count`` results, the kinds in equal parts, in one transaction.

    ``now`` (naive wall time) becomes their updated_at; by default a minute after the latest one in the table. Duplicates
    are identical, updated_at too. Rows that are already duplicated, or lack value or resulted time, are left alone;
    ValueError when fewer than ``count`` remain. Returns the log: result_id, kind, old_value, new_value, old_resulted,
    new_resulted, changed_at.
    """
    with connect(uri) as database:
        rows = _candidates(database)
        if len(rows) < count:
            raise ValueError(f"lab_results has {len(rows)} rows that can be changed, {count} were asked for")
        latest = rows["updated_at"].max()
        assert isinstance(latest, datetime)
        changed_at = now or latest + timedelta(minutes=1)
        rng = generator(seed, "changes")
        chosen = rows[rng.permutation(len(rows))[:count]]
        newest = rows["resulted_timestamp"].max()
        days = pl.Series("days", 1 + rng.integers(0, 3, count))
        log = (
            chosen.with_columns(days, kind=pl.Series(KINDS).gather(np.arange(count) % len(KINDS)))
            .with_columns(
                days=pl.when(pl.col("resulted_timestamp").dt.offset_by("4d") < newest)
                .then("days")
                .otherwise(-pl.col("days"))
            )
            .select(
                "result_id",
                "kind",
                old_value="result_value",
                new_value=pl.when(pl.col("kind").is_in(["amended", "flipped"]))
                .then(_other_value())
                .when(pl.col("kind") != "deleted")
                .then("result_value"),
                old_resulted="resulted_timestamp",
                new_resulted=pl.when(pl.col("kind") == "moved")
                .then(pl.col("resulted_timestamp") + pl.duration(days="days") + _away_from_night())
                .when(pl.col("kind") != "deleted")
                .then("resulted_timestamp"),
                changed_at=pl.lit(changed_at, pl.Datetime("us")),
            )
        )
        _apply(database, log)
    return log


def flip_back(uri: str, log: pl.DataFrame, now: datetime | None = None) -> int:
    """The second step of A→B→A: give the flipped rows of a log their old value again. Returns how many.

    ``now`` becomes their updated_at; by default a minute after the log's changes.
    """
    flipped = log.filter(pl.col("kind") == "flipped")
    at = pl.lit(now, pl.Datetime("us")) if now else pl.col("changed_at") + pl.duration(minutes=1)
    with connect(uri) as database:
        database.run_many(
            "UPDATE lab_results SET result_value = $1, updated_at = $2 WHERE result_id = $3",
            flipped.select("old_value", at.alias("at"), "result_id"),
        )
    return len(flipped)


def _candidates(database: Connection) -> pl.DataFrame:
    rows = database.read(
        "SELECT result_id, result_value, resulted_timestamp, updated_at FROM lab_results "
        "WHERE result_value IS NOT NULL AND resulted_timestamp IS NOT NULL"
    )
    times = pl.col("resulted_timestamp", "updated_at")
    as_time = (
        times.str.to_datetime(TIME_FORMAT, time_unit="us")
        if rows["updated_at"].dtype == pl.String
        else times.cast(pl.Datetime("us"))
    )
    return (
        rows.with_columns(as_time)
        .filter(pl.col("result_id").is_unique(), pl.col("resulted_timestamp").dt.year() > 1970)
        .sort("result_id")
    )


def _other_value() -> pl.Expr:
    """A number one tenth and one unit higher; any other text with a mark at its end."""
    number = pl.col("result_value").cast(pl.Float64, strict=False)
    return (
        pl.when(number.is_not_null())
        .then((number * 1.1 + 1.0).round(2).cast(pl.String))
        .otherwise(pl.concat_str("result_value", pl.lit(" (AMENDED)")))
    )


def _away_from_night() -> pl.Expr:
    return (
        pl.when(pl.col("resulted_timestamp").dt.hour().is_in(_UNSAFE_HOURS))
        .then(pl.duration(hours=8))
        .otherwise(pl.duration(hours=0))
    )


def _apply(database: Connection, log: pl.DataFrame) -> None:
    def of(kind: str) -> pl.DataFrame:
        return log.filter(pl.col("kind") == kind)

    database.run_many(
        "UPDATE lab_results SET result_value = $1, result_status = 'C', updated_at = $2 WHERE result_id = $3",
        of("amended").select("new_value", "changed_at", "result_id"),
    )
    database.run_many(
        "UPDATE lab_results SET result_value = $1, updated_at = $2 WHERE result_id = $3",
        of("flipped").select("new_value", "changed_at", "result_id"),
    )
    database.run_many(
        "UPDATE lab_results SET resulted_timestamp = $1, updated_at = $2 WHERE result_id = $3",
        of("moved").select("new_resulted", "changed_at", "result_id"),
    )
    database.run_many("DELETE FROM lab_results WHERE result_id = $1", of("deleted").select("result_id"))
    database.run_many(
        "INSERT INTO lab_results SELECT * FROM lab_results WHERE result_id = $1", of("duplicated").select("result_id")
    )
