"""A demo laboratory in a folder of its own, driven through the commands a person types; its tables read as plain files.

Here: what system tests and benchmarks share. Reading does not go through the platform's own code, so that a test of the
lake is no test of itself. Not here: what is tested.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from lims_platform.privacy.pseudonyms import load_pseudonymiser
from lims_platform_tests.system.deployment import ROOT, environment

#: Names of runs, and identities made of the time something was first noticed.
RUN_COLUMNS = ("ingest_run_id", "dagster_run_id", "alert_id", "event_id", "notification_id")


@dataclass(frozen=True)
class Laboratory:
    """A data directory with a demo LIMS of the last ``days`` days. ``settings``: more LIMS_… variables of every command."""

    data: Path
    days: int
    devices: int
    results_per_day: int
    settings: dict[str, str] = field(default_factory=dict)

    def build(self) -> None:
        """The LIMS itself, and the pseudonym key, so that copies of this laboratory speak of the same patients."""
        self.must("demo")
        load_pseudonymiser(self.data / "secrets" / "pseudonym.key", "demo")

    def copy(self, data: Path, **settings: str) -> Laboratory:
        """The same laboratory with everything it wrote so far, elsewhere."""
        shutil.copytree(self.data, data)
        return replace(self, data=data, settings=self.settings | settings)

    def environment(self) -> dict[str, str]:
        """Of every command: everything below the data directory, Dagster's and MLflow's storage too."""
        base = environment(self.data, self.days, self.devices, self.results_per_day)
        return {name: value for name, value in base.items() if name != "MLFLOW_TRACKING_URI"} | self.settings

    def start(self, *arguments: str, module: str = "lims_platform") -> subprocess.Popen[str]:
        """``python -m lims_platform …`` in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self.environment(),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """``python -m lims_platform …`` to its end; ``stdout`` holds both streams."""
        process = self.start(*arguments)
        output, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, "")

    def must(self, *arguments: str) -> str:
        """A command that has to succeed; its output."""
        result = self.command(*arguments)
        assert result.returncode == 0, f"{arguments}: {result.stdout[-4000:]}"
        return result.stdout

    def range_tags(self) -> str:
        """Dagster tags of a run over every day, as JSON."""
        days = {"start": date.today() - timedelta(days=self.days), "end": date.today()}
        return json.dumps({f"dagster/asset_partition_range_{end}": str(day) for end, day in days.items()})

    @property
    def uri(self) -> str:
        """Address of the LIMS."""
        return f"sqlite:///{self.data / 'demo' / 'lims.db'}"

    def execute(self, statement: str, *values: object) -> None:
        """Change the LIMS by hand."""
        with sqlite3.connect(self.data / "demo" / "lims.db") as connection:
            connection.execute(statement, values)

    def source(self, table: str = "lab_results") -> pl.DataFrame:
        """The LIMS's rows, identical duplicates once."""
        return pl.read_database_uri(f"SELECT * FROM {table}", self.uri, engine="connectorx").unique()

    def tables(self) -> list[str]:
        """``<layer>/<table>`` of every table in the lake."""
        logs = sorted((self.data / "lake").glob("*/*/_delta_log"))
        return [f"{log.parent.parent.name}/{log.parent.name}" for log in logs]

    def delta(self, table: str) -> DeltaTable:
        """The Delta table ``<layer>/<table>`` at its latest version."""
        return DeltaTable(str(self.data / "lake" / table))

    def frame(self, table: str) -> pl.DataFrame:
        """All its rows."""
        return pl.scan_delta(self.delta(table)).collect()

    def digest(self, table: str, since: datetime) -> str:
        """SHA-256 of a table's rows in a fixed order, without RUN_COLUMNS and clock times after ``since`` (UTC)."""
        return digest(self.frame(table), since)

    def digests(self, since: datetime) -> dict[str, str]:
        """``digest`` of every table."""
        return {table: self.digest(table, since) for table in self.tables()}


def digest(frame: pl.DataFrame, since: datetime) -> str:
    """See Laboratory.digest; floats take part to their last bit."""
    plain = frame.drop(RUN_COLUMNS, strict=False)
    times = [c for c, dtype in plain.schema.items() if isinstance(dtype, pl.Datetime)]
    plain = plain.with_columns([pl.when(pl.col(c) < pl.lit(since)).then(pl.col(c)).alias(c) for c in times])
    columns = sorted(plain.columns)
    ordered = plain.select(columns).sort(columns, nulls_last=True)
    return hashlib.sha256(ordered.write_ndjson().encode()).hexdigest()
