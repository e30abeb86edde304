"""The main job for real: a small demo laboratory through the dagster command line, run again, changed, run again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import polars as pl
import pytest

from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import live_rows
from lims_platform.simulator.changes import apply_changes
from lims_platform_tests.system import deployment

DAYS = 40


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a small demo laboratory that went through the main job once."""
    data = tmp_path_factory.mktemp("laboratory") / "data"
    assert command(data, "demo").returncode == 0
    result = command(data, "run")
    assert result.returncode == 0, result.stderr[-4000:]
    return data


def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m lims_platform …`` with everything below ``data``."""
    return deployment.command(deployment.environment(data, DAYS, devices=12, results_per_day=300), *arguments)


def rows(data: Path, name: str) -> pl.DataFrame:
    return Lake(data / "lake").scan(TABLES[name]).collect()


def source(data: Path) -> pl.DataFrame:
    uri = f"sqlite:///{data / 'demo' / 'lims.db'}"
    return pl.read_database_uri("SELECT result_id, result_value FROM lab_results", uri, engine="connectorx").unique()


def test_every_source_row_is_in_silver_or_quarantine(laboratory: Path) -> None:
    live = live_rows(rows(laboratory, "lab_results_raw").lazy()).collect()
    kept = rows(laboratory, "lab_results_standardized").height + rows(laboratory, "lab_results_quarantine").height
    assert kept == live.height > 5_000
    assert set(live["result_id"]) == set(source(laboratory)["result_id"])
    assert rows(laboratory, "device_failure_features").height >= 12 * DAYS


def test_the_summary_names_what_was_found(laboratory: Path) -> None:
    text = command(laboratory, "summary").stdout
    for words in ("standardised", "in quarantine", "Drift on", "pipeline_health.html", "Open the Dagster UI"):
        assert words in text


def test_no_raw_identifier_is_in_anything_written(laboratory: Path) -> None:
    result = command(laboratory, "leak-scan")
    assert result.returncode == 0 and "hits: 0\ncould not be read: 0" in result.stdout, result.stdout + result.stderr

    damaged = laboratory / "reports" / "page.html.gz"
    damaged.write_bytes(b"\x1f\x8b" + b"no gzip at all")
    unread = command(laboratory, "leak-scan")
    damaged.unlink()
    assert unread.returncode == 1 and "hits: 0\ncould not be read: 1\n  reports/page.html.gz: " in unread.stdout


def test_a_second_run_adds_nothing_and_changes_become_versions(laboratory: Path) -> None:
    before = {name: rows(laboratory, table.name).height for name, table in BRONZE_TABLES.items()}
    again = command(laboratory, "run")
    assert again.returncode == 0, again.stderr[-4000:]
    assert {name: rows(laboratory, table.name).height for name, table in BRONZE_TABLES.items()} == before

    log = apply_changes(f"sqlite:///{laboratory / 'demo' / 'lims.db'}", 100, seed=3)
    changed = command(laboratory, "run")
    assert changed.returncode == 0, changed.stderr[-4000:]
    history = rows(laboratory, "lab_results_raw")
    assert history.height > before["lab_results"]
    live = live_rows(history.lazy()).collect()
    assert live["row_key"].n_unique() == live.height, "no row is live on two days"
    deleted = set(log.filter(pl.col("kind") == "deleted")["result_id"])
    assert deleted and not deleted & set(live["result_id"])
    assert set(live["result_id"]) == set(source(laboratory)["result_id"])
    amended = log.filter(pl.col("kind") == "amended")
    silver = pl.concat(
        [
            rows(laboratory, n).select("result_id", "result_text")
            for n in ("lab_results_standardized", "lab_results_quarantine")
        ]
    )
    joined = amended.join(silver, on="result_id")
    assert joined.height >= amended.height and (joined["result_text"] == joined["new_value"]).any()
