"""Seconds to load the code location, ``import lims_platform.definitions``, against ``import dagster`` alone.

Baseline: ``import dagster`` in the same minute. Each is the median of fresh interpreters, taken in turn, so that a busy
machine slows both; the interpreter's own start is not counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys

OURS, BASELINE = "lims_platform.definitions", "dagster"


def seconds(module: str) -> float:
    """Time of one import in a fresh interpreter."""
    program = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="order in which the two are taken")
    given = parser.parse_args()
    order = random.Random(given.seed)
    taken: dict[str, list[float]] = {OURS: [], BASELINE: []}
    for module in taken:
        seconds(module)  # the first import reads the files from disk and compiles them
    for _ in range(given.repeats):
        for module in order.sample(list(taken), k=2):
            taken[module].append(seconds(module))
    ours, baseline = (statistics.median(taken[module]) for module in (OURS, BASELINE))
    print(f"import {OURS}: {ours:.2f} s; import {BASELINE}: {baseline:.2f} s (medians of {given.repeats})")
    print(f"ratio = {ours / baseline:.2f}")


if __name__ == "__main__":
    main()
