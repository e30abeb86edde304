"""A lake that cannot be written: full disk, read-only, two runs at once. Nothing lost, nothing doubled, always readable."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from lims_platform_tests.laboratories import Laboratory
from lims_platform_tests.works import Works

NEEDS_MOUNT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a tmpfs needs root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that a test may fill or set read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


@NEEDS_MOUNT
def test_a_full_disk_writes_nothing_and_a_rerun_is_right(tmp_path: Path, small_disk: Path) -> None:
    works = Works(tmp_path, lake=small_disk / "lake")
    assert works.run(table="lab_results").success
    state, version = works.state(), works.lake_version("lab_results_raw")
    works.sql("UPDATE lab_results SET result_value = result_value || ' ' WHERE result_value NOT LIKE '% '")
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)
    outcome = works.run(table="lab_results")
    (said,) = outcome.errors.values()
    assert not outcome.success and "bronze/lab_results_raw: cannot be written" in said and "No space left" in said, said
    assert works.state() == state and works.lake_version("lab_results_raw") == version
    filler.unlink()
    assert works.run(table="lab_results").success
    raw = works.rows("lab_results_raw")
    assert works.lake_version("lab_results_raw") == version + 1
    assert raw.select(pl.struct("row_key", "row_version").is_duplicated().any()).item() is False
    repaired = works.state()
    assert works.run(table="lab_results").success and works.state() == repaired


@NEEDS_MOUNT
def test_a_read_only_lake_is_readable_and_says_so(tmp_path: Path, small_disk: Path) -> None:
    works = Works(tmp_path, lake=small_disk / "lake")
    assert works.run(table="lab_results").success
    state = works.state()
    works.sql("DELETE FROM lab_results WHERE result_id = (SELECT min(result_id) FROM lab_results)")
    remount(small_disk, "ro")
    outcome = works.run(table="lab_results")
    (said,) = outcome.errors.values()
    assert not outcome.success and "bronze/lab_results_raw: cannot be written" in said and "Read-only" in said, said
    assert works.state() == state
    remount(small_disk, "rw")
    assert works.run(table="lab_results").success
    assert works.rows("lab_results_raw")["change"].to_list().count("delete") == 1 and works.state() != state


@pytest.mark.slow
def test_two_runs_of_one_day_at_once_double_nothing(tmp_path: Path) -> None:
    lab = Laboratory(tmp_path / "data", devices=4, days=4, results_per_day=200)
    lab.build()
    day = (date.today() - timedelta(days=2)).isoformat()
    span = ("run", "--job", "ingest_hourly", "--from", day, "--to", day)
    for value in ("first load", "7.77"):
        if value != "first load":
            lab.execute("UPDATE lab_results SET result_value = ?, updated_at = datetime(updated_at, '+1 minute')", value)
        runs = [lab.start(*span) for _ in range(2)]
        said = [run.communicate()[0] for run in runs]
        assert [run.returncode for run in runs] == [0, 0], said
    bronze = lab.frame("bronze/lab_results_raw").filter(pl.col("event_date") == date.fromisoformat(day))
    assert not bronze.select(pl.struct("row_key", "row_version").is_duplicated().any()).item()
    lab.must(*span)
    assert lab.frame("bronze/lab_results_raw").height == bronze.height, "a third run adds nothing"
    source = lab.source().filter(pl.col("resulted_timestamp").dt.date() == date.fromisoformat(day))
    silver = pl.concat(
        lab.frame(f"silver/lab_results_{part}").select("row_key", "result_id", "result_text")
        for part in ("standardized", "quarantine")
    )
    assert set(source["result_id"]) <= set(silver["result_id"]) and silver["row_key"].is_unique().all()
    assert silver["result_text"].unique().to_list() == ["7.77"]
