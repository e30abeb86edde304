"""Every schedule's tick at given times, clock changes and an outage included; freshness verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test, freeze_time

from lims_platform.automation import demo, freshness, schedules
from lims_platform.automation.freshness import bronze_freshness, daily_freshness
from lims_platform.automation.schedules import READ_TABLES, days_to_read, ingest_hourly_schedule
from lims_platform.automation.written import Written
from lims_platform.definitions import defs
from lims_platform.settings import Settings

ZONE = ZoneInfo("Europe/Berlin")
KEYS = [dg.AssetKey(["bronze", "lab_results_raw"]), dg.AssetKey(["silver", "lab_results_history"])]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE)


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An event log; the laboratory's first day is 1 March 2026."""
    given = Settings(data_dir=tmp_path, start_date=date(2026, 3, 1), timezone="Europe/Berlin", catch_up_days=7)
    for module in (schedules, freshness):
        monkeypatch.setattr(module, "settings", lambda: given)
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as made:
        yield made


def read(instance: dg.DagsterInstance, when: str, first: date, last: date, keys: list[dg.AssetKey] = KEYS) -> None:
    """The days were written at that time."""
    with freeze_time(at(when).astimezone(UTC)):
        for key in keys:
            for offset in range((last - first).days + 1):
                day = (first + timedelta(days=offset)).isoformat()
                instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=day))


def test_an_ordinary_tick_reads_today_and_the_first_after_midnight_yesterdays_last_hour(
    instance: dg.DagsterInstance,
) -> None:
    read(instance, "2026-03-19T06:00", date(2026, 3, 1), date(2026, 3, 18))
    read(instance, "2026-03-19T23:00", date(2026, 3, 19), date(2026, 3, 19))
    assert days_to_read(instance, at("2026-03-19T23:00"), KEYS) == [date(2026, 3, 19)]
    assert days_to_read(instance, at("2026-03-20T00:00"), KEYS) == [date(2026, 3, 19), date(2026, 3, 20)]
    read(instance, "2026-03-20T00:02", date(2026, 3, 19), date(2026, 3, 20))
    assert days_to_read(instance, at("2026-03-20T01:00"), KEYS) == [date(2026, 3, 20)]


def test_a_day_that_only_bronze_has_is_read_again(instance: dg.DagsterInstance) -> None:
    read(instance, "2026-03-20T00:02", date(2026, 3, 1), date(2026, 3, 19), KEYS[:1])
    read(instance, "2026-03-20T00:02", date(2026, 3, 1), date(2026, 3, 18), KEYS[1:])
    assert days_to_read(instance, at("2026-03-20T01:00"), KEYS) == [date(2026, 3, 19), date(2026, 3, 20)]


@pytest.mark.parametrize(
    ("back_at", "days"),
    [("2026-03-26T16:00", [25, 26]), ("2026-03-28T09:00", [25, 26, 27, 28]), ("2026-04-08T09:00", None)],
)
def test_after_an_outage_each_unread_day_is_read_once(instance: dg.DagsterInstance, back_at: str, days: list[int]) -> None:
    read(instance, "2026-03-25T00:02", date(2026, 3, 1), date(2026, 3, 24))
    read(instance, "2026-03-25T09:00", date(2026, 3, 25), date(2026, 3, 25))
    found = days_to_read(instance, at(back_at), KEYS)
    if days is None:
        assert found == [date(2026, 4, day) for day in range(1, 9)], "seven days and today; older ones a person asks for"
    else:
        assert found == [date(2026, 3, day) for day in days]


@pytest.mark.parametrize("day", [date(2026, 3, 29), date(2026, 10, 25)])
def test_the_day_of_the_clock_change_is_read_after_its_own_end(instance: dg.DagsterInstance, day: date) -> None:
    read(instance, f"{day}T23:59", day - timedelta(days=7), day)
    assert days_to_read(instance, at(f"{day + timedelta(days=1)}T00:00"), KEYS) == [day, day + timedelta(days=1)]
    read(instance, f"{day + timedelta(days=1)}T00:01", day, day)
    assert days_to_read(instance, at(f"{day + timedelta(days=1)}T01:00"), KEYS) == [day + timedelta(days=1)]


def tick(instance: dg.DagsterInstance, when: str) -> list[dg.RunRequest] | str:
    """The hourly schedule's answer: its requests, or why there is none."""
    context = dg.build_schedule_context(instance=instance, scheduled_execution_time=at(when))
    said = ingest_hourly_schedule(context)
    return said.skip_message if isinstance(said, dg.SkipReason) else said


