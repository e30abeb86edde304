"""Pool slots nobody would free: of a killed process, or free while a queued step was forgotten; either blocks for ever.

Here: telling a living holder from a dead one, where all processes that run steps share one machine. Not here: pools and
limits (dagster.yaml).

Every process that claims a slot holds a file lock for its run; the kernel drops the lock when the process dies, however it
dies. Whoever finds a pool full asks whether the holders still hold theirs.
"""

import contextlib
import fcntl
from pathlib import Path
from typing import IO, Any


class SlotsOfTheDead:
    """Mixin before an event log storage with ``_base_dir``: frees pool slots whose run's process is gone."""

    _base_dir: str
    _held: dict[str, IO[bytes]]

    def _mark(self, run_id: str) -> Path:
        return Path(self._base_dir) / "alive" / run_id

    def claim_concurrency_slot(self, concurrency_key: str, run_id: str, step_key: str, priority: int | None = None) -> Any:
        """Claim as usual; where that is refused, free what dead processes hold, call a forgotten step, and claim again."""
        self._hold(run_id)
        base: Any = super()
        status = base.claim_concurrency_slot(concurrency_key, run_id, step_key, priority)
        if status.is_claimed:
            return status
        this: Any = self
        info = this.get_concurrency_info(concurrency_key)
        others = (info.active_run_ids | info.assigned_run_ids | info.pending_run_ids) - {run_id}
        dead = [other for other in others if self._is_dead(other)]
        for other in dead:
            this.free_concurrency_slots_for_run(other)
        forgotten = not info.claimed_slots and not info.assigned_step_count
        if not dead and not forgotten:
            return status
        if forgotten:
            # Dagster queues a step as unassigned if the pool was full when it looked; a holder that freed its slot between
            # that look and the queueing assigned nobody, and nobody ever would
            this.assign_pending_steps([concurrency_key])
        return base.claim_concurrency_slot(concurrency_key, run_id, step_key, priority)

    def delete_events(self, run_id: str) -> None:
        """Forget a run, its mark with it."""
        base: Any = super()
        base.delete_events(run_id)
        self._mark(run_id).unlink(missing_ok=True)

    def _hold(self, run_id: str) -> None:
        held = self.__dict__.setdefault("_held", {})
        if run_id not in held:
            mark = self._mark(run_id)
            mark.parent.mkdir(parents=True, exist_ok=True)
            held[run_id] = mark.open("wb")
            with contextlib.suppress(BlockingIOError):  # another process of the same run holds it already
                fcntl.flock(held[run_id], fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_dead(self, run_id: str) -> bool:
        mark = self._mark(run_id)
        try:
            with mark.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mark.unlink(missing_ok=True)
                return True
        except FileNotFoundError:
            return True  # found dead before
        except BlockingIOError:
            return False
