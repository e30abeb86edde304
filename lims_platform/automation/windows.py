"""The laboratory's clock: when a day ends, and when the window opens in which its next step may run.

Here: calendar arithmetic in LIMS_TIMEZONE, pure. Not here: what runs in a window (``conditions``, ``schedules``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from dagster._time import get_current_datetime


def now() -> datetime:
    """The present moment, in UTC: Dagster's own clock, so that a test which moves that one moves all of automation."""
    return get_current_datetime().astimezone(UTC)


def moment(day: date, at: time, zone: ZoneInfo) -> datetime:
    """The UTC moment at which the laboratory's clock shows ``at`` on ``day``.

    A time the spring change skips is the moment the clock would have shown it without the change (02:30 is 03:30 in
    summer time); of a time shown twice in autumn, the first.
    """
    return datetime.combine(day, at, tzinfo=zone).astimezone(UTC)


def day_end(day: date, zone: ZoneInfo) -> datetime:
    """The UTC moment the laboratory's day ends: from then on nothing new belongs to it."""
    return moment(day + timedelta(days=1), time(), zone)


@dataclass(frozen=True)
class Window:
    """A daily (or, with ``weekday``, weekly) window that opens at ``at`` of the laboratory's clock and stays open.

    weekday: 0 is Monday, 6 is Sunday; None is every day.
    """

    at: time
    zone: ZoneInfo
    weekday: int | None = None

    def __str__(self) -> str:
        days = ("Mondays", "Tuesdays", "Wednesdays", "Thursdays", "Fridays", "Saturdays", "Sundays")
        when = "daily" if self.weekday is None else days[self.weekday]
        return f"{when} {self.at:%H:%M} {self.zone.key}"

    def opens_for(self, day: date) -> datetime:
        """When the window in which ``day`` is worked on opens: the first opening at or after the end of the day."""
        after = day + timedelta(days=1)
        if self.weekday is not None:
            after += timedelta(days=(self.weekday - after.weekday()) % 7)
        return moment(after, self.at, self.zone)

    def last_opening(self, at: datetime) -> datetime:
        """The latest opening that is not after the moment ``at``."""
        today = at.astimezone(self.zone).date()
        candidates = (self.opens_for(today - timedelta(days=back)) for back in range(9))
        return max(opening for opening in candidates if opening <= at)


def last_days(today: date, count: int, first: date) -> list[date]:
    """The ``count`` days before ``today``, none before ``first``, oldest first."""
    return [day for back in range(count, 0, -1) if (day := today - timedelta(days=back)) >= first]
