"""Bronze history: which rows of an extract are new, changed, moved or gone, appended as versions in one commit.

Here: the comparison with the live versions, the vanished-rows guard, the commit, conservation. Not here: reading the source
(``sources``), pseudonyms (``privacy``), identity and knowledge time (``versions``). For one source and one chunk of days:

1. the chunk's live versions are read from a pinned snapshot; identical duplicates in the extract collapse;
2. contested keys (doubled in the extract, gone from it, or live on a day outside it) are asked of the source itself, on
   every day, so that a moved row is told from a vanished one and a conflict across days has one winner whatever the chunks;
3. inserts, updates and deletes go into one commit carrying one application transaction per day, so that two writers of one
   day cannot both append (blind appends never conflict in Delta).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from lims_platform.contracts.bronze import BRONZE_TABLES, HISTORY_COLUMNS
from lims_platform.contracts.extract import DayWindow
from lims_platform.contracts.source import UTC, SourceTable
from lims_platform.lakehouse.digest import DIGEST_LENGTH
from lims_platform.lakehouse.lake import Lake, retry_on_conflict
from lims_platform.lakehouse.versions import (
    STRAY,
    STRAY_ORIGINS,
    latest_versions,
    prepared,
    resolve_duplicates,
    with_knowledge,
)

#: More contested keys than this are not asked of the source one by one: the extract itself is in doubt.
MAX_ASKED_KEYS = 100_000

_LIVE_COLUMNS = [
    "row_key",
    "row_version",
    "event_date",
    "date_source",
    "change",
    "row_digest",
    "known_from",
    "is_conflict",
]


class VanishedRowsError(RuntimeError):
    """More of a day's rows vanished from the source than the laboratory accepts unasked; nothing was written."""


@dataclass(frozen=True)
class HistoryPolicy:
    """When vanished rows stop a run, and when a first-seen row counts as late (see Settings)."""

    vanished_share: float = 0.01
    vanished_floor: int = 5
    late_after: timedelta = timedelta(hours=48)
    confirm_vanished: bool = False
    no_deletes_before: date | None = None


@dataclass(frozen=True)
class MergeResult:
    """What one merge did. ``days``: event_date, expected (distinct source rows), live (rows read back after the commit)."""

    version: int | None
    source_rows: int
    collapsed: int
    inserts: int
    updates: int
    deletes: int
    conflicts: int
    days: pl.DataFrame
    other_days: tuple[date, ...]


class History:
    """The append-only history of one source table in the lake."""

    def __init__(self, lake: Lake, source_table: SourceTable, policy: HistoryPolicy) -> None:
        self.lake = lake
        self.source_table = source_table
        self.table = BRONZE_TABLES[source_table.name]
        self.policy = policy

    def merge(
        self,
        source: str,
        frame: pl.DataFrame,
        window: DayWindow | None,
        fetch_keys: Callable[[pl.DataFrame], pl.DataFrame],
        now: datetime,
        run_id: str,
    ) -> MergeResult:
        """Append what changed between ``frame`` (one source's pseudonymised extract of ``window``) and the live versions.

        ``fetch_keys`` returns the source's present rows for a frame of keys, pseudonymised, on any day.
        Raises VanishedRowsError before anything is written. Of two writers of one day the loser reads again and finds
        nothing to do.
        """

        def attempt() -> MergeResult:
            return _Merge(self, source, frame, window, fetch_keys, now, run_id).commit()

        return retry_on_conflict(attempt)


