"""A source that is a database: plans each table once, reads it by statements that carry their own count.

Not here: SQL text (``queries``, ``dialects``), connecting (``connection``), dtypes and days (``conform``).
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from lims_platform.contracts.extract import DayWindow, Extract, SourceError
from lims_platform.contracts.source import SourceTable
from lims_platform.sources.changes import Marks
from lims_platform.sources.config import SourceConfig
from lims_platform.sources.conform import Layout, conform, empty, keyed, match_columns, match_key
from lims_platform.sources.connection import Connection
from lims_platform.sources.queries import COUNTED, ROW, Query, kind_of
from lims_platform.sources.sql_look import Look

#: Keys named in one statement; well under every engine's limit on its length.
KEY_BATCH = 2_000


class SqlSource:
    """Tables of one database."""

    def __init__(self, name: str, settings: SourceConfig, base: Path, calendar: str) -> None:
        self.name = name
        self.settings = settings
        self._calendar = calendar
        self._connection = Connection(name, settings, base)
        self._plans: dict[str, Query] = {}

    def plan(self, table: SourceTable) -> Query:
        """Which columns the table has here and of what kind, learnt from an empty result; asked once.

        Raises:
            SourceError: a required column is missing, or the query itself fails.
        """
        if table.name not in self._plans:
            entry, dialect = self.settings.tables[table.name], self._connection.dialect
            origin = entry.table if entry.table is not None else f"({(entry.query or '').strip().rstrip(';')})"
            relation = f"{origin} q" if dialect.name == "mssql" else f"{origin} AS q"
            place = f"source {self.name}, table {table.name}"
            schema = self._connection.run(f"SELECT * FROM {relation} WHERE 1 = 0", place).schema
            offered = match_columns(place, table, entry, schema.names())
            layout = Layout(self.name, table, self.settings, entry, self._calendar, offered)
            kinds = {c: kind_of(schema[s], dialect) for c, s in offered.items()}
            self._plans[table.name] = Query(layout, dialect, relation, kinds)
        return self._plans[table.name]

    def _rows(self, plan: Query, condition: str | None) -> pl.DataFrame:
        """Rows of one statement, after comparing them with the count the same statement took."""
        raw = self._connection.run(plan.rows(condition), plan.layout.place)
        mark = pl.col(raw.columns[-1])  # by position: engines differ in the case they give an alias
        counted = raw.select(mark.max()).item()
        body = raw.filter(mark == ROW).drop(raw.columns[-1])
        if counted is None or body.height != counted - COUNTED:
            raise SourceError(
                f"{plan.layout.place}: {body.height} rows arrived, the source counted {(counted or 0) - COUNTED}",
                transient=True,
            )
        return body

    def fetch(self, table: SourceTable, window: DayWindow | None) -> Extract:
        """Rows of the window (None: all), dated; see ``Extract`` for what is promised."""
        plan = self.plan(table)
        frame = conform(self._rows(plan, plan.condition(window)), plan.layout, window)
        return Extract(table.name, frame, frame.height)

    def fetch_keys(self, table: SourceTable, keys: pl.DataFrame, window: DayWindow | None) -> Extract:
        """Rows having these keys, on whatever day. Batches of keys; a key that holds the event time is asked by day."""
        plan = self.plan(table)
        names = match_key(table, keys)
        wanted = keys.select(names).unique()
        frames = [
            keyed(conform(self._rows(plan, condition), plan.layout, window, within=False), table, wanted)
            for condition in self._key_conditions(plan, names, wanted)
        ]
        frame = pl.concat([empty(plan.layout), *frames])
        return Extract(table.name, frame, frame.height)

    def _key_conditions(self, plan: Query, names: list[str], keys: pl.DataFrame) -> list[str]:
        event = plan.layout.event_time
        if event in names and plan.ranged:
            zone = ZoneInfo(self._calendar)
            days = keys[event].dt.convert_time_zone(str(zone)).dt.date()
            spans = [plan.between(first, last) for first, last in _spans(days.drop_nulls().unique().sort().to_list())]
            if days.null_count():
                spans.append(plan.undated())
            return spans
        first = names[0] if event != names[0] else names[-1]
        values = keys[first].cast(pl.String).drop_nulls().unique().sort().to_list()
        column, kind = plan.column(first), plan.kinds[first]
        batches = [values[i : i + KEY_BATCH] for i in range(0, len(values), KEY_BATCH)]
        return [c for batch in batches if (c := plan.dialect.key_list(column, kind, batch)) is not None]

    def count_by_day(self, table: SourceTable, window: DayWindow) -> pl.DataFrame:
        """Rows per day, good enough to size chunks: the source's own idea of a day, rows without event time left out."""
        plan = self.plan(table)
        schema = {"event_date": pl.Date(), "rows": pl.Int64()}
        if plan.layout.event_time is None:
            total = int(self._connection.run(plan.total(), plan.layout.place).item())
            return pl.DataFrame({"event_date": [None], "rows": [total]}, schema=schema)
        counted = self._connection.run(plan.days(window), plan.layout.place)
        counted = counted.rename(dict(zip(counted.columns, ("day", "rows"), strict=True)))
        return (
            counted.select(
                pl.col("day").cast(pl.String).str.to_date("%Y-%m-%d", strict=False).alias("event_date"),
                pl.col("rows").cast(pl.Int64),
            )
            .filter(pl.col("event_date").is_between(window.first, window.last))
            .group_by("event_date")
            .agg(pl.col("rows").sum())
            .sort("event_date")
        )

    def look(self, table: SourceTable, window: DayWindow, before: Marks | None) -> tuple[Marks, set[date]]:
        """See ``Sources.look`` and ``sql_look``."""
        plan = self.plan(table)
        run, fetch = self._connection.run, lambda part: self.fetch(table, part).frame
        return Look(plan, lambda statement: run(statement, plan.layout.place), fetch).marks(window, before)

    def identifiers(self, table: SourceTable) -> dict[str, set[str]]:
        """Different raw identifiers per domain."""
        plan = self.plan(table)
        found: dict[str, set[str]] = {}
        for column in table.columns:
            if column.identifies and column.name in plan.layout.offered:
                values = self._connection.run(plan.distinct(column.name), plan.layout.place).to_series()
                found.setdefault(column.identifies, set()).update(v for v in values.drop_nulls().to_list() if v.strip())
        return found


def _spans(days: list[date]) -> list[tuple[date, date]]:
    """Sorted days as runs of consecutive ones."""
    spans: list[tuple[date, date]] = []
    for day in days:
        if spans and (day - spans[-1][1]).days <= 1:
            spans[-1] = (spans[-1][0], day)
        else:
            spans.append((day, day))
    return spans
