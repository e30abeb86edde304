"""A look at one table of a database: at most two statements, and what they say about its days.

Here: counts, fingerprints and change cursors to marks. Not here: the statements' text (``queries``), running them (``sql``),
comparing marks (``changes``).

A day's mark holds the number of its rows, their greatest change cursor, and a fingerprint of those rows that have no cursor
(all of them where the table has none), so that an amended row shows whether or not the source dates its changes. Rows of
any day whose cursor is past the last look's, less an overlap, are asked for too: on days outside the window they are all
that shows, and a row deleted there does not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from lims_platform.contracts.extract import DayWindow
from lims_platform.sources.changes import Marks, row_marks, touched_days
from lims_platform.sources.queries import Query

#: A change may be committed so much later than its cursor says, and after changes with a later one.
OVERLAP = timedelta(hours=1)

#: Changes of one look that are remembered one by one; more of them shorten the overlap instead.
MOST_RECENT = 2_000

#: A cursor further ahead of the clock is a mistake and must not hide every later change.
AHEAD = timedelta(days=1)

#: Days read at a time where the engine cannot make a fingerprint itself.
DAYS_AT_ONCE = 7

Run = Callable[[str], pl.DataFrame]
Fetch = Callable[[DayWindow], pl.DataFrame]


@dataclass(frozen=True)
class Look:
    """One table in one source.

    run: a statement's rows. fetch: a window's rows, conformed.
    """

    plan: Query
    run: Run
    fetch: Fetch

    def marks(self, window: DayWindow, before: Marks | None) -> tuple[Marks, set[date]]:
        """See ``Sources.look``."""
        statement = self.plan.marks(window)
        if statement is None:
            after = Marks(self._read_marks(window)).covering(before, window)
            return after, touched_days(before, after, window)
        marked = self._asked(statement)
        bare = Marks(self._days(marked, window)).covering(before, window)
        touched = touched_days(before, bare, window)
        if self.plan.cursor is None:
            return bare, self._around(touched, window)
        after, dated = self._since(bare, marked, window, before)
        older = {day for day in dated if day < window.first}
        return self._marked_again(after, older, window), self._around(touched | dated, window)

    def _marked_again(self, marks: Marks, older: set[date], window: DayWindow) -> Marks:
        """The marks with those of older days that the cursor has shown as changed: the next look far back knows them."""
        known = sorted(day for day in older if day.isoformat() >= marks.since)
        if not known:
            return marks
        part = replace(window, first=known[0], last=known[-1])
        statement = self.plan.marks(part)
        assert statement is not None
        found = self._days(self._asked(statement), part)
        kept = {day: mark for day, mark in marks.days.items() if date.fromisoformat(day) not in older}
        return replace(marks, days=kept | {day: mark for day, mark in found.items() if date.fromisoformat(day) in older})

    def _days(self, marked: pl.DataFrame, window: DayWindow) -> dict[str, str]:
        prints = dict(marked.select("event_date", "print").iter_rows())
        if not self.plan.dialect.hashes:
            # the third column then tells how many rows have no cursor
            wanted = [day for day, rows in prints.items() if rows not in ("", "0")]
            read = self._read_marks(window) if wanted else {}
            prints = {day: read.get(str(day), "") if day in wanted else "" for day in prints}
        cells = marked.select("event_date", "rows", "newest").iter_rows()
        return {str(day): f"{rows} {_short(f'{newest} {prints[day]}')}" for day, rows, newest in cells}

    def _read_marks(self, window: DayWindow) -> dict[str, str]:
        """Marks of rows that must be read for it: SQLite has no hash, a time format of its own no days."""
        version_time = self.plan.layout.table.version_time

        def parts() -> Iterator[pl.DataFrame]:
            days = (window.last - window.first).days + 1
            step = DAYS_AT_ONCE if self.plan.ranged else days  # else every part would read the whole table
            for offset in range(0, days, step):
                start = window.first + timedelta(days=offset)
                end = min(start + timedelta(days=step - 1), window.last)
                rows = self.fetch(replace(window, first=start, last=end))
                yield rows.drop([version_time] if version_time else [], strict=False)

        return row_marks(parts())

    def _since(self, bare: Marks, marked: pl.DataFrame, window: DayWindow, before: Marks | None) -> tuple[Marks, set[date]]:
        """The marks with what is known about the cursor, and the days that it shows as changed."""
        bound = (before.bound or before.newest) if before else ""
        seen = before.newest if before else ""
        newest = self._greatest([seen, *marked["newest"]])
        bound = bound or self._earlier(newest)
        statement = self.plan.marks_since(bound) if bound else None
        groups = self._asked(statement) if statement else marked.clear()
        newest = self._greatest([newest, *groups["newest"]])
        # today's are most, and today is read every hour
        past = groups.filter(pl.col("event_date") >= window.partitions_first, pl.col("event_date") < window.last)
        found = {f"{day} {cursor}": f"{rows} {mark}".strip() for day, rows, cursor, mark in past.iter_rows()}
        following, kept = self._remembered(newest, found)
        after = Marks(bare.days, bare.since, window.last.isoformat(), newest, following, kept)
        if before is None:
            return after, set()
        known = before.recent
        changed = {key for key in found.keys() | known.keys() if found.get(key) != known.get(key)}
        # of the day that was today at the last look none was remembered
        return after, {date.fromisoformat(key[:10]) for key in changed if key[:10] < before.until}

    def _remembered(self, newest: str, found: dict[str, str]) -> tuple[str, dict[str, str]]:
        """The next look's bound, and the changes after it."""
        bound = self._earlier(newest)
        kept = {key: mark for key, mark in found.items() if self._rank(key[11:]) > self._rank(bound)}
        if len(kept) <= MOST_RECENT:
            return bound, kept
        ordered = sorted(kept, key=lambda key: self._rank(key[11:]), reverse=True)
        bound = ordered[MOST_RECENT][11:]
        return bound, {key: kept[key] for key in ordered if self._rank(key[11:]) > self._rank(bound)}

    def _rank(self, cursor: str) -> tuple[datetime, str]:
        """A cursor as a moment on the source's own clock; among those that cannot be read the text decides."""
        zone = ZoneInfo(self.plan.layout.settings.timezone)
        try:
            moment = datetime.fromisoformat(cursor)
        except ValueError:
            return datetime.min, cursor
        return moment.astimezone(zone).replace(tzinfo=None) if moment.tzinfo else moment, cursor

    def _greatest(self, cursors: list[str]) -> str:
        latest = datetime.now(ZoneInfo(self.plan.layout.settings.timezone)).replace(tzinfo=None) + AHEAD
        return max((c for c in cursors if self._rank(c)[0] <= latest), key=self._rank, default="")

    def _earlier(self, cursor: str) -> str:
        """The cursor less the overlap, in the way the source writes it."""
        try:
            moment = datetime.fromisoformat(cursor) - OVERLAP
        except (ValueError, OverflowError):
            return cursor
        text = moment.isoformat(sep=cursor[10] if len(cursor) > 10 else " ")
        return text.replace("+00:00", "Z") if cursor.endswith("Z") else text

    def _around(self, days: set[date], window: DayWindow) -> set[date]:
        """The laboratory's days that the source's days can hold: neighbours too where the two calendars differ."""
        if self.plan.names_days_exactly:
            return days
        near = {day + timedelta(days=offset) for day in days for offset in (-1, 0, 1)}
        return {day for day in near if window.partitions_first <= day <= window.last}

    def _asked(self, statement: str) -> pl.DataFrame:
        """event_date, rows, newest, print (texts) of a marks statement; rows whose day cannot be read are left out."""
        raw = self.run(statement)
        raw = raw.rename(dict(zip(raw.columns, ("rows", "newest", "print", "day"), strict=True)))
        day = pl.col("day").cast(pl.String).str.to_date("%Y-%m-%d", strict=False)
        return (
            raw.filter(pl.col("rows") != "")
            .select(day.alias("event_date"), "rows", "newest", "print")
            .drop_nulls("event_date")
        )


def _short(text: str) -> str:
    """A digest of a mark: every look's marks are kept by Dagster, for every day and table."""
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
