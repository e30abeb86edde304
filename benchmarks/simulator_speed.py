"""How fast the simulator makes and writes result rows, as a ratio to drawing and writing as many bare rows.

The baseline draws one normal number per row with NumPy, formats it and writes it with an id column as Parquet by polars:
the least that any simulator could do. Usage: ``python benchmarks/simulator_speed.py [--days 420] [--results-per-day 1600]``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.dirt import plant
from lims_platform.simulator.generate import simulate_days
from lims_platform.simulator.lifecycle import snapshot
from lims_platform.simulator.orders import make_orders
from lims_platform.simulator.results import make_draft
from lims_platform.simulator.wear import tuned_scale
from lims_platform.simulator.world import make_world
from lims_platform.simulator.writer import write

_CHUNK = 60


def _seconds(work: Callable[[], int], repeats: int = 3) -> tuple[float, int]:
    """The best of some runs, and the rows of one."""
    best, rows = float("inf"), 0
    for _ in range(repeats):
        begin = time.perf_counter()
        rows = work()
        best = min(best, time.perf_counter() - begin)
    return best, rows


def main() -> None:
    """Print rows per second and the ratio of each to the baseline."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=420)
    parser.add_argument("--results-per-day", type=int, default=1600)
    options = parser.parse_args()
    config = LabConfig(seed=7, end=date(2025, 12, 31), days=options.days, results_per_day=options.results_per_day)

    def results() -> int:
        tuned_scale.cache_clear()
        world = make_world(config)
        moment = int(world.clock.day_start(config.days))
        rows = 0
        for first in range(0, config.days, _CHUNK):
            stop = min(first + _CHUNK, config.days)
            draft = make_draft(world, make_orders(world, first, stop), first, stop)
            plant(world, draft, first, stop)
            rows += len(snapshot(world, draft, moment))
        return rows

    def everything() -> int:
        tuned_scale.cache_clear()
        return sum(len(frame) for chunk in simulate_days(config) for frame in chunk.tables.values())

    with tempfile.TemporaryDirectory() as folder:

        def written() -> int:
            tuned_scale.cache_clear()
            return sum(t.rows for t in write(simulate_days(config), f"sqlite:///{folder}/lims.db", Path(folder)))

        def bare() -> int:
            rng = np.random.default_rng(7)
            frame = pl.DataFrame({"id": np.arange(count), "value": rng.normal(100, 15, count)})
            frame.with_columns(pl.col("value").round(1).cast(pl.String)).write_parquet(f"{folder}/bare.parquet")
            return count

        made, count = _seconds(results)
        base, _ = _seconds(bare)
        print(f"{'bare draw and write (baseline)':<46}{count:>12,} rows {count / base:>14,.0f} rows/s   ratio 1.00")
        for name, seconds, rows in (
            ("results, dirt included", made, count),
            ("all tables and truth", *_seconds(everything)),
            ("all tables and truth, written to SQLite", *_seconds(written)),
        ):
            rate = rows / seconds
            print(f"{name:<46}{rows:>12,} rows {rate:>14,.0f} rows/s   ratio {rate / (count / base):.2f}   {seconds:.1f} s")


if __name__ == "__main__":
    main()
