"""A run that kills itself: ``python -m lims_platform_tests.victim MOMENT N -- dagster arguments``.

The platform's own code and Dagster's own command, with SIGKILL sent at the N-th write to the lake: ``during`` it (a thread
shoots while it runs), ``before`` its commit (its files are there and no version names them), or ``after`` it (before Dagster
has written any event of it); or ``events``: half way through the N-th batch of events. Only tests and benchmarks start it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

#: The longest time into a commit at which it is shot; a commit of a small table takes about this long.
DURING_SECONDS = 0.03


def die() -> None:
    """As the kernel kills: nothing is flushed, nothing cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(original: Callable[..., Any], moment: str, fatal: int, counted: list[int]) -> Callable[..., Any]:
    """``original``, fatal at its call number ``fatal`` over all functions that share ``counted``."""

    def shoot() -> None:
        time.sleep(random.uniform(0.0, DURING_SECONDS))
        die()

    def call(*args: Any, **kwargs: Any) -> Any:
        counted[0] += 1
        is_it = counted[0] == fatal
        if is_it and moment == "before":
            die()
        if is_it and moment == "during":
            threading.Thread(target=shoot).start()
        result = original(*args, **kwargs)
        if is_it:
            if moment == "during":
                time.sleep(2 * DURING_SECONDS)
            die()
        return result

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

    moment, fatal, command = arguments[0], int(arguments[1]), arguments[arguments.index("--") + 1 :]
    if moment == "events":
        Storage.index_transaction = half_a_batch(Storage.index_transaction, fatal)  # type: ignore[method-assign]
    elif moment == "before":
        lake.commit_files = snapshot.commit_files = deadly(lake.commit_files, moment, fatal, [0])  # type: ignore[attr-defined]
    elif moment != "never":
        counted = [0]
        lake.Lake.replace = deadly(lake.Lake.replace, moment, fatal, counted)  # type: ignore[method-assign]
        snapshot.Snapshot.append = deadly(snapshot.Snapshot.append, moment, fatal, counted)  # type: ignore[method-assign]
    create_dagster_cli()(args=command)


if __name__ == "__main__":
    main(sys.argv[1:])
