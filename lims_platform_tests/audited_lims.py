"""A LIMS on a real server whose own triggers log every change: what a test of change capture compares the platform with.

lab_results dates its changes (updated_at, set by a trigger: microseconds on PostgreSQL, whole seconds on MariaDB);
quality_control does not. Here: tables, triggers, the first fill, random changes, the log. Not here: what must follow from
the log (``capture``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

import numpy as np
import polars as pl

from lims_platform_tests.servers import mariadb_execute, postgres_execute

#: Columns by table; those in TIMES and NUMBERS are no text.
COLUMNS = {
    "lab_results": (
        "result_id", "patient_id", "test_code", "result_value", "result_unit", "device_id", "collected_timestamp",
        "resulted_timestamp", "technician_id", "result_status", "updated_at",
    ),
    "quality_control": (
        "qc_id", "device_id", "test_code", "qc_level", "expected_value", "measured_value", "passed", "timestamp",
    ),
}  # fmt: skip
TIMES = {"collected_timestamp", "resulted_timestamp", "updated_at", "timestamp"}
NUMBERS = {"expected_value", "measured_value"}
KEY = {"lab_results": "result_id", "quality_control": "qc_id"}
DAY = {"lab_results": "resulted_timestamp", "quality_control": "timestamp"}
ANALYTES = [("GLU", "mg/dL", 95, 15), ("NA", "mmol/L", 140, 3), ("K", "mmol/L", 4.2, 0.4), ("CREAT", "mg/dL", 0.9, 0.2)]

#: Kinds of change and how often each is drawn.
KINDS = {"insert": 4, "value": 5, "status": 2, "move": 3, "delete": 4, "return": 2, "there_and_back": 1, "touch": 1}


@dataclass(frozen=True)
class Entry:
    """One line of the source's own log: ``op`` is I, U or D, ``row`` what the row was made to be (before a delete: was)."""

    number: int
    table: str
    op: str
    key: str
    row: dict[str, Any]

    @property
    def day(self) -> date:
        """The row's day."""
        return datetime.fromisoformat(self.row[DAY[self.table]]).date()


