"""The SELECT statements of one table in one source.

Here: columns, ranges of days, strays, keys, counts, as SQL text.
Not here: engine spelling (``dialects``), execution (``sql``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import polars as pl

from lims_platform.contracts.extract import DayWindow
from lims_platform.contracts.source import UTC
from lims_platform.sources.conform import Layout
from lims_platform.sources.dialects import Dialect
from lims_platform.sources.times import day_start, day_start_utc

#: Name of the last column of a statement; it tells its lines apart.
COUNT = "lims_count"
#: In it: a data row; the leading line of SQLite statements that fixes the column types; the count, plus COUNTED.
ROW, HEADER, COUNTED = 0, -1, 1


def kind_of(dtype: pl.DataType, dialect: Dialect) -> str:
    """How a column arrives, from the dtype of an empty result."""
    if not dialect.typed:
        return "text"
    if isinstance(dtype, pl.Datetime):
        return "naive" if dtype.time_zone is None else "aware"
    if dtype == pl.Date:
        return "date"
    if dtype.is_numeric():
        return "number"
    return {pl.Boolean: "boolean", pl.Binary: "binary"}.get(type(dtype), "text")


@dataclass(frozen=True)
class Query:
    """One table in one source: ``relation`` is what follows FROM; ``kinds`` is per contract column."""

    layout: Layout
    dialect: Dialect
    relation: str
    kinds: dict[str, str]

    def column(self, name: str) -> str:
        """Reference to a contract column under the source's name of it."""
        return f"q.{self.dialect.quote(self.layout.offered[name])}"

    @property
    def ranged(self) -> bool:
        """Whether days can be cut by the database: not where a time format only the reader knows dates the rows."""
        usable = all(self.kinds[n] in ("naive", "aware", "date", "text") for n in self._times())
        return self.layout.event_time is not None and self.layout.entry.time_format is None and usable

    def _times(self) -> tuple[str, ...]:
        event = self.layout.event_time
        return (event, *self.layout.fallback_times) if event else ()

    def _item(self, name: str) -> str:
        """One item of the SELECT list: cast so that no row can change the column's type."""
        expression, kind, dialect = self.column(name), self.kinds[name], self.dialect
        dtype = self.layout.table.column(name).dtype
        if not dialect.typed:
            value = dialect.text(expression)
            if dtype == UTC:
                # SQLite sorts a BLOB after every text: it is in no range of days, so it must not become a time here
                value = f"CASE WHEN typeof({expression}) = 'blob' THEN hex({expression}) ELSE {value} END"
            # a stored number is written with a point whatever the laboratory's own locale
            if self.layout.settings.decimal == "comma" and dtype in (pl.String, pl.Float64):
                value = f"CASE WHEN typeof({expression}) = 'real' THEN replace({value}, '.', ',') ELSE {value} END"
        elif dtype == UTC and kind in ("naive", "aware", "date") and dialect.name != "mysql":
            # MySQL's come as text: the connector panics on the zero date 0000-00-00
            value = expression
        elif dtype == pl.Float64 and kind == "number":
            value = dialect.real(expression)
        elif dtype == pl.Boolean and kind == "boolean":
            value = expression
        elif dtype == pl.Boolean and kind == "binary":
            value = dialect.text(f"({expression} + 0)")
        elif kind == "binary" and dialect.name == "postgresql":
            value = f"convert_from({expression}, 'UTF8')"
        else:
            value = dialect.text(expression)
            if kind == "number" and self.layout.settings.decimal == "comma" and dtype == pl.String:
                value = f"REPLACE({value}, '.', ',')"
        return f"{value} AS {dialect.quote(name)}"

    def rows(self, condition: str | None, names: list[str] | None = None) -> str:
        """One statement that gives the rows and, in a last line, their count: both from one snapshot."""
        names = names or list(self.layout.offered)
        where = f" WHERE {condition}" if condition else ""
        mark, nulls = self.dialect.quote(COUNT), ", ".join("NULL" for _ in names)
        items = ", ".join(self._item(n) for n in names)
        parts = [
            f"SELECT {items}, {ROW} AS {mark} FROM {self.relation}{where}",
            f"SELECT {nulls}, COUNT(*) + {COUNTED} FROM {self.relation}{where}",
        ]
        if not self.dialect.typed:
            # the connector takes types from the first row, and a null there is an error
            header = ", ".join(f"'' AS {self.dialect.quote(n)}" for n in names)
            parts.insert(0, f"SELECT {header}, {HEADER} AS {mark}")
        return " UNION ALL ".join(parts)

    def _bound(self, day: date, name: str, slack: int) -> str:
        """Literal of the start of ``day`` for a column; ``slack`` -1 never later than the true bound, +1 never earlier."""
        kind = self.kinds[name]
        layout = self.layout
        if kind == "aware":
            return self.dialect.stamp(day_start_utc(day, layout.calendar).replace(tzinfo=None), kind)
        moment = day_start(day, layout.calendar, layout.settings.timezone, slack)
        if kind != "naive":
            if slack > 0 and moment.time() != time.min:
                moment = datetime.combine(moment.date() + timedelta(days=1), time.min)
            if layout.entry.event_time_has_offset and kind == "text":
                moment += timedelta(days=2 * slack)  # offsets reach 26 hours from one end of the world to the other
        return self.dialect.stamp(moment, kind)

    def _compare(self, name: str, operator: str, day: date, slack: int) -> str:
        left = self.dialect.comparable(self.column(name), self.kinds[name])
        return f"{left} {operator} {self._bound(day, name, slack)}"

    def _by_first_present(self, test: dict[str, str], none: str | None) -> str:
        """``test`` of the first time that is present: an OR of branches, each of which an index can serve."""
        branches: list[str] = []
        absent: list[str] = []
        for name in self._times():
            branches.append(" AND ".join([*absent, f"({test[name]})"]))
            absent.append(self.dialect.absent(self.column(name), self.kinds[name]))
        if none is not None:
            branches.append(" AND ".join([*absent, none]))
        return "(" + " OR ".join(f"({b})" for b in branches) + ")"

    def between(self, first: date, last: date) -> str:
        """Rows whose first present time lies in these days, and possibly a few around them."""
        after = last + timedelta(days=1)
        return self._by_first_present(
            {n: f"{self._compare(n, '>=', first, -1)} AND {self._compare(n, '<', after, +1)}" for n in self._times()},
            none=None,
        )

    def strays(self, first: date, last: date) -> str:
        """Rows without a usable time or dated outside these days, and possibly a few just inside."""
        after, tests = last + timedelta(days=1), {}
        for name in self._times():
            parts = [self._compare(name, "<", first, +1), self._compare(name, ">=", after, -1)]
            irregular = self.dialect.irregular(self.column(name), self.kinds[name])
            tests[name] = " OR ".join([*parts, irregular] if irregular else parts)
        return self._by_first_present(tests, none="1 = 1")

    def undated(self) -> str:
        """Rows without a readable event time of their own (and possibly more)."""
        name = self._times()[0]
        irregular = self.dialect.irregular(self.column(name), self.kinds[name])
        absent = self.dialect.absent(self.column(name), self.kinds[name])
        return f"({absent} OR {irregular})" if irregular else absent

    def condition(self, window: DayWindow | None) -> str | None:
        """WHERE of a window; None asks for everything, and the reader filters."""
        if window is None or not self.ranged:
            return None
        wanted = self.between(window.first, window.last)
        if window.with_strays:
            wanted = f"({wanted} OR {self.strays(window.partitions_first, window.partitions_last)})"
        return wanted

    def days(self, window: DayWindow) -> str:
        """Rows per day as the source itself names the day."""
        event = self.layout.event_time or ""
        day = self.dialect.day(self.column(event), self.kinds[event])
        where = f" WHERE {self.between(window.first, window.last)}" if self.ranged else ""
        inner = f"SELECT {day} AS lims_day FROM {self.relation}{where}"
        counted = f"SELECT lims_day, COUNT(*) AS {COUNT} FROM ({inner}) d GROUP BY lims_day"
        return counted if self.dialect.typed else f"SELECT '' AS lims_day, 0 AS {COUNT} UNION ALL {counted}"

    @property
    def cursor(self) -> str | None:
        """The contract column that tells when a row changed, where this source has it."""
        name = self.layout.entry.change_cursor
        return name if name in self.layout.offered else None

    @property
    def names_days_exactly(self) -> bool:
        """Whether the source's calendar day of a row is the laboratory's: not where their zones differ."""
        return self.layout.settings.timezone == self.layout.calendar and not self.layout.entry.event_time_has_offset

    def marks(self, window: DayWindow) -> str | None:
        """Per day of the window: rows, newest change cursor, and what tells the rows without one apart.

        That is their fingerprint, or (an engine that cannot hash) their number. None where days cannot be cut.
        """
        if not self.ranged:
            return None
        newest, undated = "''", None
        if self.cursor is not None:
            column = self.dialect.comparable(self.column(self.cursor), self.kinds[self.cursor])
            newest = f"COALESCE({self.dialect.text(f'MAX({column})')}, '')"
            undated = self.dialect.absent(self.column(self.cursor), self.kinds[self.cursor])
        day = self._day()
        return self._marked(self.between(window.first, window.last), newest, self._print(undated), day, day)

    def marks_since(self, bound: str) -> str | None:
        """Per day and change cursor: rows of any day changed after ``bound``, which the source itself could have written."""
        if self.cursor is None or not self.ranged:
            return None
        column = self.column(self.cursor)
        later = f"{self.dialect.comparable(column, self.kinds[self.cursor])} > {self.dialect.string(bound)}"
        day = self._day()
        return self._marked(later, self.dialect.text(column), self._print(None), day, f"{day}, {column}")

    def _marked(self, condition: str, newest: str, mark: str, day: str, by: str) -> str:
        # SQLite takes a column's type from the first line
        header = (
            ""
            if self.dialect.typed
            else "SELECT '' AS lims_rows, '' AS lims_newest, '' AS lims_print, '' AS lims_day UNION ALL "
        )
        return (
            f"{header}SELECT {self.dialect.text('COUNT(*)')} AS lims_rows, {newest} AS lims_newest, {mark} AS lims_print, "
            f"{day} AS lims_day FROM {self.relation} WHERE {condition} GROUP BY {by}"
        )

    def _day(self) -> str:
        """The day of a row by its first time that is present, as text."""
        times = [(self.column(name), self.kinds[name]) for name in self._times()]
        cases = [f"WHEN NOT ({self.dialect.absent(*time)}) THEN {self.dialect.day(*time)}" for time in times]
        return f"CASE {' '.join(cases)} END"

    def _print(self, only: str | None) -> str:
        """A fingerprint of the rows (those for which ``only`` holds), whatever their order; their number without a hash."""
        if not self.dialect.hashes:
            value = "1"
        else:
            parts = [self._plain(name) for name in self.layout.offered if name != self.layout.table.version_time]
            value = self.dialect.hashed(parts)
        picked = value if only is None else f"CASE WHEN {only} THEN {value} END"
        return f"COALESCE({self.dialect.text(f'SUM({picked})')}, '')"

    def _plain(self, name: str) -> str:
        """A column as text that differs where its value does."""
        expression = self.column(name)
        if self.layout.table.column(name).dtype == pl.Float64 and self.kinds[name] == "number":
            expression = self.dialect.real(expression)  # MariaDB writes a FLOAT with six digits
        return self.dialect.text(expression)

    def total(self) -> str:
        """Rows of the whole table."""
        return f"SELECT COUNT(*) AS {COUNT} FROM {self.relation}"

    def distinct(self, name: str) -> str:
        """Different values of one column."""
        value = self.dialect.text(self.column(name))
        body = f"SELECT DISTINCT {value} AS lims_value FROM {self.relation} WHERE {self.column(name)} IS NOT NULL"
        return body if self.dialect.typed else f"SELECT '' AS lims_value UNION ALL {body}"
