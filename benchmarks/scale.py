"""Ten million results from Parquet files through bronze, silver and gold: time and memory against bare copies.

Baseline: DuckDB copies the same source files to Parquet (zstd), median of copies interleaved with the runs. The platform
is one dagster command on the groups bronze, silver, features and operations, on an empty lake. Memory is the sum over the
process tree of resident pages, sampled. On a busy machine the ratio of CPU seconds is the fairer one. ``--peer PYTHON``
names the python of an environment of its own that has pyspark (``python3.11 -m venv DIR; DIR/bin/pip install pyspark``,
Java 17): the same silver in PySpark local[2] as a second line.

Run: python benchmarks/scale.py [--rows 1000000 10000000] [--days 30] [--devices 1000] [--copies 5] [--keep DIR]
[--peer PYTHON]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from deltalake import DeltaTable
from peers.lookups import lookups

from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import simulate_days
from lims_platform_tests.system.deployment import ROOT, environment

END = date(2025, 12, 31)
SELECT = "group:bronze or group:silver or group:features or group:operations"
_SAMPLE_SECONDS = 0.25
_STEP = re.compile(r'Finished execution of step "(\w+)" in (?:(\d+)m)?([\d.]+)s')


def build(folder: Path, rows: int, days: int, devices: int) -> int:
    """A LIMS as Parquet files, lab_results one file a day, the small tables one file; returns its result rows."""
    config = LabConfig(seed=77, end=END, days=days, devices=devices, results_per_day=rows // days)
    drop = folder / "drop"
    for table in ("lab_results", "device_logs", "quality_control", "batch_results", "devices"):
        (drop / table).mkdir(parents=True)
    total = 0
    for number, chunk in enumerate(simulate_days(config)):
        for name, frame in chunk.tables.items():
            if name == "devices":
                frame.write_parquet(drop / name / "all.parquet")
            else:
                frame.write_parquet(drop / name / f"{number:03}.parquet")
        total += chunk.tables["lab_results"].height
    (folder / "sources.yaml").write_text(
        json.dumps(
            {
                "sources": {
                    "lims": {
                        "folder": str(drop),
                        "timezone": "Europe/Berlin",
                        "identifier_patterns": {"patient": r"\bP\d{7}\b", "technician": r"\bT\d{4}\b"},
                        "tables": {path.name: {"files": f"{path.name}/*.parquet"} for path in sorted(drop.iterdir())},
                    }
                }
            }
        )
    )
    return total


def copy(folder: Path) -> tuple[float, float]:
    """Seconds and CPU seconds DuckDB takes to copy the result rows Parquet to Parquet."""
    target = folder / "copy.parquet"
    with duckdb.connect(config={"threads": 2}) as connection:
        begin, before = time.perf_counter(), time.process_time()
        connection.execute(
            f"COPY (SELECT * FROM read_parquet('{folder}/drop/lab_results/*.parquet')) TO '{target}' "
            "(FORMAT parquet, COMPRESSION zstd)"
        )
        seconds, cpu = time.perf_counter() - begin, time.process_time() - before
    target.unlink()
    return seconds, cpu


def _tree(root: int) -> list[int]:
    """Process ids of a process and all it started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [root]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += parents.get(one, [])
    return found


def _resident(pid: int) -> int:
    """Bytes a process has in memory; 0 where it is gone. To count its share of shared pages (PSS) would halt it."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _cpu(pid: int) -> float:
    """CPU seconds of a process, its children's left out; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watched:
    """Peak bytes of a process tree, and CPU seconds by process as last seen: not every parent waits for its children."""

    peak: int = 0
    cpu: dict[int, float] = field(default_factory=dict)


@contextmanager
def watching(pid: int) -> Iterator[Watched]:
    """Samples the process tree while the block runs."""
    seen, done = Watched(), threading.Event()

    def watch() -> None:
        while not done.wait(_SAMPLE_SECONDS):
            tree = _tree(pid)
            seen.peak = max(seen.peak, sum(_resident(one) for one in tree))
            seen.cpu |= {one: spent for one in tree if (spent := _cpu(one))}

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    done.set()
    thread.join()


def timed(command: list[str], variables: dict[str, str], log: Path) -> tuple[float, int, float]:
    """Seconds, peak bytes and CPU seconds of a command; its output goes to ``log``."""
    begin, before = time.perf_counter(), os.times()
    with log.open("w") as out:
        process = subprocess.Popen(command, env=variables, cwd=ROOT, stdout=out, stderr=out)
        with watching(process.pid) as seen:
            code = process.wait()
    after = os.times()
    if code:
        raise SystemExit(f"{command[:2]} failed:\n{log.read_text()[-4000:]}")
    waited = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - begin, seen.peak, max(waited, sum(seen.cpu.values()))


def materialise(folder: Path, select: str, first: date, last: date) -> tuple[float, int, float]:
    """Seconds, peak bytes and CPU seconds of the dagster command on a selection."""
    data = folder / "data"
    (data / "home").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dagster.yaml", data / "home")
    settings = environment(data, 30, 1, 1) | {
        "LIMS_SOURCES": str(folder / "sources.yaml"),
        "LIMS_START_DATE": (first - timedelta(days=1)).isoformat(),
        "DAGSTER_HOME": str(data / "home"),
    }
    settings = {name: value for name, value in settings.items() if not name.startswith("LIMS_DEMO")}
    arguments = [str(Path(sys.executable).with_name("dagster")), "asset", "materialize", "-m", "lims_platform.definitions"]
    arguments += ["--select", select, "--partition-range", f"{first}...{last}"]
    return timed(arguments, settings, folder / "run.log")


