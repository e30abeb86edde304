"""HL7 v2 messages for tests, and a client that speaks MLLP. No real person is in them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Sequence

START, END = b"\x0b", b"\x1c\r"


def oru(
    control: str,
    results: Sequence[str] = ("OBX|1|NM|GLU^Glucose^L||95|mg/dL|||||F||||||||20240401100000",),
    *,
    made: str = "20240401101500+0200",
    order: str = "F100",
    patient: str = "P0000001",
    head: str = "",
    more: Iterable[str] = (),
) -> bytes:
    """An ORU^R01; ``results`` are OBX segments, ``more`` segments after them, ``head`` is appended to MSH."""
    lines = [
        f"MSH|^~\\&|ANALYSER|LAB|LIMS|HOSPITAL|{made}||ORU^R01^ORU_R01|{control}|P|2.5.1{head}",
        f"PID|1||{patient}^^^HOSP^MR||DOE^JANE||19700115|F",
        f"ORC|RE|PL{order}|{order}^LIS",
        f"OBR|1|PL{order}|{order}^LIS|PANEL^Panel^L|||20240401083000|||||||||||||||20240401100500|||F",
        *results,
        *more,
    ]
    return "\r".join(lines).encode() + b"\r"


class MllpClient:
    """One connection; ``send`` waits for the acknowledgement of each message."""

    def __init__(self, port: int, timeout: float = 20.0, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self._buffer = b""

    def post(self, message: bytes) -> None:
        """Send without waiting."""
        self.socket.sendall(START + message + END)

    def answer(self) -> bytes:
        """The next acknowledgement; ConnectionError when the peer is gone."""
        while END not in self._buffer:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("closed")
            self._buffer += more
        frame, self._buffer = self._buffer.split(END, 1)
        return frame.removeprefix(START)

    def send(self, message: bytes) -> bytes:
        """Send one and wait."""
        self.post(message)
        return self.answer()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
