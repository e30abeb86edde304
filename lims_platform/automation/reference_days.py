"""Which days of silver hold rows that an edit of the reference tables changes.

Silver itself says which state of the tables made each of its days (``reference_digest``), so nothing is lost between two
looks, and a run that read the tables before an edit and wrote after it is found out. A day is compared once with each new
state; what is left to compare, and what was found, goes from look to look.

Here: the readers of the tables, days behind the present state, comparing them. Not here: runs (``reference_changes``), what
a change means for a result (``laboratory.reference_effects``).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from lims_platform.assets.silver import controls, samples
from lims_platform.contracts.base import Table
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.reference import Reference
from lims_platform.contracts.silver import SILVER_TABLES
from lims_platform.laboratory.reference_effects import days_read_otherwise, keys_of
from lims_platform.laboratory.sample_limits import limits_digest, read_limits
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference_states import DIGEST, ReferenceStates, digests_by_day
from lims_platform.partitions import days_of_text, partition_bounds, spans_text

#: Rows compared at once: bounds memory.
CHUNK_ROWS = 1_000_000
Make = Callable[[pl.LazyFrame, Reference], pl.LazyFrame]


@dataclass(frozen=True, eq=False)
class Reader:
    """A silver table the reference tables take part in, and the tables cut from it.

    ``make`` makes its rows from bronze; None for lab results, which are too many to be made only to compare them.
    """

    source: str
    table: Table
    cut: tuple[Table, ...] = ()
    make: Make | None = None

    def digest(self, reference: Reference) -> str:
        """What rows made by ``reference`` carry."""
        if self.table.name == "sample_measurements":
            return limits_digest(read_limits(reference.sample_limits))
        return reference.digest


_CUT = (SILVER_TABLES["lab_results_standardized"], SILVER_TABLES["lab_results_quarantine"])
READERS = (
    Reader("lab_results", SILVER_TABLES["lab_results_history"], _CUT),
    Reader("quality_control", SILVER_TABLES["quality_control_standardized"], make=controls),
    Reader("batch_results", SILVER_TABLES["sample_measurements"], make=samples),
)


@dataclass(frozen=True)
class Look:
    """How far the days of a reader were compared with the state ``digest``, at which versions of its tables."""

    digest: str
    versions: dict[str, int] = field(default_factory=dict)
    left: frozenset[date] = frozenset()
    affected: frozenset[date] = frozenset()
    #: Affected because the state that made them was never kept.
    unknown: frozenset[date] = frozenset()

    def as_dict(self) -> dict[str, Any]:
        """For a cursor kept as JSON."""
        days = {name: spans_text(getattr(self, name)) for name in ("left", "affected", "unknown")}
        return {"digest": self.digest, "versions": self.versions} | days

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Look:
        """What ``as_dict`` gave."""
        days = (frozenset(days_of_text(told[name])) for name in ("left", "affected", "unknown"))
        return cls(told["digest"], dict(told["versions"]), *days)


class Comparison:
    """One look at a reader's days against the present state of the reference tables."""

    def __init__(self, lake: Lake, reader: Reader, states: ReferenceStates, reference: Reference) -> None:
        self._lake, self._reader, self._states, self._reference = lake, reader, states, reference
        self._digest = reader.digest(reference)
        tables = {table.name: (table, lake.version(table)) for table in (reader.table, *reader.cut)}
        self._tables = {name: (table, version) for name, (table, version) in tables.items() if version is not None}
        #: By day, the other states that made its rows; a run that died between two tables leaves two.
        self._made_by: dict[date, set[str]] = defaultdict(set)
        lowest, highest = partition_bounds()
        for table, version in self._tables.values():
            for day, digest in digests_by_day(lake, table, version).iter_rows():
                if digest != self._digest and lowest <= day <= highest:
                    self._made_by[day].add(digest)

    def resumed(self, before: Look | None) -> Look:
        """Where the last look ended, with the days written since and without those that are not behind any more."""
        behind = frozenset(self._made_by)
        versions = {name: version for name, (_, version) in self._tables.items()}
        if before is None or before.digest != self._digest:
            return Look(self._digest, versions, left=behind)
        written: set[date] = set()
        for name, (table, version) in self._tables.items():
            if version != before.versions.get(name):
                written |= set(digests_by_day(self._lake, table, version, before.versions.get(name))["day"])
        affected = before.affected & behind
        left = (before.left | written) & behind - affected
        return Look(self._digest, versions, left, affected, before.unknown & affected)

    def continued(self, look: Look, locales: Callable[[], Mapping[str, str]], until: float) -> Look:
        """The look after comparing what is left, newest days first; past ``until`` (monotonic clock) no chunk is begun."""
        left, affected, unknown = set(look.left), set(look.affected), set(look.unknown)
        for days in self._chunks(look.left):
            if self._reader.make is not None:
                affected |= self._made_otherwise(days, self._reader.make)
            else:
                lost, found = self._read_otherwise(days, locales())
                affected |= lost | found
                unknown |= lost
            left -= days
            if time.monotonic() > until:
                break
        return Look(look.digest, look.versions, frozenset(left), frozenset(affected), frozenset(unknown))

    def _chunks(self, days: frozenset[date]) -> Iterator[frozenset[date]]:
        """The days, newest first, as many at once as the same states made and as have CHUNK_ROWS rows."""
        rows = dict(self._lake.rows_by_day(self._reader.table).iter_rows())
        chunk: list[date] = []
        for day in sorted(days, reverse=True):
            other = chunk and self._made_by[day] != self._made_by[chunk[0]]
            if other or (chunk and sum(rows.get(d, 0) for d in [*chunk, day]) > CHUNK_ROWS):
                yield frozenset(chunk)
                chunk = []
            chunk.append(day)
        if chunk:
            yield frozenset(chunk)

    def _read_otherwise(self, days: frozenset[date], locales: Mapping[str, str]) -> tuple[set[date], set[date]]:
        """Days made by a state that was not kept, and days whose results the present state may read otherwise."""
        states = [self._states.of(digest) for digest in sorted(self._made_by[min(days)])]
        if None in states:
            return set(days), set()
        keys = keys_of(self._bronze(days), locales)
        return set(), {d for state in states if state for d in days_read_otherwise(keys, state, self._reference)}

    def _made_otherwise(self, days: frozenset[date], make: Make) -> set[date]:
        """Days whose rows come out otherwise when they are made now."""
        table = self._reader.table
        stored = self._lake.scan(table, min(days), max(days)).filter(pl.col("event_date").is_in(list(days)))
        rows = pl.concat([frame.drop(DIGEST).collect() for frame in (make(self._bronze(days), self._reference), stored)])
        return set(rows.filter(rows.is_unique())["event_date"])

    def _bronze(self, days: frozenset[date]) -> pl.LazyFrame:
        rows = self._lake.scan(BRONZE_TABLES[self._reader.source], min(days), max(days))
        return rows.filter(pl.col("event_date").is_in(list(days)))
