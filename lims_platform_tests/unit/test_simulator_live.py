"""Writing, living on and changing: SQLite always, PostgreSQL where a server answers."""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lims_platform.simulator import writer
from lims_platform.simulator.__main__ import main
from lims_platform.simulator.changes import KINDS, apply_changes, flip_back
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import Laboratory, simulate, simulate_days
from lims_platform.simulator.live import advance
from lims_platform.simulator.writer import connect, write

CONFIG = LabConfig(seed=4, end=date(2025, 3, 28), days=25, devices=8, facilities=2, results_per_day=250)
SERVER = os.environ.get("LIMS_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")


def _drop_or_create(statement: str) -> None:
    import adbc_driver_postgresql.dbapi as driver

    with driver.connect(SERVER, autocommit=True) as database, database.cursor() as cursor:
        cursor.execute(statement)


@pytest.fixture(params=["sqlite", "postgresql"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place for a LIMS."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'lims.db'}"
        return
    name = f"simulator_{uuid.uuid4().hex[:12]}"
    try:
        _drop_or_create(f"CREATE DATABASE {name}")
    except Exception as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"NO POSTGRESQL SERVER at {SERVER}: {error}")
    yield f"{SERVER.rsplit('/', 1)[0]}/{name}"
    _drop_or_create(f"DROP DATABASE {name} WITH (FORCE)")


def _read(uri: str, table: str) -> pl.DataFrame:
    # connectorx wants two slashes and the path
    return pl.read_database_uri(
        f"SELECT * FROM {table}", uri.replace("sqlite:///", "sqlite://"), engine="connectorx"
    ).with_columns(pl.col(pl.Datetime).cast(pl.Datetime("us")))


def _is(uri: str, laboratory: Laboratory) -> None:
    for name, frame in laboratory.tables.items():
        there = _read(uri, name).select(frame.columns)
        assert_frame_equal(there.sort(frame.columns), frame.sort(frame.columns))


def test_what_is_written_is_read_back_typed(uri: str, tmp_path: Path) -> None:
    laboratory = simulate(CONFIG)
    counts = write(laboratory, uri, tmp_path / "truth")
    assert {w.table: w.rows for w in counts} == {n: len(f) for n, f in laboratory.tables.items()}
    _is(uri, laboratory)
    if uri.startswith("postgresql"):
        with pytest.raises(ValueError, match="lab_results already"):
            write(laboratory, uri, tmp_path / "truth")
    assert _read(uri, "lab_results")["verified_timestamp"].null_count() > 0
    for name, frame in laboratory.truth.items():
        assert_frame_equal(pl.read_parquet(tmp_path / "truth" / f"{name}.parquet"), frame)


def test_hour_by_hour_is_the_same_as_at_once(uri: str, tmp_path: Path) -> None:
    """Across the night of the change to summer time too (30 March 2025)."""
    write(simulate_days(CONFIG, 10), uri, tmp_path / "truth")
    changed = 0
    moment = datetime(2025, 3, 29)
    while moment < datetime(2025, 4, 1):
        moment += timedelta(hours=9)
        done = advance(uri, tmp_path / "truth", min(moment, datetime(2025, 4, 1)))
        changed += done.updated + done.deleted
    assert changed > 0
    longer = simulate(CONFIG.extended_to(date(2025, 3, 31)))
    _is(uri, longer)
    for name, frame in longer.truth.items():
        there = pl.read_parquet(tmp_path / "truth" / f"{name}.parquet")
        assert_frame_equal(there.sort(frame.columns), frame.sort(frame.columns))
    again = advance(uri, tmp_path / "truth", datetime(2025, 4, 1))
    assert (again.inserted, again.updated, again.deleted) == ({}, 0, 0)


def test_advance_needs_a_laboratory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no simulated laboratory"):
        advance(f"sqlite:///{tmp_path / 'lims.db'}", tmp_path, datetime(2025, 4, 1))
    with pytest.raises(FileNotFoundError, match="no LIMS database"):
        apply_changes(f"sqlite:///{tmp_path / 'lims.db'}", 5, seed=1)
    assert not (tmp_path / "lims.db").exists()


def test_changes_are_what_their_log_says(uri: str, tmp_path: Path) -> None:
    write(simulate(CONFIG), uri, tmp_path / "truth")
    before = _read(uri, "lab_results")
    log = apply_changes(uri, 100, seed=3)
    after = _read(uri, "lab_results")
    assert log["kind"].value_counts().sort("kind")["count"].to_list() == [20] * len(KINDS)
    assert log["result_id"].is_unique().all()
    assert after.height == before.height  # 20 gone, 20 twice
    untouched = ~pl.col("result_id").is_in(log["result_id"].implode())
    assert_frame_equal(before.filter(untouched).sort(before.columns), after.filter(untouched).sort(before.columns))
    rows = log.join(after, on="result_id")
    of = {kind: frame for (kind,), frame in rows.group_by("kind")}
    assert "deleted" not in of and of["duplicated"].height == 40
    assert of["duplicated"].unique().height == 20
    for kind in ("amended", "moved", "flipped"):
        assert (of[kind]["result_value"] == of[kind]["new_value"]).all()
        assert (of[kind]["resulted_timestamp"] == of[kind]["new_resulted"]).all()
        assert (of[kind]["updated_at"] == of[kind]["changed_at"]).all()
    assert (of["moved"]["new_resulted"].dt.date() != of["moved"]["old_resulted"].dt.date()).all()
    assert (of["flipped"]["new_value"] != of["flipped"]["old_value"]).all()
    assert flip_back(uri, log) == 20
    final = log.filter(pl.col("kind") == "flipped").join(_read(uri, "lab_results"), on="result_id")
    assert (final["result_value"] == final["old_value"]).all() and (final["updated_at"] > final["changed_at"]).all()
    with pytest.raises(ValueError, match="were asked for"):
        apply_changes(uri, 10**9, seed=3)


def test_a_broken_writer_leaves_no_half_database(tmp_path: Path) -> None:
    def breaks() -> Iterator[Laboratory]:
        yield from list(simulate_days(CONFIG, 10))[:2]
        raise RuntimeError("power cut")

    target = tmp_path / "lims.db"
    with pytest.raises(RuntimeError, match="power cut"):
        write(breaks(), f"sqlite:///{target}", tmp_path / "truth")
    assert not target.exists() and not (tmp_path / "truth").exists()
    write(simulate_days(CONFIG), f"sqlite:///{target}", tmp_path / "truth")
    with sqlite3.connect(target) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        plan = database.execute("EXPLAIN QUERY PLAN SELECT * FROM lab_results WHERE resulted_timestamp >= '2025'").fetchall()
    assert "lab_results_resulted_timestamp" in str(plan)


def test_a_failing_transaction_changes_nothing(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(simulate(CONFIG), uri, tmp_path / "truth")
    before = _read(uri, "lab_results")

    def fail(self: writer.Connection, statement: str, rows: pl.DataFrame) -> None:
        raise RuntimeError("connection lost")

    monkeypatch.setattr(writer.Connection, "run_many", fail)
    with pytest.raises(RuntimeError, match="connection lost"):
        advance(uri, tmp_path / "truth", datetime(2025, 3, 30))
    monkeypatch.undo()
    assert_frame_equal(_read(uri, "lab_results"), before)
    with connect(uri) as database:
        assert database.read("SELECT COUNT(*) AS n FROM simulator_state")["n"].item() == 1


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri, truth = f"sqlite:///{tmp_path / 'lims.db'}", str(tmp_path / "truth")
    small = ["--days", "4", "--devices", "6", "--results-per-day", "100", "--end", "2025-02-10"]
    assert main(["--to", uri, "--truth", truth, *small]) == 0
    printed = capsys.readouterr().out
    assert "lab_results" in printed and "rows/s" in printed
    size = (tmp_path / "lims.db").stat().st_size
    assert main(["--to", uri, "--truth", truth, *small, "--if-absent", "--seed", "9"]) == 0
    assert "there already" in capsys.readouterr().out and (tmp_path / "lims.db").stat().st_size == size
    assert main(["live", "--to", uri, "--truth", truth, "--until", "2025-02-11T12:00"]) == 0
    assert "inserted" in capsys.readouterr().out
    assert main(["changes", "--to", uri, "--count", "10", "--flip-back"]) == 0
    assert "result_id" in capsys.readouterr().out
    assert main(["--to", "oracle://x", "--truth", truth, *small]) == 2
    assert "oracle://x" in capsys.readouterr().err
