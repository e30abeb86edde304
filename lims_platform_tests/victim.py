"""A run that kills itself: ``python -m lims_platform_tests.victim MOMENT N TRACE -- dagster arguments``.

The platform's own code and Dagster's own command, with SIGKILL sent at the N-th commit to the lake: ``during`` it (a thread
shoots once the commit's first file is there), ``before`` the log is told (its files are there, no version names them), or
``after`` it (before Dagster has written any event of it); or ``events``: half way through the N-th batch of events.
``never``: not at all. What the shot met goes to TRACE, line by line as it happens, so that the state left on disk can be
held against it (``kills``); of a run that went to its end, the number of its commits. Only tests and benchmarks start it.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

#: The longest time after a commit's first file at which it is shot, as a rule much sooner: a small commit is a few
#: milliseconds.
DURING_SECONDS = 0.01
#: A commit that writes no file, a delete, is shot all the same.
NO_FILE_SECONDS = 5.0


def die() -> None:
    """As the kernel kills: nothing is flushed, nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def data_files(table: Path) -> set[str]:
    """Parquet files of a table's folder, whether the log names them or not."""
    return {str(path.relative_to(table)) for path in table.rglob("*.parquet")}


def write_down(trace: Path, **told: Any) -> None:
    """One line that survives the kill."""
    with trace.open("a") as file:
        file.write(json.dumps(told) + "\n")


def deadly(
    original: Callable[..., Any], folder: Callable[..., Path], moment: str, fatal: int, counted: list[int], trace: Path
) -> Callable[..., Any]:
    """``original``, fatal at its call number ``fatal`` over all functions that share ``counted``.

    ``folder`` gives the table's folder for the arguments of the call.
    """

    def shoot(table: Path, before: set[str]) -> None:
        latest = time.monotonic() + NO_FILE_SECONDS
        while data_files(table) == before and time.monotonic() < latest:
            time.sleep(0.0005)
        time.sleep(DURING_SECONDS * random.random() ** 4)
        die()

    def call(*args: Any, **kwargs: Any) -> Any:
        counted[0] += 1
        if counted[0] != fatal:
            return original(*args, **kwargs)
        table = folder(*args)
        written = {file.name for file in args[2]} if moment == "before" else set()  # those of this very commit
        before = data_files(table) - written
        version = DeltaTable(str(table)).version() if DeltaTable.is_deltatable(str(table)) else -1
        write_down(trace, at="entered", table=str(table), files=sorted(before), version=version, time=time.time())
        if moment == "before":
            die()
        if moment == "during":
            threading.Thread(target=shoot, args=(table, before)).start()
        original(*args, **kwargs)
        write_down(trace, at="returned", table=str(table))
        die()

    return call


def half_a_batch(original: Callable[..., Any], fatal: int) -> Callable[..., Any]:
    """An event batch that dies between its two databases."""
    counted = [0]

    def index_transaction(self: Any) -> Any:
        counted[0] += 1
        if counted[0] == fatal:
            die()
        return original(self)

    return index_transaction


def main(arguments: list[str]) -> None:
    """Arm the moment, then run dagster's command line."""
    from dagster._cli import create_dagster_cli

    from lims_platform.automation.event_log import BatchedSqliteEventLogStorage as Storage
    from lims_platform.lakehouse import lake, snapshot

    moment, fatal, trace, command = arguments[0], int(arguments[1]), Path(arguments[2]), arguments[4:]
    fatal = 0 if moment == "never" else fatal
    if moment == "events":
        Storage.index_transaction = half_a_batch(Storage.index_transaction, fatal)  # type: ignore[method-assign]
    else:
        counted = [0]
        atexit.register(lambda: write_down(trace, commits=counted[0]))
        armed = moment, fatal, counted, trace
        if moment == "before":
            commit = deadly(lake.commit_files, lambda folder, *_: folder, *armed)
            lake.commit_files = snapshot.commit_files = commit  # type: ignore[attr-defined]
        else:
            one, many = lake.Lake, snapshot.Snapshot
            replace = deadly(one.replace, lambda it, table, *_: it.path(table), *armed)
            append = deadly(many.append, lambda it, *_: Path(it._delta.table_uri), *armed)
            one.replace, many.append = replace, append  # type: ignore[method-assign]
    create_dagster_cli()(args=command)


if __name__ == "__main__":
    main(sys.argv[1:])
