"""An incident follows its alerts: acknowledged when none is open, resolved when all are, told once, told again when lost."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from lims_platform.alerting.delivery import deliver
from lims_platform.alerting.incidents import FOLLOWED, follow
from lims_platform.alerting.lifecycle import acknowledge, transition
from lims_platform.alerting.sending import SendError
from lims_platform.alerting.store import read, update
from lims_platform.alerting.targets import Target
from lims_platform.contracts.alerts import ALERT_DELIVERIES, ALERTS
from lims_platform.lakehouse.lake import Lake
from lims_platform_tests.alert_frames import NOW, found, rule

PAGER = Target("pagerduty/1", SecretStr(f"pagerduty://{'k' * 32}@{'a' * 32}"))
MAIL = Target("email/1", SecretStr("mailto://x"))
TARGETS = {"pagerduty": [PAGER], "email": [MAIL]}
ONE = rule(channels=("pagerduty", "email"))


class Pager:
    """Keeps what it was told; refuses as told."""

    def __init__(self, refusal: SendError | None = None) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.refusal = refusal

    def __call__(self, target: Target, number: str, action: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append((target.name, number, action))

    @property
    def actions(self) -> list[str]:
        return [action for _, _, action in self.told]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


def evaluated(lake: Lake, *subjects: str, minutes: float = 0) -> None:
    """What is wrong now; it is sent at once, to everybody."""
    at = NOW + timedelta(minutes=minutes)
    update(lake, ALERTS, lambda alerts: transition(alerts, [ONE], {"r": found(*subjects)}, at))
    deliver(lake, [ONE], TARGETS, "http://x", clock=lambda: at, sender=lambda *_: None)


def followed(lake: Lake, pager: Pager, minutes: float = 0) -> dict[str, int]:
    return follow(lake, TARGETS, lambda: NOW + timedelta(minutes=minutes), pager)


def acknowledged(lake: Lake, subject: str, minutes: float = 0) -> None:
    """A person has seen the open alert on ``subject``."""

    def seen(alerts: pl.DataFrame) -> pl.DataFrame:
        [alert] = alerts.filter(subject=subject, state="open")["alert_id"]
        return acknowledge(alerts, alert, None, NOW + timedelta(minutes=minutes))

    update(lake, ALERTS, seen)


def test_trigger_acknowledge_and_resolve_share_one_number_and_each_is_told_once(lake: Lake) -> None:
    pager = Pager()
    evaluated(lake, "A", "B")
    assert followed(lake, pager) == {"acknowledged": 0, "resolved": 0}
    acknowledged(lake, "A")
    followed(lake, pager)
    assert pager.actions == [], "B is still open"
    acknowledged(lake, "B")
    assert followed(lake, pager, 1)["acknowledged"] == 1 and followed(lake, pager, 2)["acknowledged"] == 0
    evaluated(lake, "B", minutes=10)
    followed(lake, pager, 10)
    assert pager.actions == ["acknowledge"], "B is not over"
    evaluated(lake, minutes=20)
    assert followed(lake, pager, 20)["resolved"] == 1 and followed(lake, pager, 30)["resolved"] == 0
    [number] = set(read(lake, ALERT_DELIVERIES).filter(target="pagerduty/1")["notification_id"])
    assert pager.told == [("pagerduty/1", number, "acknowledge"), ("pagerduty/1", number, "resolve")]
    ALERT_DELIVERIES.schema.validate(read(lake, ALERT_DELIVERIES))
    assert set(read(lake, ALERTS)["delivery"]) == {"sent"}


def test_an_alert_that_comes_back_is_an_incident_of_its_own(lake: Lake) -> None:
    pager = Pager()
    evaluated(lake, "A")
    evaluated(lake, minutes=10)
    followed(lake, pager, 10)
    back = ONE.cooldown / timedelta(minutes=1) + 20
    evaluated(lake, "A", minutes=back)
    followed(lake, pager, back)
    assert pager.actions == ["resolve"], "the second is open"
    evaluated(lake, minutes=back + 10)
    followed(lake, pager, back + 10)
    assert pager.actions == ["resolve"] * 2 and len({number for _, number, _ in pager.told}) == 2


def test_out_of_reach_is_told_at_a_later_evaluation_but_not_for_ever(lake: Lake) -> None:
    away, back = Pager(SendError("connection refused", transient=True)), Pager()
    evaluated(lake, "A")
    evaluated(lake, minutes=10)
    assert followed(lake, away, 10)["resolved"] == 0
    late = 10 + FOLLOWED / timedelta(minutes=1)
    assert followed(lake, back, late + 1)["resolved"] == 0
    assert followed(lake, back, late)["resolved"] == 1


def test_a_receiver_that_is_away_is_asked_once_an_evaluation(lake: Lake) -> None:
    asked: list[str] = []

    def away(target: Target, number: str, action: str) -> None:
        asked.append(number)
        raise SendError("no answer in time", transient=True)

    for minutes, subject in ((0, "A"), (10, "B"), (20, "C")):
        evaluated(lake, subject, minutes=minutes)
    evaluated(lake, minutes=30)
    follow(lake, TARGETS, lambda: NOW + timedelta(minutes=30), away)
    assert len(asked) == 1
    back = Pager()
    assert followed(lake, back, 40)["resolved"] == 3 and len(back.told) == 3


def test_what_is_refused_for_good_stands_in_the_log_and_is_not_said_again(lake: Lake) -> None:
    refusing = Pager(SendError("HTTP 400", transient=False))
    evaluated(lake, "A")
    evaluated(lake, minutes=10)
    assert followed(lake, refusing, 10)["resolved"] == 0
    [told] = read(lake, ALERT_DELIVERIES).filter(event="resolved").iter_rows(named=True)
    assert (told["reason"], told["target"]) == ("HTTP 400", "pagerduty/1")
    assert followed(lake, Pager(), 20) == {"acknowledged": 0, "resolved": 0}
    assert read(lake, ALERTS)["delivery"].to_list() == ["sent"], "the message itself was accepted"


def test_what_was_never_accepted_is_no_incident(lake: Lake) -> None:
    def refuse(target: Target, _: object) -> None:
        raise SendError("HTTP 403", transient=False)

    update(lake, ALERTS, lambda alerts: transition(alerts, [ONE], {"r": found("A")}, NOW))
    deliver(lake, [ONE], TARGETS, "http://x", clock=lambda: NOW, sender=refuse)
    evaluated(lake, minutes=10)
    assert followed(lake, Pager(), 10)["resolved"] == 0


@pytest.mark.parametrize(
    ("address", "keeps"),
    [
        ("pagerduty://key@token", True),
        ("pagerduty://key@token/source?region=eu", True),
        ("pagerduty://key@token?dedup=everything", False),
        ("pagerduty://key@token?action=map", False),
        ("slack://A/B/C", False),
    ],
)
def test_only_pagerduty_keeps_incidents_and_only_those_of_ours(address: str, keeps: bool) -> None:
    assert Target("x/1", SecretStr(address)).keeps_incidents is keeps
    assert not Target("log", None).keeps_incidents


@settings(max_examples=12)
@given(st.lists(st.tuples(st.sets(st.sampled_from("AB")), st.booleans(), st.booleans()), min_size=2, max_size=5))
def test_whatever_happens_the_pager_ends_knowing_what_the_table_knows(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[set[str], bool, bool]]
) -> None:
    """Any course of evaluations and acknowledgements, the pager out of reach at times: a resolve is the last word and
    comes exactly where all alerts of the incident are over.
    """
    lake, pager, minutes = Lake(tmp_path_factory.mktemp("lake")), Pager(), 0.0
    for subjects, seen, reachable in steps:
        minutes += 10
        evaluated(lake, *sorted(subjects), minutes=minutes)
        still_open = read(lake, ALERTS).filter(state="open")["subject"]
        if seen and still_open.len():
            acknowledged(lake, still_open[0], minutes)
        followed(lake, pager if reachable else Pager(SendError("HTTP 503", transient=True)), minutes)
    followed(lake, pager, minutes)
    alerts, log = read(lake, ALERTS), read(lake, ALERT_DELIVERIES)
    state = dict(alerts.select("alert_id", "state").iter_rows())
    for (target, number), rows in log.filter(event="sent").group_by("target", "notification_id"):
        states = {state[alert] for alert in rows["alert_id"]}
        told = [action for name, of, action in pager.told if (name, of) == (target, number)]
        assert len(told) == len(set(told)) and told == sorted(told)
        assert ("resolve" in told) == (target == "pagerduty/1" and states == {"resolved"})
        if states == {"acknowledged"} and target == "pagerduty/1":
            assert told == ["acknowledge"]
