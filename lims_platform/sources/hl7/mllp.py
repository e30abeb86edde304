"""The MLLP listener: takes HL7 v2 messages over TCP and acknowledges each only after it is safe on disk.

Here: framing (HL7 Minimal Lower Layer Protocol, release 1), limits, group commit. Not here: the spool's format
(``spool``), what a message says (``results``), what an acknowledgement says (``acknowledge``), certificates (``tls``).
Messages that arrive while one fsync runs share the next one.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lims_platform.sources.hl7.acknowledge import acknowledgement, header_only
from lims_platform.sources.hl7.message import Hl7Error, Message, parse
from lims_platform.sources.hl7.results import result_rows

START, END = b"\x0b", b"\x1c\r"
#: Bytes waiting for the disk above which all connections are read no further.
_BACKLOG = 64 * 1024 * 1024
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MllpLimits:
    """What one peer may do: bytes of a message, seconds for a whole message, seconds of silence, connections at once."""

    message_bytes: int = 16 * 1024 * 1024
    message_seconds: float = 30.0
    idle_seconds: float = 3600.0
    connections: int = 200


class _Waiting:
    """An answer in its turn: a message to be stored (``data``), or a refusal that only waits for its place."""

    __slots__ = ("connection", "data", "last", "message", "refusal")

    def __init__(
        self,
        connection: _Connection,
        data: bytes | None,
        message: Message | None,
        refusal: Hl7Error | None,
        last: bool = False,
    ) -> None:
        self.connection, self.data, self.message, self.refusal, self.last = connection, data, message, refusal, last


class Listener:
    """Counts and answers; ``store`` writes a group of messages and returns when they are safe, or raises OSError."""

    def __init__(self, store: Callable[[Sequence[bytes]], None], limits: MllpLimits, charset: str = "utf-8") -> None:
        self._store, self.limits, self._charset = store, limits, charset
        self.connections: set[_Connection] = set()
        self._waiting: list[_Waiting] = []
        self._backlog = 0
        self._busy = self.stopping = False
        self._wake = asyncio.Event()
        self._numbers = itertools.count(1)
        self.accepted = self.refused = 0

    def offer(self, connection: _Connection, data: bytes) -> None:
        """A whole frame: judged now, answered after the next commit."""
        message: Message | None = None
        try:
            message = parse(data, self._charset)
            result_rows(message)
            self._queue(_Waiting(connection, data, message, None))
        except Hl7Error as error:
            self._queue(_Waiting(connection, None, message or header_only(data), error))

    def refuse(self, connection: _Connection, data: bytes, error: Hl7Error) -> None:
        """Answer a frame that will not be read to its end, then close."""
        self._queue(_Waiting(connection, None, header_only(data), error, last=True))

    def _queue(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._backlog += len(waiting.data or b"")
        if self._backlog > _BACKLOG:
            for connection in self.connections:
                connection.hold(True)
        self._wake.set()

    async def commit_forever(self) -> None:
        """Store what waits, answer it, again and again; ends only by cancellation, after the last group."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting, self._backlog = self._waiting, [], 0
            self._busy = bool(group)
            messages = [w.data for w in group if w.data is not None]
            failed: OSError | None = None
            if messages:
                try:
                    await loop.run_in_executor(None, self._store, messages)
                except OSError as error:
                    failed = error
                    _log.error("messages cannot be stored: %s; the senders were told to try again", error.strerror)
            self._answer(group, failed)
            self._busy = False

    @property
    def busy(self) -> bool:
        """Whether a sender still waits for an answer."""
        return self._busy or bool(self._waiting)

    def _answer(self, group: list[_Waiting], failed: OSError | None) -> None:
        answers: dict[_Connection, list[bytes]] = {}
        for waiting in group:
            refusal = waiting.refusal
            if refusal is None and failed is not None:
                refusal = Hl7Error("the message could not be stored; send it again", "AE", "207")
            self.accepted, self.refused = self.accepted + (refusal is None), self.refused + (refusal is not None)
            if refusal is not None:
                _log.warning("refused (%s): %s", refusal.code, refusal)
            answer = START + acknowledgement(waiting.message, refusal, next(self._numbers)) + END
            answers.setdefault(waiting.connection, []).append(answer)
        closing = {waiting.connection for waiting in group if waiting.last}
        for connection, parts in answers.items():
            connection.answer(b"".join(parts), connection in closing)
        for connection in self.connections:
            connection.hold(self.stopping)

    async def watch_forever(self) -> None:
        """Close connections that keep a message open too long (a slow loris) or say nothing for too long."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.message_seconds / 4))
            now = time.monotonic()
            for connection in list(self.connections):
                connection.check(now)


class _Connection(asyncio.Protocol):
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._buffer = bytearray()
        self._searched = 0
        self._opened: float | None = None
        self._heard = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self._held = self._choked = self._clogged = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if len(self._listener.connections) >= self._listener.limits.connections:
            _log.warning("connection refused: %d are open", len(self._listener.connections))
            transport.abort()
            return
        self._listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.connections.discard(self)
        self._buffer.clear()

    def data_received(self, data: bytes) -> None:
        self._heard = time.monotonic()
        self._buffer += data
        while True:
            end = self._buffer.find(END, self._searched)
            if end < 0:
                break
            frame = bytes(self._buffer[:end])
            del self._buffer[: end + len(END)]
            self._searched, self._opened = 0, None
            start = frame.find(START)
            body = frame[start + 1 :]
            if len(body) > self._listener.limits.message_bytes:
                self._too_long(body)
                return
            self._listener.offer(self, body)
        self._searched = max(0, len(self._buffer) - 1)
        self._opened = None if not self._buffer else self._opened or self._heard
        if len(self._buffer) > self._listener.limits.message_bytes + 2:
            self._too_long(bytes(self._buffer[:4096]).lstrip(START))

    def _too_long(self, begin: bytes) -> None:
        limit = self._listener.limits.message_bytes
        self._listener.refuse(self, begin, Hl7Error(f"the message is longer than {limit:,} bytes", "AR", "207"))
        self._buffer.clear()
        self._searched, self._opened = 0, None
        self._choked = True  # the rest of the frame cannot be told from a new one: answer, then close
        if self._transport is not None:
            self._transport.pause_reading()

    def answer(self, data: bytes, last: bool) -> None:
        """Write acknowledgements and, after the last, close; nothing happens on a connection that is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if last:
                self._transport.close()

    def hold(self, held: bool) -> None:
        """Stop or go on reading."""
        self._held = held
        self._flow()

    def pause_writing(self) -> None:
        """The peer does not read its acknowledgements."""
        self._clogged = True
        self._flow()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._clogged = False
        self._flow()

    def _flow(self) -> None:
        if self._transport is None or self._transport.is_closing() or self._choked:
            return
        if self._held or self._clogged:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def check(self, now: float) -> None:
        """Close what lasts too long."""
        limits = self._listener.limits
        slow = self._opened is not None and now - self._opened > limits.message_seconds and not self._held
        if self._transport is not None and (slow or now - self._heard > limits.idle_seconds):
            _log.warning("connection closed: %s", "a message was not finished in time" if slow else "silent for too long")
            self._transport.abort()


async def serve(
    listener: Listener, host: str, port: int, ready: Callable[[str, int], None], tls: ssl.SSLContext | None = None
) -> None:
    """Listen until SIGTERM or SIGINT; then take no more, finish what waits, return.

    ``ready`` is told the address once connections are accepted (port 0 chooses one). With ``tls`` a peer that does not
    finish the handshake as fast as a message is cut off.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    patience = listener.limits.message_seconds if tls is not None else None
    server = await loop.create_server(
        lambda: _Connection(listener), host, port, ssl=tls, ssl_handshake_timeout=patience, ssl_shutdown_timeout=patience
    )
    tasks = [asyncio.create_task(listener.commit_forever()), asyncio.create_task(listener.watch_forever())]
    stopped = asyncio.create_task(stop.wait())
    address = server.sockets[0].getsockname()
    ready(str(address[0]), int(address[1]))
    # a committer that died would leave every sender waiting: then the process ends, loudly
    await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
    server.close()
    listener.stopping = True
    for connection in list(listener.connections):
        connection.hold(True)
    while listener.busy and not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    for task in (*tasks, stopped):
        if task.done() and not task.cancelled() and task.exception() is not None:
            raise RuntimeError("the listener's own task failed") from task.exception()
        task.cancel()
