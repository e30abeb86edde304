"""The life of an alert under any history of findings, acknowledgements and rule changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.alerting.lifecycle import AlertError, acknowledge, transition
from lims_platform.alerting.rules import Evaluation, Rule
from lims_platform.contracts.alerts import ALERTS
from lims_platform_tests.alert_frames import NOW, found, rule

EMPTY = ALERTS.empty()
ROW = dict[str, object]


def step(alerts: pl.DataFrame, one: Rule, evaluation: Evaluation, hours: float = 0) -> pl.DataFrame:
    return transition(alerts, [one], {one.name: evaluation}, NOW + timedelta(hours=hours), "run")


def told(alerts: pl.DataFrame, hours: float = 0) -> pl.DataFrame:
    """As the delivery leaves it: every pending row was sent."""
    pending = pl.col("delivery") == "pending"
    at = pl.lit((NOW + timedelta(hours=hours)).astimezone(UTC)).cast(pl.Datetime("us", "UTC"))
    return alerts.with_columns(
        notified_at=pl.when(pending).then(at).otherwise("notified_at"),
        delivery=pl.when(pending).then(pl.lit("sent")).otherwise("delivery"),
    )


def test_an_alert_opens_once_persists_and_resolves() -> None:
    one = rule()
    first = step(EMPTY, one, found("D"))
    assert first.select("state", "delivery").rows() == [("open", "pending")] and first["dagster_run_id"][0] == "run"
    again = step(first, one, found("D"), 1)
    assert again.equals(first), "nothing new, nothing written"
    worse = step(first, one, found("D", value=9.0), 1)
    assert worse.height == 1 and worse["value"][0] == 9.0 and worse["opened_at"][0] == first["opened_at"][0]
    assert step(first, one, found("D", dagster_run_id="newer"), 1)["dagster_run_id"].to_list() == ["newer"]
    gone = step(worse, one, found(), 2)
    assert gone["state"].to_list() == ["resolved"] and gone["resolution"][0] == "the condition no longer holds"
    assert step(gone, one, found(), 3).equals(gone)


def test_no_verdict_leaves_alerts_as_they_are_and_a_rule_switched_off_resolves_them() -> None:
    one = rule()
    first = step(EMPTY, one, found("D"))
    assert step(first, one, Evaluation(not_evaluable="no table"), 1).equals(first)
    off = transition(first, [], {}, NOW)
    assert off["resolution"].to_list() == ["the rule was switched off or removed"]


def test_a_rule_that_waits_for_a_person() -> None:
    one = rule(waits_for_person=True)
    first = step(EMPTY, one, found("R"))
    gone = step(first, one, found(), 1)
    assert gone["state"].to_list() == ["open"], "out of sight is not done"
    seen = acknowledge(gone, gone["alert_id"][0][:8], "called the ward", NOW)
    assert seen["state"].to_list() == ["acknowledged"] and step(seen, one, found("R"), 2)["state"].to_list() == [
        "acknowledged"
    ]
    assert step(seen, one, found(), 2)["state"].to_list() == ["resolved"]
    settled = step(first, one, Evaluation(settled=pl.Series(["R"])), 1)
    assert settled["resolution"].to_list() == ["settled by later evidence"]


def test_reopened_within_the_cool_down_is_held_and_told_when_it_stays() -> None:
    one = rule(cooldown=timedelta(hours=24))
    gone = step(told(step(EMPTY, one, found("D"))), one, found(), 1)
    back = step(gone, one, found("D"), 2)
    assert back.select("state", "delivery").rows() == [("resolved", "sent"), ("open", "held")]
    assert step(back, one, found("D"), 23.9)["delivery"].to_list() == ["sent", "held"]
    assert step(back, one, found("D"), 24)["delivery"].to_list() == ["sent", "pending"]
    ended = step(back, one, found(), 5)
    assert step(ended, one, found(), 48)["delivery"].to_list() == ["sent", "held"], "over before anybody had to know"
    undelivered = step(step(EMPTY, one, found("D")), one, found(), 1)
    assert step(undelivered, one, found("D"), 2)["delivery"].to_list() == ["pending", "held"]


def test_a_rule_name_acknowledges_all_of_the_rule() -> None:
    two = transition(EMPTY, [rule("a"), rule("b")], {"a": found("D", "E"), "b": found("D")}, NOW)
    seen = acknowledge(two, "a", None, NOW).select("rule", "state").sort("rule").rows()
    assert seen == [("a", "acknowledged"), ("a", "acknowledged"), ("b", "open")]


def test_acknowledging_what_is_not_there() -> None:
    first = step(EMPTY, rule(), found("D", "E"))
    for prefix, words in (("zz", "no alerts begin so"), ("", "no alerts begin so")):
        with pytest.raises(AlertError, match=words):
            acknowledge(first, prefix, None, NOW)
    gone = step(first, rule(), found(), 1)
    with pytest.raises(AlertError, match="resolved since"):
        acknowledge(gone, gone["alert_id"][0], None, NOW)
    twice = acknowledge(
        acknowledge(first, first["alert_id"][0], "a", NOW), first["alert_id"][0], "b", NOW + timedelta(hours=1)
    )
    mine = twice.filter(pl.col("alert_id") == first["alert_id"][0]).row(0, named=True)
    assert mine["note"] == "a; b" and mine["acknowledged_at"] == NOW.astimezone(UTC)


SUBJECTS = ("A", "B", "C")
RULE_NAMES = ("plain", "waits")
COOLDOWN = timedelta(hours=5)
MOMENT = st.fixed_dictionaries(
    {
        "minutes": st.integers(1, 400),
        "found": st.fixed_dictionaries({n: st.none() | st.sets(st.sampled_from(SUBJECTS)) for n in RULE_NAMES}),
        "settled": st.sets(st.sampled_from(SUBJECTS)),
        "ack": st.booleans(),
        "deliver": st.booleans(),
        "enabled": st.sets(st.sampled_from(RULE_NAMES), min_size=1),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(MOMENT, min_size=2, max_size=9))
def test_invariants_of_any_history(moments: list[dict[str, object]]) -> None:
    rules = [rule("plain", cooldown=COOLDOWN), rule("waits", cooldown=COOLDOWN, waits_for_person=True)]
    alerts, now = EMPTY, NOW
    released: dict[str, tuple[str, datetime]] = {}
    for moment in moments:
        now += timedelta(minutes=moment["minutes"])  # type: ignore[arg-type]
        on = [r for r in rules if r.name in moment["enabled"]]  # type: ignore[operator]
        evaluations = {}
        for r in on:
            seen = moment["found"][r.name]  # type: ignore[index]
            evaluations[r.name] = Evaluation(not_evaluable="no") if seen is None else found(*sorted(seen), at=now)
        if "waits" in evaluations and evaluations["waits"].not_evaluable is None:
            over = set(moment["settled"]) - set(evaluations["waits"].findings["subject"])  # type: ignore[call-overload]
            evaluations["waits"] = Evaluation(
                evaluations["waits"].findings, pl.Series("subject", sorted(over), dtype=pl.String)
            )
        before, alerts = alerts, transition(alerts, on, evaluations, now)

        live = alerts.filter(pl.col("state") != "resolved")
        assert not live.select("rule", "subject").is_duplicated().any(), "two open rows of one key"
        assert alerts["alert_id"].n_unique() == alerts.height
        done = before.filter(pl.col("state") == "resolved")
        same = alerts.filter(pl.col("alert_id").is_in(done["alert_id"].implode()))
        assert same.equals(done), "a resolved row never changes"
        for r in on:
            if evaluations[r.name].not_evaluable is None:
                now_found = set(evaluations[r.name].findings["subject"])
                open_now = set(live.filter(pl.col("rule") == r.name)["subject"])
                assert now_found <= open_now and (r.waits_for_person or now_found == open_now)
        fresh = alerts.filter((pl.col("delivery") == "pending") & ~pl.col("alert_id").is_in(list(released)))
        for alert_id, name, subject in fresh.select("alert_id", "rule", "subject").iter_rows():
            earlier = [at for key, at in released.values() if key == f"{name} {subject}"]
            assert all(now - at >= COOLDOWN for at in earlier), "notified again within the cool-down"
            released[alert_id] = (f"{name} {subject}", now)
        pending = set(alerts.filter(pl.col("delivery") == "pending")["alert_id"])
        assert pending <= set(released)
        if moment["deliver"]:
            alerts = told(alerts, (now - NOW) / timedelta(hours=1))
        if moment["ack"] and live.height:
            alerts = acknowledge(alerts, live["alert_id"][0], None, now)
    ALERTS.schema.validate(alerts)
