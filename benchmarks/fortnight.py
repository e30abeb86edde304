"""A fortnight of automation in fast time, with a clock change and 30 hours in which nobody is there: what was started when.

    python benchmarks/fortnight.py              # a table: day × what was started
    python benchmarks/fortnight.py --json FILE  # every run, tick and reason, for the test

See ``lims_platform_tests/fortnight.py`` for what is real and what is stubbed.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path

from lims_platform_tests.fortnight import World, days_of, simulate, steps
from lims_platform_tests.fortnight_lims import DAYS, OUTAGE, START, ZONE, Plot, prepare


def table(world: World) -> str:
    """Markdown: a line per day, a column per kind of work: runs started, and the days they were for where not the usual."""
    kinds = ["ingest", "source_changes", "moved_rows", "gold", "marts", "scoring", "drift", "training", "reports", "person"]
    cells: dict[tuple[date, str], Counter[str]] = defaultdict(Counter)
    for run in world.runs:
        day = datetime.fromisoformat(run["at"]).astimezone(ZONE).date()
        days = days_of(run)
        for kind in [run["by"]] if run["by"] in ("source_changes", "moved_rows") else run["kinds"]:
            usual = {day} if kind == "ingest" else {day - timedelta(days=1)}
            ends = dict.fromkeys(f"{end:%d.%m.}" for end in (days[0], days[-1])) if days else {}
            label = "" if not days or set(days) == usual else "–".join(ends)
            label += {"success": "", "running": "", "failed": " failed", "check failed": " check failed"}[run["outcome"]]
            cells[day, kind][label.strip()] += 1
    lines = ["| day | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for offset in range(DAYS):
        day = START.date() + timedelta(days=offset)
        row = []
        for kind in kinds:
            found = cells[day, kind]
            row.append(", ".join(f"{n}× {label}".strip("× ") if label else str(n) for label, n in sorted(found.items())))
        lines.append(f"| {day:%a %d.%m.} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write runs and ticks to this file, - for standard output")
    parser.add_argument("--until", type=datetime.fromisoformat, help="stop earlier, e.g. 2026-03-24T00:00+01:00")
    options = parser.parse_args()
    begin = time.monotonic()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="fortnight-") as name:
        prepare(Path(name))
        world = simulate(Path(name), Plot(), options.until)
    if options.json:
        text = json.dumps({"runs": world.runs, "ticks": world.ticks}, indent=1)
        if options.json == "-":
            print(text)
        else:
            Path(options.json).write_text(text)
        return
    print(table(world))
    hours = len(list(steps())) // 3
    print(
        f"\n{hours} hours in {time.monotonic() - begin:.0f} s; "
        f"nobody there {OUTAGE[0]:%d.%m. %H:%M} to {OUTAGE[1]:%d.%m. %H:%M}"
    )


if __name__ == "__main__":
    main()
