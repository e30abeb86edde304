"""kill -9 at N moments of the main job, then a rerun: are all tables those of an undisturbed run?

The moments in turn: during a commit to the lake, between a commit and its event, by the clock, in the middle of a batch of
events. Where each one met the run is read from what it left on disk: files no version names, a version no event speaks of.
After every few kills a run goes to its end and every table is compared, by digest, with the undisturbed run's (the
baseline, made first in the same process); all tables and views are read after every kill, and by a reader of their own
all the time. Exit code 1 where any table differs or was unreadable, or where neither special moment was met.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lims_platform_tests.kills import BETWEEN, IN_COMMIT, LOGGED, MISSED, kill_series

#: What must have been met for the figures to mean what they say.
SPECIAL = {"during a commit": (IN_COMMIT, LOGGED), "between commit and event": (BETWEEN,)}


def tell(line: str) -> None:
    """Progress, at once."""
    print(line, flush=True)


def main() -> int:
    """Print kills by where they met the run, tables equal / tables compared, and reads that failed / reads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=50)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--per-series", type=int, default=10, help="kills between two comparisons")
    parser.add_argument("--parallel", type=int, default=2, help="series at once, each in a laboratory of its own")
    parser.add_argument("--job", default="everything")
    given = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        size = {"devices": 4, "days": 12, "results_per_day": 60}
        report = kill_series(
            Path(folder), given.job, given.kills, given.per_series, given.seed, tell, given.parallel, **size
        )
    met = Counter(where for _, where in report.shots)
    print(f"{given.job}: {given.kills - met[MISSED]} of {given.kills} runs killed")
    for where, count in met.most_common():
        print(f"  {count} {where}")
    compared = report.tables * len(report.finished)
    print(f"tables equal to the undisturbed run: {compared - len(report.differing)} / {compared}")
    print(f"reads that failed: {len(report.unreadable)} / {report.reads}; {time.monotonic() - started:.0f} s")
    for line in [*report.differing, *report.unreadable[:20]]:
        print(f"  {line}")
    unmet = [name for name, moments in SPECIAL.items() if not sum(met[moment] for moment in moments)]
    for name in unmet:
        print(f"  no kill {name}")
    return int(bool(report.differing or report.unreadable or any(report.finished) or unmet))


if __name__ == "__main__":
    sys.exit(main())
