"""kill -9, again and again: a laboratory whose runs are shot, and what is left when a run at last goes through.

Here: the series the system test and ``benchmarks/kill_nine.py`` share. Not here: how a run dies (``victim``).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from deltalake import DeltaTable

from lims_platform_tests.laboratories import ROOT, Laboratory
from lims_platform_tests.victim import data_files
from lims_platform_tests.witness import look

#: Tables that record that a run happened: a run more is a row more.
RUN_RECORDS = ("gold/model_ledger", "models/model_ledger")


@dataclass(frozen=True)
class Shot:
    """One kill: at the N-th write (``during`` it, ``before`` its commit, ``after`` it) or event batch (``events``), or after
    N/10 seconds (``clock``)."""

    moment: str
    number: int


def shots(count: int, seed: int, commits: int, seconds: float) -> list[Shot]:
    """Moments in turn: during a write, between its files and its commit, between commit and event, in the middle of an event
    batch, anywhere by the clock."""
    rng = random.Random(seed)
    made = []
    for i in range(count):
        moment = ("during", "before", "after", "clock", "events")[i % 5]
        if moment == "clock":
            made.append(Shot(moment, rng.randrange(1, int(seconds * 10))))
        else:
            made.append(Shot(moment, rng.randrange(1, commits + 1) if moment != "events" else rng.randrange(1, 8)))
    return made


IN_COMMIT = "in a commit: files written, log not"
LOGGED = "in a commit: log written, call not returned"
BETWEEN = "between commit and event: version there, no event of it"
NO_FILE = "in a commit: before its first file"
BATCH = "between the two databases of an event batch"
CLOCK = "at a moment by the clock"
MISSED = "not at all: the run ended before its moment"


def death(lab: Laboratory, shot: Shot, killed: bool, trace: Path) -> str:
    """Where the shot met the run, by what it left on disk: versions, files no version names, Dagster's events.

    AssertionError where the trace and the disk disagree.
    """
    if not killed:
        return MISSED
    if shot.moment in ("clock", "events"):
        return {"clock": CLOCK, "events": BATCH}[shot.moment]
    entered, *rest = [json.loads(line) for line in trace.read_text().splitlines()]
    table, returned = Path(entered["table"]), bool(rest)
    version = DeltaTable(str(table)).version() if DeltaTable.is_deltatable(str(table)) else -1
    # creating an absent table is a version of its own, without a file
    news = data_files(table) - set(entered["files"])
    landed = [add for add in logged_files(table) if add in news]
    if returned:
        assert version > entered["version"], f"{table} returned from a commit that is not there"
        events = materialisations(lab, table, entered["time"])
        assert events == 0, f"{table}: {events} events of a commit after which nothing ran"
        return BETWEEN
    if landed:
        return LOGGED
    return IN_COMMIT if news else NO_FILE


def logged_files(table: Path) -> set[str]:
    """Data files any version of the table's log adds."""
    lines = [line for log in table.glob("_delta_log/*.json") for line in log.read_text().splitlines()]
    return {unquote(entry["add"]["path"]) for line in lines if "add" in (entry := json.loads(line))}


def materialisations(lab: Laboratory, table: Path, since: float) -> int:
    """Dagster's materialisation events of the table's asset after ``since`` (epoch seconds)."""
    index = next((lab.data / "dagster").rglob("index.db"))
    key, moment = json.dumps([table.parent.name, table.name]), datetime.fromtimestamp(since, UTC).replace(tzinfo=None)
    with sqlite3.connect(index) as connection:
        statement = (
            "SELECT count(*) FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION' AND asset_key = ?"
            " AND timestamp > ?"
        )
        return int(connection.execute(statement, (key, moment.isoformat(" "))).fetchone()[0])


