"""A process that claims a pool's slot and is killed, for any event log storage. Not here: what else a storage must do."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def _claim_and_wait(build: Callable[..., Any], arguments: tuple[str, ...], ready: Connection) -> None:
    storage = build(*arguments)
    ready.send(storage.claim_concurrency_slot("lake/a", "first", "step").is_claimed)
    signal.pause()


def assert_only_a_killed_holder_frees_its_slot(storage: Any, build: Callable[..., Any], *arguments: str) -> None:
    """``storage`` is fresh; ``build`` and ``arguments`` open the same one in another process."""
    storage.set_concurrency_slots("lake/a", 1)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    holder = context.Process(target=_claim_and_wait, args=(build, arguments, there))
    holder.start()
    assert here.recv() is True
    assert not storage.claim_concurrency_slot("lake/a", "second", "step").is_claimed
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert storage.claim_concurrency_slot("lake/a", "second", "step").is_claimed
    assert not storage.claim_concurrency_slot("lake/a", "third", "step").is_claimed, "this process lives"
