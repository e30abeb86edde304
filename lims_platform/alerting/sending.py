"""One message to one target through Apprise, or one word on the incident it opened, tried again where that can help.

Here: transient against permanent failure, back-off, words for a failure without addresses. Not here: what was sent
before (``delivery``). Apprise says only yes or no; the reason is in what it logs, which is caught here and goes no
further: at debug level its records hold addresses.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from lims_platform.alerting.messages import Message
from lims_platform.alerting.targets import Target

LOG = logging.getLogger(__name__)
#: Tries of one message at one sitting, and the wait before the second; it doubles each time.
ATTEMPTS = 4
FIRST_WAIT_SECONDS = 1.0
#: No answer within this: tried again.
ANSWER_SECONDS = 10.0
#: HTTP answers that a later try may change.
TRANSIENT_HTTP = (408, 425, 429)
#: Loggers whose debug records hold addresses, tokens in paths among them.
_TALKATIVE = ("apprise", "urllib3")
_KINDS = {"CRITICAL": "failure", "HIGH": "warning", "MEDIUM": "warning", "LOW": "info"}


class SendError(Exception):
    """A message was not accepted. ``transient``: trying again can help. The text holds no address."""

    def __init__(self, reason: str, transient: bool) -> None:
        super().__init__(reason)
        self.reason, self.transient = reason, transient


Sender = Callable[[Target, Message], None]


def send(target: Target, message: Message) -> None:
    """Hand a message to Apprise (or to the log) once; SendError unless the receiver accepted it."""
    if target.address is None:
        LOG.warning("%s\n%s", message.title, message.body)
        return
    from apprise import Apprise, NotifyFormat, NotifyType

    with _records() as records:
        plugin = Apprise.instantiate(target.address.get_secret_value(), suppress_exceptions=True)
        if plugin is None:
            raise SendError("not an address Apprise understands", transient=False)
        _numbered(plugin, message.notification_id)
        kind = NotifyType(_KINDS[message.severity])
        accepted = plugin.notify(body=message.body, title=message.title, notify_type=kind, body_format=NotifyFormat.TEXT)
    if not accepted:
        raise failure([record.getMessage() for record in records])


def _numbered(plugin: object, notification_id: str) -> None:
    """Give the receiver the message's number, so that a repeat can be known: PagerDuty folds it into one incident."""
    if getattr(plugin, "dedup", notification_id) is None:
        plugin.dedup = notification_id  # type: ignore[attr-defined]
    headers = getattr(plugin, "headers", None)
    if isinstance(headers, dict):
        headers["X-LIMS-Notification"] = notification_id


def tell(target: Target, notification_id: str, action: str) -> None:
    """Acknowledge or resolve, once, the incident that message ``notification_id`` opened; SendError unless it was accepted.

    PagerDuty's Events API v2. Apprise's plugin reads the address, but knows no acknowledgement.
    """
    from apprise import Apprise
    from apprise.plugins.pagerduty import PAGERDUTY_API_LOOKUP, NotifyPagerDuty

    with _records():
        plugin = Apprise.instantiate(target.address.get_secret_value() if target.address else "", suppress_exceptions=True)
    if not isinstance(plugin, NotifyPagerDuty):
        raise SendError("not an address of PagerDuty", transient=False)
    event = {"routing_key": plugin.integration_key, "event_action": action, "dedup_key": notification_id}
    request = Request(PAGERDUTY_API_LOOKUP[plugin.region_name], json.dumps(event).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urlopen(request, timeout=ANSWER_SECONDS):
            pass
    except HTTPError as error:
        error.close()
        raise _http_failure(error.code) from None
    except URLError as error:
        raise failure([str(error.reason)]) from None
    except OSError as error:
        raise failure([str(error)]) from None


class _Kept(logging.Handler):
    """Keeps records in a list."""

    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.DEBUG)
        self._kept = records

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._kept.append(record)


@contextmanager
def _records() -> Iterator[list[logging.LogRecord]]:
    """What Apprise and the HTTP library log meanwhile, kept from every other handler."""
    records: list[logging.LogRecord] = []
    handler = _Kept(records)
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    try:
        yield records
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate


def _http_failure(code: int) -> SendError:
    return SendError(f"HTTP {code}", transient=code >= 500 or code in TRANSIENT_HTTP)


def failure(lines: list[str]) -> SendError:
    """What Apprise's log lines say of a refusal: an HTTP status, an SMTP code, or no answer at all.

    4xx of HTTP but TRANSIENT_HTTP, and 5xx of SMTP, are permanent (RFC 9110, RFC 5321); the rest may pass.
    """
    text = "\n".join(lines)
    http = re.search(r"error=(\d{3})\b", text)
    if http:
        return _http_failure(int(http[1]))
    smtp = re.search(r"\(([245]\d\d), b['\"]", text)
    if smtp:
        return SendError(f"SMTP {smtp[1]}", transient=smtp[1].startswith("4"))
    if "refused" in text.lower():
        return SendError("connection refused", transient=True)
    if "timed out" in text.lower():
        return SendError("no answer in time", transient=True)
    return SendError("not accepted", transient=True)


def send_with_retry(
    target: Target, message: Message, sender: Sender = send, sleep: Callable[[float], None] = time.sleep
) -> None:
    """``sender`` until it accepts; raises as ``_until_accepted`` does."""
    _until_accepted(lambda: sender(target, message), sleep)


def tell_with_retry(target: Target, notification_id: str, action: str, sleep: Callable[[float], None] = time.sleep) -> None:
    """``tell`` until it is accepted; raises as ``_until_accepted`` does."""
    _until_accepted(lambda: tell(target, notification_id, action), sleep)


def _until_accepted(attempt: Callable[[], None], sleep: Callable[[float], None]) -> None:
    """Waits double and carry jitter, so that many platforms do not knock in step.

    SendError of the last try: at once where it is permanent, after ATTEMPTS tries where it is transient.
    """
    for tried in range(1, ATTEMPTS + 1):
        try:
            attempt()
            return
        except SendError as error:
            if not error.transient or tried == ATTEMPTS:
                raise
            sleep(FIRST_WAIT_SECONDS * 2 ** (tried - 1) * random.uniform(0.5, 1.5))
