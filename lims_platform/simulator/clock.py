"""Days, hours and the wall clock of the simulated laboratory.

Everything is simulated in UTC microseconds, so that durations are true across a change to summer time; the LIMS then
shows the naive wall time of its zone, with a repeated hour in autumn and none missing in spring. No real clock is read here.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

HOUR = 3_600_000_000
DAY = 24 * HOUR
#: Stands for "no time": larger than any instant.
NEVER = np.iinfo(np.int64).max
_BEFORE, _AFTER = 200, 60


class Clock:
    """The laboratory's time zone over its span. Days are counted from the first simulated day (day 0)."""

    def __init__(self, start: date, days: int, timezone: str) -> None:
        self.start = start
        self.zone = ZoneInfo(timezone)
        dates = [start + timedelta(days=i) for i in range(-_BEFORE, days + _AFTER + 1)]
        self._starts = np.array([self.instant(datetime(d.year, d.month, d.day)) for d in dates], dtype=np.int64)
        self._changes, self._offsets = self._find_offsets()
        self.weekday = np.array([d.weekday() for d in dates])
        self.day_of_year = np.array([d.timetuple().tm_yday for d in dates])
        self.ordinal = np.array([d.toordinal() for d in dates])
        self.yymmdd = np.array([int(d.strftime("%y%m%d")) for d in dates])
        self.date64 = np.array(dates, dtype="datetime64[D]")

    def instant(self, wall: datetime) -> int:
        """UTC microseconds of a datetime; a naive one is wall time of the laboratory's zone."""
        aware = wall.replace(tzinfo=self.zone) if wall.tzinfo is None else wall
        return round((aware - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))

    def position(self, day: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """Index of a day into the per-day arrays (``weekday``, ``yymmdd``, …); days beyond the margins take the last one."""
        return np.clip(np.asarray(day) + _BEFORE, 0, len(self._starts) - 1)

    def day_start(self, day: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """UTC microseconds at which a day begins."""
        return self._starts[self.position(day)]

    def day_of(self, instant: NDArray[np.int64] | int) -> NDArray[np.int64]:
        """The local day an instant falls on."""
        return np.searchsorted(self._starts, instant, side="right") - 1 - _BEFORE

    def to_wall(self, instant: NDArray[np.int64]) -> NDArray[np.int64]:
        """Naive wall-time microseconds; NEVER stays NEVER."""
        offset = self._offsets[np.searchsorted(self._changes, instant, side="right")]
        return np.where(instant == NEVER, NEVER, instant + offset)

    def _find_offsets(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Instants at which the zone's offset changes, and the offsets between them, to the minute."""

        def offset(instant: int) -> int:
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant)
            shift = moment.astimezone(self.zone).utcoffset()
            assert shift is not None
            return shift // timedelta(microseconds=1)

        offsets, changes = [offset(int(self._starts[0]))], []
        for low, high in zip(self._starts[:-1].tolist(), self._starts[1:].tolist(), strict=True):
            if offset(high) == offsets[-1]:
                continue
            while high - low > 60_000_000:
                middle = low + (high - low) // 120_000_000 * 60_000_000
                low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
            changes.append(high)
            offsets.append(offset(high))
        return np.array(changes, dtype=np.int64), np.array(offsets, dtype=np.int64)
