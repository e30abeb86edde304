"""The hourly tick: 2,000 new results, from the start of the process to silver, and where the time goes.

A demo laboratory of 40 analysers and 60 days is loaded; then 2,000 of yesterday's results come in again as today's, with ids
and times of their own, and ``python -m lims_platform run --job ingest_hourly`` reads them, several times over. Step times
are the ones Dagster recorded. Baseline: the dagster command line on a job of one step that does nothing, in the same minute.

Run: python benchmarks/hourly_tick.py [--results 2000] [--ticks 3] [--days 60]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from lims_platform_tests.laboratories import Laboratory

NOTHING = """
import dagster as dg

@dg.op
def nothing(): ...

@dg.job
def bare(): nothing()
"""


def new_results(lab: Laboratory, count: int, tick: int) -> None:
    """``count`` of yesterday's results again, resulted within the minutes before now."""
    now = datetime.now().replace(microsecond=0)
    columns = [name for name in lab.source().columns if name not in ("result_id", "resulted_timestamp", "updated_at")]
    lab.execute(
        f"INSERT INTO lab_results (result_id, resulted_timestamp, updated_at, {', '.join(columns)}) "
        f"SELECT 'TICK{tick}-' || result_id, ?, ?, {', '.join(columns)} FROM "
        "(SELECT * FROM lab_results WHERE result_id NOT LIKE 'TICK%' AND date(resulted_timestamp) = ? "
        "GROUP BY result_id LIMIT ?)",
        str(now), str(now), str(date.today() - timedelta(days=1)), count,
    )  # fmt: skip


def parts(lab: Laboratory, started: float) -> tuple[float, dict[str, float]]:
    """Seconds from ``started`` to the last silver step, and what they went into; of the newest run."""
    import dagster as dg

    os.environ.update(lab.environment())
    with dg.DagsterInstance.get() as instance:
        run = instance.get_run_records(limit=1)[0]
        steps = instance.get_run_step_stats(run.dagster_run.run_id)
    spent: Counter[str] = Counter()
    silver = 0.0
    for step in steps:
        if step.start_time is None or step.end_time is None:
            continue
        layer = step.step_key.split("__")[0]
        kind = "checks" if step.step_key.endswith(("contract", "conserved", "share")) or layer == "freshness" else layer
        spent[kind] += step.end_time - step.start_time
        if layer == "silver" and kind == "silver":
            silver = max(silver, step.end_time)
    first = min(step.start_time for step in steps if step.start_time)
    return silver - started, {"process start to first step": first - started, **spent}


def main() -> None:
    """Print each tick."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=2000)
    parser.add_argument("--ticks", type=int, default=3)
    parser.add_argument("--days", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab = Laboratory(Path(folder) / "data", options.days, 40, 2 * options.results)
        lab.build()
        lab.must("run", "--job", "ingest_hourly")
        bare = Path(folder) / "bare.py"
        bare.write_text(NOTHING)
        today = date.today().isoformat()
        found, base = [], []
        for tick in range(options.ticks):
            new_results(lab, options.results, tick)
            begin = time.time()
            lab.must("run", "--job", "ingest_hourly", "--from", today, "--to", today)
            whole = time.time() - begin
            seconds, spent = parts(lab, begin)
            listing = ", ".join(f"{name} {value:.1f}" for name, value in sorted(spent.items()))
            print(f"tick {tick + 1}: {seconds:.1f} s to silver, {whole:.1f} s in all ({listing})", flush=True)
            found.append(seconds)
            begin = time.perf_counter()
            line = [str(Path(sys.executable).with_name("dagster")), "job", "execute", "-f", str(bare), "-j", "bare"]
            subprocess.run(line, env=os.environ | {"DAGSTER_HOME": ""}, check=True, capture_output=True)
            base.append(time.perf_counter() - begin)
        arrived = lab.frame("silver/lab_results_history").filter(pl.col("result_id").str.starts_with("TICK")).height
        if arrived != options.results * options.ticks:
            raise SystemExit(f"{arrived} of {options.results * options.ticks} new results are in silver")
        median, bottom = float(np.median(found)), float(np.median(base))
        print(f"median {median:.1f} s; a bare dagster job of one empty step {bottom:.1f} s: {median / bottom:.1f} times")


if __name__ == "__main__":
    main()
