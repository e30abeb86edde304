"""What a source's own log says bronze must hold, and what bronze holds.

Here: the log reduced to what each reading could see, the days it changed, histories compared. Plain Python on plain rows:
nothing of the platform's own. Not here: the database (``audited_lims``), the platform at work (``live_platform``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl

from lims_platform_tests.audited_lims import COLUMNS, KEY, NUMBERS, TIMES, Entry

#: The source's own times are no content; who a row is about is compared apart, because bronze knows pseudonyms only.
NOT_DIGESTED = {"updated_at", "patient_id", "technician_id"}
PSEUDONYMS = {"patient_id": "patient_hash", "technician_id": "technician_hash"}


def content(table: str, row: dict[str, Any]) -> str:
    """SHA-256 of a row's business values, times without zone."""
    values = {c: _text(c, row[c]) for c in COLUMNS[table] if c not in NOT_DIGESTED}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _text(column: str, value: Any) -> str | None:
    if value is None:
        return None
    if column in TIMES:
        return str(value)[:19]
    return repr(float(value)) if column in NUMBERS else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Version:
    """One version of a row: what was done, on which day, and the content afterwards (of a delete: before)."""

    change: str
    day: date
    digest: str


@dataclass
class Model:
    """What bronze must be, run by run, from the log alone."""

    log: list[Entry] = field(default_factory=list)
    versions: dict[tuple[str, str], list[Version]] = field(default_factory=dict)
    live: dict[tuple[str, str], tuple[date, str]] = field(default_factory=dict)

    def source(self, upto: int) -> dict[tuple[str, str], tuple[date, str]]:
        """Day and content of every row of the source when its log had ``upto`` lines."""
        state: dict[tuple[str, str], tuple[date, str]] = {}
        for entry in self.log:
            if entry.number > upto:
                break
            if entry.op == "D":
                del state[entry.table, entry.key]
            else:
                state[entry.table, entry.key] = (entry.day, content(entry.table, entry.row))
        return state

    def read(self, table: str, days: set[date], upto: int) -> None:
        """A run read these days of a table: of every row that is, or was for bronze, on one of them it saw the state."""
        source = self.source(upto)
        keys = {k for state in (source, self.live) for k, (day, _) in state.items() if k[0] == table and day in days}
        for key in sorted(keys):
            old, new = self.live.get(key), source.get(key)
            made = self.versions.setdefault(key, [])
            if old is not None and (new is None or new[0] != old[0]):
                made.append(Version("delete", *old))
            if new is not None and new != old:
                made.append(Version("update" if old is not None and old[0] == new[0] else "insert", *new))
            if new is None:
                self.live.pop(key, None)
            else:
                self.live[key] = new

    def behind(self, table: str, upto: int) -> dict[date, bool]:
        """Days of a table on which bronze differs from the source; true where only rows that are gone tell so."""
        source = self.source(upto)
        days: dict[date, bool] = {}
        for key in {k for k in source.keys() | self.live.keys() if k[0] == table}:
            old, new = self.live.get(key), source.get(key)
            if old == new:
                continue
            if new is not None:
                days[new[0]] = False
            if old is not None and (new is None or new[0] != old[0]):
                days[old[0]] = days.get(old[0], True)
        return days

    def touched(self, table: str, after: int, upto: int) -> set[date]:
        """Days of a table that the log's lines after ``after`` name: where a row was before, and where it is."""
        at = {entry.key: entry.day for entry in self.log if entry.table == table and entry.number <= after}
        days: set[date] = set()
        for entry in self.log:
            if entry.table == table and after < entry.number <= upto:
                days |= {entry.day, at.get(entry.key, entry.day)}
                at[entry.key] = entry.day
        return days


def found_versions(bronze: pl.DataFrame, table: str) -> dict[tuple[str, str], list[Version]]:
    """Bronze's versions of each key in the order of row_version."""
    found: dict[tuple[str, str], list[Version]] = {}
    for row in bronze.sort("row_version").iter_rows(named=True):
        plain = {c: row.get(c) for c in COLUMNS[table]}
        found.setdefault((table, row[KEY[table]]), []).append(
            Version(row["change"], row["event_date"], content(table, plain))
        )
    return found


def live_rows(bronze: pl.DataFrame, table: str) -> dict[tuple[str, str], tuple[date, str]]:
    """The last version of each key, unless it is a delete."""
    last = {key: versions[-1] for key, versions in found_versions(bronze, table).items()}
    return {key: (version.day, version.digest) for key, version in last.items() if version.change != "delete"}


def pseudonym_faults(log: Iterable[Entry], bronze: pl.DataFrame) -> int:
    """People who have two pseudonyms, and pseudonyms that two people have; rows that are live at the end are matched."""
    names: dict[str, dict[str, Any]] = {}
    for entry in log:
        if entry.table == "lab_results" and entry.op == "D":
            del names[entry.key]
        elif entry.table == "lab_results":
            names[entry.key] = entry.row
    last = bronze.sort("row_version").group_by("result_id", maintain_order=True).last().filter(pl.col("change") != "delete")
    faults = 0
    for plain, pseudonym in PSEUDONYMS.items():
        pairs = {
            (names[key][plain], hashed) for key, hashed in last.select("result_id", pseudonym).iter_rows() if key in names
        }
        faults += 2 * len(pairs) - len({a for a, _ in pairs}) - len({b for _, b in pairs})
    return faults


def wrong_keys(expected: dict[tuple[str, str], Any], found: dict[tuple[str, str], Any]) -> list[tuple[str, str]]:
    """Keys on which two sides differ."""
    return sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
