"""The spool: messages safe on disk before they are acknowledged, sealed because they name patients.

Here: segments of sealed records, written in groups with one fsync, read back past a torn end. Not here: the cipher
(``privacy.sealing`` is handed in), what a message says (``results``).

A segment is a header line (JSON: key id, salt) and records of a 4-byte length and ciphertext. A process never appends
to another one's segment, so the bytes after the last whole record were never acknowledged.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from lims_platform.contracts.extract import SourceError

SUFFIX = ".spool"
#: A record longer than this is a torn or damaged length.
_LONGEST = 1 << 30
_LENGTH = struct.Struct(">I")
_RECEIVED = struct.Struct(">q")


class Box(Protocol):
    """Seals numbered records of one segment."""

    def seal(self, number: int, data: bytes) -> bytes:
        """Ciphertext of record ``number``."""

    def open(self, number: int, sealed: bytes) -> bytes | None:
        """The record, None where it is not what was sealed."""


class Sealer(Protocol):
    """Makes the box of a segment."""

    @property
    def key_id(self) -> str:
        """Which key seals a new segment."""

    def box(self, salt: bytes, key_id: str) -> Box | None:
        """The box of the segment with this salt, sealed under that key; None where the key is not known."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """One record: when it was received (UTC) and the message; ``data`` is None where the record cannot be opened."""

    number: int
    received: datetime | None
    data: bytes | None


class SpoolWriter:
    """Appends groups of messages; ``store`` returns when they are on disk. One writer per process; not thread-safe."""

    def __init__(self, folder: Path, sealer: Sealer, segment_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for parent in folder.parents[:2]:
            _sync_folder(parent)
        self._folder, self._sealer, self._segment_bytes = folder, sealer, segment_bytes
        self._file: io.FileIO | None = None
        self._box: Box | None = None
        self._number = self._size = 0

    def store(self, messages: Sequence[bytes]) -> None:
        """Write and fsync all of ``messages``; raises OSError with nothing of them promised."""
        try:
            if self._file is None or self._size >= self._segment_bytes:
                self._begin()
            assert self._file is not None and self._box is not None
            stamp = _RECEIVED.pack(time.time_ns() // 1000)
            parts: list[bytes] = []
            for message in messages:
                sealed = self._box.seal(self._number, stamp + message)
                parts += (_LENGTH.pack(len(sealed)), sealed)
                self._number += 1
            self._write(b"".join(parts))
            os.fsync(self._file.fileno())
        except OSError:
            self.close()  # what follows a failed write is a torn end: never append to it
            raise

    def _begin(self) -> None:
        self.close()
        salt = secrets.token_bytes(32)
        name = f"{time.time_ns():020d}-{salt[:4].hex()}{SUFFIX}"
        handle = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = io.FileIO(handle, "wb")
        self._box, self._number = self._sealer.box(salt, self._sealer.key_id), 0
        header = json.dumps({"lims_spool": 1, "key": self._sealer.key_id, "salt": salt.hex()}).encode() + b"\n"
        self._size = 0
        self._write(header)
        _sync_folder(self._folder)

    def _write(self, data: bytes) -> None:
        """All of ``data``: an unbuffered write may take a part of it only."""
        assert self._file is not None
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._size += len(data)

    def close(self) -> None:
        """End the segment; the next ``store`` begins another."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _sync_folder(folder: Path) -> None:
    """A name that is not on disk is no file after a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_segment(path: Path, sealer: Sealer) -> Iterator[Spooled]:
    """The records of a segment in the order received; stops at a torn end, which was never acknowledged.

    Raises:
        SourceError: not a spool segment, or sealed with a key that is not at hand.
    """
    data = path.read_bytes()
    end = data.find(b"\n")
    if end < 0:
        return  # the process died before its header was whole: nothing was acknowledged
    try:
        header = json.loads(data[:end])
        salt, key = bytes.fromhex(header["salt"]), str(header["key"])
    except (ValueError, KeyError, TypeError):
        raise SourceError(f"spool segment {path.name}: its header is damaged") from None
    box, at, number = sealer.box(salt, key), end + 1, 0
    if box is None:
        raise SourceError(f"spool segment {path.name}: sealed with key {key}, which the key file does not hold")
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length == 0 or length > _LONGEST or at + length > len(data):
            return
        plain = box.open(number, data[at : at + length])
        at += length
        if plain is None:
            yield Spooled(number, None, None)
        else:
            (received,) = _RECEIVED.unpack_from(plain)
            yield Spooled(number, datetime.fromtimestamp(received / 1e6, UTC), plain[_RECEIVED.size :])
        number += 1
