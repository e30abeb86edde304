"""Receivers of alerts for the tests: a real SMTP server and a real HTTP server on this machine.

Here: servers that keep what arrives. Not here: tests.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from lims_platform_tests.servers import free_port


class MailBox:
    """Handler of aiosmtpd: keeps messages; ``answer`` gives the reply to DATA."""

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self.answer: Callable[[], str] = lambda: "250 accepted"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        reply = self.answer()
        if reply.startswith("250"):
            self.messages.append(message_from_bytes(content, policy=policy.default))  # type: ignore[arg-type]
        return reply


def mail_text(message: EmailMessage) -> str:
    """The plain text of a message."""
    body = message.get_body(("plain",))
    assert body is not None
    return body.get_content().replace("\r\n", "\n")


@contextmanager
def smtp_server() -> Iterator[tuple[MailBox, int]]:
    """A mailbox and its port."""
    box = MailBox()
    port = free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        yield box, port
    finally:
        controller.stop()


class Hook:
    """What an HTTP receiver got: (path, headers, JSON body), and the statuses it answers with, the last for ever."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.statuses = [200]


@contextmanager
def http_server() -> Iterator[tuple[Hook, int]]:
    """An HTTP receiver and its port."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.requests.append((self.path, dict(self.headers), json.loads(body)))
            status = hook.statuses.pop(0) if len(hook.statuses) > 1 else hook.statuses[0]
            answer = b"ok"
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Nothing on the console."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hook, server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
