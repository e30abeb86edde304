"""kill -9 at N moments of the main job, then a rerun: are all tables those of an undisturbed run?

The moments in turn: during a commit to the lake, between a commit and its event, by the clock, in the middle of a batch of
events. After every few kills a run goes to its end and every table is compared, by digest, with the undisturbed run's (the
baseline, made first in the same process); a reader polls all tables and the catalogue meanwhile. Exit code 1 where any table
differs or was unreadable.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lims_platform_tests.kills import kill_series


def tell(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


def main() -> int:
    """Print kills by moment, tables equal / tables compared, and reads that failed / reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=50)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--per-series", type=int, default=10, help="kills between two comparisons")
    parser.add_argument("--job", default="everything")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        size = {"devices": 4, "days": 12, "results_per_day": 60}
        report = kill_series(Path(folder), given.job, given.kills, given.per_series, given.seed, tell, **size)
    hit = Counter(shot.moment for shot, killed in report.shots if killed)
    print(f"{given.job}: {sum(hit.values())} of {given.kills} runs killed: " + ", ".join(f"{n} {m}" for m, n in hit.items()))
    compared = report.tables * len(report.finished)
    print(f"tables equal to the undisturbed run: {compared - len(report.differing)} / {compared}")
    print(f"reads that failed: {len(report.unreadable)} / {report.reads}; {time.monotonic() - started:.0f} s")
    for line in [*report.differing, *report.unreadable[:20]]:
        print(f"  {line}")
    return int(bool(report.differing or report.unreadable or any(report.finished)))


if __name__ == "__main__":
    sys.exit(main())
