"""Change capture against a PostgreSQL and a MariaDB whose own triggers log every change: bronze equals the log, day by day.

    python benchmarks/change_capture.py [--changes 1000] [--seed 5] [--json FILE]

A small laboratory on each server: lab_results with a change cursor (updated_at), quality_control without one. Random
inserts, value and status changes, moves to other days, deletions and returns come in batches of random size, several on one
row; after each batch the platform's sensors look, and the runs they ask for are executed. Then

- bronze's versions of every row must be those the log gives, reduced to what each run could see, in order, day and digest;
- after the first look of the next day (it goes further back than the watched days) bronze's live rows are the source's;
- a day that changed visibly and was not read is *missed*; a day read is *superfluous* where no line of the log since its
  last reading names it. The look far back may read a day once more that was read meanwhile because a row had moved away from
  it: all it has is the marks of the look far back before; such days are counted apart.

Visible is: every change on a watched day; on an older day what the cursor shows (no deletion, and nothing of a table without
one) until the next look far back. Baseline: reading every day of every table again, in the same process.
Exit code 1 where anything is missed, superfluous or different.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lims_platform_tests.audited_lims import COLUMNS, AuditedLims
from lims_platform_tests.capture import Model, found_versions, live_rows, pseudonym_faults, wrong_keys
from lims_platform_tests.servers import MARIADB, POSTGRES, _server, mariadb_execute, postgres_execute
from lims_platform_tests.system.deployment import environment

SERVERS = {
    "postgresql": ("PostgreSQL", "LIMS_TEST_POSTGRES", POSTGRES),
    "mariadb": ("MariaDB", "LIMS_TEST_MARIADB", MARIADB),
}
BRONZE = {table: f"{table}_raw" for table in COLUMNS}


def configure(folder: Path, uri: str, days: int, watched: int) -> None:
    """This process's environment becomes the laboratory's."""
    tables: dict[str, Any] = {table: {"table": table} for table in COLUMNS}
    tables["lab_results"]["change_cursor"] = "updated_at"
    sources = {"sources": {"lims": {"uri": uri, "timezone": "UTC", "tables": tables}}}
    (folder / "sources.yaml").write_text(yaml.safe_dump(sources))
    os.environ.update(environment(folder / "data", days, 2, 10))
    # the vanished-rows guard has tests of its own; here rows vanish all the time
    os.environ.update(
        LIMS_SOURCES=str(folder / "sources.yaml"), LIMS_TIMEZONE="UTC", LIMS_WATCH_DAYS=str(watched), LIMS_VANISHED_SHARE="1"
    )


class Trial:
    """The laboratory, the platform, and the model of what bronze must hold; counts what is missed."""

    def __init__(self, lims: AuditedLims, platform: Any, watched: int) -> None:
        self.lims, self.platform = lims, platform
        self.near = date.today() - timedelta(days=watched)
        self.model = Model()
        self.unread: dict[str, set[date]] = {table: set() for table in COLUMNS}
        self.looked_at = 0
        self.missed: list[str] = []
        self.superfluous: list[str] = []
        self.again: list[str] = []
        self.days_changed = self.days_read = self.runs = 0
        self.seconds: list[float] = []
        self.looking: list[float] = []

    def look(self, far: bool = False) -> None:
        """Both sensors, their runs, and what should have been read."""
        upto = self.lims.newest()
        self.model.log = self.lims.log()
        for table in COLUMNS:
            self.unread[table] |= self.model.touched(table, self.looked_at, upto)
        self.looked_at = upto
        due = {
            (t, d)
            for t in COLUMNS
            for d, only_gone in self.model.behind(t, upto).items()
            if self.visible(t, d, only_gone, far)
        }
        started = time.monotonic()
        read = [
            (t, d) for name in ("source_changes", "moved_rows") for t, days in self.runs_of(name, upto) for d in sorted(days)
        ]
        self.seconds.append(time.monotonic() - started)
        self.missed += [f"{table} {day}" for table, day in sorted(due - set(read))]
        for table, day in read:
            if day not in self.unread[table]:
                (self.again if far else self.superfluous).append(f"{table} {day}")
            self.unread[table].discard(day)
        self.days_changed += len(due)
        self.days_read += len(read)

    def visible(self, table: str, day: date, only_gone: bool, far: bool) -> bool:
        """Whether a look has to see that a day differs from the source."""
        return far or day >= self.near or (table == "lab_results" and not only_gone)

    def runs_of(self, sensor: str, upto: int) -> list[tuple[str, set[date]]]:
        """Execute what a sensor asks for; tables and days."""
        done = []
        started = time.monotonic()
        requests = self.platform.tick(sensor)
        if sensor == "source_changes":
            self.looking.append(time.monotonic() - started)
        for request in requests:
            days = self.platform.run("ingest_hourly", request)
            self.runs += 1
            for table in COLUMNS:
                if any(key.path[-1] == BRONZE[table] for key in request.asset_selection):
                    self.model.read(table, days, upto)
                    done.append((table, days))
        return done

    def load(self, first: date, last: date) -> float:
        """Every day, as a person asks for it; seconds."""
        upto = self.lims.newest()
        self.model.log = self.lims.log()
        started = time.monotonic()
        self.platform.load("ingest_hourly", first, last)
        seconds = time.monotonic() - started
        for table in COLUMNS:
            self.model.read(table, {first + timedelta(days=n) for n in range((last - first).days + 1)}, upto)
        return seconds


def trial(kind: str, uri: str, folder: Path, changes: int, days: int, seed: int) -> dict[str, Any]:
    """One server: fill, change, look, compare."""
    watched, today = 14, date.today()
    first, last = today - timedelta(days=days), today - timedelta(days=1)
    configure(folder, uri.replace("mariadb://", "mysql://"), days, watched)
    rng = np.random.default_rng(seed)
    lims = AuditedLims(kind, uri, first, last)
    lims.create()
    lims.fill(rng, results_a_day=120, controls_a_day=30)
    logging.disable(logging.CRITICAL)
    import dagster as dg

    from lims_platform.contracts.tables import TABLES
    from lims_platform.lakehouse.lake import Lake
    from lims_platform.settings import settings
    from lims_platform_tests.live_platform import LivePlatform

    with dg.DagsterInstance.ephemeral() as instance:
        run = Trial(lims, LivePlatform(instance), watched)
        run.load(first, today)
        for sensor in ("source_changes", "source_changes", "moved_rows"):
            run.platform.tick(sensor)  # the first looks only take notes here: every day has just been read
        filled, run.looked_at, batches = lims.newest(), lims.newest(), []
        while (made := lims.newest() - filled) < changes:
            size = min(int(rng.geometric(1 / 40)), changes - made)
            batches.append(lims.change(rng, size))
            run.look()
        run.platform.next_day()
        run.look(far=True)
        quiet = len(run.platform.tick("source_changes"))
        lake = Lake(settings().lake_dir)
        frames = {t: lake.scan(TABLES[BRONZE[t]]).collect().filter(~_conflict()) for t in COLUMNS}
        found = {k: v for t, frame in frames.items() for k, v in found_versions(frame, t).items()}
        live = {k: v for t, frame in frames.items() for k, v in live_rows(frame, t).items()}
        source = run.model.source(lims.newest())
        silver = lake.scan(TABLES["lab_results_history"]).collect()
        full = run.load(first, today)
        after = sum(lake.scan(TABLES[BRONZE[t]]).collect().height for t in COLUMNS)
        return {
            "server": kind,
            "changes": lims.newest() - filled,
            "batches": len(batches),
            "versions_expected": sum(map(len, run.model.versions.values())),
            "versions_found": sum(map(len, found.values())),
            "rows_with_other_history": [list(key) for key in wrong_keys(run.model.versions, found)],
            "rows_with_other_state": [list(key) for key in wrong_keys(source, live)],
            "pseudonym_faults": pseudonym_faults(run.model.log, frames["lab_results"]),
            "silver_versions_missing": frames["lab_results"].height - silver.height,
            "added_by_reading_everything_again": after - sum(f.height for f in frames.values()),
            "days_changed": run.days_changed,
            "days_read": run.days_read,
            "missed": run.missed,
            "superfluous": run.superfluous,
            "read_once_more_by_the_look_far_back": run.again,
            "asked_after_the_last_look": quiet,
            "runs": run.runs,
            "seconds_a_look_alone": round(float(np.mean(run.looking)), 2),
            "seconds_a_look": round(float(np.mean(run.seconds)), 2),
            "seconds_reading_everything": round(full, 2),
        }


def _conflict() -> Any:
    import polars as pl

    return pl.col("is_conflict")


def is_right(told: dict[str, Any]) -> bool:
    """Whether nothing is missed, superfluous or different."""
    return told["versions_expected"] == told["versions_found"] and not any(
        told[name]
        for name in (
            "rows_with_other_history", "rows_with_other_state", "pseudonym_faults", "silver_versions_missing", "missed",
            "added_by_reading_everything_again", "superfluous", "asked_after_the_last_look",
        )
    )  # fmt: skip


def line(told: dict[str, Any]) -> str:
    """One server in one line."""
    ratio = told["seconds_a_look"] / told["seconds_reading_everything"]
    return (
        f"{told['server']}: {told['changes']:,} logged changes in {told['batches']} batches; versions "
        f"{told['versions_found']:,} of {told['versions_expected']:,}, rows with another history "
        f"{len(told['rows_with_other_history'])}, with another state {len(told['rows_with_other_state'])}; days missed "
        f"{len(told['missed'])}, superfluous {len(told['superfluous'])}, read {told['days_read']} (changed "
        f"{told['days_changed']}, once more by the look far back {len(told['read_once_more_by_the_look_far_back'])}) in "
        f"{told['runs']} runs; a look {told['seconds_a_look_alone']} s, with its runs {told['seconds_a_look']} s, "
        f"{ratio:.2f} of reading everything again ({told['seconds_reading_everything']} s)"
    )


def on_server(kind: str, changes: int, days: int, seed: int) -> dict[str, Any]:
    """A trial in a database and a process of its own: the laboratory is set by the environment."""
    execute = postgres_execute if kind == "postgresql" else mariadb_execute
    name = f"lims_capture_{uuid.uuid4().hex[:12]}"
    with contextlib.contextmanager(_server)(*SERVERS[kind]) as server, tempfile.TemporaryDirectory() as folder:
        admin = f"{server}/{'postgres' if kind == 'postgresql' else 'mysql'}"
        execute(admin, f"CREATE DATABASE {name}")
        try:
            given = [kind, f"{server}/{name}", folder, str(changes), str(days), str(seed)]
            command = [sys.executable, str(Path(__file__).resolve()), "--trial", *given]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": _root()})
            if done.returncode != 0:
                raise RuntimeError(f"{kind}: {done.stderr[-4000:]}")
            told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return told
        finally:
            execute(admin, f"DROP DATABASE {name}{' WITH (FORCE)' if kind == 'postgresql' else ''}")


def _root() -> str:
    return os.pathsep.join(filter(None, [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")]))


def main() -> int:
    """Both servers; a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=1_000)
    parser.add_argument("--days", type=int, default=35)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--json", type=Path, help="everything that was counted")
    parser.add_argument("--trial", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.trial:
        kind, uri, folder, *numbers = given.trial
        print(json.dumps(trial(kind, uri, Path(folder), *map(int, numbers))))
        return 0
    told = [on_server(kind, given.changes, given.days, given.seed) for kind in given.servers]
    print("\n".join(map(line, told)))
    if given.json:
        given.json.write_text(json.dumps(told, indent=1))
    return int(not all(map(is_right, told)))


if __name__ == "__main__":
    sys.exit(main())
