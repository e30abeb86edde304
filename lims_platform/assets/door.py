"""The door: one table's days go from every source, pseudonymised, into bronze history, in chunks of bounded memory.

Here: the order of read, protect, merge, and what is told about it. Not here: how each of them works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial

import polars as pl

from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.extract import DayWindow
from lims_platform.contracts.source import SourceTable
from lims_platform.lakehouse.history import History, HistoryPolicy, MergeResult, Reading
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.superseded import unseen_states
from lims_platform.partitions import partition_bounds
from lims_platform.privacy.pseudonyms import Pseudonymiser, load_pseudonymiser
from lims_platform.settings import Settings
from lims_platform.sources.config import SourcesConfig, load_sources, parse_sources, refuse_guessable
from lims_platform.sources.reader import Sources, TableSettings, open_sources


@dataclass
class Intake:
    """What one table's ingestion did: one result per source and chunk."""

    results: list[MergeResult] = field(default_factory=list)

    def count(self, name: str) -> int:
        """Sum of one of COUNTS over sources and chunks."""
        return sum(result.counts[name] for result in self.results)

    @property
    def version(self) -> int | None:
        """The last version committed; None where nothing had changed."""
        return max((r.version for r in self.results if r.version is not None), default=None)

    @property
    def other_days(self) -> set[date]:
        """Days outside the run that changed too."""
        return {day for result in self.results for day in result.other_days}

    def conservation(self) -> pl.DataFrame:
        """Per day: expected (distinct source rows) against live (rows read back), summed over sources."""
        if not self.results:
            return pl.DataFrame(schema={"event_date": pl.Date, "expected": pl.Int64, "live": pl.Int64})
        return (
            pl.concat([result.days for result in self.results])
            .group_by("event_date")
            .agg(pl.col("expected", "live").cast(pl.Int64).sum())
            .sort("event_date")
        )


def demo_sources(settings: Settings) -> dict[str, object]:
    """The embedded demo laboratory as a sources.yaml would describe it."""
    names = ("lab_results", "device_logs", "quality_control", "batch_results", "devices")
    tables = {name: {"table": name} for name in names}
    tables["lab_results"]["change_cursor"] = "updated_at"
    return {
        "sources": {
            "demo_lims": {
                "uri": f"sqlite:///{settings.data_dir / 'demo' / 'lims.db'}",
                "timezone": settings.timezone,
                "identifier_patterns": {"patient": r"\bP\d{7}\b", "technician": r"\bT\d{4}\b"},
                "tables": tables,
            }
        }
    }


def prediction_source(settings: Settings) -> dict[str, object]:
    """The platform's own answers over the API, spooled as JSON lines; no file yet means no rows."""
    folder = settings.data_dir / "spool" / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "folder": str(folder),
        "timezone": "UTC",
        "tables": {"prediction_log": {"files": "*.jsonl", "allow_empty": True}},
    }


def spool_source(settings: Settings) -> dict[str, object]:
    """What the HL7 listener acknowledged; the listener need not be in sources.yaml."""
    return {
        "engine": "hl7",
        "folder": str(settings.hl7_spool),
        "timezone": settings.timezone,
        "tables": {"lab_results": {"files": "*.spool", "allow_empty": True}},
    }


def _same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