def test_the_tick_asks_for_one_run_per_span_with_a_key_of_its_own(instance: dg.DagsterInstance) -> None:
    read(instance, "2026-03-20T00:02", date(2026, 3, 10), date(2026, 3, 19), READ_TABLES)
    read(instance, "2026-03-16T12:00", date(2026, 3, 16), date(2026, 3, 16), READ_TABLES)
    requests = tick(instance, "2026-03-20T01:00")
    assert isinstance(requests, list)
    assert [request.partition_key for request in requests] == ["2026-03-16", "2026-03-20"]
    assert len({request.run_key for request in requests}) == 2
    read(instance, "2026-03-20T01:02", date(2026, 3, 16), date(2026, 3, 16), READ_TABLES)
    read(instance, "2026-03-19T12:00", date(2026, 3, 19), date(2026, 3, 19), READ_TABLES)
    (both,) = tick(instance, "2026-03-20T02:00")
    assert both.tags["dagster/asset_partition_range_start"] == "2026-03-19"
    assert both.tags["dagster/asset_partition_range_end"] == "2026-03-20"


def test_no_second_reading_while_one_runs_but_a_dead_one_holds_nothing(instance: dg.DagsterInstance) -> None:
    with freeze_time(at("2026-03-20T00:10").astimezone(UTC)):
        run = create_run_for_test(instance, job_name="ingest_hourly", status=dg.DagsterRunStatus.STARTED)
        instance.report_engine_event("a step works", run)
    said = tick(instance, "2026-03-20T01:00")
    assert isinstance(said, str) and run.run_id in said
    assert isinstance(tick(instance, "2026-03-20T02:00"), list), "nothing was heard of it for more than an hour"
    waiting = create_run_for_test(instance, job_name="ingest_hourly", status=dg.DagsterRunStatus.NOT_STARTED)
    assert waiting.run_id in str(tick(instance, "2026-03-20T02:00")), "the queue may be long"


def test_a_first_day_in_the_future_is_said(instance: dg.DagsterInstance) -> None:
    assert "LIMS_START_DATE" in str(tick(instance, "2026-02-20T01:00"))


def test_the_schedules_are_the_clocks_and_nothing_else() -> None:
    lines = {schedule.name: schedule.cron_schedule for schedule in defs.schedules or []}
    assert lines["ingest_hourly_schedule"] == "0 * * * *"
    assert lines["freshness_schedule"] == "30 * * * *"
    assert not any("scoring" in name or "training" in name for name in lines), "those wait for data"


@pytest.mark.skipif(not demo.IS_DEMO, reason="sources of its own are configured")
def test_the_demo_lives_on_only_when_somebody_starts_it() -> None:
    assert demo.demo_lab_lives_on.default_status == dg.DefaultScheduleStatus.STOPPED
    assert demo.demo_lab_lives_on.cron_schedule == "50 * * * *"


def test_a_demo_laboratory_that_is_not_there_is_one_clear_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "settings", lambda: Settings(data_dir=tmp_path))
    result = demo.demo_lab.execute_in_process(raise_on_error=False)
    assert not result.success
    failed = next(event for event in result.all_events if event.event_type_value == "STEP_FAILURE")
    assert "write one first" in str(failed.step_failure_data.user_failure_data)


def wrote(text: str) -> Written:
    return Written(at(text).astimezone(UTC), "a run")


@pytest.mark.parametrize(
    ("written", "now", "day", "fresh"),
    [
        ({date(2026, 3, 20): "2026-03-20T08:00"}, "2026-03-20T09:30", 20, True),
        ({date(2026, 3, 20): "2026-03-20T08:00"}, "2026-03-20T10:30", 20, False),
        ({date(2026, 3, 10): "2026-03-20T10:00"}, "2026-03-20T10:30", 20, False),  # an old day was back-filled
        ({date(2026, 3, 19): "2026-03-19T23:00"}, "2026-03-20T00:30", 19, True),  # today has hardly begun
        ({date(2026, 3, 19): "2026-03-19T20:00"}, "2026-03-20T00:30", 19, False),
        ({}, "2026-03-20T10:30", 20, False),
    ],
)
@pytest.mark.usefixtures("instance")
def test_bronze_is_fresh_by_the_partition_of_now(written: dict[date, str], now: str, day: int, fresh: bool) -> None:
    verdict = bronze_freshness({d: wrote(t) for d, t in written.items()}, at(now).astimezone(UTC), date(2026, 3, 1))
    assert (verdict.day, verdict.fresh) == (date(2026, 3, day), fresh), verdict.words


@pytest.mark.parametrize(
    ("written", "now", "day", "fresh"),
    [
        ({date(2026, 3, 18): "2026-03-19T01:10"}, "2026-03-20T02:59", 18, True),  # yesterday is due at three
        ({date(2026, 3, 18): "2026-03-19T01:10"}, "2026-03-20T03:00", 19, False),
        ({date(2026, 3, 19): "2026-03-20T01:10"}, "2026-03-20T03:00", 19, True),
        ({date(2026, 3, 19): "2026-03-19T20:00"}, "2026-03-20T03:00", 19, False),  # written before the day ended
        ({}, "2026-03-01T09:00", 28, True),  # before the first day nothing is due
    ],
)
@pytest.mark.usefixtures("instance")
def test_a_daily_table_is_fresh_by_its_deadline(written: dict[date, str], now: str, day: int, fresh: bool) -> None:
    verdict = daily_freshness({d: wrote(t) for d, t in written.items()}, at(now).astimezone(UTC), time(1))
    assert (verdict.day.day, verdict.fresh) == (day, fresh), verdict.words
