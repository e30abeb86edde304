"""Backup and restore: a pinned state while writers go on, every byte verified, nothing overwritten, no key unasked."""

from __future__ import annotations

import sqlite3
import stat
import tarfile
import threading
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.backup import Backup, BackupError, backup, restore
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import Settings

KPIS, LEDGER = TABLES["turnaround_kpis"], TABLES["model_ledger"]
SECRET = "0123456789abcdef" * 4


def rows(number: int) -> pl.DataFrame:
    row = {name: date(2026, 3, 1 + number % 5) if dtype == pl.Date else None for name, dtype in KPIS.dtypes.items()}
    return pl.DataFrame([row | {"facility_id": f"F{number}", "results": number}], schema=KPIS.dtypes)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A data directory with two tables, a database, a report, a key and a demo LIMS."""
    reference = tmp_path / "reference"
    reference.mkdir()
    (reference / "analytes.csv").write_text("a,b\n1,2\n")
    settings = Settings(data_dir=tmp_path / "data", reference_dir=reference)
    lake = Lake(settings.lake_dir)
    for number in range(4):
        lake.append(KPIS, rows(number))
    lake.create_if_absent(LEDGER)
    for path, text in {
        "secrets/pseudonym.key": SECRET,
        "demo/lims.db": "identifiers",
        "demo/first_day": "2026-03-01",
        "reports/page.html": "<html>",
        "catalog.duckdb": "views",
    }.items():
        (settings.data_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / path).write_text(text)
    (settings.data_dir / "mlflow").mkdir()
    with sqlite3.connect(settings.data_dir / "mlflow" / "mlflow.db") as store:
        store.execute("CREATE TABLE runs (artifact_uri TEXT)")
        inside, outside = f"file://{settings.data_dir}/mlflow/artifacts/1", f"{settings.data_dir}-elsewhere/1"
        store.executemany("INSERT INTO runs VALUES (?)", [(inside,), (outside,)])
    return settings


@pytest.mark.parametrize("name", ["archive", "archive.tar"])
def test_a_backup_taken_while_writers_write_restores_the_pinned_state(settings: Settings, tmp_path: Path, name: str) -> None:
    lake, stop, written = Lake(settings.lake_dir), threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            lake.append(KPIS, rows(10 + len(written)))
            with sqlite3.connect(settings.data_dir / "mlflow" / "mlflow.db") as store:
                store.execute("INSERT INTO runs VALUES ('x')")
            written.append(1)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        while len(written) < 3:
            pass
        made = backup(settings, tmp_path / name)
        during = len(written)
    finally:
        stop.set()
        writer.join()
    assert during >= 3
    to = tmp_path / "restored"
    assert restore(tmp_path / name, to) == Backup(made.tables, made.files, made.bytes, made.left_out)
    for path, version in made.tables.items():
        table = TABLES[path.split("/")[1]]
        then = lake.scan(table, version=version).collect()
        assert Lake(to / "lake").scan(table).collect().sort(pl.all()).equals(then.sort(pl.all()))
    assert Lake(to / "lake").version(KPIS) == made.tables[KPIS.path]
    Lake(to / "lake").append(KPIS, rows(1))
    with sqlite3.connect(to / "mlflow" / "mlflow.db") as store:
        addresses = [row[0] for row in store.execute("SELECT artifact_uri FROM runs")]
    assert addresses[:2] == [f"file://{to}/mlflow/artifacts/1", f"{settings.data_dir}-elsewhere/1"]
    assert (to / "reference" / "analytes.csv").read_text() == "a,b\n1,2\n"
    assert (to / "reports" / "page.html").exists() and (to / "demo" / "first_day").exists()
    assert not (to / "secrets").exists() and not (to / "catalog.duckdb").exists() and not (to / "demo" / "lims.db").exists()


def test_the_key_is_in_the_archive_only_when_asked_for(settings: Settings, tmp_path: Path) -> None:
    made = backup(settings, tmp_path / "plain.tar")
    assert made.left_out[0].startswith("the pseudonym key")
    assert SECRET.encode() not in (tmp_path / "plain.tar").read_bytes()
    assert stat.S_IMODE((tmp_path / "plain.tar").stat().st_mode) == 0o600
    settings.key_path.chmod(0o600)
    backup(settings, tmp_path / "with.tar", with_key=True)
    restore(tmp_path / "with.tar", tmp_path / "to")
    key = tmp_path / "to" / "secrets" / "pseudonym.key"
    assert key.read_text() == SECRET and stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda root: (root / "data/reports/page.html").write_text("<htmI>"), "page.html is damaged"),
        (lambda root: (root / "data/reports/page.html").unlink(), "page.html is missing"),
        (lambda root: (root / "data/extra").write_text("x"), "data/extra is not in the manifest"),
        (lambda root: (root / "manifest.json").unlink(), "has no manifest.json"),
        (lambda root: (root / "manifest.json").write_text('{"format": 9}'), "format 9"),
    ],
)
def test_a_damaged_archive_restores_nothing(settings: Settings, tmp_path: Path, harm: object, words: str) -> None:
    backup(settings, tmp_path / "archive")
    harm(tmp_path / "archive")  # type: ignore[operator]
    with pytest.raises(BackupError, match=words):
        restore(tmp_path / "archive", tmp_path / "to")
    assert not (tmp_path / "to").exists() and not list(tmp_path.glob(".*"))


def test_nothing_is_ever_overwritten(settings: Settings, tmp_path: Path) -> None:
    backup(settings, tmp_path / "archive")
    with pytest.raises(BackupError, match="exists already"):
        backup(settings, tmp_path / "archive")
    with pytest.raises(BackupError, match="inside the data directory"):
        backup(settings, settings.data_dir / "archive")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "mine").write_text("x")
    with pytest.raises(BackupError, match="is not empty"):
        restore(tmp_path / "archive", tmp_path / "to")
    (tmp_path / "cut.tar").write_bytes(b"no archive")
    with pytest.raises(BackupError, match="cannot be read"):
        restore(tmp_path / "cut.tar", tmp_path / "new")


def test_a_tar_cannot_write_outside_its_place(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(BackupError, match="cannot be read as a backup"):
        restore(tmp_path / "evil.tar", tmp_path / "to")
    assert not (tmp_path / "outside").exists()