def lake_rows(folder: Path, table: str) -> int:
    """Rows of a lake table."""
    return int(pl.scan_delta(str(folder / "data" / "lake" / table)).select(pl.len()).collect().item())


def one_size(folder: Path, rows: int, options: argparse.Namespace) -> tuple[int, float, float]:
    """Build, copy, run and print one size; returns rows, seconds and gibibytes."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = folder / "rows.json"
    if not sizes.exists():
        sizes.write_text(json.dumps(build(folder, rows, options.days, options.devices)))
    total = int(json.loads(sizes.read_text()))
    first, last = END - timedelta(days=options.days - 1), END
    copies, seconds, peaks, cpus = [copy(folder)], [], [], []
    for _ in range(options.runs):
        shutil.rmtree(folder / "data", ignore_errors=True)
        spent, peak, used = materialise(folder, SELECT, first, last)
        seconds.append(spent)
        peaks.append(peak / 2**30)
        cpus.append(used)
        copies.append(copy(folder))
    while len(copies) < options.copies:
        copies.append(copy(folder))
    (base, base_cpu), time_taken, memory = np.median(copies, axis=0), float(np.median(seconds)), max(peaks)
    live, valid, bad = (
        lake_rows(folder, f"silver/lab_results_{table}") for table in ("history", "standardized", "quarantine")
    )
    cpu = float(np.median(cpus))
    print(
        f"{total:,} results of {options.days} days: {time_taken:.1f} s (CPU {cpu:.1f} s), copy {base:.2f} s "
        f"(CPU {base_cpu:.2f} s), ratio {time_taken / base:.1f} (CPU {cpu / base_cpu:.1f}); "
        f"peak {memory:.2f} GiB; versions {live:,}, valid {valid:,}, quarantined {bad:,}",
        flush=True,
    )
    found = _STEP.findall((folder / "run.log").read_text())
    steps = sorted(((int(minutes or 0) * 60 + float(rest), name) for name, minutes, rest in found), reverse=True)
    print("  " + ", ".join(f"{name} {spent:.1f} s" for spent, name in steps[:12]), flush=True)
    if options.peer:
        peer(folder, options.peer, options.days)
    return total, time_taken, memory


def peer(folder: Path, python: Path, days: int) -> None:
    """Print PySpark's time for the rows of silver/lab_results_history beside the platform's, and how far both agree.

    Both are whole processes that read bronze and write all versions, standardised, by day; what PySpark's arm leaves out
    is in its docstring.
    """
    bronze, silver = (folder / "data" / "lake" / layer for layer in ("bronze/lab_results_raw", "silver/lab_results_history"))
    files, target = folder / "bronze.json", folder / "peer"
    files.write_text(json.dumps({"base": str(bronze), "files": DeltaTable(str(bronze)).file_uris()}))
    script = Path(__file__).parent / "peers" / "pyspark_silver.py"
    command = [str(python), str(script), str(files), str(lookups(folder, bronze)), str(target)]
    theirs, peak, their_cpu = timed(command, dict(os.environ), folder / "peer.log")
    inside = json.loads((folder / "peer.log").read_text().splitlines()[-1])["seconds"]
    ours, our_peak, our_cpu = materialise(folder, "key:silver/lab_results_history", END - timedelta(days=days - 1), END)
    mine = pl.scan_delta(str(silver)).filter(pl.col("event_date") == END).select(
        "row_key", "value_kind", "value_number", bad=pl.col("reason").is_not_null()
    )  # fmt: skip
    other = pl.scan_parquet(f"{target}/date_event={END}/*.parquet", hive_partitioning=False).select(
        "row_key", "value_kind", "value_number", bad=pl.col("reason").is_not_null()
    )
    both = mine.join(other, on="row_key", suffix="_peer")
    near = (pl.col("value_number") - pl.col("value_number_peer")).abs() <= 1e-9 * pl.col("value_number").abs()
    same = pl.col("bad").eq(pl.col("bad_peer")) & (pl.col("bad") | near | pl.col("value_number").is_null())
    rows, agree = both.select(pl.len(), same.fill_null(False).sum()).collect().row(0)
    print(
        f"  the same silver in PySpark local[2]: {theirs:.1f} s ({inside:.1f} s without its start; CPU {their_cpu:.1f} s),"
        f" peak {peak / 2**30:.2f} GiB; the platform: {ours:.1f} s (CPU {our_cpu:.1f} s), peak {our_peak / 2**30:.2f} GiB:"
        f" {theirs / ours:.1f} times its time, {their_cpu / our_cpu:.1f} times its CPU; same on {agree / rows:.2%} of"
        f" {rows:,} rows",
        flush=True,
    )


def main() -> None:
    """Print each size, and how time and memory grow."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--copies", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--peer", type=Path, metavar="PYTHON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = options.keep or Path(temporary)
        done = [one_size(base / str(rows), rows, options) for rows in options.rows]
    for (rows, seconds, memory), (more, longer, larger) in pairwise(done):
        grown = f"{longer / seconds:.1f} times the time, {larger / memory:.1f} times the memory"
        print(f"{more / rows:.1f} times the rows: {grown}")


if __name__ == "__main__":
    main()
