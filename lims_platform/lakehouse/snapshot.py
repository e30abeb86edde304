"""One source's rows of a bronze table at a pinned version, and the commit that must follow that very version.

Here: what history asks of the lake, app transactions, what a commit tells about itself. Not here: what shall change
(``history``).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime

import polars as pl
from deltalake import DeltaTable

from lims_platform.contracts.base import Table
from lims_platform.contracts.source import UTC
from lims_platform.lakehouse.data_files import Commit, commit_files, write_days, write_files
from lims_platform.lakehouse.lake import Lake, stored_schema, writing
from lims_platform.lakehouse.versions import base_key, live_rows

LIVE_COLUMNS = (
    "row_key",
    "row_version",
    "event_date",
    "date_source",
    "change",
    "row_digest",
    "known_from",
    "is_conflict",
)


#: Metadata of a commit: JSON of each day it adds versions to, and the earliest moment from which one counts as known.
_KNOWN_FROM = "known_from"


@dataclass(frozen=True)
class News:
    """What one commit added to a history: by day, the earliest moment (UTC) from which a new version counts as known."""

    version: int
    known_from: dict[date, datetime]


def news_since(lake: Lake, table: Table, version: int) -> list[News]:
    """The commits after ``version`` that added versions, oldest first, as far as the transaction log reaches back."""
    delta = lake.open(table)
    if delta is None or delta.version() <= version:
        return []
    found = []
    for commit in delta.history(delta.version() - version):
        if commit["version"] > version and _KNOWN_FROM in commit:
            told: dict[str, str] = json.loads(commit[_KNOWN_FROM])
            known = {date.fromisoformat(day): datetime.fromisoformat(moment) for day, moment in told.items()}
            found.append(News(int(commit["version"]), known))
    return sorted(found, key=lambda news: news.version)


class Snapshot:
    """A bronze table as one source's merge sees it; pin it before the source is read.

    Whoever commits the same days after the pin makes ``append`` fail, so an extract older than another run's can
    never overwrite what that run wrote.
    """

    def __init__(self, lake: Lake, table: Table, source: str) -> None:
        self._lake, self._table, self._source = lake, table, source
        self._delta: DeltaTable = lake.create_if_absent(table)
        self._version = int(self._delta.version())

    @property
    def is_new(self) -> bool:
        """Nothing was ever written to the table."""
        return self._version == 0

    def rows(self) -> pl.LazyFrame:
        """Every version of the source's rows, with base_key."""
        scan = self._lake.scan(self._table, version=self._version)
        return scan.filter(pl.col("source") == self._source).with_columns(base_key())

    def _rows_of(self, keys: pl.DataFrame, name: str) -> pl.LazyFrame:
        """Every version whose ``name``, base_key or row_key, is among the keys."""
        return self.rows().filter(_between(keys[name])).join(keys.lazy(), on=name, how="semi")

    def live(self, which: pl.Expr) -> pl.DataFrame:
        """Live rows among the versions ``which`` selects, in LIVE_COLUMNS and base_key."""
        return live_rows(self.rows().filter(which).select(*LIVE_COLUMNS, "base_key")).collect()

    def live_per_day(self, which: pl.Expr) -> pl.DataFrame:
        """event_date, live: the number of live rows among the versions ``which`` selects."""
        return live_rows(self.rows().filter(which)).group_by("event_date").agg(live=pl.len()).collect(engine="streaming")

    def live_of(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Live rows of the base keys, on any day, conflicts included."""
        return live_rows(self._rows_of(keys, "base_key").select(*LIVE_COLUMNS, "base_key")).collect()

    def stored(self, keys: pl.DataFrame, names: list[str]) -> pl.DataFrame:
        """The source's own key columns of the base keys, as they stand in any version."""
        return self._rows_of(keys, "base_key").select(names).collect()

    def last_versions(self, keys: pl.DataFrame) -> pl.DataFrame:
        """row_key, before, before_known: the highest version of the row keys that ever lived, and when it was known."""
        if self.is_new or keys.is_empty():
            return pl.DataFrame(schema={"row_key": pl.String(), "before": pl.Int32(), "before_known": UTC})
        past = self._rows_of(keys, "row_key").group_by("row_key")
        return past.agg(before=pl.col("row_version").max(), before_known=pl.col("known_from").max()).collect()

    def versions(self, wanted: pl.DataFrame, columns: list[str]) -> pl.DataFrame:
        """``columns`` of the versions named by row_key and row_version."""
        keys = ["row_key", "row_version"]
        return self.rows().select(columns).join(wanted.lazy().select(*keys, "known_from"), on=keys).collect()

    def _app(self, day: date) -> str:
        return f"{self._table.name}/{self._source}/{day}"

    def never_loaded(self, days: Collection[date]) -> set[date]:
        """Those of ``days`` no merge of this source has covered; a day without a row counts once it was covered."""
        return {day for day in days if self._delta.transaction_version(self._app(day)) is None}

    def append(self, changes: pl.DataFrame, days: Collection[date], run_id: str) -> int:
        """Commit ``changes``, sorted by day, with one app transaction per day of ``days``; returns the version, then pinned.

        Raises CommitFailedError when one of the days was committed after the pin (blind appends would never conflict), and
        LakeWriteError.
        """
        told = {"dagster_run_id": run_id, "source": self._source}
        if changes.height:
            moment = pl.col("known_from").min().dt.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00")
            known = changes.group_by(pl.col("event_date").cast(pl.String)).agg(moment).sort("event_date")
            told[_KNOWN_FROM] = json.dumps(dict(known.iter_rows()))
        counts = {app: self._delta.transaction_version(app) or 0 for app in map(self._app, days)}
        schema = stored_schema(self._delta, self._table, may_grow=False)
        what = Commit(schema, transactions={app: count + 1 for app, count in counts.items()}, told=told)
        files = set(self._delta.file_uris())

        def is_unchanged(newest: DeltaTable) -> bool:
            """No other merge of these days, nothing rewritten: a blind append would not notice either."""
            same_days = all((newest.transaction_version(app) or 0) == count for app, count in counts.items())
            return same_days and files <= set(newest.file_uris()) and newest.schema() == schema

        folder, partition = self._lake.path(self._table), self._table.partition
        with writing(self._table):
            written = write_days(folder, partition, changes) if partition else write_files(folder, None, changes.lazy())
            self._version = commit_files(folder, partition, written, what, is_unchanged)
            self._delta = DeltaTable(str(folder), version=self._version)
        return self._version


def _between(keys: pl.Series) -> pl.Expr:
    """Row keys from the least to the greatest of ``keys`` and of their conflicting duplicates (``#`` and a digest behind).

    Most laboratories number their results, so the statistics of the files then spare all older ones: what a tick costs does
    not grow with the years.
    """
    low, high = keys.min(), keys.max()
    if low is None:
        return pl.lit(False)
    return pl.col("row_key").is_between(pl.lit(low), pl.lit(str(high) + "$"))  # "$" comes right behind "#"
