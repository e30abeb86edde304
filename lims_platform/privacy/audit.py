"""The audit trail: who did what to protected data, when and why, each line chained to the one before by its hash.

Here: appending, reading and verifying. Not here: what is audited. A line never holds a raw identifier.

An edited, removed or inserted line breaks the chain at that line. Lines cut off at the end leave no trace in the chain: note
``head`` somewhere else (every audited command prints it) and compare.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

#: What the first line is chained to.
GENESIS = "0" * 64


@dataclass(frozen=True)
class Verdict:
    """``entries`` lines are sound, ``head`` is the hash of the last; ``problem`` names the first unsound line, if any."""

    entries: int
    head: str
    problem: str | None


class AuditError(RuntimeError):
    """The trail cannot be continued; the message names file and line."""


def entry_hash(entry: dict[str, object]) -> str:
    """SHA-256 of an entry's canonical JSON, its own hash left out, that of the entry before included."""
    body = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


class AuditTrail:
    """One append-only JSON-lines file, mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, action: str, subject: str, reason: str, outcome: str, actor: str | None = None) -> str:
        """Add one entry, durable before this returns; returns its hash. Writers of several processes wait for each other.

        Raises AuditError where the trail is broken: nothing is chained to a forged line.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self._drop_torn_line(file)
            verdict = self._check(file)
            if verdict.problem is not None:
                raise AuditError(f"{self.path}: {verdict.problem}; nothing is appended to a broken trail")
            entry: dict[str, object] = {
                "sequence": verdict.entries + 1,
                "at": datetime.now(UTC).isoformat(),
                "actor": actor or getpass.getuser(),
                "action": action,
                "subject": subject,
                "reason": reason,
                "outcome": outcome,
                "previous": verdict.head,
            }
            entry["hash"] = entry_hash(entry)
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        return str(entry["hash"])

    def verify(self) -> Verdict:
        """Recompute the chain from its first line; an absent file is an empty trail."""
        if not self.path.exists():
            return Verdict(0, GENESIS, None)
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return self._check(file)

    def entries(self, action: str) -> list[dict[str, object]]:
        """Entries of one action, oldest first. Raises AuditError where the trail is broken: it proves nothing then."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            verdict = self._check(file)
            if verdict.problem is not None:
                raise AuditError(f"{self.path}: {verdict.problem}")
            file.seek(0)
            return [entry for line in file if (entry := json.loads(line))["action"] == action]

    @staticmethod
    def _drop_torn_line(file: IO[bytes]) -> None:
        """A line without its end was never acknowledged to anybody: the process died while writing it."""
        file.seek(0)
        data = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)

    @staticmethod
    def _check(file: IO[bytes]) -> Verdict:
        file.seek(0)
        head, count = GENESIS, 0
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
                sound = entry["hash"] == entry_hash(entry)
            except (ValueError, KeyError, TypeError):
                return Verdict(count, head, f"line {number} is no entry")
            if not sound:
                return Verdict(count, head, f"line {number} was changed: its hash is not that of its content")
            if entry["previous"] != head or entry["sequence"] != number:
                return Verdict(count, head, f"line {number} does not follow the line before: lines are missing or inserted")
            head, count = str(entry["hash"]), number
        return Verdict(count, head, None)
