"""Failures have a type: passing trouble is tried again with growing pauses, lasting trouble fails once, in plain words.

The platform's own errors say themselves which they are (``transient``) and what a person should do (``advice``).
Here: the types of other libraries' errors, how long to pause, what Dagster is told.
Not here: noticing trouble (``sources``, ``lakehouse``).
An error of neither type is a defect: it goes through unchanged, with its stack trace, and is not tried again.
"""

from __future__ import annotations

import errno
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg
from deltalake.exceptions import CommitFailedError

from lims_platform.settings import Settings, settings

#: Errors of the operating system that go away by themselves, or when somebody frees space.
_PASSING = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE),
    *(errno.ESTALE, errno.ENOLCK, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
    *(errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN),
}
#: Those that need a person.
_LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR}

#: How Rust libraries (delta-rs, polars) write an error of the operating system into their message.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_LOCKED = ("database is locked", "database table is locked", "server closed the connection", "connection refused")


def is_transient(error: BaseException) -> bool | None:
    """True where trying again can help, False where only a person can, None where the error is of neither type.

    The error's causes are asked in turn: a library may wrap an OSError.
    """
    seen: BaseException | None = error
    while seen is not None:
        verdict = _verdict(seen)
        if verdict is not None:
            return verdict
        seen = seen.__cause__
    return None


def _verdict(error: BaseException) -> bool | None:
    own = getattr(error, "transient", None)
    if isinstance(own, bool):
        return own
    if isinstance(error, CommitFailedError | ConnectionError | TimeoutError):
        return True
    text = str(error)
    numbered = _OS_ERROR.search(text)
    code = error.errno if isinstance(error, OSError) else None
    if code is None and numbered:
        code = int(numbered[1])
    if code in _PASSING:
        return True
    if code in _LASTING:
        return False
    if type(error).__name__ in ("OperationalError", "MlflowException") and any(w in text.lower() for w in _LOCKED):
        return True
    return None


def advice(error: BaseException) -> str:
    """What a person should do about a lasting error: its own ``advice``, else what holds for paths and permissions."""
    own = getattr(error, "advice", None)
    return own if isinstance(own, str) else "Look at the path or permission named above, then run again."


def pause_seconds(tried: int, given: Settings, chance: Callable[[], float] = random.random) -> float:
    """Seconds before the next try: doubling from the first pause up to the longest, between half and all of it by chance.

    The chance keeps many steps that failed together from coming back together ("equal jitter": Brooker, Exponential
    Backoff and Jitter, AWS Architecture Blog 2015).
    """
    longest = min(given.transient_wait_max_seconds, given.transient_wait_seconds * 2.0**tried)
    return longest * (0.5 + 0.5 * chance())


@contextmanager
def typed_failures(place: str, retry_number: int, log: Callable[[str], None]) -> Iterator[None]:
    """Turn errors inside into Dagster's: RetryRequested for passing trouble, a Failure that is not retried for lasting.

    Args:
        place: what was being done, e.g. "bronze/lab_results_raw"; begins the message.
        retry_number: how often the step was tried before.
        log: told about every pause.
    """
    try:
        yield
    except (dg.Failure, dg.RetryRequested):
        raise
    except Exception as error:
        verdict = is_transient(error)
        if verdict is None:
            raise
        words = f"{place}: {error}"
        given = settings()
        if verdict and retry_number < given.transient_retries:
            pause = pause_seconds(retry_number, given)
            log(f"{words} Passing trouble, tried again in {pause:.0f} s ({retry_number + 1} of {given.transient_retries}).")
            raise dg.RetryRequested(given.transient_retries, pause) from error
        metadata: dict[str, str | int] = {"kind": "transient" if verdict else "permanent", "tries": retry_number + 1}
        if verdict:
            metadata["advice"] = "The trouble did not pass. The next scheduled run reads the days again."
        else:
            metadata["advice"] = advice(error)
        raise dg.Failure(f"{words} {metadata['advice']}", metadata=metadata, allow_retries=False) from error
