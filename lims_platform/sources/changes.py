"""What a source says about a table at one look, and which days two looks tell apart: cheap, and not the truth about a row.

Here: marks and their comparison. Not here: asking a source (``sql``, ``files``), reading the days (the door).
A look sees new, vanished and moved rows by their number per day, and amended rows by the change cursor where a table has
one. A row amended without a trace in its cursor is found by the nightly comparison of digests, not here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import polars as pl

from lims_platform.contracts.extract import DayWindow


@dataclass(frozen=True)
class Marks:
    """One source's answer about one table.

    days: ISO day to a short text that changes when the day's rows do, for the days of the window that have rows.
    newest: greatest change cursor ever seen, as the source writes it; empty without a cursor.
    listing: digest of the files' names (which may name a patient), sizes and times; empty for a database.
    """

    days: dict[str, str] = field(default_factory=dict)
    newest: str = ""
    listing: str = ""

    def as_dict(self) -> dict[str, object]:
        """For a cursor kept as JSON."""
        return {"days": self.days, "newest": self.newest, "listing": self.listing}

    @classmethod
    def from_dict(cls, given: Mapping[str, object]) -> Marks:
        """What ``as_dict`` gave, after JSON."""
        days = given["days"]
        assert isinstance(days, dict)
        return cls(dict(days), str(given["newest"]), str(given["listing"]))


def touched_days(before: Marks | None, after: Marks, window: DayWindow) -> set[date]:
    """Days of the window whose marks differ; every day of it where there was no look before."""
    span = (window.last - window.first).days + 1
    days = [date.fromordinal(window.first.toordinal() + offset) for offset in range(span)]
    if before is None:
        return set(days)
    return {day for day in days if before.days.get(day.isoformat()) != after.days.get(day.isoformat())}


def look_at_files(
    files: Sequence[Path], fetch: Callable[[], pl.DataFrame], window: DayWindow, before: Marks | None
) -> tuple[Marks, set[date]]:
    """A look at a folder: while no file's name, size or time changed nothing is read; else the window's rows are hashed.

    ``fetch`` gives the window's rows with their ``event_date``.
    """
    stats = [(path.name, path.stat()) for path in files]
    listed = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    listing = hashlib.sha256(f"{window.first} {window.last}\n{listed}".encode()).hexdigest()
    if before is not None and listing == before.listing:
        return before, set()
    rows = fetch().drop_nulls("event_date")
    # polars' hash may change with its version: then every day is read once more, which changes nothing
    hashed = rows.select("event_date", digest=pl.struct(pl.exclude("event_date")).hash())
    days = hashed.group_by("event_date").agg(rows=pl.len(), digest=pl.col("digest").sum())
    after = Marks({str(day): f"{n} {digest:x}" for day, n, digest in days.iter_rows()}, listing=listing)
    return after, touched_days(before, after, window)
