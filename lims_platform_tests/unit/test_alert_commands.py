"""``alerts list`` and ``alerts ack`` at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from lims_platform.__main__ import main
from lims_platform.alerting.lifecycle import transition
from lims_platform.alerting.store import read, update
from lims_platform.contracts.alerts import ALERTS
from lims_platform.lakehouse.lake import Lake
from lims_platform_tests.alert_frames import NOW, found, rule


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("LIMS_DATA_DIR", str(tmp_path))
    return Lake(tmp_path / "lake")


def test_list_and_acknowledge(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alerts", "list"]) == 0 and capsys.readouterr().out == "no alerts\n"
    update(lake, ALERTS, lambda alerts: transition(alerts, [rule()], {"r": found("CHEM-1", "CHEM-2")}, NOW))
    assert main(["alerts", "list"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("open") == 2 and "CHEM-1 is wrong" in shown and "since 2026-03-20 12:00" in shown
    alert_id = read(lake, ALERTS)["alert_id"][0]
    assert main(["alerts", "ack", alert_id[:8], "--note", "called about MRN 12345678"]) == 0
    assert "acknowledged" in capsys.readouterr().out
    row = read(lake, ALERTS).row(0, named=True)
    assert row["state"] == "acknowledged" and row["note"].startswith("called about") and "12345678" not in row["note"]
    update(lake, ALERTS, lambda alerts: transition(alerts, [rule()], {"r": found("CHEM-2")}, NOW))
    main(["alerts", "list"])
    assert "CHEM-1" not in capsys.readouterr().out
    main(["alerts", "list", "--all"])
    assert "the condition no longer holds" in capsys.readouterr().out


def test_an_acknowledgement_that_cannot_be_is_one_line(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["alerts", "ack", "abcdef"]) == 1
    assert capsys.readouterr().err == "'abcdef': no alerts begin so, and no rule of that name has an unresolved one\n"
