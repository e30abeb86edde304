"""Keeping the platform, for real: reconciled, backed up, restored and run on, its key rotated through a kill -9."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.simulator.changes import apply_changes

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
DAYS = 8


def environment(data: Path) -> dict[str, str]:
    """Everything below ``data``, which may lie anywhere; ``data.parent`` holds Dagster's home."""
    home = data.parent / "home"
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    parts = ("RUNS", "EVENTS", "SCHEDULES", "LOGS", "ARTIFACTS")
    return os.environ | {
        "LIMS_DATA_DIR": str(data),
        "LIMS_REFERENCE_DIR": str(ROOT / "data" / "reference"),
        "LIMS_START_DATE": (date.today() - timedelta(days=DAYS)).isoformat(),
        "LIMS_DEMO_DEVICES": "6",
        "LIMS_DEMO_RESULTS_PER_DAY": "150",
        "LIMS_CHUNK_ROWS": "1000",
        "DAGSTER_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{data}/mlflow/mlflow.db",
        **{f"LIMS_DAGSTER_{part}": str(data / "dagster" / part.lower()) for part in parts},
    }


def command(data: Path, *arguments: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """``python -m lims_platform …``; unless ``ok`` is false it must end with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "lims_platform", *arguments],
        env=environment(data),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert not ok or done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A laboratory whose days are in bronze and silver."""
    data = tmp_path_factory.mktemp("keeping") / "data"
    command(data, "demo")
    command(data, "run", "--job", "ingest_hourly")
    return data


@pytest.fixture
def laboratory(original: Path, tmp_path: Path) -> Path:
    """A copy to do things to."""
    shutil.copytree(original, tmp_path / "lab" / "data")
    return tmp_path / "lab" / "data"


def rows(data: Path, name: str) -> pl.DataFrame:
    return Lake(data / "lake").scan(TABLES[name]).collect()


def bronze(data: Path) -> dict[str, int]:
    return {name: rows(data, table.name).height for name, table in BRONZE_TABLES.items()}


def test_reconciliation_finds_repairs_and_reports_what_ingestion_never_saw(laboratory: Path) -> None:
    apply_changes(f"sqlite:///{laboratory / 'demo' / 'lims.db'}", 40, seed=5)
    done = command(laboratory, "run", "--job", "reconcile_nightly")
    report = rows(laboratory, "reconciliation_report")
    wrong = report.filter(~pl.col("digest_match"))
    assert wrong.height and wrong["repaired"].all(), done.stdout[-3000:]
    assert set(wrong["table_name"]) == {"lab_results"} and wrong.select(pl.col("updated", "deleted", "moved").sum()).row(
        0
    ) > (0, 0, 0)
    assert {"device_logs", "quality_control", "batch_results", "devices"} <= set(report["table_name"])
    command(laboratory, "run", "--job", "reconcile_nightly")
    again = rows(laboratory, "reconciliation_report").filter(~pl.col("run_id").is_in(report["run_id"].unique().implode()))
    assert again.height == report.height and again["digest_match"].all()
    kept = rows(laboratory, "lab_results_raw")
    assert kept.filter(pl.col("ingest_run_id") == report["run_id"][0]).height > 0, "repaired by versions, not by rewriting"


def test_a_backup_restored_elsewhere_equals_it_and_the_pipeline_runs_on(laboratory: Path, tmp_path: Path) -> None:
    told = command(laboratory, "backup", str(tmp_path / "archive.tar"), "--with-key").stdout
    assert "the sources themselves" in told
    to = tmp_path / "elsewhere" / "data"
    to.parent.mkdir()
    assert "every checksum right" in command(laboratory, "restore", str(tmp_path / "archive.tar"), "--to", str(to)).stdout
    refused = command(laboratory, "restore", str(tmp_path / "archive.tar"), "--to", str(to), ok=False)
    assert refused.returncode == 1 and "is not empty" in refused.stderr
    for table in Lake(laboratory / "lake").existing(TABLES.values()):
        assert rows(to, table.name).equals(rows(laboratory, table.name)), table.path
    shutil.copy(laboratory / "demo" / "lims.db", to / "demo" / "lims.db")  # a source: it has a backup of its own
    before = bronze(to)
    command(to, "run", "--job", "ingest_hourly")
    assert bronze(to) == before, "nothing new: the digests still agree"
    apply_changes(f"sqlite:///{to / 'demo' / 'lims.db'}", 20, seed=6)
    command(to, "run", "--job", "ingest_hourly", "--confirm-vanished")
    assert bronze(to)["lab_results"] > before["lab_results"]


def test_a_rotation_killed_half_way_is_finished_by_a_rerun_and_nothing_looks_changed(laboratory: Path) -> None:
    before = rows(laboratory, "lab_results_standardized").select("result_id", "patient_hash")
    counts, some = bronze(laboratory), before["patient_hash"].drop_nulls()[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "lims_platform", "rotate-key", "--reason", "yearly"],
        env=environment(laboratory),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    spans = 0
    while spans < 3:
        spans += process.stdout.readline().endswith("done\n")
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = rows(laboratory, "lab_results_standardized")["patient_hash"].drop_nulls().str.head(9).n_unique()
    assert half == 2, "killed while both keys were in the lake"
    shut = command(laboratory, "run", "--job", "ingest_hourly", ok=False)
    assert shut.returncode != 0
    asked = command(laboratory, "reidentify", some, "--reason", "while it is shut", ok=False)
    assert asked.returncode == 1 and "a rotation is under way" in asked.stderr
    assert bronze(laboratory) == counts

    told = command(laboratory, "rotate-key", "--reason", "yearly").stdout
    assert "is in force" in told
    after = rows(laboratory, "lab_results_standardized").select("result_id", new="patient_hash")
    pairs = before.join(after, on="result_id").drop_nulls().select("patient_hash", "new").unique()
    assert pairs["patient_hash"].n_unique() == pairs["new"].n_unique() == pairs.height, "the same patients, linkable"
    kept = pl.read_parquet(next((laboratory / "secrets").glob("*.remap-*")))
    assert pairs.join(kept, left_on=["patient_hash", "new"], right_on=["old", "new"], how="anti").is_empty()

    command(laboratory, "run", "--job", "ingest_hourly")
    assert bronze(laboratory) == counts, "no row looks like an update"
    shown = command(laboratory, "reidentify", some, "--reason", "contact tracing").stdout
    assert shown.startswith("patient P")
    identifier = shown.split()[1]
    assert "0 sound" not in command(laboratory, "audit-verify").stdout
    trail = laboratory / "audit" / "audit.jsonl"
    assert "contact tracing" in trail.read_text() and identifier not in trail.read_text()
    scan = command(laboratory, "leak-scan")
    assert "hits: 0" in scan.stdout
    sound = trail.read_text()
    trail.write_text(sound.replace("contact tracing", "nothing at all"))
    broken = command(laboratory, "audit-verify", ok=False)
    assert broken.returncode == 1 and "was changed" in broken.stderr
    refused = command(laboratory, "maintain", ok=False)
    assert refused.returncode == 1 and "broken trail" in refused.stderr, "nothing goes that cannot be put on record"
    trail.write_text(sound)


def test_maintenance_dry_run_says_what_the_real_one_does(laboratory: Path) -> None:
    sizes = {path: path.stat().st_size for path in (laboratory / "lake").rglob("*.parquet")}
    told = command(laboratory, "maintain", "--dry-run").stdout
    assert sizes == {path: path.stat().st_size for path in (laboratory / "lake").rglob("*.parquet")}
    done = command(laboratory, "maintain").stdout
    assert told.replace("would go", "went") == done
    assert "every stored table agrees" in command(laboratory, "migrate").stdout
