"""Delivery: one message per rule and target, once; crashes, refusals and a second process in between."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from pydantic import SecretStr

from lims_platform.alerting.delivery import CLAIM, deliver
from lims_platform.alerting.lifecycle import acknowledge, transition
from lims_platform.alerting.messages import SPELLED_OUT, Message, compose
from lims_platform.alerting.rules import Rule
from lims_platform.alerting.sending import SendError, failure, send_with_retry
from lims_platform.alerting.store import read, update
from lims_platform.alerting.targets import Target, TargetsError, load_targets
from lims_platform.contracts.alerts import ALERT_DELIVERIES, ALERTS
from lims_platform.lakehouse.lake import Lake
from lims_platform_tests.alert_frames import NOW, RULES, found, rule

URL = "http://dagster.example:3000"
MAIL = {"email": [Target("email/1", SecretStr("mailto://x"))]}
BOTH = MAIL | {"slack": [Target("slack/1", SecretStr("json://x"))]}


class Receiver:
    """Keeps messages; refuses or dies as told."""

    def __init__(self, refuse: Callable[[Target], SendError | None] = lambda _: None) -> None:
        self.got: list[tuple[str, Message]] = []
        self.refuse = refuse

    def __call__(self, target: Target, message: Message) -> None:
        error = self.refuse(target)
        if error is not None:
            raise error
        self.got.append((target.name, message))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def opened(lake: Lake, one: Rule, *subjects: str, hours: float = 0) -> None:
    at = NOW + timedelta(hours=hours)
    update(lake, ALERTS, lambda alerts: transition(alerts, [one], {one.name: found(*subjects)}, at, "run-1"))


def send(
    lake: Lake, one: Rule, receiver: Receiver, minutes: float = 1, targets: dict[str, list[Target]] = MAIL
) -> dict[str, int]:
    return deliver(lake, [one], targets, URL, clock=lambda: NOW + timedelta(minutes=minutes), sender=receiver)


def state(lake: Lake) -> list[tuple[str, str | None]]:
    return read(lake, ALERTS).select("delivery", "delivery_note").rows()


def test_many_alerts_of_a_rule_are_one_message_and_only_once(lake: Lake) -> None:
    receiver = Receiver()
    opened(lake, rule(), *[f"D{i:02}" for i in range(30)])
    assert send(lake, rule(), receiver) == {"sent": 1, "deferred": 0, "failed": 0}
    assert send(lake, rule(), receiver, 30) == {"sent": 0, "deferred": 0, "failed": 0}
    [(name, message)] = receiver.got
    assert name == "email/1" and message.title == "HIGH: Something (30)"
    assert message.body.count("is wrong") == SPELLED_OUT and "and 10 more" in message.body
    assert f"{URL}/runs/run-1" in message.body and f"{URL}/assets/gold/device_risk_scores" in message.body
    assert set(state(lake)) == {("sent", None)}
    assert read(lake, ALERT_DELIVERIES)["event"].value_counts().sort("event").rows() == [("sending", 30), ("sent", 30)]
    ALERTS.schema.validate(read(lake, ALERTS))
    ALERT_DELIVERIES.schema.validate(read(lake, ALERT_DELIVERIES))


def test_a_crash_between_sending_and_writing_repeats_the_same_message_and_says_so(lake: Lake) -> None:
    receiver = Receiver()

    def accepted_then_dead(target: Target, message: Message) -> None:
        receiver(target, message)
        raise KeyboardInterrupt

    opened(lake, rule(), "D")
    with pytest.raises(KeyboardInterrupt):
        deliver(lake, [rule()], MAIL, URL, clock=lambda: NOW, sender=accepted_then_dead)
    assert state(lake) == [("pending", None)]
    opened(lake, rule(), "D", "E", hours=0.01)  # another one meanwhile: it must not change the repeated message's number
    send(lake, rule(), receiver, CLAIM / timedelta(minutes=1) - 1)
    assert len(receiver.got) == 2, "E goes out; the claim on D may still be alive"
    send(lake, rule(), receiver, CLAIM / timedelta(minutes=1))
    first, other, repeated = [message for _, message in receiver.got]
    assert repeated.notification_id == first.notification_id != other.notification_id
    assert "may be a repeat" in repeated.body and "may be a repeat" not in first.body
    assert {s for s, _ in state(lake)} == {"sent"}
    send(lake, rule(), receiver, 60)
    assert len(receiver.got) == 3


@pytest.mark.parametrize("after", ["claim", "outcome"])
def test_a_crash_at_a_commit_loses_nothing(lake: Lake, monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    from lims_platform.alerting import delivery

    receiver = Receiver()
    opened(lake, rule(), "D")
    with monkeypatch.context() as patch:
        if after == "claim":
            patch.setattr(delivery, "compose", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            patch.setattr(delivery, "reported", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            send(lake, rule(), receiver, 0)
    assert state(lake) == [("pending", None)]
    send(lake, rule(), receiver, 11)
    assert state(lake) == [("sent", None)] and len(receiver.got) == 1


def test_two_processes_send_one_message(lake: Lake) -> None:
    inner, outer = Receiver(), Receiver()

    def while_another_delivers(target: Target, message: Message) -> None:
        send(lake, rule(), inner)
        outer(target, message)

    opened(lake, rule(), "D")
    deliver(lake, [rule()], MAIL, URL, clock=lambda: NOW, sender=while_another_delivers)
    assert (len(outer.got), len(inner.got)) == (1, 0) and state(lake) == [("sent", None)]


def test_an_acknowledgement_during_an_evaluation_is_not_lost(lake: Lake) -> None:
    one = rule()
    opened(lake, one, "D")
    calls = []

    def slow(alerts: pl.DataFrame) -> pl.DataFrame:
        if not calls:
            update(lake, ALERTS, lambda now: acknowledge(now, now["alert_id"][0], "seen", NOW))
        calls.append(alerts["state"][0])
        return transition(alerts, [one], {"r": found("D", value=7.0)}, NOW)

    update(lake, ALERTS, slow)
    assert calls == ["open", "acknowledged"]
    assert read(lake, ALERTS).select("state", "note", "value").rows() == [("acknowledged", "seen", 7.0)]


def test_refused_for_good_stands_on_the_row_and_the_other_channel_still_hears(lake: Lake) -> None:
    receiver = Receiver(lambda t: SendError("SMTP 550", transient=False) if t.name == "email/1" else None)
    one = rule(channels=("email", "slack", "ticket"))
    opened(lake, one, "D")
    assert send(lake, one, receiver, targets=BOTH) == {"sent": 1, "deferred": 0, "failed": 1}
    assert state(lake) == [("partly_sent", "email/1: SMTP 550; no target for ticket")]
    assert send(lake, one, receiver, 600, BOTH) == {"sent": 0, "deferred": 0, "failed": 0}


def test_not_reachable_is_tried_at_the_next_evaluation_until_it_is_given_up(lake: Lake) -> None:
    down = Receiver(lambda _: SendError("connection refused", transient=True))
    opened(lake, rule(), "D")
    assert send(lake, rule(), down) == {"sent": 0, "deferred": 1, "failed": 0}
    assert state(lake) == [("pending", None)]
    up = Receiver()
    send(lake, rule(), up, 11)
    assert state(lake) == [("sent", None)] and len(up.got) == 1
    opened(lake, rule(), "D", "E")
    send(lake, rule(), down, 20)
    assert send(lake, rule(), down, 20 + 24 * 60)["failed"] == 1
    assert state(lake)[1] == ("failed", "email/1: given up after 24 h: connection refused")


def test_without_targets_alerts_are_rows_only_and_the_log_says_so_once(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    opened(lake, rule(), "D", "E")
    receiver = Receiver()
    for minutes in (1, 11):
        send(lake, rule(), receiver, minutes, load_targets(None))
    assert receiver.got == [] and set(state(lake)) == {("not_configured", "no target for email")}
    assert [r.getMessage() for r in caplog.records if "nobody is told" in r.getMessage()] == [
        "2 new alerts are rows of gold/alerts only, nobody is told: LIMS_ALERT_TARGETS has no target of their channels"
    ]


def test_the_log_channel_needs_no_address(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    one = RULES["api_latency"]
    opened(lake, one, "/predict")
    assert deliver(lake, [one], load_targets(None), URL, clock=lambda: NOW)["sent"] == 1
    assert any("/predict is wrong" in record.getMessage() for record in caplog.records)


def test_an_alert_over_before_its_message_went_out_says_so(lake: Lake) -> None:
    opened(lake, rule(), "D")
    opened(lake, rule(), hours=1)
    receiver = Receiver()
    send(lake, rule(), receiver, 61)
    assert "already over" in receiver.got[0][1].body


@pytest.mark.parametrize(
    ("line", "reason", "transient"),
    [
        ("Failed to send JSON POST notification: Service Unavailable., error=503.", "HTTP 503", True),
        ("Failed to send Slack notification: Too many requests., error=429.", "HTTP 429", True),
        ("Failed to send JSON POST notification: Unauthorized., error=401.", "HTTP 401", False),
        ("Socket Exception: (535, b'5.7.8 Authentication credentials invalid')", "SMTP 535", False),
        ("Socket Exception: {'a@b.c': (450, b'mailbox busy')}", "SMTP 450", True),
        ("Socket Exception: [Errno 111] Connection refused", "connection refused", True),
        ("Socket Exception: timed out", "no answer in time", True),
        ("something else", "not accepted", True),
    ],
)
def test_what_a_refusal_means(line: str, reason: str, transient: bool) -> None:
    error = failure(["POST URL: json://user:secret@host", line])
    assert (error.reason, error.transient) == (reason, transient)


def test_transient_refusals_are_tried_again_with_growing_waits_and_permanent_ones_are_not() -> None:
    message, waits, tries = Message("n", "HIGH", "t", "b"), [], []

    def sender(target: Target, _: Message) -> None:
        tries.append(target)
        if len(tries) < 3:
            raise SendError("HTTP 503", transient=True)

    send_with_retry(MAIL["email"][0], message, sender, waits.append)
    assert len(tries) == 3 and 0.5 <= waits[0] <= 1.5 and 1 <= waits[1] <= 3

    def refused(target: Target, _: Message) -> None:
        tries.append(target)
        raise SendError("HTTP 401", transient=False)

    tries.clear()
    with pytest.raises(SendError):
        send_with_retry(MAIL["email"][0], message, refused, waits.append)
    assert len(tries) == 1


def test_targets_are_checked_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "targets.yaml"
    secret = "mailto://lab:s3cret@localhost"

    def written(text: str, mode: int = 0o600) -> Path:
        path.write_text(text)
        path.chmod(mode)
        return path

    targets = load_targets(written(f"email: ['{secret}', 'json://localhost']\n"))
    assert [t.name for t in targets["email"]] == ["email/1", "email/2"] and "s3cret" not in repr(targets)
    for text, words, mode in (
        (f"email: ['{secret}', 'nonsense://s3cret']", "email/2 is no address", 0o600),
        (f"email: '{secret}'", "channel email: must be a list", 0o600),
        (f"- {secret}", "must map each channel", 0o600),
        (f"log: ['{secret}']", "channel log", 0o600),
        (f"email: ['{secret}'", "not a readable YAML", 0o600),
        (f"email: ['{secret}']", "chmod 600", 0o644),
    ):
        with pytest.raises(TargetsError, match=words) as error:
            load_targets(written(text, mode))
        assert "s3cret" not in str(error.value)
    with pytest.raises(TargetsError, match="cannot be read"):
        load_targets(tmp_path / "absent.yaml")


def test_apprise_logs_nothing_to_the_platforms_log(caplog: pytest.LogCaptureFixture) -> None:
    from lims_platform.alerting.sending import send as once

    caplog.set_level(logging.DEBUG)
    target = Target("email/1", SecretStr("json://user:s3cret@127.0.0.1:9/path"))
    with pytest.raises(SendError, match="connection refused"):
        once(target, Message("n", "HIGH", "t", "b"))
    assert "s3cret" not in caplog.text and "127.0.0.1" not in caplog.text


def test_message_names_the_worst_first() -> None:
    one = rule()
    alerts = transition(ALERTS.empty(), [one], {"r": found("A", value=1.0)}, NOW, "run")
    worst = transition(ALERTS.empty(), [one], {"r": found("B", value=-9.0, row_keys="lims|R1")}, NOW, "run")
    body = compose(one, pl.concat([alerts, worst]), "0123456789abcdef", URL).body
    assert body.index("B is wrong") < body.index("A is wrong") and "rows: lims|R1" in body
    assert "What to do: Look." in body and "message 0123456789ab" in body
