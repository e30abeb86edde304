"""What a source hands to the door: an extract, its count, and the days it covers.

Here: the shapes ``sources`` produces and ``assets.bronze`` consumes. Not here: how rows are fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import polars as pl

#: How a row came by its day: its event time, a fallback time, the ingestion day (no usable time, or outside the partitions).
DATE_SOURCES = ("event", "fallback", "no_time", "outside", "register")

#: Columns a source reader adds to the contract's own.
EXTRACT_COLUMNS: dict[str, pl.DataType] = {
    "source": pl.String(),
    "event_date": pl.Date(),
    "date_source": pl.String(),
    "time_flag": pl.String(),
}


@dataclass(frozen=True)
class DayWindow:
    """Days ``first`` to ``last``, both included, in the laboratory's calendar.

    ``partitions_first`` and ``partitions_last`` bound the table's partitions: a row dated outside them, or without any
    usable time, is a stray. Strays are read only where ``with_strays`` and are dated ``stray_day``.
    """

    first: date
    last: date
    partitions_first: date
    partitions_last: date
    with_strays: bool = False
    stray_day: date | None = None


@dataclass(frozen=True)
class Extract:
    """Rows of one source table, in the contract's columns plus EXTRACT_COLUMNS, times in UTC.

    ``source_rows`` is the source's own count of the rows it was asked for, taken in the same statement or transaction;
    ``frame.height`` must equal it, else the reader has raised. Identifiers are still raw: never write this frame.
    ``superseded``: where a source keeps what it corrected (messages), earlier versions of the frame's keys, oldest first.
    """

    table: str
    frame: pl.DataFrame
    source_rows: int
    superseded: pl.DataFrame | None = None


class SourceError(RuntimeError):
    """A source cannot deliver; the message names source, table and, where it can, the column.

    ``transient`` is true where trying again can help (connection lost, time-out), false where it cannot (missing column).
    """

    advice = "Check the source named above and its entry in sources.yaml (docs/sources.md), then run again."

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient
