"""kill -9, again and again: a laboratory whose runs are shot, and what is left when a run at last goes through.

Here: the series the system test and ``benchmarks/kill_nine.py`` share. Not here: how a run dies (``victim``).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lims_platform_tests.laboratories import ROOT, Laboratory

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


def run_job(lab: Laboratory, job: str, shot: Shot | None) -> int:
    """Execute the job over every day, shot or to its end; returns the exit code (-9 where the shot hit)."""
    command = ["job", "execute", "-m", "lims_platform.definitions", "-j", job, "--tags", lab.range_tags()]
    armed = shot is not None and shot.moment != "clock"
    words = [shot.moment, str(shot.number)] if shot is not None and armed else ["never", "0"]
    process = lab.start(*words, "--", *command, module="lims_platform_tests.victim")
    try:
        process.communicate(timeout=shot.number / 10 if shot is not None and not armed else 600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return process.returncode


@dataclass
class Report:
    """``shots``: each with whether it killed. ``finished``: exit codes of the runs that went to their end. ``differing``:
    tables unlike the undisturbed run's, of ``tables``. ``reads``: tables and views the reader read; ``unreadable``: what it
    could not."""

    tables: int
    shots: list[tuple[Shot, bool]] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    reads: int = 0
    unreadable: list[str] = field(default_factory=list)


def kill_series(
    folder: Path, job: str, count: int, per_series: int, seed: int, tell: Callable[[str], None], **size: int
) -> Report:
    """Run ``job`` once undisturbed; then shoot it ``count`` times in copies of the same laboratory, and compare.

    After every ``per_series`` shots, each on what the last one left, a run goes to its end and must have made the tables of
    the undisturbed run; then the next copy starts from an empty lake. A reader looks on all the time. ``tell`` hears of
    every series that is done.
    """
    since = datetime.now(UTC)
    origin = Laboratory(folder / "origin" / "data", **size)
    origin.build()
    undisturbed = origin.copy(folder / "undisturbed" / "data")
    started = time.monotonic()
    assert run_job(undisturbed, job, None) == 0
    seconds = time.monotonic() - started
    expected = {t: d for t, d in undisturbed.digests(since).items() if t not in RUN_RECORDS}
    commits = sum(int(undisturbed.delta(t).version()) for t in undisturbed.tables())
    planned = shots(count, seed, commits, seconds)
    report = Report(tables=len(expected))
    for low in range(0, count, per_series):
        lab = origin.copy(folder / f"series-{low}" / "data")
        with witness(lab, report):
            for shot in planned[low : low + per_series]:
                report.shots.append((shot, run_job(lab, job, shot) == -signal.SIGKILL))
            report.finished.append(run_job(lab, job, None))
        found = lab.digests(since)
        report.differing += [
            f"{table} after shot {low + per_series}" for table, d in expected.items() if found.get(table) != d
        ]
        shutil.rmtree(lab.data.parent)
        done = min(low + per_series, count)
        tell(f"{done} shots, tables that differ: {report.differing}, reads that failed: {len(report.unreadable)}")
    return report


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
