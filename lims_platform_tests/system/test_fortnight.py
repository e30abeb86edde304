"""A fortnight of automation under a moved clock: everything fires when it should and never else, the outage is caught up.

The simulation runs in a process of its own, because its laboratory is set by the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

ROOT = Path(__file__).resolve().parents[2]
ZONE = ZoneInfo("Europe/Berlin")
DAYS = [date(2026, 3, 20) + timedelta(days=offset) for offset in range(14)]
OUTAGE = (datetime(2026, 3, 25, 9, 30, tzinfo=ZONE), datetime(2026, 3, 26, 15, 30, tzinfo=ZONE))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3_600)]


@pytest.fixture(scope="module")
def fortnight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Every run and tick of the two weeks."""
    out = tmp_path_factory.mktemp("fortnight") / "log.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LIMS_", "DAGSTER_"))}
    command = [sys.executable, str(ROOT / "benchmarks" / "fortnight.py"), "--json", str(out)]
    subprocess.run(command, check=True, cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    return json.loads(out.read_text())


def at(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["at"]).astimezone(ZONE)


def runs(log: dict[str, list[dict[str, Any]]], kind: str, by: str | None = None) -> list[dict[str, Any]]:
    return [run for run in log["runs"] if kind in run["kinds"] and (by is None or run["by"] == by)]


def covered(of: Iterable[dict[str, Any]]) -> Counter[date]:
    """How often each day was worked on."""
    found: Counter[date] = Counter()
    for run in of:
        first, last = date.fromisoformat(run["first"]), date.fromisoformat(run["last"])
        found.update(first + timedelta(days=offset) for offset in range((last - first).days + 1))
    return found


def test_no_tick_failed_and_nothing_started_while_nobody_was_there(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    assert [tick for tick in fortnight["ticks"] if tick["error"]] == []
    assert not [run for run in fortnight["runs"] if OUTAGE[0] <= at(run) < OUTAGE[1]]


def test_every_hour_is_read_once_and_every_day_once_more_after_its_end(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    hourly = runs(fortnight, "ingest", "ingest_hourly_schedule")
    per_day = Counter(at(run).date() for run in hourly)
    expected = dict.fromkeys(DAYS, 24) | {date(2026, 3, 29): 23, date(2026, 3, 25): 10, date(2026, 3, 26): 9}
    assert per_day == expected
    for run in hourly:
        days = sorted(covered([run]))
        first_tick = at(run).hour == 0
        if run is hourly[0] or not (at(run).date() == date(2026, 3, 26) and at(run).hour == 15):
            assert days == [at(run).date() - timedelta(days=1), at(run).date()] if first_tick else [at(run).date()]


def test_the_first_reading_after_the_outage_is_one_run_over_the_unread_days(
    fortnight: dict[str, list[dict[str, Any]]],
) -> None:
    back = next(run for run in runs(fortnight, "ingest", "ingest_hourly_schedule") if at(run) >= OUTAGE[1])
    assert at(back) < OUTAGE[1] + timedelta(hours=1)
    assert sorted(covered([back])) == [date(2026, 3, 25), date(2026, 3, 26)]


@pytest.mark.parametrize(("kind", "opens"), [("gold", 1), ("scoring", 2), ("drift", 4)])
def test_each_day_is_worked_on_once_after_its_window_opened(
    fortnight: dict[str, list[dict[str, Any]]], kind: str, opens: int
) -> None:
    mine = runs(fortnight, kind)
    assert set(covered(mine)) == {day - timedelta(days=1) for day in DAYS}
    assert set(covered(mine).values()) == {1}
    for run in mine:
        assert at(run).hour >= opens, "never before its window"


def test_scoring_waited_for_features_that_broke_their_contract(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    broken = next(run for run in runs(fortnight, "gold") if run["first"] == "2026-03-22")
    assert broken["outcome"] == "check failed"
    mended = next(run for run in runs(fortnight, "person") if "gold/device_failure_features" in run["assets"])
    scored = next(run for run in runs(fortnight, "scoring") if run["first"] == "2026-03-22")
    assert at(broken).hour < 3 and at(scored) > at(mended)


def test_a_failed_run_is_not_repeated_by_itself(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    (failed,) = [run for run in fortnight["runs"] if run["outcome"] == "failed"]
    assert failed["kinds"] == ["drift"] and failed["first"] == "2026-03-29"
    again = next(run for run in runs(fortnight, "person") if "gold/drift_report" in run["assets"])
    assert again["outcome"] == "success" and at(again) - at(failed) > timedelta(hours=7)


def test_training_runs_on_the_two_sundays(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    trained = [at(run) for run in runs(fortnight, "training")]
    assert [moment.date() for moment in trained] == [date(2026, 3, 22), date(2026, 3, 29)]
    assert all(moment.hour == 3 for moment in trained)


def test_changes_at_the_source_read_just_their_days_within_the_hour(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    first, *later = runs(fortnight, "ingest", "source_changes")
    assert len(covered([first])) == 14, "the first look reads the days it watches"
    known = [
        (at(run), sorted(covered([run]))) for run in later if sorted(covered([run])) != [at(run).date() - timedelta(days=1)]
    ]
    expected = {
        datetime(2026, 3, 22, 10, 20): date(2026, 3, 19),  # late
        datetime(2026, 3, 23, 14, 20): date(2026, 3, 21),  # amended
        datetime(2026, 3, 24, 11, 20): date(2026, 3, 2),  # amended, older than the days watched
        datetime(2026, 3, 31, 16, 20): date(2026, 3, 28),  # moved from here
    }
    for moment, day in expected.items():
        found = [when for when, days in known if day in days]
        assert len(found) == 1, (day, known)
        assert timedelta() < found[0].replace(tzinfo=None) - moment <= timedelta(hours=1)
    moved_to = date(2026, 3, 30)
    elsewhere = runs(fortnight, "ingest", "moved_rows")
    assert [sorted(covered([run])) for run in elsewhere] == [[moved_to]]


def test_marts_follow_what_changed_and_features_do_not(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    late = [run for run in runs(fortnight, "marts") if at(run).date() == date(2026, 3, 22)]
    assert covered(late)[date(2026, 3, 19)] == 1
    assert covered(runs(fortnight, "gold"))[date(2026, 3, 18)] == 0


def test_reports_are_redrawn_after_scores_and_only_then(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    books = [at(run) for run in fortnight["runs"] if "reports/device_risk_workbook" in run["assets"]]
    scores = [at(run) for run in runs(fortnight, "scoring")]
    assert len(books) == len(scores)
    assert all(score < book <= score + timedelta(hours=2) for score, book in zip(scores, books, strict=True))


def test_every_schedule_and_sensor_looked_every_hour(fortnight: dict[str, list[dict[str, Any]]]) -> None:
    looks = Counter(tick["name"] for tick in fortnight["ticks"])
    assert set(looks) == {
        "ingest_hourly_schedule",
        "freshness_schedule",
        "data_starts",
        "source_changes",
        "moved_rows",
    }
    hours = 14 * 24 - 1 - 30
    assert looks["freshness_schedule"] == hours
    assert looks["ingest_hourly_schedule"] == hours + 1, "the last tick missed in the outage is made up for"
    last_day = datetime(2026, 4, 2, tzinfo=ZONE)
    for name in ("data_starts", "source_changes", "moved_rows"):  # Dagster forgets sensor ticks that did nothing
        moments = [datetime.fromisoformat(tick["at"]) for tick in fortnight["ticks"] if tick["name"] == name]
        assert sum(moment >= last_day for moment in moments) == 24, name
