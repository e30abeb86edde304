"""Nothing is deleted by the clock that was not announced a week before."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import freeze_time

from lims_platform.automation import operations
from lims_platform.automation.keeping import (
    ACTION,
    BY_HAND,
    BY_THE_CLOCK,
    NOTICE,
    SILENCE,
    announce,
    announced,
    keep_house,
    rules_digest,
)
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.privacy import audit
from lims_platform.privacy.audit import AuditError, AuditTrail
from lims_platform.settings import REPOSITORY, Settings

NOW = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
TABLE = TABLES["drift_report"]


def entry(days_ago: float, rules: str = "new", reason: str = BY_THE_CLOCK) -> dict[str, object]:
    return {"at": (NOW - timedelta(days=days_ago)).isoformat(), "subject": rules, "reason": reason}


@pytest.mark.parametrize(
    ("entries", "may"),
    [
        ([], False),
        ([entry(0)], False),
        ([entry(5.9), entry(0)], False),
        ([entry(7), entry(0)], True),
        ([entry(21), entry(14), entry(7), entry(0)], True),
        ([entry(14, "old"), entry(7, "old"), entry(0)], False),
        ([entry(14), entry(7, "old"), entry(0)], False),
        ([entry(0, reason=BY_HAND)], True),
        ([entry(7, "old", BY_HAND), entry(0)], False),
        ([entry(7), entry(3, reason=BY_HAND), entry(0, "old")], False),
        ([entry(40)], False),
        ([entry(40, reason=BY_HAND), entry(0)], False),
        ([entry(40), entry(30)], True),
    ],
    ids=str,
)
def test_rules_must_have_stood_for_a_week_without_a_gap(entries: list[dict[str, object]], may: bool) -> None:
    assert announced(entries, "new", NOW) is may


def test_a_clock_that_jumps_ahead_deletes_nothing() -> None:
    weekly = [entry(days) for days in range(70, -1, -7)]
    assert announced(weekly, "new", NOW) and not announced(weekly, "new", NOW + timedelta(days=3650))
    assert NOTICE < timedelta(days=7) < SILENCE, "the job is weekly"


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A laboratory with one drift report of yesterday and one a hundred days old, and a report folder as old."""
    shutil.copytree(REPOSITORY / "data" / "reference", tmp_path / "reference")
    given = Settings(data_dir=tmp_path / "data", reference_dir=tmp_path / "reference")
    monkeypatch.setattr(operations, "settings", lambda: given)
    row = dict.fromkeys(TABLE.dtypes)
    days = [given.today - timedelta(days=age) for age in (1, 100)]
    Lake(given.lake_dir).append(TABLE, pl.DataFrame([row | {"as_of_date": day} for day in days], schema=TABLE.dtypes))
    (given.report_dir / "drift" / days[1].isoformat()).mkdir(parents=True)
    return given


def weekly_run(given: Settings, instance: dg.DagsterInstance, week: int) -> tuple[int, int]:
    """The job ``week`` weeks from now; rows of the table and report folders afterwards."""
    lake, then = Lake(given.lake_dir), datetime.now(UTC) + timedelta(days=7 * week)

    class Then(datetime):
        """The audit trail's clock, moved with Dagster's."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return then.astimezone(tz)

    with freeze_time(then), pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "datetime", Then)
        done = operations.maintenance_weekly.execute_in_process(instance=instance, resources={"lake": lake})
    assert done.success
    return lake.scan(TABLE).collect().height, len(list(given.report_dir.glob("drift/*")))


def test_the_job_announces_first_and_deletes_a_week_later(given: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert weekly_run(given, instance, 0) == (2, 1), "the first run touches nothing"
        assert weekly_run(given, instance, 0) == (2, 1), "nor does its repetition"
        told = AuditTrail(given.audit_path).entries(ACTION)
        for words in ("1 rows of gold/drift_report before", "1 report folders"):
            assert words in str(told[0]["outcome"])
        assert [one["reason"] for one in told] == [BY_THE_CLOCK] * 2
        assert weekly_run(given, instance, 1) == (1, 0)


def test_a_changed_rule_is_announced_anew(given: Settings) -> None:
    file = given.reference_dir / "retention.csv"
    with dg.DagsterInstance.ephemeral() as instance:
        weekly_run(given, instance, 0)
        file.write_text(file.read_text().replace("gold,drift_report,90", "gold,drift_report,0"))
        assert weekly_run(given, instance, 1) == (2, 1)


def test_what_a_person_asks_for_goes_at_once_and_stands_in_the_trail(given: Settings) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        announce(given, keep_house(given, instance, Lake(given.lake_dir), dry_run=True), BY_HAND)
        assert weekly_run(given, instance, 0) == (1, 0)


def test_another_age_of_versions_or_runs_is_another_rule_and_a_reason_is_none(given: Settings) -> None:
    digest = rules_digest(given)
    assert digest != rules_digest(given.model_copy(update={"keep_versions_days": 31}))
    assert digest != rules_digest(given.model_copy(update={"keep_runs_days": 91}))
    file = given.reference_dir / "retention.csv"
    file.write_text(file.read_text().replace("A register:", "Register:"))
    assert digest == rules_digest(given)


def test_a_broken_trail_stops_the_job(given: Settings) -> None:
    trail = AuditTrail(given.audit_path)
    trail.append("look", "x", "y", "z")
    assert trail.entries(ACTION) == []
    changed = json.loads(given.audit_path.read_text()) | {"outcome": "other"}
    given.audit_path.write_text(json.dumps(changed) + "\n")
    with pytest.raises(AuditError, match="line 1 was changed"):
        trail.entries(ACTION)
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(AuditError):
        weekly_run(given, instance, 1)
