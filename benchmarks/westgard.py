"""Westgard rules: agreement with a reading of their words, power of a single run, false alarms, speed.

Run: python benchmarks/westgard.py [--runs 1000000] [--seed 1] [--peer PYTHON]. Power: N independent z ~ N(Δ, 1) a run,
no rule across runs. Speed is a ratio to westgard-python (PyPI) on the same 4,000 measurements; --peer names the python
of an environment of its own that has it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time

import numpy as np
import polars as pl

from lims_platform.laboratory.westgard import violations
from lims_platform.laboratory.westgard_rules import STANDARD

SINGLE_RUN = ("1-3s", "2-2s", "R-4s", "4-1s")
PEER = """
import json, sys, time
import westgard as w
rows = json.load(sys.stdin)
fixed = dict(analyte="glucose", mean=0.0, standard_deviation=1.0)
observations = [dict(fixed, material=m, run_id=str(r), sequence=s, value=z) for m, r, s, z in rows]
started = time.perf_counter()
series = w.series_from_rows(observations)
for one in series.values():
    w.scan_multirule_series(series=one, preset=w.MultiruleVariant.MODERN_2_CONTROL_LEGACY_10X)
print(time.perf_counter() - started)
"""


def frame(z: np.ndarray, lots: bool) -> pl.DataFrame:
    """Runs of z, shape (runs, levels); a lot of its own for each run where rules must not reach across runs."""
    runs, levels = z.shape
    number = np.repeat(np.arange(runs), levels)
    return pl.DataFrame(
        {
            "device_id": pl.repeat("A", runs * levels, eager=True),
            "loinc_code": pl.repeat("2345-7", runs * levels, eager=True),
            "lot": number.astype(str) if lots else pl.repeat("x", runs * levels, eager=True),
            "qc_level": np.tile([f"L{i}" for i in range(levels)], runs),
            "run_id": number.astype(str),
            "run_at": pl.Series(number * 3_600_000_000).cast(pl.Datetime("us", "UTC")),
            "z": z.ravel(),
        }
    )


def brute(z: np.ndarray) -> set[tuple[str, int, int]]:
    """The standard rules read word by word: (rule, run, level)."""
    found = set()
    runs, levels = z.shape
    for r in range(runs):
        for level in range(levels):
            value, mates = z[r, level], z[r]
            past = z[: r + 1, level]
            if abs(value) > 2:
                found.add(("1-2s", r, level))
            if abs(value) > 3:
                found.add(("1-3s", r, level))
            if (value > 2 and (mates < -2).any()) or (value < -2 and (mates > 2).any()):
                found.add(("R-4s", r, level))
            for side in (1, -1):
                for rule, limit, n in (("2-2s", 2, 2), ("4-1s", 1, 4)):
                    in_run = side * value > limit and (side * mates > limit).sum() >= n
                    if in_run or (len(past) >= n and (side * past[-n:] > limit).all()):
                        found.add((rule, r, level))
                if len(past) >= 10 and (side * past[-10:] > 0).all():
                    found.add(("10x", r, level))
    return found


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--runs", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--peer", help="python with westgard-python")
    given = options.parse_args()
    rng = np.random.default_rng(given.seed)

    z = np.round(rng.normal(0.3, 1.3, (100_000, 2)), 1)
    out = violations(frame(z, lots=False))
    got = {(r, int(i), int(lv[1:])) for r, i, lv in out.select("rule", "run_id", "qc_level").iter_rows()}
    want = brute(z)
    print(f"agreement on {len(z):,} runs of 2: {len(got & want):,} violations found by both, {len(got ^ want)} by one only")

    for controls in (2, 4):
        shifts = (0.0, 1.65, 2.35, 3.0)
        expected = {2: (0.72, 24.5, 59.4, 86.7), 4: (2.23, 63.3, 94.7, 99.8)}[controls]
        for shift, published in zip(shifts, expected, strict=True):
            rejected = 0
            for part in np.array_split(np.arange(given.runs), max(1, given.runs // 250_000)):
                runs = frame(rng.normal(shift, 1, (len(part), controls)), lots=True)
                rejected += violations(runs, rules=SINGLE_RUN)["run_id"].n_unique()
            share = 100 * rejected / given.runs
            what = f"N={controls} shift {shift:4.2f} SD"
            print(f"{what}: rejected {share:6.2f} %, published {published:5.2f} %, {share - published:+.2f}")

    weeks = 20_000
    fortnight = frame(rng.normal(0, 1, (weeks * 14, 2)), lots=False)
    alarms = violations(fortnight).filter(severity="rejection")
    across = alarms.filter(pl.col("runs_involved").list.n_unique() > 1)
    all_runs, by_history = (found["run_id"].n_unique() / weeks for found in (alarms, across))
    print("a stable assay, 2 levels twice a day, with the rules across runs:", end=" ")
    print(f"{all_runs:.3f} rejected runs a week, {by_history:.3f} of them by rules across runs")

    for count in (250_000, 500_000, 1_000_000):
        runs = frame(rng.normal(0, 1, (count // 2, 2)), lots=False)
        started = time.perf_counter()
        violations(runs)
        seconds = time.perf_counter() - started
        print(f"{count:,} control measurements: {seconds:.2f} s, {1e6 * seconds / count:.2f} µs each")

    few = rng.normal(0, 1.2, (2_000, 2))
    runs = frame(few, lots=False)
    started = time.perf_counter()
    for _ in range(5):
        violations(runs, rules=STANDARD)
    ours = (time.perf_counter() - started) / 5
    if given.peer is None:
        print("westgard-python was not compared: give --peer")
        return
    rows = [(f"L{k}", r, 2 * r + k, float(few[r, k])) for r in range(len(few)) for k in range(2)]
    answer = subprocess.run([given.peer, "-c", PEER], input=json.dumps(rows), capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(answer.stderr)
    theirs = float(answer.stdout)
    print(f"4,000 measurements: westgard-python {theirs:.2f} s, ours {ours * 1000:.1f} ms, ratio {theirs / ours:.0f}")


if __name__ == "__main__":
    main()
