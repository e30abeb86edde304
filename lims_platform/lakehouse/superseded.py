"""States a source has already left behind, so that a result corrected between two runs keeps both versions.

Here: which earlier versions history lacks, and the states to merge before the present one. Not here: merging
(``history``), which version is current (the source knows).
"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.source import SourceTable
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import prepared


def unseen_states(
    lake: Lake, table: SourceTable, source: str, frame: pl.DataFrame, superseded: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """The frame as it was one, two, … versions ago, oldest first, for keys whose versions history does not hold yet.

    Each is a whole state: keys without such versions stand in it as they are now, so merging it deletes nothing. Versions
    are told by content (the digest) and how often it occurred, so that a result changed and changed back keeps the way.

    Args:
        lake: where history lies.
        table: the source table.
        source: name of the source.
        frame: the source's present rows, pseudonymised.
        superseded: earlier versions of keys of ``frame``, pseudonymised, oldest first; same columns.
    """
    frames = pl.concat([superseded, frame])
    marked = prepared(frames, table, source).with_row_index("_row")
    changed = marked.filter(pl.col("row_digest") != pl.col("row_digest").shift(1).over("base_key").fill_null(""))
    several = changed.filter(pl.len().over("base_key") > 1)
    if several.is_empty():
        return
    stored = lake.scan(BRONZE_TABLES[table.name]).filter(
        (pl.col("source") == source) & (pl.col("change") != "delete") & ~pl.col("is_conflict")
    )
    keys = several.select(row_key="base_key").unique()
    known = stored.select("row_key", "row_digest").join(keys.lazy(), on="row_key", how="semi").collect()
    time = pl.int_range(pl.len())
    seen = known.select(base_key="row_key", row_digest="row_digest").with_columns(
        time=time.over("base_key", "row_digest"), known=pl.lit(True)
    )
    ranked = several.with_columns(time=time.over("base_key", "row_digest"), rank=time.over("base_key")).join(
        seen, on=["base_key", "row_digest", "time"], how="left"
    )
    reached = pl.when(pl.col("known")).then("rank").max().over("base_key").fill_null(-1)
    pending = ranked.filter(pl.col("rank") > reached).with_columns(
        back=pl.len().over("base_key") - 1 - pl.int_range(pl.len()).over("base_key", order_by="rank")
    )
    present = marked.filter(pl.col("_row") >= superseded.height)
    for back in range(int(pending["back"].max() or 0), 0, -1):  # type: ignore[arg-type]
        # a key with fewer unseen versions waits with its oldest one until its turn
        reachable = pending.filter(pl.col("back") <= back)
        older = reachable.filter(pl.col("back") == pl.col("back").max().over("base_key"))
        rows = pl.concat(
            [present.filter(~pl.col("base_key").is_in(older["base_key"].implode())), older.select(present.columns)]
        )
        yield frames[rows["_row"].cast(pl.Int64).to_list()]