def run_job(lab: Laboratory, job: str, shot: Shot | None, trace: Path = Path(os.devnull)) -> int:
    """Execute the job over every day, shot or to its end; returns the exit code (-9 where the shot hit)."""
    command = ["job", "execute", "-m", "lims_platform.definitions", "-j", job, "--tags", lab.range_tags()]
    armed = shot is not None and shot.moment != "clock"
    words = [shot.moment, str(shot.number)] if shot is not None and armed else ["never", "0"]
    process = lab.start(*words, str(trace), "--", *command, module="lims_platform_tests.victim")
    try:
        process.communicate(timeout=shot.number / 10 if shot is not None and not armed else 600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return process.returncode


@dataclass
class Report:
    """``shots``: each with where it met the run, as the disk shows (``death``). ``finished``: exit codes of the runs that
    went to their end. ``differing``: tables unlike the undisturbed run's, of ``tables``. ``reads``: tables and views that
    were read; ``unreadable``: what could not be.
    """

    tables: int
    shots: list[tuple[Shot, str]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    reads: int = 0
    unreadable: list[str] = field(default_factory=list)


def kill_series(
    folder: Path,
    job: str,
    count: int,
    per_series: int,
    seed: int,
    tell: Callable[[str], None],
    parallel: int = 1,
    **size: int,
) -> Report:
    """Run ``job`` once undisturbed; then shoot it ``count`` times in copies of the same laboratory, and compare.

    After every ``per_series`` shots, each on what the last one left, a run goes to its end and must have made the tables of
    the undisturbed run; then the next copy starts from an empty lake. A reader looks on all the time, and every table is
    read right after every kill. ``parallel`` series run at once. ``tell`` hears of every series that is done.
    """
    since = datetime.now(UTC)
    origin = Laboratory(folder / "origin" / "data", **size)
    origin.build()
    undisturbed, trace = origin.copy(folder / "undisturbed" / "data"), folder / "trace"
    started = time.monotonic()
    assert run_job(undisturbed, job, None, trace) == 0
    seconds = time.monotonic() - started
    expected = {t: d for t, d in undisturbed.digests(since).items() if t not in RUN_RECORDS}
    commits = int(json.loads(trace.read_text())["commits"])
    planned = shots(count, seed, commits, seconds)
    tell(f"undisturbed: {seconds:.0f} s, {commits} commits, {len(expected)} tables")

    def series(low: int) -> Report:
        lab, report = origin.copy(folder / f"series-{low}" / "data"), Report(len(expected))
        with witness(lab, report):
            for shot in planned[low : low + per_series]:
                report.shots.append(fire(lab, job, shot))
                read_all(lab, report)
            report.finished.append(run_job(lab, job, None))
        found = lab.digests(since)
        report.differing += [
            f"{table} after shot {low + len(report.shots)}" for table, d in expected.items() if found.get(table) != d
        ]
        shutil.rmtree(lab.data.parent)
        tell(f"shots from {low + 1}: tables that differ {report.differing}, reads that failed {len(report.unreadable)}")
        return report

    whole = Report(len(expected))
    with ThreadPoolExecutor(parallel) as pool:
        for part in pool.map(series, range(0, count, per_series)):
            whole.shots += part.shots
            whole.finished += part.finished
            whole.differing += part.differing
            whole.unreadable += part.unreadable
            whole.reads += part.reads
    return whole


def fire(lab: Laboratory, job: str, shot: Shot) -> tuple[Shot, str]:
    """Shoot a run; where it ended before its moment, since an earlier one had done part of its work, the next one sooner."""
    while True:
        trace = lab.data.parent / "trace"
        trace.unlink(missing_ok=True)
        code = run_job(lab, job, shot, trace)
        assert code in (0, -signal.SIGKILL), f"{shot}: the run ended by itself with exit code {code}"
        killed = code == -signal.SIGKILL
        if killed or shot.number == 1:
            return shot, death(lab, shot, killed, trace)
        shot = replace(shot, number=shot.number // 2)


def read_all(lab: Laboratory, report: Report) -> None:
    """Read every table and view as a kill left them."""
    try:
        report.reads += look(lab.data)
    except Exception as error:
        report.unreadable.append(f"after a kill: {type(error).__name__}: {error}")


@contextmanager
def witness(lab: Laboratory, report: Report) -> Iterator[None]:
    """A reader of the laboratory's lake in a process of its own, from now to the end of the block."""
    command = [sys.executable, "-m", "lims_platform_tests.witness", str(lab.data)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        process.terminate()
        *unreadable, last = process.communicate()[0].splitlines() or ["reads 0 failures 1"]
        report.unreadable += unreadable
        report.reads += int(last.split()[1])
