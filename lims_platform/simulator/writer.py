"""Puts a simulated laboratory into a LIMS database (SQLite or PostgreSQL) and its truth into a folder as Parquet.

SQLite gets declared column types, so that readers get typed times; the file appears under its name only when it is whole.
Not here: what is written (``generate``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl

from lims_platform.contracts.source import SOURCE_TABLES
from lims_platform.simulator.clock import Clock
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import Laboratory

#: Columns worth an index, beside each table's event time: keys and the change cursor.
_INDEXES = {
    "lab_results": ("resulted_timestamp", "updated_at", "result_id"),
    "device_logs": ("log_timestamp",),
    "quality_control": ("timestamp", "qc_id"),
    "batch_results": ("timestamp", "sample_id"),
    "devices": ("device_id",),
}
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
CONFIG_FILE = "config.json"
#: The simulator's own table in the LIMS: the moment up to which the laboratory has lived, in UTC microseconds.
STATE_TABLE = "simulator_state"


@dataclass(frozen=True)
class Written:
    """How many rows went into a table, and how long generating and writing its chunks took (seconds)."""

    table: str
    rows: int
    seconds: float


def sqlite_path(uri: str) -> Path | None:
    """The file of ``sqlite:///relative`` or ``sqlite:////absolute``; None for PostgreSQL. ValueError for anything else."""
    if uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///"))
    if re.match(r"postgres(ql)?://", uri):
        return None
    raise ValueError(f"{uri!r}: the simulator writes sqlite:///path and postgresql://user@host/database")


class Connection:
    """One transaction on a LIMS database, through ADBC: Arrow in, Arrow out, no Python loop per row."""

    def __init__(self, uri: str, path: Path | None) -> None:
        self._is_sqlite = path is not None
        self._db: Any
        if self._is_sqlite:
            import adbc_driver_sqlite.dbapi as sqlite_driver

            self._db = sqlite_driver.connect(str(path))
        else:
            import adbc_driver_postgresql.dbapi as postgresql_driver

            self._db = postgresql_driver.connect(uri)

    def append(self, table: str, frame: pl.DataFrame) -> None:
        """Add rows; the frame's columns must be the table's."""
        if frame.is_empty():
            return
        with self._db.cursor() as cursor:
            cursor.adbc_ingest(table, self._arrow(frame), mode="append")

    def run(self, statement: str) -> None:
        """Execute one statement."""
        with self._db.cursor() as cursor:
            cursor.execute(statement)

    def run_many(self, statement: str, rows: pl.DataFrame) -> None:
        """Execute a statement with placeholders $1, $2, … once per row."""
        if rows.is_empty():
            return
        with self._db.cursor() as cursor:
            cursor.executemany(statement, self._arrow(rows))

    def read(self, query: str) -> pl.DataFrame:
        """All rows of a query. SQLite gives times as text: cast them."""
        with self._db.cursor() as cursor:
            cursor.execute(query)
            frame = pl.from_arrow(cursor.fetch_arrow_table())
        assert isinstance(frame, pl.DataFrame)
        return frame

    def close(self, commit: bool) -> None:
        """End the transaction."""
        if commit:
            self._db.commit()
        else:
            self._db.rollback()
        self._db.close()

    def _arrow(self, frame: pl.DataFrame) -> Any:
        # SQLite has no time type: its readers know this text format by the column's declared type
        return (frame.with_columns(pl.col(pl.Datetime).dt.to_string(TIME_FORMAT)) if self._is_sqlite else frame).to_arrow()


@contextmanager
def connect(uri: str, path: Path | None = None) -> Iterator[Connection]:
    """One transaction on the LIMS: committed when the block ends well, rolled back when it raises.

    ``path`` names the SQLite file to use in place of the one in ``uri``.
    """
    file = path or sqlite_path(uri)
    if path is None and file is not None and not file.exists():
        raise FileNotFoundError(f"{file}: no LIMS database here; write one first")
    database = Connection(uri, file)
    try:
        yield database
    except BaseException:
        database.close(commit=False)
        raise
    database.close(commit=True)


