"""What a source says about a table at one look, and which days two looks tell apart: cheap, and not the truth about a row.

Here: marks and their comparison. Not here: asking a database (``sql_look``) or reading files (``files``, ``versioned``), and
reading the days themselves (the door).
A look sees new, vanished, moved and amended rows of the days it covers by their number and a fingerprint, and amended rows
of any other day by the change cursor where a table has one. The comparison of digests by night finds what neither shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

import polars as pl

from lims_platform.contracts.extract import DayWindow


@dataclass(frozen=True)
class Marks:
    """One source's answer about one table.

    days: ISO day to a short text that changes when the day's rows do; a day without rows is absent.
    since: the first day looked at so far, ISO; an absent day before it was never looked at. Empty: the window's.
    until: the day that was today, ISO; empty without a cursor.
    newest: the greatest change cursor that can be believed, as the source writes it; empty without a cursor.
    bound: changes after this cursor are asked for at the next look; somewhat before ``newest``, because a transaction
        may commit after a later one.
    recent: "day cursor" to a short text, for the changes after ``bound`` on days before ``until``.
    listing: digest of the files' names (which may name a patient), sizes and times; empty for a database.
    changed_at: the latest change of any of the files, in nanoseconds; 0 for a database.
    """

    days: dict[str, str] = field(default_factory=dict)
    since: str = ""
    until: str = ""
    newest: str = ""
    bound: str = ""
    recent: dict[str, str] = field(default_factory=dict)
    listing: str = ""
    changed_at: int = 0

    def as_dict(self) -> dict[str, object]:
        """For a cursor kept as JSON; what is empty is left out."""
        return {name: value for name, value in vars(self).items() if value}

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> Marks:
        """What ``as_dict`` gave, after JSON; an unknown name is left out."""
        return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})  # type: ignore[arg-type]

    def covering(self, before: Marks | None, window: DayWindow) -> Marks:
        """These marks of a window's days, with those that an earlier look left of older days."""
        first = window.first.isoformat()
        if before is None:
            return replace(self, since=first)
        older = {day: mark for day, mark in before.days.items() if day < first}
        return replace(self, days=older | self.days, since=min(before.since or first, first))

    def from_day(self, first: date) -> Marks:
        """Without the days before ``first``; files keep all, as what is read whole is compared whole."""
        if self.listing:
            return self
        day = first.isoformat()
        return replace(self, days={d: m for d, m in self.days.items() if d >= day}, since=max(self.since, day))


def touched_days(before: Marks | None, after: Marks, window: DayWindow) -> set[date]:
    """Days of the window whose marks differ; all of them where there was no look before, none that none covered."""
    span = (window.last - window.first).days + 1
    days = [date.fromordinal(window.first.toordinal() + offset) for offset in range(span)]
    if before is None:
        return set(days)
    known = [day for day in days if day.isoformat() >= before.since]
    return {day for day in known if before.days.get(day.isoformat()) != after.days.get(day.isoformat())}


def row_marks(frames: Iterable[pl.DataFrame]) -> dict[str, str]:
    """Marks by day of rows at hand with their ``event_date``: their number and a hash that knows no order."""
    found: dict[date, tuple[int, int]] = {}
    for rows in frames:
        # polars' hash may change with its version: then every day is read once more, which changes nothing
        hashed = rows.drop_nulls("event_date").select("event_date", digest=pl.struct(pl.exclude("event_date")).hash())
        for day, n, digest in hashed.group_by("event_date").agg(rows=pl.len(), digest=pl.col("digest").sum()).iter_rows():
            count, total = found.get(day, (0, 0))
            found[day] = count + n, (total + digest) % 2**64
    return {str(day): f"{n} {digest:x}" for day, (n, digest) in found.items()}


def look_at_files(
    files: Sequence[Path],
    marks: Callable[[], dict[str, str]],
    days_of: Callable[[list[Path]], set[date]],
    window: DayWindow,
    before: Marks | None,
) -> tuple[Marks, set[date]]:
    """A look at a folder: while no file's name, size or time changed nothing is read.

    Args:
        files: the files there are.
        marks: the marks by day of the window's rows.
        days_of: days of the rows in some of the files; asked of files that changed since, for days before the window.
        window: days that are compared.
        before: the last look.
    """
    stats = [(path, path.stat()) for path in files]
    listed = "\n".join(f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)
    listing = hashlib.sha256(f"{window.first} {window.last}\n{listed}".encode()).hexdigest()
    if before is not None and listing == before.listing:
        return before, set()
    # the time of the change, not of the content: a file moved in keeps the time its content was written
    changed_at = max((stat.st_ctime_ns for _, stat in stats), default=0)
    after = Marks(marks(), listing=listing, changed_at=changed_at).covering(before, window)
    touched = touched_days(before, after, window)
    if before is not None:
        fresh = [path for path, stat in stats if stat.st_ctime_ns > before.changed_at]
        older = days_of(fresh) if fresh else set()
        touched |= {day for day in older if window.partitions_first <= day < window.first}
    return after, touched