class _Merge:
    """One attempt: reads one pinned snapshot, decides, commits."""

    def __init__(
        self,
        history: History,
        source: str,
        frame: pl.DataFrame,
        window: DayWindow | None,
        fetch_keys: Callable[[pl.DataFrame], pl.DataFrame],
        now: datetime,
        run_id: str,
    ) -> None:
        self.history, self.source, self.window = history, source, window
        self.fetch_keys, self.now, self.run_id = fetch_keys, now, run_id
        self.delta: DeltaTable = history.lake.create_if_absent(history.table)
        self.version = int(self.delta.version())
        self.source_rows = frame.height
        self.incoming = prepared(frame, history.source_table, source)

    def commit(self) -> MergeResult:
        """Compare, guard, append, read back."""
        live = self._live(self._in_window())
        distinct = self.incoming.unique(["base_key", "event_date", "row_digest"], keep="first", maintain_order=True)
        collapsed = self.incoming.height - distinct.height
        contested = self._contested(distinct, live)
        if not contested.is_empty():
            live = pl.concat([live, self._live_of(contested)]).unique("row_key")
        rows = self._settled(distinct, contested, live)
        both = rows.join(live.select(pl.all().name.prefix("live_")), left_on="row_key", right_on="live_row_key", how="left")
        # A row that loses or gains its usable time moves like one that changes its day: window filters stay exact.
        was_stray = pl.col("live_date_source").is_in(STRAY_ORIGINS)
        same_day = (pl.col("event_date") == pl.col("live_event_date")) & (was_stray == STRAY)
        fresh = both.filter(pl.col("live_row_version").is_null())
        updates = both.filter(same_day & (pl.col("row_digest") != pl.col("live_row_digest")))
        moved = both.filter(~same_day)
        dead = live.join(rows, on="row_key", how="anti")
        if self.history.policy.no_deletes_before:
            dead = dead.filter(pl.col("event_date") >= self.history.policy.no_deletes_before)
        self._guard(live, dead.filter(~pl.col("is_conflict")))
        gone = pl.concat(
            [
                dead.select("row_key", "row_version", "event_date", "known_from"),
                moved.select(
                    "row_key", *[pl.col(f"live_{c}").alias(c) for c in ("row_version", "event_date", "known_from")]
                ),
            ]
        )
        changes = self._changes(fresh, updates, moved, gone)
        version = self._append(changes) if not changes.is_empty() else None
        counts = dict(changes["change"].value_counts().iter_rows())
        away = changes.filter(~self._in_window())["event_date"].unique().sort()
        return MergeResult(
            version,
            self.source_rows,
            collapsed,
            counts.get("insert", 0),
            counts.get("update", 0),
            counts.get("delete", 0),
            int(rows["is_conflict"].sum()),
            self._conservation(rows.filter(self._in_window())),
            tuple(away),
        )

    def _scan(self, columns: list[str]) -> pl.LazyFrame:
        scan = self.history.lake.scan(self.history.table, version=self.version)
        return scan.filter(pl.col("source") == self.source).select(columns)

    def _in_window(self) -> pl.Expr:
        """Rows this merge is answerable for: the window's dated rows, and every stray where strays were read."""
        if self.window is None:
            return pl.lit(True)
        dated = pl.col("event_date").is_between(self.window.first, self.window.last) & ~STRAY
        return dated | STRAY if self.window.with_strays else dated

    def _is_whole_source(self) -> bool:
        """Whether the extract holds all there is: then no key needs asking."""
        w = self.window
        return w is None or (w.with_strays and w.first <= w.partitions_first and w.last >= w.partitions_last)

    def _live(self, which: pl.Expr) -> pl.DataFrame:
        rows = latest_versions(self._scan(_LIVE_COLUMNS).filter(which).collect())
        return rows.filter(pl.col("change") != "delete").with_columns(
            base_key=_base(pl.col("row_key"), pl.col("is_conflict"))
        )

    def _live_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Live rows of the base keys, on any day, conflicts included."""
        named = self._scan(_LIVE_COLUMNS).with_columns(base_key=_base(pl.col("row_key"), pl.col("is_conflict")))
        rows = latest_versions(named.join(keys.lazy(), on="base_key", how="semi").collect())
        return rows.filter(pl.col("change") != "delete")

    def _contested(self, distinct: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
        """base_key of every key the extract alone cannot settle."""
        doubled = distinct.filter(pl.col("base_key").is_duplicated()).select("base_key")
        if self.version == 0:
            return doubled.unique()
        in_conflict = self._live(pl.col("is_conflict")).select("base_key")
        touched = pl.concat([distinct.select("base_key"), live.select("base_key")])
        gone = live.join(distinct, on="base_key", how="anti").select("base_key")
        new = distinct.join(live, on="base_key", how="anti").select("base_key")
        elsewhere = self._live_of(new).select("base_key") if not new.is_empty() else new
        return pl.concat([doubled, in_conflict.join(touched, on="base_key", how="semi"), gone, elsewhere]).unique()

    def _settled(self, distinct: pl.DataFrame, contested: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
        """The rows as they shall be live: the extract's, and for contested keys the source's own on every day."""
        if contested.is_empty():
            return resolve_duplicates(self._dated(distinct, live))
        if self._is_whole_source() or contested.height > MAX_ASKED_KEYS:
            return resolve_duplicates(self._dated(distinct, live))
        asked = self._ask(contested, distinct)
        rows = pl.concat([distinct.join(contested, on="base_key", how="anti"), asked])
        return resolve_duplicates(self._dated(rows, live))

    def _ask(self, contested: pl.DataFrame, distinct: pl.DataFrame) -> pl.DataFrame:
        """The source's present rows of the contested keys, on any day, prepared like the extract."""
        names = list(self.history.source_table.key)
        known = self._scan(["row_key", "is_conflict", *names]).with_columns(
            base_key=_base(pl.col("row_key"), pl.col("is_conflict"))
        )
        stored = known.join(contested.lazy(), on="base_key", how="semi").select(names).collect()
        keys = pl.concat([stored, distinct.join(contested, on="base_key", how="semi").select(names)]).unique()
        frame = self.fetch_keys(keys.drop_nulls(names[0]))
        keyless = distinct.join(contested, on="base_key", how="semi").filter(pl.col(names[0]).is_null())
        if frame.is_empty():
            return keyless
        rows = prepared(frame, self.history.source_table, self.source)
        rows = rows.unique(["base_key", "event_date", "row_digest"], keep="first", maintain_order=True)
        return pl.concat([rows.select(distinct.columns), keyless])

    def _dated(self, rows: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
        """A stray belongs to the day it was first ingested (else it would move every day), a new one to the stray day."""
        if self.window is None:
            return rows
        outside = ~pl.col("event_date").is_between(self.window.partitions_first, self.window.partitions_last)
        origin = pl.when(outside & ~STRAY).then(pl.lit("outside")).otherwise("date_source")
        rows = rows.with_columns(
            date_source=pl.when(pl.col("event_date").is_null()).then(pl.lit("no_time")).otherwise(origin)
        )
        strays = live.filter(STRAY).sort("event_date")
        exact = strays.unique(["base_key", "row_digest"], keep="first").select("base_key", "row_digest", day="event_date")
        any_day = strays.unique("base_key", keep="first").select("base_key", key_day="event_date")
        joined = rows.join(exact, on=["base_key", "row_digest"], how="left").join(any_day, on="base_key", how="left")
        stray_day = pl.coalesce("day", "key_day", pl.lit(self.window.stray_day or self.window.last))
        dated = joined.with_columns(event_date=pl.when(STRAY).then(stray_day).otherwise("event_date")).drop("day", "key_day")
        return dated.unique(["base_key", "event_date", "row_digest"], keep="first", maintain_order=True)

    def _guard(self, live: pl.DataFrame, vanished: pl.DataFrame) -> None:
        policy = self.history.policy
        if policy.confirm_vanished or vanished.is_empty():
            return
        lost = vanished.group_by("event_date").agg(lost=pl.len())
        share = lost.join(live.group_by("event_date").agg(live=pl.len()), on="event_date")
        limit = pl.max_horizontal(pl.col("live") * policy.vanished_share, pl.lit(policy.vanished_floor - 1.0))
        bad = share.filter(pl.col("lost") > limit).sort("event_date")
        if bad.is_empty():
            return
        days = ", ".join(f"{day}: {gone} of {all_}" for day, gone, all_ in bad.head(5).iter_rows())
        more = f" and {bad.height - 5} more days" if bad.height > 5 else ""
        raise VanishedRowsError(
            f"{self.history.source_table.name}: rows vanished from source {self.source} ({days}{more}); more than "
            f"{policy.vanished_share:.0%} of a day. Nothing was written. If the deletions are real, launch the run again "
            "with the tag lims/confirm_vanished=true."
        )

    def _changes(self, fresh: pl.DataFrame, updates: pl.DataFrame, moved: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
        """The versions to append, in the contract's columns."""
        columns = [*self.history.source_table.stored_schema, "source", "event_date", "date_source", "time_flag"]
        keep = [*columns, "row_key", "is_conflict", "row_digest", "version_time"]
        born = fresh.select(keep).join(self._last_dead(fresh, gone), on="row_key", how="left")
        inserts = pl.concat(
            [
                born.with_columns(change=pl.lit("insert")),
                moved.select(
                    *keep,
                    before=pl.col("live_row_version") + 1,
                    before_known=pl.col("live_known_from"),
                    change=pl.lit("insert"),
                ),
                updates.select(
                    *keep,
                    before=pl.col("live_row_version"),
                    before_known=pl.col("live_known_from"),
                    change=pl.lit("update"),
                ),
            ]
        )
        policy = self.history.policy
        dated = with_knowledge(inserts, self.history.source_table, self._loaded_days(), self.now, policy.late_after)
        written = dated.with_columns(row_version=(pl.col("before").fill_null(0) + 1).cast(pl.Int32))
        out = [self._finished(written)]
        if not gone.is_empty():
            out.append(self._finished(self._deletes(gone, written, columns)))
        return pl.concat(out)

    def _last_dead(self, fresh: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
        """Last version of keys that lived before (deleted since, or deleted on another day in this commit)."""
        schema = {"row_key": pl.String(), "before": pl.Int32(), "before_known": UTC}
        if self.version == 0 or fresh.is_empty():
            return pl.DataFrame(schema=schema)
        past = self._scan(["row_key", "row_version", "known_from"]).join(
            fresh.lazy().select("row_key"), on="row_key", how="semi"
        )
        dead = past.group_by("row_key").agg(before=pl.col("row_version").max(), before_known=pl.col("known_from").max())
        taken = gone.select("row_key", going=pl.lit(1, dtype=pl.Int32)).unique("row_key")
        return (
            dead.collect()
            .join(taken, on="row_key", how="left")
            .select(
                "row_key",
                before=(pl.col("before") + pl.col("going").fill_null(0)).cast(pl.Int32),
                before_known="before_known",
            )
        )

    def _loaded_days(self) -> pl.Series:
        """Days that were loaded before this merge; a first load believes the source's result times."""
        if self.version == 0 or self.window is None:
            return pl.Series([], dtype=pl.Date)
        return self._scan(["event_date"]).unique().collect()["event_date"]

    def _deletes(self, gone: pl.DataFrame, written: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
        """Delete versions: the dead row's own content, so that a reader of the day sees what went."""
        content = self._scan([*columns, "row_key", "row_version", "is_conflict", "row_digest"])
        dead = content.join(
            gone.lazy().select("row_key", "row_version", "known_from"), on=["row_key", "row_version"]
        ).collect()
        arrival = written.group_by("row_key").agg(arrived=pl.col("known_from").min())
        now = pl.lit(self.now).cast(UTC)
        return dead.join(arrival, on="row_key", how="left").with_columns(
            change=pl.lit("delete"),
            row_version=pl.col("row_version") + 1,
            knowledge_origin=pl.lit("ingestion"),
            known_from=pl.max_horizontal(pl.coalesce("arrived", now), "known_from"),
        )

    def _finished(self, rows: pl.DataFrame) -> pl.DataFrame:
        stamped = rows.with_columns(ingested_at=pl.lit(self.now).cast(UTC), ingest_run_id=pl.lit(self.run_id))
        casts = [pl.col(name).cast(dtype) for name, (dtype, _, _) in HISTORY_COLUMNS.items()]
        return stamped.with_columns(casts).select(list(self.history.table.dtypes))

    def _append(self, changes: pl.DataFrame) -> int:
        days = changes["event_date"].unique().to_list()
        transactions = []
        for day in days:
            app_id = f"{self.history.table.name}/{day}"
            transactions.append(Transaction(app_id, (self.delta.transaction_version(app_id) or 0) + 1))
        write_deltalake(
            self.delta,
            changes,
            mode="append",
            commit_properties=CommitProperties(
                app_transactions=transactions, custom_metadata={"dagster_run_id": self.run_id, "source": self.source}
            ),
        )
        self.version = int(self.delta.version())
        return self.version

    def _conservation(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Per day the distinct source rows and the live rows read back from the lake at the committed version."""
        after = latest_versions(self._scan(_LIVE_COLUMNS).filter(self._in_window()).collect())
        live = after.filter(pl.col("change") != "delete").group_by("event_date").agg(live=pl.len())
        expected = rows.group_by("event_date").agg(expected=pl.len())
        return (
            expected.join(live, on="event_date", how="full", coalesce=True)
            .with_columns(pl.col("expected", "live").fill_null(0))
            .sort("event_date")
        )


def _base(row_key: pl.Expr, is_conflict: pl.Expr) -> pl.Expr:
    """The base key of a row_key: a conflicting duplicate's carries ``#`` and its digest at the end."""
    return pl.when(is_conflict).then(row_key.str.head(-(DIGEST_LENGTH + 1))).otherwise(row_key)
