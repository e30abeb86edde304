"""Bronze history: which rows of an extract are new, changed, moved or gone, appended as versions in one commit.

Here: the comparison with the live versions, the vanished-rows guard, conservation. Not here: reading the source
(``sources``), pseudonyms (``privacy``), identity and knowledge time (``versions``), the lake's side (``snapshot``). For one
source and one chunk of days:

1. a snapshot of the lake is pinned, and only then the source is read; identical duplicates in the extract collapse;
2. contested keys (doubled in the extract, gone from it, or live on a day outside it) are asked of the source itself, on
   every day, so that a moved row is told from a vanished one and a conflict across days has one winner whatever the chunks;
3. inserts, updates and deletes go into one commit carrying one application transaction per day, so that of two writers of
   one day the second starts again from 1 (blind appends never conflict in Delta).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import polars as pl

from lims_platform.contracts.bronze import BRONZE_TABLES, HISTORY_COLUMNS
from lims_platform.contracts.extract import DayWindow
from lims_platform.contracts.source import UTC, SourceTable
from lims_platform.lakehouse.lake import Lake, retry_on_conflict
from lims_platform.lakehouse.snapshot import Snapshot
from lims_platform.lakehouse.versions import (
    STRAY,
    STRAY_ORIGINS,
    dated,
    distinct_rows,
    prepared,
    repeated,
    resolve_duplicates,
    with_knowledge,
)

#: Run tag by which a person confirms that rows vanished from the source on purpose.
CONFIRM_TAG = "lims/confirm_vanished"

#: More contested keys than this are not asked of the source one by one: the extract itself is in doubt.
MAX_ASKED_KEYS = 100_000

#: What a merge counts.
COUNTS = ("source_rows", "collapsed", "inserts", "updates", "deletes", "conflicts")


class VanishedRowsError(RuntimeError):
    """More of a day's rows vanished from the source than the laboratory accepts unasked; nothing was written."""

    transient = False
    advice = "Compare the days with the LIMS before confirming anything."


@dataclass(frozen=True)
class HistoryPolicy:
    """When vanished rows stop a run, and when a first-seen row counts as late (see Settings)."""

    vanished_share: float = 0.01
    vanished_floor: int = 5
    late_after: timedelta = timedelta(hours=48)
    confirm_vanished: bool = False
    no_deletes_before: date | None = None


@dataclass(frozen=True)
class Reading:
    """How one source answers for one chunk of days, pseudonymised; read anew by every attempt.

    ``window`` None: the whole register. ``rows``: the extract of the window. ``rows_of``: the source's present rows of a
    frame of keys, on any day.
    """

    source: str
    window: DayWindow | None
    rows: Callable[[], pl.DataFrame]
    rows_of: Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class MergeResult:
    """What one merge did; counts are rows (see COUNTS).

    ``days``: event_date, expected (distinct source rows), live (rows read back after the commit). ``other_days``: days
    outside the window that it touched. ``version`` None: nothing was committed.
    """

    version: int | None
    counts: dict[str, int]
    days: pl.DataFrame
    other_days: tuple[date, ...]


class History:
    """The append-only history of one source table in the lake."""

    def __init__(self, lake: Lake, source_table: SourceTable, policy: HistoryPolicy) -> None:
        self.lake = lake
        self.source_table = source_table
        self.table = BRONZE_TABLES[source_table.name]
        self.policy = policy

    def merge(self, reading: Reading, now: datetime, run_id: str) -> MergeResult:
        """Append what changed between the source and the live versions.

        Raises VanishedRowsError before anything is written, and whatever the reading raises. Of two writers of one day the
        loser reads lake and source again.
        """
        return retry_on_conflict(lambda: _Merge(self, reading, now, run_id).commit())