def _ddl(table: str, columns: Iterable[str], sqlite: bool) -> str:
    schema = SOURCE_TABLES[table].schema
    names = {
        pl.String: "TEXT",
        pl.Float64: "REAL" if sqlite else "DOUBLE PRECISION",
        pl.Boolean: "BOOLEAN",
        pl.Datetime: "TIMESTAMP",
    }
    return f"CREATE TABLE {table} ({', '.join(f'{c} {names[schema[c].base_type()]}' for c in columns)})"


def is_there(uri: str) -> bool:
    """Whether a LIMS with lab_results is at that URI already."""
    path = sqlite_path(uri)
    if path is not None:
        return path.exists()
    with connect(uri) as database:
        return not database.read(
            "SELECT 1 AS found FROM information_schema.tables "
            "WHERE table_schema = current_schema() AND table_name = 'lab_results'"
        ).is_empty()


class TruthWriter:
    """Collects truth over chunks and writes one Parquet file per table, plus the config a later ``advance`` needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: dict[str, list[pl.DataFrame]] = {}

    def add(self, truth: dict[str, pl.DataFrame]) -> None:
        """Take a chunk's truth."""
        for name, frame in truth.items():
            self._parts.setdefault(name, []).append(frame)

    def finish(self, config: LabConfig) -> None:
        """Write everything; each file appears whole."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, parts in self._parts.items():
            write_parquet(pl.concat(parts), self._folder / f"{name}.parquet")
        write_text(config.to_json(), self._folder / CONFIG_FILE)


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Write beside and rename, so that no reader sees half a file."""
    beside = path.with_suffix(".partial")
    frame.write_parquet(beside)
    beside.replace(path)


def write_text(text: str, path: Path) -> None:
    """Write beside and rename."""
    beside = path.with_suffix(".partial")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


class _Timer:
    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def __call__(self, table: str, rows: int) -> _Timer:
        self._table = table
        self.rows[table] = self.rows.get(table, 0) + rows
        return self

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.seconds[self._table] = self.seconds.get(self._table, 0.0) + time.perf_counter() - self._begin


def write(laboratory: Laboratory | Iterable[Laboratory], uri: str, truth_dir: Path) -> list[Written]:
    """Write a laboratory, or its chunks as :func:`~.generate.simulate_days` yields them, into a new LIMS.

    ``uri``: ``sqlite:///path`` (an existing file is replaced at the end) or ``postgresql://user@host/database`` (the tables
    must not exist; one transaction). Truth goes to ``truth_dir`` as ``<name>.parquet``. Raises ValueError for another URI or
    a PostgreSQL database that has lab_results.
    Returns rows and seconds per table.
    """
    chunks = [laboratory] if isinstance(laboratory, Laboratory) else laboratory
    target = sqlite_path(uri)
    if target is None and is_there(uri):
        raise ValueError(f"{uri} has lab_results already: the simulator overwrites no server's tables")
    beside = target.with_name(target.name + ".partial") if target is not None else None
    if beside is not None:
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.unlink(missing_ok=True)
    timer, truth, config = _Timer(), TruthWriter(truth_dir), None
    with connect(uri, beside) as database:
        for chunk in chunks:
            for name, frame in chunk.tables.items():
                if name not in timer.rows:
                    database.run(_ddl(name, frame.columns, sqlite=target is not None))
                with timer(name, len(frame)):
                    database.append(name, frame)
            truth.add(chunk.truth)
            config = chunk.config
        if config is None:
            raise ValueError("write: there is no chunk to write")
        for table, columns in _INDEXES.items():
            with timer(table, 0):
                for column in columns:
                    database.run(f"CREATE INDEX {table}_{column} ON {table} ({column})")
        lived_until = Clock(config.start, config.days, config.timezone).day_start(config.days)
        database.run(f"CREATE TABLE {STATE_TABLE} (known_until BIGINT)")
        database.run(f"INSERT INTO {STATE_TABLE} VALUES ({lived_until})")
        truth.finish(config)
    if beside is not None and target is not None:
        beside.replace(target)
    return [Written(name, timer.rows[name], timer.seconds[name]) for name in timer.rows]
