"""A reader that never stops: opens a lake's tables and catalogue again and again and prints what it could not read.

``python -m lims_platform_tests.witness DATA_DIR``; ends on SIGTERM, printing how many reads it made. Only tests start it.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import duckdb
import polars as pl
from deltalake import DeltaTable

PAUSE_SECONDS = 0.3


def look(data: Path) -> int:
    """Read every table and the newest view of each once; returns the number of reads. Raises what a reader would see."""
    reads = 0
    for log in sorted((data / "lake").glob("*/*/_delta_log")):
        # A folder whose first commit has not landed is no table yet.
        if DeltaTable.is_deltatable(str(log.parent)):
            pl.scan_delta(DeltaTable(str(log.parent))).collect()
            reads += 1
    catalog = data / "catalog.duckdb"
    if catalog.exists():
        with duckdb.connect(str(catalog), read_only=True) as connection:
            for schema, name in connection.execute(
                "SELECT schema_name, view_name FROM duckdb_views() WHERE NOT internal"
            ).fetchall():
                connection.execute(f'SELECT count(*) FROM "{schema}"."{name}"').fetchall()
                reads += 1
    return reads


def main(data: Path) -> int:
    """Look until told to stop; exit code 1 if any read failed."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    reads, failures = 0, 0
    while not stopped:
        try:
            reads += look(data)
        except Exception as error:
            failures += 1
            print(f"unreadable: {type(error).__name__}: {error}", flush=True)
        time.sleep(PAUSE_SECONDS)
    print(f"reads {reads} failures {failures}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