@dataclass
class AuditedLims:
    """One database. ``kind``: postgresql or mariadb."""

    kind: str
    uri: str
    first: date
    last: date
    made: int = 0
    gone: dict[str, list[str]] = field(default_factory=lambda: {table: [] for table in COLUMNS})

    @property
    def execute(self) -> Callable[..., None]:
        """Runs statements one by one, each in a transaction of its own."""
        return postgres_execute if self.kind == "postgresql" else mariadb_execute

    def read(self, query: str) -> pl.DataFrame:
        """Rows of a query."""
        return pl.read_database_uri(query, self.uri.replace("mariadb://", "mysql://"), engine="connectorx")

    def create(self) -> None:
        """Tables, then triggers: the log begins with the first row."""
        moment = "timestamp" if self.kind == "postgresql" else "datetime"
        number = "double precision" if self.kind == "postgresql" else "double"
        serial = "bigserial" if self.kind == "postgresql" else "bigint AUTO_INCREMENT"
        self.execute(
            self.uri,
            f"CREATE TABLE lims_audit (number {serial} PRIMARY KEY, name varchar(20), op char(1), content text)",
        )
        for table, columns in COLUMNS.items():
            types = [
                f"{self._quoted(c)} {moment if c in TIMES else number if c in NUMBERS else 'varchar(60)'}" for c in columns
            ]
            self.execute(self.uri, f"CREATE TABLE {table} ({', '.join(types)}, PRIMARY KEY ({KEY[table]}))")
            self.execute(self.uri, f"CREATE INDEX {table}_day ON {table} ({self._quoted(DAY[table])})")
            self.execute(self.uri, *(self._postgres_triggers(table) if self.kind == "postgresql" else self._mariadb(table)))

    def _quoted(self, name: str) -> str:
        return f'"{name}"' if self.kind == "postgresql" else f"`{name}`"

    @staticmethod
    def _postgres_triggers(table: str) -> list[str]:
        log = (
            f"CREATE FUNCTION log_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "INSERT INTO lims_audit (name, op, content) VALUES "
            f"('{table}', left(TG_OP, 1), to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END)::text); "
            "RETURN NULL; END $$"
        )
        made = [
            log,
            f"CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION log_{table}()",
        ]
        if "updated_at" in COLUMNS[table]:
            made += [
                f"CREATE FUNCTION stamp_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                "IF TG_OP = 'UPDATE' OR NEW.updated_at IS NULL THEN NEW.updated_at := clock_timestamp() AT TIME ZONE 'UTC'; "
                "END IF; RETURN NEW; END $$",
                f"CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION stamp_{table}()",
            ]
        return made

    def _mariadb(self, table: str) -> list[str]:
        def content(row: str) -> str:
            return "JSON_OBJECT(" + ", ".join(f"'{c}', {row}.{self._quoted(c)}" for c in COLUMNS[table]) + ")"

        made = [
            f"CREATE TRIGGER log_{table}_{op} AFTER {op} ON {table} FOR EACH ROW INSERT INTO lims_audit (name, op, content) "
            f"VALUES ('{table}', '{op[0]}', {content('OLD' if op == 'DELETE' else 'NEW')})"
            for op in ("INSERT", "UPDATE", "DELETE")
        ]
        if "updated_at" in COLUMNS[table]:
            made += [
                f"CREATE TRIGGER stamp_{table}_i BEFORE INSERT ON {table} FOR EACH ROW "
                "SET NEW.updated_at = COALESCE(NEW.updated_at, UTC_TIMESTAMP())",
                f"CREATE TRIGGER stamp_{table}_u BEFORE UPDATE ON {table} FOR EACH ROW SET NEW.updated_at = UTC_TIMESTAMP()",
            ]
        return made

    def fill(self, rng: np.random.Generator, results_a_day: int, controls_a_day: int) -> None:
        """The laboratory's first weeks, entered as they were measured."""
        for offset in range((self.last - self.first).days + 1):
            day = self.first + timedelta(days=offset)
            rows = [self.new_row("lab_results", rng, day, entered=True) for _ in range(results_a_day)]
            controls = [self.new_row("quality_control", rng, day) for _ in range(controls_a_day)]
            self.execute(self.uri, self._insert("lab_results", rows), self._insert("quality_control", controls))

    def new_row(self, table: str, rng: np.random.Generator, day: date, entered: bool = False) -> dict[str, Any]:
        """A row of a day; ``entered``: its updated_at is the time of the result, else the trigger sets it."""
        self.made += 1
        code, unit, mean, sd = ANALYTES[rng.integers(len(ANALYTES))]
        moment = datetime.combine(day, time()) + timedelta(seconds=int(rng.integers(86_400)))
        value = float(np.round(rng.normal(mean, sd), 2))
        device = f"D{rng.integers(6)}"
        if table == "quality_control":
            row = (f"Q{self.made}", device, code, "L1", float(mean), value, "true", f"{moment}")
            return dict(zip(COLUMNS[table], row, strict=True))
        patient, technician = f"P{rng.integers(400):07d}", f"T{rng.integers(20):04d}"
        collected, updated = f"{moment - timedelta(hours=1)}", f"{moment}" if entered else None
        lab_row = (
            f"R{self.made}",
            patient,
            code,
            f"{value}",
            unit,
            device,
            collected,
            f"{moment}",
            technician,
            "F",
            updated,
        )
        return dict(zip(COLUMNS[table], lab_row, strict=True))

    def _insert(self, table: str, rows: Sequence[dict[str, Any]]) -> str:
        values = ", ".join(f"({', '.join(_literal(v) for v in row.values())})" for row in rows)
        names = ", ".join(map(self._quoted, COLUMNS[table]))
        return f"INSERT INTO {table} ({names}) VALUES {values}"

    def change(self, rng: np.random.Generator, count: int) -> int:
        """About ``count`` random statements, several of them on the same rows; the number the log grew by."""
        before = self.newest()
        statements: list[str] = []
        live = {t: self.read(f"SELECT {KEY[t]} AS k FROM {t} ORDER BY {KEY[t]}")["k"].to_list() for t in COLUMNS}
        hot: dict[str, list[str]] = {table: [] for table in COLUMNS}
        kinds, weights = list(KINDS), np.array(list(KINDS.values())) / sum(KINDS.values())
        for _ in range(count):
            table = "lab_results" if rng.random() < 0.6 else "quality_control"
            kind = str(rng.choice(kinds, p=weights))
            # a third of the changes hit a row that this batch has touched already
            pool = hot[table] if hot[table] and rng.random() < 0.33 else live[table]
            key = pool[int(rng.integers(len(pool)))]
            statements += self._statements(rng, table, kind, key, live[table], hot[table])
        self.execute(self.uri, *statements)
        return self.newest() - before

    def _statements(
        self, rng: np.random.Generator, table: str, kind: str, key: str, live: list[str], hot: list[str]
    ) -> list[str]:
        day = self.first + timedelta(days=int(rng.integers((self.last - self.first).days + 1)))
        if kind in ("insert", "return"):
            row = self.new_row(table, rng, day)
            if kind == "return" and self.gone[table]:
                row[KEY[table]] = self.gone[table].pop(int(rng.integers(len(self.gone[table]))))
            live.append(row[KEY[table]])
            hot.append(row[KEY[table]])
            return [self._insert(table, [row])]
        if kind == "delete":
            live.remove(key)
            if key in hot:
                hot.remove(key)
            self.gone[table].append(key)
            return [f"DELETE FROM {table} WHERE {KEY[table]} = '{key}'"]
        if key not in hot:
            hot.append(key)
        value = "result_value" if table == "lab_results" else "measured_value"
        moment = datetime.combine(day, time()) + timedelta(seconds=int(rng.integers(86_400)))
        number = float(rng.integers(1, 999)) / 10
        status = "result_status = 'C'" if table == "lab_results" else "passed = 'false'"
        sets = {
            "value": [f"{value} = {number if table == 'quality_control' else _literal(str(number))}"],
            "status": [status],
            "move": [f"{self._quoted(DAY[table])} = '{moment}'"],
            "there_and_back": ["device_id = CONCAT(device_id, 'x')", "device_id = LEFT(device_id, 2)"],
            "touch": ["device_id = device_id"],
        }
        return [f"UPDATE {table} SET {what} WHERE {KEY[table]} = '{key}'" for what in sets[kind]]

    def newest(self) -> int:
        """Number of the log's last line."""
        return int(self.read("SELECT COALESCE(MAX(number), 0) AS n FROM lims_audit")["n"][0])

    def log(self) -> list[Entry]:
        """The whole log, in order."""
        rows = self.read("SELECT number, name, op, content FROM lims_audit ORDER BY number")
        found = []
        for number, name, op, content in rows.iter_rows():
            row = {c: _plain(c, v) for c, v in json.loads(content).items()}
            found.append(Entry(int(number), name, op, row[KEY[name]], row))
        return found


def _literal(value: object) -> str:
    return "NULL" if value is None else repr(value) if isinstance(value, float) else f"'{value}'"


def _plain(column: str, value: Any) -> Any:
    """A logged value the way both servers would write it."""
    if value is None:
        return None
    if column in TIMES:
        return datetime.fromisoformat(value).isoformat(sep=" ")
    return float(value) if column in NUMBERS else value
