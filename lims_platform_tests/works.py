"""Bronze and silver over a lake of its own, in this process: real assets, checks and IO manager on a source to spoil.

Here: what fault tests share. Not here: the faults, and the whole job through its command (``laboratories``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import yaml

from lims_platform.assets.bronze import BRONZE_ASSETS
from lims_platform.assets.common import LAKE_IO
from lims_platform.assets.door import Door
from lims_platform.assets.silver import SILVER_ASSETS
from lims_platform.automation.checks import CHECKS
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.io_manager import DeltaIOManager
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference import load_reference
from lims_platform.partitions import DAILY
from lims_platform.settings import Settings
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import simulate
from lims_platform.simulator.writer import write
from lims_platform_tests.laboratories import digest

ZONE = "Europe/Berlin"
LAST = date.today() - timedelta(days=5)
FIRST = LAST - timedelta(days=2)
SOURCE_TABLES = ("lab_results", "device_logs", "quality_control", "batch_results", "devices")
#: Everything the clock may stamp is later than this.
SINCE = datetime.now(UTC)


@dataclass(frozen=True)
class Outcome:
    """Whether a run succeeded, and what every step that failed raised, by step."""

    success: bool
    errors: dict[str, str]


class Works:
    """A simulated LIMS in SQLite below ``folder`` and a platform that reads it; ``lake`` may lie elsewhere."""

    def __init__(self, folder: Path, lake: Path | None = None) -> None:
        self.folder = folder
        self.lake = Lake(lake or folder / "lake")
        self.database = folder / "lims.db"
        config = LabConfig(seed=5, devices=4, days=3, end=LAST, results_per_day=100, timezone=ZONE)
        write(simulate(config), f"sqlite:///{self.database}", folder / "truth")
        self.connect({"uri": f"sqlite:///{self.database}"})

    def connect(self, source: Mapping[str, Any], **tables: Mapping[str, Any]) -> None:
        """Read from ``source``; its tables are those of the LIMS unless given."""
        entries = {name: tables.get(name, {"table": name}) for name in SOURCE_TABLES} if "uri" in source else tables
        content = {"sources": {"main": {"timezone": ZONE, **source, "tables": dict(entries)}}}
        path = self.folder / "sources.yaml"
        path.write_text(yaml.safe_dump(content))
        self.settings = Settings(data_dir=self.folder / "data", sources=path, timezone=ZONE, chunk_rows=1_000)

    def sql(self, statement: str, *values: object) -> None:
        """Change the LIMS."""
        with sqlite3.connect(self.database) as connection:
            connection.execute(statement, values)

    def run(self, first: date = FIRST, last: date = LAST, table: str | None = None) -> Outcome:
        """The days of one source table (None: all) through bronze and silver with every check."""
        resources = {
            "lake": self.lake,
            "door": Door(self.settings, self.lake),
            "reference": load_reference(self.settings.reference_dir),
            LAKE_IO: DeltaIOManager(self.lake, TABLES),
        }
        ours = dg.AssetSelection.groups("bronze", "silver")
        chosen = ours if table is None else ours & dg.AssetSelection.keys(["bronze", f"{table}_raw"]).downstream()
        definitions = dg.Definitions(
            assets=[*BRONZE_ASSETS, *SILVER_ASSETS],
            asset_checks=[
                check for check in CHECKS if next(iter(check.check_keys)).asset_key.path[0] in ("bronze", "silver")
            ],
            jobs=[dg.define_asset_job("ingest", chosen, partitions_def=DAILY)],
            resources=resources,
        )
        tags = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
        with dg.DagsterInstance.ephemeral() as instance:
            result = definitions.get_job_def("ingest").execute_in_process(tags=tags, raise_on_error=False, instance=instance)
        return Outcome(result.success, {str(e.step_key): _cause(e) for e in result.all_events if e.is_step_failure})

    def rows(self, name: str) -> pl.DataFrame:
        """A table as it can be read now."""
        return self.lake.scan(TABLES[name]).collect()

    def lake_version(self, name: str) -> int:
        """The table's latest Delta version."""
        version = self.lake.version(TABLES[name])
        assert version is not None
        return version

    def state(self) -> dict[str, str]:
        """Digest of every table, clock times and run ids left out."""
        return {
            name: digest(self.rows(name), SINCE) for name, table in TABLES.items() if table.layer in ("bronze", "silver")
        }

    def kept(self) -> pl.DataFrame:
        """Lab results in silver and quarantine: result_id, event_date, reason (null: standardised)."""
        columns = ["result_id", "event_date", "reason"]
        valid = self.rows("lab_results_standardized").with_columns(reason=pl.lit(None, pl.String))
        return pl.concat([valid.select(columns), self.rows("lab_results_quarantine").select(columns)])


def _cause(event: dg.DagsterEvent) -> str:
    error = event.step_failure_data.error
    assert error is not None
    return " ".join((error.cause or error).message.split())