class Door:
    """Reads the sources named by the settings and writes bronze; opens nothing before it is used."""

    def __init__(self, settings: Settings, lake: Lake) -> None:
        self._settings = settings
        self._lake = lake

    @cached_property
    def sources(self) -> Sources:
        """Every source: sources.yaml's or the demo's, and the platform's own prediction log."""
        settings = self._settings
        if settings.sources is not None:
            config = load_sources(settings.sources)
            if settings.environment == "production":
                refuse_guessable(config, str(settings.sources))
        else:
            config = parse_sources(demo_sources(settings), base=settings.data_dir, name="the demo laboratory")
        mine: dict[str, object] = {"platform": prediction_source(settings)}
        read = [(config.base / s.folder).resolve() for s in config.sources.values() if s.folder is not None]
        if settings.hl7_spool.is_dir() and settings.hl7_spool.resolve() not in read:
            mine["hl7_listener"] = spool_source(settings)
        own = parse_sources({"sources": mine}, base=settings.data_dir, name="platform")
        both = SourcesConfig(base=config.base, sources={**own.sources, **config.sources})
        return open_sources(both, settings.timezone, lambda: self.pseudonymiser.sealer())

    @cached_property
    def pseudonymiser(self) -> Pseudonymiser:
        """The key in force; in production a missing or demo key stops here."""
        return load_pseudonymiser(self._settings.key_path, self._settings.environment)

    def locales(self, table: SourceTable) -> dict[str, str]:
        """Number locale by source, for the value grammar."""
        return {name: self.sources.settings(table, name).decimal for name in self.sources.names(table)}

    def ingest(
        self, table: SourceTable, first: date, last: date, run_id: str, confirm_vanished: bool, log: Callable[[str], None]
    ) -> Intake:
        """Bring the days ``first`` to ``last`` of a table (all of a register) into bronze.

        Raises SourceError (see its ``transient``) and VanishedRowsError; chunks committed before stay, and a rerun is
        idempotent.
        """
        intake = Intake()
        self._lake.create_if_absent(BRONZE_TABLES[table.name])
        names = self.sources.names(table)
        if not names:
            log(f"{table.name}: no source has this table; nothing to read")
            return intake
        for reading in self.readings(table, first, last):
            policy = self._policy(self.sources.settings(table, reading.source), confirm_vanished)
            history = History(self._lake, table, policy)
            for state in self._earlier(table, reading):
                result = history.merge(replace(reading, rows=partial(_same, state)), datetime.now(UTC), run_id)
                # what it appended counts; its rows are not the source's present ones
                counts = result.counts | {"source_rows": 0, "collapsed": 0, "conflicts": 0}
                intake.results.append(replace(result, counts=counts, days=result.days.clear()))
            result = history.merge(reading, datetime.now(UTC), run_id)
            intake.results.append(result)
            span = f"{reading.window.first} to {reading.window.last}" if reading.window else "all"
            rows, found = result.counts["source_rows"], result.counts["inserts"]
            log(f"{table.name} from {reading.source}, {span}: {rows:,} rows, {found:,} new")
        return intake

    def readings(self, table: SourceTable, first: date, last: date) -> Iterator[Reading]:
        """How every source that has the table answers for the days ``first`` to ``last`` (all of a register), by chunks."""
        names = self.sources.names(table)
        for window in self._windows(table, first, last) if names else ():
            for name in names:
                yield self._reading(table, name, self.sources.settings(table, name), window)

    def _reading(self, table: SourceTable, name: str, settings: TableSettings, window: DayWindow | None) -> Reading:
        """The source's answers, read when asked and pseudonymised before anyone sees them."""

        def protected(frame: pl.DataFrame) -> pl.DataFrame:
            return self._protected(frame, table, settings)

        return Reading(
            name,
            window,
            lambda: protected(self.sources.fetch(table, window, only=name)[0].frame),
            lambda keys: protected(self.sources.fetch_keys(table, keys, window, only=name)[0].frame),
        )

    def _earlier(self, table: SourceTable, reading: Reading) -> Iterator[pl.DataFrame]:
        """What a source made of messages was before its latest ones, as far as history has not seen it."""
        name = reading.source
        if not self.sources.tells_its_past(name):
            return
        (extract,) = self.sources.fetch(table, reading.window, only=name)
        if extract.superseded is not None and not extract.superseded.is_empty():
            settings = self.sources.settings(table, name)
            frame, past = (self._protected(f, table, settings) for f in (extract.frame, extract.superseded))
            yield from unseen_states(self._lake, table, name, frame, past)

    def _protected(self, frame: pl.DataFrame, table: SourceTable, settings: TableSettings) -> pl.DataFrame:
        return self.pseudonymiser.protect(frame, table, settings.identifier_patterns)

    def first_kept_day(self, settings: TableSettings) -> date | None:
        """First day a source still keeps a table's rows of, None where it keeps all; one gone before was not deleted."""
        keeps = settings.retention_days
        return self._settings.today - timedelta(days=keeps) if keeps is not None else None

    def _policy(self, settings: TableSettings, confirm_vanished: bool) -> HistoryPolicy:
        return HistoryPolicy(
            self._settings.vanished_share,
            self._settings.vanished_floor,
            timedelta(hours=self._settings.late_after_hours),
            confirm_vanished,
            self.first_kept_day(settings),
        )

    def _windows(self, table: SourceTable, first: date, last: date) -> Iterator[DayWindow | None]:
        """Chunks of days of about ``chunk_rows`` source rows; strays are read once, with the last chunk."""
        if table.event_time is None:
            yield None
            return
        lowest, highest = partition_bounds()
        whole = DayWindow(first, last, lowest, highest)
        counts = self.sources.count_by_day(table, whole).drop_nulls("event_date")
        rows = dict(counts.group_by("event_date").agg(pl.col("rows").sum()).iter_rows())
        start, held = first, 0
        for offset in range((last - first).days + 1):
            day = first + timedelta(days=offset)
            if held and held + rows.get(day, 0) > self._settings.chunk_rows:
                yield DayWindow(start, day - timedelta(days=1), lowest, highest, False, last)
                start, held = day, 0
            held += rows.get(day, 0)
        yield DayWindow(start, last, lowest, highest, True, last)
