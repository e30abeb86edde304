"""Alerts over the wire: a real mail server, real webhooks, a platform killed between sending and writing."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from lims_platform.alerting.delivery import CLAIM, deliver, utc_now
from lims_platform.alerting.incidents import follow
from lims_platform.alerting.lifecycle import acknowledge, transition
from lims_platform.alerting.rules import Rule
from lims_platform.alerting.sending import SendError, send_with_retry, tell, tell_with_retry
from lims_platform.alerting.store import read, update
from lims_platform.alerting.targets import Target, load_targets
from lims_platform.contracts.alerts import ALERT_DELIVERIES, ALERTS
from lims_platform.lakehouse.lake import Lake
from lims_platform_tests.alert_frames import NOW, RULES, found
from lims_platform_tests.receivers import Hook, MailBox, http_server, mail_text, smtp_server
from lims_platform_tests.servers import free_port

DAGSTER = "http://127.0.0.1:3000"
SECRET = "s3cret-token"
send_quickly = functools.partial(send_with_retry, sleep=lambda _: None)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def mail() -> Iterator[tuple[MailBox, int]]:
    with smtp_server() as server:
        yield server


@pytest.fixture
def hook() -> Iterator[tuple[Hook, int]]:
    with http_server() as server:
        yield server


def targets_file(folder: Path, **channels: str) -> Path:
    path = folder / "targets.yaml"
    path.write_text(yaml.safe_dump({channel: [address] for channel, address in channels.items()}))
    path.chmod(0o600)
    return path


def mail_address(port: int) -> str:
    return f"mailto://127.0.0.1:{port}?from=platform@lab.example&to=quality@lab.example&mode=insecure"


def opened(lake: Lake, rule: Rule, *subjects: str) -> None:
    evaluation = found(*subjects, row_keys="lims|R42", value=112.0, limit=95.0)
    update(lake, ALERTS, lambda alerts: transition(alerts, [rule], {rule.name: evaluation}, NOW, "run-7"))


def test_an_email_a_lab_person_understands(lake: Lake, mail: tuple[MailBox, int], tmp_path: Path) -> None:
    box, port = mail
    rule = RULES["device_drift"]
    opened(lake, rule, "CHEM-1 2345-7", "CHEM-2 2345-7")
    outcome = deliver(lake, [rule], load_targets(targets_file(tmp_path, email=mail_address(port))), DAGSTER)
    assert outcome == {"sent": 1, "deferred": 0, "failed": 0}
    [message] = box.messages
    assert message["Subject"] == "CRITICAL: Device drift (2)" and message["To"] == "quality@lab.example"
    text = mail_text(message)
    for words in ("CHEM-1 2345-7 is wrong", "rows: lims|R42", "What to do: Check calibration", f"{DAGSTER}/runs/run-7"):
        assert words in text
    alerts = read(lake, ALERTS)
    assert set(alerts["delivery"]) == {"sent"} and set(alerts["delivery_note"]) == {"no target for ticket"}
    assert message["X-LIMS-Notification"].startswith(text.split("message ")[1].strip())


def test_slack_and_pagerduty_in_their_own_formats(
    lake: Lake, hook: tuple[Hook, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apprise.plugins.pagerduty import PAGERDUTY_API_LOOKUP
    from apprise.plugins.slack import NotifySlack

    got, port = hook
    base = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(NotifySlack, "webhook_url", f"{base}/services")
    for region in PAGERDUTY_API_LOOKUP:
        monkeypatch.setitem(PAGERDUTY_API_LOOKUP, region, f"{base}/v2/enqueue")
    path = targets_file(
        tmp_path,
        slack="slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ",
        pagerduty=f"pagerduty://{'k' * 32}@{'a' * 32}",
    )
    risk, failure = RULES["high_risk_device_critical"], RULES["pipeline_failure"]
    opened(lake, risk, "CHEM-1")
    evaluations = {risk.name: found("CHEM-1"), failure.name: found("ingest_hourly 2026-03-20", dagster_run_id="failed-run")}
    update(lake, ALERTS, lambda alerts: transition(alerts, [risk, failure], evaluations, NOW, "run-7"))
    assert deliver(lake, [risk, failure], load_targets(path), DAGSTER)["sent"] == 2
    by_path = {path.split("/")[1]: body for path, _, body in got.requests}
    assert "CHEM-1 is wrong" in str(by_path["services"]) and "CRITICAL: Device likely to fail" in str(by_path["services"])
    pager = by_path["v2"]
    assert pager["event_action"] == "trigger" and pager["payload"]["severity"] == "warning"
    assert f"{DAGSTER}/runs/failed-run" in pager["payload"]["summary"] and len(pager["dedup_key"]) == 32


@pytest.mark.parametrize("region", ["us", "eu"])
def test_a_pagerduty_incident_is_acknowledged_and_resolved_under_the_key_that_opened_it(
    lake: Lake, hook: tuple[Hook, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    region: str,
) -> None:  # fmt: skip
    from apprise.plugins.pagerduty import PAGERDUTY_API_LOOKUP

    got, port = hook
    monkeypatch.setitem(PAGERDUTY_API_LOOKUP, region, f"http://127.0.0.1:{port}/{region}/v2/enqueue")
    key = "k" * 32
    targets = load_targets(targets_file(tmp_path, pagerduty=f"pagerduty://{key}@{'a' * 32}?region={region}"))
    rule = RULES["pipeline_failure"]
    opened(lake, rule, "ingest_hourly 2026-03-20")
    deliver(lake, [rule], targets, DAGSTER)
    update(lake, ALERTS, lambda now: acknowledge(now, rule.name, "looking", NOW))
    tell = functools.partial(tell_with_retry, sleep=lambda _: None)
    follow(lake, targets, lambda: NOW, tell)
    opened(lake, rule)
    got.statuses = [429, 202]
    assert follow(lake, targets, lambda: NOW, tell) == {"acknowledged": 0, "resolved": 1}
    assert {path for path, _, _ in got.requests} == {f"/{region}/v2/enqueue"}
    events = [body for _, _, body in got.requests]
    assert [event["event_action"] for event in events] == ["trigger", "acknowledge", "resolve", "resolve"]
    assert {event["dedup_key"] for event in events} == {read(lake, ALERT_DELIVERIES)["notification_id"][0]}
    assert {event["routing_key"] for event in events} == {key}
    assert follow(lake, targets, lambda: NOW, tell) == {"acknowledged": 0, "resolved": 0} and len(got.requests) == 4
    assert key not in caplog.text


def test_what_pagerduty_refuses_and_when_it_is_away(hook: tuple[Hook, int], monkeypatch: pytest.MonkeyPatch) -> None:
    from apprise.plugins.pagerduty import PAGERDUTY_API_LOOKUP

    got, port = hook
    target = Target("pagerduty/1", SecretStr(f"pagerduty://{'k' * 32}@{'a' * 32}"))
    monkeypatch.setitem(PAGERDUTY_API_LOOKUP, "us", f"http://127.0.0.1:{port}/v2/enqueue")
    for status, transient in ((400, False), (500, True)):
        got.statuses = [status]
        with pytest.raises(SendError, match=f"HTTP {status}") as error:
            tell(target, "n", "resolve")
        assert error.value.transient is transient
    monkeypatch.setitem(PAGERDUTY_API_LOOKUP, "us", f"http://127.0.0.1:{free_port()}/v2/enqueue")
    with pytest.raises(SendError, match="connection refused") as error:
        tell(target, "n", "resolve")
    assert error.value.transient
    with pytest.raises(SendError, match="not an address of PagerDuty"):
        tell(Target("email/1", SecretStr("mailto://a:b@localhost")), "n", "resolve")


def test_a_webhook_that_recovers_and_one_that_refuses(
    lake: Lake, hook: tuple[Hook, int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    got, port = hook
    got.statuses = [503, 503, 200]
    rule = RULES["data_drift"]
    targets = load_targets(targets_file(tmp_path, email=f"json://user:{SECRET}@127.0.0.1:{port}/alerts"))
    opened(lake, rule, "all tests")
    assert deliver(lake, [rule], targets, DAGSTER, sender=send_quickly)["sent"] == 1
    assert [body["title"] for _, _, body in got.requests] == ["MEDIUM: Results of several tests have shifted"] * 3
    got.statuses = [403]
    opened(lake, rule)
    opened(lake, RULES["qc_fail_rate"], "D")
    assert deliver(lake, [RULES["qc_fail_rate"]], targets, DAGSTER, sender=send_quickly)["failed"] == 1
    assert len(got.requests) == 4, "a refusal for good is not tried again"
    row = read(lake, ALERTS).row(-1, named=True)
    assert (row["delivery"], row["delivery_note"]) == ("failed", "email/1: HTTP 403")
    assert SECRET not in caplog.text
    assert not [p for p in lake.root.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def test_a_mailbox_that_refuses_for_now_and_for_good(lake: Lake, mail: tuple[MailBox, int], tmp_path: Path) -> None:
    box, port = mail
    rule = RULES["qc_fail_rate"]
    targets = load_targets(targets_file(tmp_path, email=mail_address(port)))
    replies = iter(["451 try later", "250 accepted"])
    box.answer = lambda: next(replies)
    opened(lake, rule, "A")
    assert deliver(lake, [rule], targets, DAGSTER, sender=send_quickly)["sent"] == 1
    box.answer = lambda: "554 no"
    opened(lake, rule, "A", "B")
    assert deliver(lake, [rule], targets, DAGSTER, sender=send_quickly)["failed"] == 1
    assert read(lake, ALERTS)["delivery_note"].to_list() == [None, "email/1: SMTP 554"]


def test_killed_between_the_servers_acceptance_and_the_log(lake: Lake, mail: tuple[MailBox, int], tmp_path: Path) -> None:
    box, port = mail
    rule = RULES["qc_fail_rate"]
    path = targets_file(tmp_path, email=mail_address(port))
    opened(lake, rule, "D")
    script = (
        "import sys; from pathlib import Path\n"
        "from lims_platform.alerting.delivery import deliver\n"
        "from lims_platform.alerting.targets import load_targets\n"
        "from lims_platform.lakehouse.lake import Lake\n"
        "from lims_platform_tests.alert_frames import RULES\n"
        f"deliver(Lake(Path(sys.argv[1])), [RULES['qc_fail_rate']], load_targets(Path(sys.argv[2])), '{DAGSTER}')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(lake.root), str(path)])

    def killing() -> str:
        os.kill(process.pid, signal.SIGKILL)
        return "250 accepted"

    box.answer = killing
    assert process.wait(60) == -signal.SIGKILL
    box.answer = lambda: "250 accepted"
    assert len(box.messages) == 1 and read(lake, ALERTS)["delivery"].to_list() == ["pending"]
    targets = load_targets(path)
    assert deliver(lake, [rule], targets, DAGSTER)["sent"] == 0, "the claim may still be alive"
    assert deliver(lake, [rule], targets, DAGSTER, clock=lambda: utc_now() + CLAIM + timedelta(seconds=1))["sent"] == 1
    first, second = box.messages
    assert first["X-LIMS-Notification"] == second["X-LIMS-Notification"]
    assert "may be a repeat" in mail_text(second) and "may be a repeat" not in mail_text(first)
    assert read(lake, ALERTS)["delivery"].to_list() == ["sent"]
