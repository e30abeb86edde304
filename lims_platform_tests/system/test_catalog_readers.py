"""Ten processes, a hundred sessions and more, read the catalogue while it is rebuilt again and again: none fails."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import date, timedelta
from pathlib import Path

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.catalog import build_catalog
from lims_platform.lakehouse.lake import Lake

TABLE = TABLES["turnaround_kpis"]
FIRST = date(2025, 3, 1)
DAYS, ROWS_A_DAY = 10, 20
PROCESSES, SESSIONS, REBUILDS = 10, 10, 10

READER = """
import sys, time, duckdb
from pathlib import Path
path, folder, name, sessions = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
while sessions > 0 or folder.exists() and not (folder / "stop").exists():
    sessions -= 1
    time.sleep(0.1)
    (folder / name).touch()
    with duckdb.connect(path, read_only=True) as catalog:
        for _ in range(3):
            print(*catalog.sql("SELECT count(*), count(DISTINCT as_of_date) FROM gold.turnaround_kpis").fetchall()[0])
"""


def day(number: int, mark: int) -> pl.DataFrame:
    """A day's rows; ``mark`` makes every rewrite another content."""
    values = {}
    for name, dtype in TABLE.dtypes.items():
        if dtype == pl.Date:
            values[name] = [FIRST + timedelta(days=number)] * ROWS_A_DAY
        elif dtype == pl.String:
            values[name] = [str(n) for n in range(ROWS_A_DAY)]
        else:
            values[name] = [mark] * ROWS_A_DAY
    return pl.DataFrame(values).cast(dict(TABLE.dtypes))


def test_a_hundred_sessions_of_readers_and_no_error(tmp_path: Path) -> None:
    lake, catalog = Lake(tmp_path / "lake"), tmp_path / "catalog.duckdb"

    def write(number: int, mark: int) -> None:
        when = FIRST + timedelta(days=number)
        lake.replace(TABLE, day(number, mark).lazy(), when, when)
        build_catalog(lake, TABLES.values(), catalog)

    for number in range(DAYS):
        write(number, 0)
    desk = tmp_path / "desk"
    desk.mkdir()
    line = [sys.executable, "-c", READER, str(catalog), str(desk)]
    readers = [
        subprocess.Popen([*line, str(n), str(SESSIONS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(PROCESSES)
    ]
    while len(list(desk.iterdir())) < PROCESSES and all(reader.poll() is None for reader in readers):
        time.sleep(0.05)
    try:
        for mark in range(1, REBUILDS + 1):
            write(mark % DAYS, mark)
    finally:
        (desk / "stop").touch()
    for reader in readers:
        out, err = reader.communicate()
        assert reader.returncode == 0, err
        assert len(out.splitlines()) >= 3 * SESSIONS
        assert set(out.splitlines()) == {f"{DAYS * ROWS_A_DAY} {DAYS}"}
