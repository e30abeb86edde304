"""What a source says about a table at one look, and which days two looks tell apart: cheap, and not the truth about a row.

Here: marks and their comparison. Not here: asking a source (``sql``, ``files``), reading the days (the door).
A look sees new, vanished and moved rows by their number per day, and amended rows by the change cursor where a table has
one. A row amended without a trace in its cursor is found by the nightly comparison of digests, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    listing: files with size and time; empty for a database.
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


def listing_of(files: Iterable[Path]) -> str:
    """The files with size and time, as a look keeps them."""
    stats = [(path, path.stat()) for path in files]
    return "\n".join(f"{path.name} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


def days_of(rows: pl.DataFrame, day: str) -> dict[str, str]:
    """Marks of days by the rows themselves: how many there are and the sum of their hashes; rows without a day are left out.

    polars' hash may change with its version: then every day is read once more, which changes nothing.
    """
    hashed = rows.drop_nulls(day).select(day, digest=pl.struct(pl.exclude(day)).hash())
    counted = hashed.group_by(day).agg(rows=pl.len(), digest=pl.col("digest").sum())
    return {str(when): f"{n} {digest:x}" for when, n, digest in counted.iter_rows()}