class _Merge:
    """One attempt: pins a snapshot, reads the source, decides, commits."""

    def __init__(self, history: History, reading: Reading, now: datetime, run_id: str) -> None:
        self.history, self.reading, self.window = history, reading, reading.window
        self.now, self.run_id = now, run_id
        self.snapshot = Snapshot(history.lake, history.table, reading.source)

    def commit(self) -> MergeResult:
        """Read, compare, guard, append, read back; wide frames are let go as soon as the next one stands."""
        read, distinct = self._read()
        live = self.snapshot.live(self._in_window())
        contested = self._contested(distinct, live)
        if not contested.is_empty():
            live = pl.concat([live, self.snapshot.live_of(contested)]).unique("row_key")
        unlike = distinct.height
        rows = self._settled(distinct, contested, live)
        del distinct
        expected = rows.lazy().filter(self._in_window()).group_by("event_date").agg(expected=pl.len()).collect()
        conflicts = int(rows["is_conflict"].sum())
        dead = live.join(rows, on="row_key", how="anti")
        if self.history.policy.no_deletes_before:
            dead = dead.filter(pl.col("event_date") >= self.history.policy.no_deletes_before)
        self._guard(live, dead.filter(~pl.col("is_conflict")))
        fresh, updates, moved = self._compared(rows, live)
        del rows
        narrow = ("row_version", "event_date", "known_from")
        left = moved.select("row_key", *[pl.col(f"live_{name}").alias(name) for name in narrow])
        gone = pl.concat([dead.select("row_key", *narrow), left])
        # days together: a partition's file is then written in one go
        changes = self._changes(fresh, updates, moved, gone).sort("event_date", maintain_order=True)
        del fresh, updates, moved
        version = self._append(changes)
        made = dict(changes["change"].value_counts().iter_rows())
        appended = (made.get(change, 0) for change in ("insert", "update", "delete"))
        counts = dict(zip(COUNTS, (read, read - unlike, *appended, conflicts), strict=True))
        away = changes.filter(~self._in_window())["event_date"].unique().sort()
        return MergeResult(version, counts, self._conservation(expected), tuple(away))

    def _read(self) -> tuple[int, pl.DataFrame]:
        """How many rows the source gave, and them without identical duplicates."""
        rows = prepared(self.reading.rows(), self.history.source_table, self.reading.source)
        return rows.height, distinct_rows(rows)

    def _compared(self, rows: pl.DataFrame, live: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
        """The rows that are new, that changed where they are, and that moved; the latter two with live_… of their past."""
        told = rows.select("row_key", "event_date", "date_source", "row_digest").with_row_index("_at")
        past = live.select(pl.all().name.prefix("live_"))
        told = told.join(past, left_on="row_key", right_on="live_row_key", how="left", maintain_order="left")
        # A row that loses or gains its usable time moves like one that changes its day: window filters stay exact.
        was_stray = pl.col("live_date_source").is_in(STRAY_ORIGINS)
        same_day = (pl.col("event_date") == pl.col("live_event_date")) & (was_stray == STRAY)

        def picked(condition: pl.Expr) -> pl.DataFrame:
            part = told.filter(condition)
            wide = rows if part.height == rows.height else rows[part["_at"]]
            return wide.hstack(part.select("live_row_version", "live_event_date", "live_known_from"))

        fresh = picked(pl.col("live_row_version").is_null())
        return fresh, picked(same_day & (pl.col("row_digest") != pl.col("live_row_digest"))), picked(~same_day)

    def _in_window(self) -> pl.Expr:
        """Rows this merge is answerable for: the window's dated rows, and every stray where strays were read."""
        if self.window is None:
            return pl.lit(True)
        in_days = pl.col("event_date").is_between(self.window.first, self.window.last) & ~STRAY
        return in_days | STRAY if self.window.with_strays else in_days

    def _is_whole_source(self) -> bool:
        """Whether the extract holds all there is: then no key needs asking."""
        w = self.window
        return w is None or (w.with_strays and w.first <= w.partitions_first and w.last >= w.partitions_last)

    def _contested(self, distinct: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
        """base_key of every key the extract alone cannot settle."""
        doubled = distinct.select("base_key").filter(repeated(distinct))
        if self.snapshot.is_new:
            return doubled.unique()
        in_conflict = self.snapshot.live(pl.col("is_conflict")).select("base_key")
        touched = pl.concat([distinct.select("base_key"), live.select("base_key")])
        gone = live.join(distinct, on="base_key", how="anti").select("base_key")
        new = distinct.join(live, on="base_key", how="anti").select("base_key")
        elsewhere = self.snapshot.live_of(new).select("base_key") if not new.is_empty() else new
        return pl.concat([doubled, in_conflict.join(touched, on="base_key", how="semi"), gone, elsewhere]).unique()

    def _settled(self, distinct: pl.DataFrame, contested: pl.DataFrame, live: pl.DataFrame) -> pl.DataFrame:
        """The rows as they shall be live: the extract's, and for contested keys the source's own on every day."""
        rows = distinct
        if not contested.is_empty() and not self._is_whole_source() and contested.height <= MAX_ASKED_KEYS:
            rows = pl.concat([distinct.join(contested, on="base_key", how="anti"), self._ask(contested, distinct)])
        return resolve_duplicates(rows if self.window is None else dated(rows, live, self.window))

    def _ask(self, contested: pl.DataFrame, distinct: pl.DataFrame) -> pl.DataFrame:
        """The source's present rows of the contested keys, on any day, prepared like the extract."""
        names = list(self.history.source_table.key)
        here = distinct.join(contested, on="base_key", how="semi")
        keys = pl.concat([self.snapshot.stored(contested, names), here.select(names)]).unique()
        frame = self.reading.rows_of(keys.drop_nulls(names[0]))
        keyless = here.filter(pl.col(names[0]).is_null())
        if frame.is_empty():
            return keyless
        rows = distinct_rows(prepared(frame, self.history.source_table, self.reading.source))
        return pl.concat([rows.select(distinct.columns), keyless])

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
            f"{self.history.source_table.name}: rows vanished from source {self.reading.source} ({days}{more}); more than "
            f"{policy.vanished_share:.0%} of a day. Nothing was written. If the deletions are real, launch the run again "
            f"with --confirm-vanished, in the UI with the tag {CONFIRM_TAG}=true."
        )

    def _changes(self, fresh: pl.DataFrame, updates: pl.DataFrame, moved: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
        """The versions to append, in the contract's columns."""
        columns = [*self.history.source_table.stored_schema, "source", "event_date", "date_source", "time_flag"]
        keep = [*columns, "row_key", "is_conflict", "row_digest", "version_time"]
        born = self._born(fresh.select(keep), gone)
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
        first_loads = self.snapshot.never_loaded(set(inserts["event_date"]))
        known = with_knowledge(inserts, self.history.source_table, first_loads, self.now, policy.late_after)
        written = known.with_columns(row_version=(pl.col("before").fill_null(0) + 1).cast(pl.Int32))
        out = [self._finished(written)]
        if not gone.is_empty():
            out.append(self._finished(self._deletes(gone, written, columns)))
        return pl.concat(out)

    def _born(self, fresh: pl.DataFrame, gone: pl.DataFrame) -> pl.DataFrame:
        """New rows with the last version of keys that lived before (deleted since, or on another day in this commit)."""
        dead = self.snapshot.last_versions(fresh.select("row_key"))
        if dead.is_empty():
            return fresh.with_columns([pl.lit(None, dead.schema[name]).alias(name) for name in ("before", "before_known")])
        going = pl.col("row_key").is_in(gone["row_key"].unique().implode()).cast(pl.Int32)
        return fresh.join(dead.with_columns(before=pl.col("before") + going), on="row_key", how="left")

    def _deletes(self, gone: pl.DataFrame, written: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
        """Delete versions: the dead row's own content, so that a reader of the day sees what went."""
        dead = self.snapshot.versions(gone, [*columns, "row_key", "row_version", "is_conflict", "row_digest"])
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

    def _append(self, changes: pl.DataFrame) -> int | None:
        """Commit the changes and that the window's days were loaded; None where both were known already."""
        w = self.window
        covered = [] if w is None else pl.date_range(w.first, w.last, "1d", eager=True).to_list()
        days = set(changes["event_date"]) | self.snapshot.never_loaded(covered)
        return self.snapshot.append(changes, days, self.run_id) if days else None

    def _conservation(self, expected: pl.DataFrame) -> pl.DataFrame:
        """Per day the distinct source rows, and the live rows read back from the lake at the committed version."""
        live = self.snapshot.live_per_day(self._in_window())
        return (
            expected.join(live, on="event_date", how="full", coalesce=True)
            .with_columns(pl.col("expected", "live").fill_null(0))
            .sort("event_date")
        )
