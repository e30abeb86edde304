"""The front door of this room: all sources of a laboratory, asked table by table.

Here: which sources hold a table, and passing the question on. Not here: how each kind of source answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import polars as pl

from lims_platform.contracts.extract import DayWindow, Extract, SourceError
from lims_platform.contracts.source import SourceTable
from lims_platform.sources.changes import Marks
from lims_platform.sources.config import SourceConfig, SourcesConfig
from lims_platform.sources.fhir.source import FhirSource
from lims_platform.sources.files import FileSource
from lims_platform.sources.hl7.source import Hl7Source
from lims_platform.sources.hl7.spool import Sealer
from lims_platform.sources.sql import SqlSource
from lims_platform.sources.versioned import VersionedSource

Reader = SqlSource | FileSource | Hl7Source | FhirSource


@dataclass(frozen=True)
class TableSettings:
    """What the lake must know about one table in one source.

    ``retention_days`` None: the source keeps everything. ``identifier_patterns``: domain to regular expression.
    """

    source: str
    timezone: str
    decimal: str
    retention_days: int | None
    change_cursor: str | None
    identifier_patterns: dict[str, str]


class Sources:
    """Every source of sources.yaml; build with ``open_sources``."""

    def __init__(self, config: SourcesConfig, calendar: str, sealer: Callable[[], Sealer] | None) -> None:
        self.calendar = calendar
        kinds: dict[str, type[SqlSource | FileSource | FhirSource]] = {
            "sql": SqlSource,
            "files": FileSource,
            "fhir": FhirSource,
        }
        self._readers: dict[str, Reader] = {
            name: Hl7Source(name, source, config.base, calendar, sealer)
            if source.kind == "hl7"
            else kinds[source.kind](name, source, config.base, calendar)
            for name, source in config.sources.items()
        }

    def names(self, table: SourceTable) -> list[str]:
        """Sources that hold the table, in the order of sources.yaml; empty where none does."""
        return [name for name, reader in self._readers.items() if table.name in reader.settings.tables]

    def _having(self, table: SourceTable, only: str | None = None) -> list[Reader]:
        names = [name for name in self.names(table) if only in (None, name)]
        if not names:
            raise SourceError(f"table {table.name}: no source has it; sources: {only or ', '.join(self._readers)}")
        return [self._readers[name] for name in names]

    def tells_its_past(self, source: str) -> bool:
        """Whether the source is made of messages, whose earlier versions an extract brings along (``superseded``)."""
        return isinstance(self._readers[source], VersionedSource)

    def settings(self, table: SourceTable, source: str) -> TableSettings:
        """Locale, retention and patterns of one table in one source; SourceError when it is not there."""
        if source not in self.names(table):
            raise SourceError(f"table {table.name}: source {source} does not have it")
        given: SourceConfig = self._readers[source].settings
        entry = given.tables[table.name]
        return TableSettings(
            source,
            given.timezone,
            given.decimal,
            entry.retention_days,
            entry.change_cursor,
            {str(k): v for k, v in given.identifier_patterns.items()},
        )

    def check(self, table: SourceTable) -> None:
        """Fail now if a source of the table is away or lacks a required column."""
        for reader in self._having(table):
            if isinstance(reader, SqlSource):
                reader.plan(table)
            else:
                reader.check(table)

    def fetch(self, table: SourceTable, window: DayWindow | None, only: str | None = None) -> list[Extract]:
        """One extract per source of the table.

        Args:
            table: a table of the contract.
            window: days wanted; None for everything, which is what a register needs.
            only: name of the one source to ask; None asks all.

        Raises:
            SourceError: see its ``transient``; nothing is delivered in part.
        """
        return [reader.fetch(table, window) for reader in self._having(table, only)]

    def fetch_keys(
        self, table: SourceTable, keys: pl.DataFrame, window: DayWindow | None = None, only: str | None = None
    ) -> list[Extract]:
        """Rows having these keys on whatever day; tells a row that moved from one that vanished.

        Args:
            table: a table of the contract.
            keys: the contract's key columns; free text among them takes no part, so more rows than keys may come back.
            window: only its partitions and stray_day are used, to classify rows as ``fetch`` would; without it a row
                without a usable time has no event_date.
            only: name of the one source to ask; None asks all.
        """
        return [reader.fetch_keys(table, keys, window) for reader in self._having(table, only)]

    def count_by_day(self, table: SourceTable, window: DayWindow) -> pl.DataFrame:
        """Columns source, event_date, rows: cheap sizes to cut chunks with, not the truth about a day.

        A register gives one row per source with event_date null.
        """
        frames = [
            reader.count_by_day(table, window).select(pl.lit(reader.name).alias("source"), "event_date", "rows")
            for reader in self._having(table)
        ]
        return pl.concat(frames)

    def look(self, table: SourceTable, window: DayWindow, before: dict[str, Marks]) -> tuple[dict[str, Marks], set[date]]:
        """A cheap look at what changed: marks by source, and the days that differ from the look ``before``.

        Args:
            table: a table with an event time.
            window: days watched. Older days too are found by a change cursor, in a folder of messages, and by new files.
            before: marks of the last look by source; a source that is absent from it counts as changed on every day.

        Raises:
            SourceError: see its ``transient``.
        """
        marks: dict[str, Marks] = {}
        days: set[date] = set()
        for reader in self._having(table):
            marks[reader.name], touched = reader.look(table, window, before.get(reader.name))
            days |= touched
        return marks, days

    def identifiers(self, table: SourceTable) -> dict[str, set[str]]:
        """Raw identifiers per domain over all sources of the table; empty where nothing identifies. Never write them."""
        found: dict[str, set[str]] = {}
        if not any(c.identifies for c in table.columns):
            return found
        for reader in self._having(table):
            for domain, values in reader.identifiers(table).items():
                found.setdefault(domain, set()).update(values)
        return found


def open_sources(config: SourcesConfig, calendar: str, sealer: Callable[[], Sealer] | None = None) -> Sources:
    """Readers for every source; connects to nothing yet.

    Args:
        config: from ``load_sources`` or ``parse_sources``.
        calendar: IANA zone the laboratory cuts its days in (LIMS_TIMEZONE).
        sealer: opens what is spooled sealed; asked for only when a source holds such a file.
    """
    return Sources(config, calendar, sealer)
