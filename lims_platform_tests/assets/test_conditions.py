"""Every condition, evaluated over a small graph with an event log that real (tiny) runs wrote at given times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.test_utils import freeze_time

from lims_platform.automation.conditions import follows_inputs, late_changes, once_due
from lims_platform.automation.windows import Window

ZONE = ZoneInfo("Europe/Berlin")
DAILY = dg.DailyPartitionsDefinition(start_date="2026-03-01", timezone="Europe/Berlin", end_offset=1)
BACK = 7
#: What the graph's checks and assets do at the moment; tests change it.
STATE: dict[str, Any] = {}
NORMAL = {"check_passes": True, "gold_fails": False, "mart_fails": False, "silver_version": None, "meanwhile": None}


def once_a_day(at: str) -> dg.AutomationCondition:
    return once_due(Window(time.fromisoformat(at), ZONE), BACK)


@dg.asset(partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run())
def silver() -> dg.MaterializeResult:
    version = STATE["silver_version"]
    return dg.MaterializeResult(metadata={} if version is None else {"delta_version": version})


@dg.asset
def register() -> None: ...


@dg.asset_check(asset=silver, blocking=True)
def contract() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=STATE["check_passes"])


@dg.asset(
    partitions_def=DAILY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[
        dg.AssetDep(
            silver,
            partition_mapping=dg.TimeWindowPartitionMapping(start_offset=-5, allow_nonexistent_upstream_partitions=True),
        ),
        register,
    ],
    automation_condition=once_a_day("01:00"),
)
def gold() -> None:
    if STATE["gold_fails"]:
        raise dg.Failure("broken", allow_retries=False)


@dg.asset(
    partitions_def=DAILY,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[silver],
    automation_condition=once_a_day("01:00") | late_changes(ZONE, BACK),
)
def mart() -> dg.MaterializeResult:
    if STATE["mart_fails"]:
        raise dg.Failure("broken", allow_retries=False)
    version = STATE["silver_version"]
    if STATE["meanwhile"]:
        STATE["meanwhile"]()
    return dg.MaterializeResult(metadata={} if version is None else {"input_version/silver": version})


@dg.asset(deps=[silver], automation_condition=once_a_day("01:00") | late_changes(ZONE, BACK))
def summary() -> None: ...


@dg.asset(deps=[gold], automation_condition=once_due(Window(time(3), ZONE, 6), BACK))
def model() -> None: ...


@dg.asset(deps=[gold], automation_condition=follows_inputs(dg.AssetSelection.keys("register")))
def page() -> None: ...


ALL = [silver, register, gold, mart, summary, model, page]
DEFS = dg.Definitions(assets=ALL, asset_checks=[contract])


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"2026-{text}").replace(tzinfo=ZONE).astimezone(UTC)


@dataclass
class Lab:
    """An event log, the evaluator's memory, and the clock."""

    instance: dg.DagsterInstance
    cursor: object = None
    with_summary: bool = False

    def run(self, when: str, *assets: dg.AssetsDefinition, first: str, last: str | None = None) -> bool:
        """Materialise days of assets at that time, with their checks."""
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        with freeze_time(at(when)):
            checks = [contract] if silver in assets else []
            return dg.materialize(
                [*ALL, *checks], selection=list(assets), instance=self.instance, tags=tags, raise_on_error=False
            ).success

    def asked(self, when: str) -> dict[str, list[str]]:
        """Which days of which assets are requested at that time; advances the evaluator's memory."""
        with freeze_time(at(when)):
            result = dg.evaluate_automation_conditions(
                DEFS,
                self.instance,
                evaluation_time=at(when),
                cursor=self.cursor,  # type: ignore[arg-type]
            )
        self.cursor = result.cursor
        found: dict[str, list[str]] = {}
        for made in (gold, mart, model, page, *([summary] if self.with_summary else [])):
            keys = result.get_requested_partitions(made.key)
            if result.get_num_requested(made.key):
                found[made.key.to_user_string()] = sorted(key or "" for key in keys)
        return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    """History up to 18 March is complete; today is 19 March, read until 23:00."""
    STATE.update(NORMAL)
    with dg.DagsterInstance.ephemeral() as instance:
        made = Lab(instance)
        assert made.run("03-19T06:00", silver, register, gold, mart, first="2026-03-01", last="2026-03-18")
        assert made.run("03-19T06:30", model, page, summary, first="2026-03-18")
        assert made.run("03-19T23:00", silver, first="2026-03-19")
        assert made.asked("03-19T23:30") == {}
        yield made


def test_nothing_is_due_before_the_day_was_read_after_its_end(lab: Lab) -> None:
    assert lab.asked("03-20T01:05") == {}, "the last reading was at 23:00: an hour of results is not there yet"
    lab.run("03-20T01:10", silver, first="2026-03-19")
    assert lab.asked("03-20T01:15") == {"gold": ["2026-03-19"], "mart": ["2026-03-19"]}


def test_the_clock_opens_the_window(lab: Lab) -> None:
    lab.run("03-20T00:05", silver, first="2026-03-19")
    assert lab.asked("03-20T00:59") == {}
    assert lab.asked("03-20T01:00") == {"gold": ["2026-03-19"], "mart": ["2026-03-19"]}
    assert lab.asked("03-20T01:01") == {}, "asked once"


def test_inputs_that_failed_their_blocking_check_are_not_used_across_runs(lab: Lab) -> None:
    STATE["check_passes"] = False
    assert not lab.run("03-20T00:05", silver, first="2026-03-19")
    assert lab.asked("03-20T01:05") == {}
    STATE["check_passes"] = True
    lab.run("03-20T08:00", silver, first="2026-03-20")
    assert lab.asked("03-20T08:05") == {}, "today's check says nothing about yesterday"
    lab.run("03-20T08:10", silver, first="2026-03-19")
    assert lab.asked("03-20T08:15") == {"gold": ["2026-03-19"], "mart": ["2026-03-19"]}


def test_a_day_missing_in_the_trailing_window_holds_gold_back_but_not_the_mart(lab: Lab) -> None:
    lab.run("03-21T00:05", silver, first="2026-03-20")
    assert lab.asked("03-21T01:05") == {"mart": ["2026-03-20"]}, "the 19th was not read since it ended"
    lab.run("03-21T01:10", silver, first="2026-03-19")
    assert lab.asked("03-21T01:15") == {"gold": ["2026-03-19", "2026-03-20"], "mart": ["2026-03-19"]}


def test_a_failed_run_is_asked_for_again_only_when_an_input_was_rewritten(lab: Lab) -> None:
    lab.run("03-20T00:05", silver, first="2026-03-19")
    assert lab.asked("03-20T01:00") == {"gold": ["2026-03-19"], "mart": ["2026-03-19"]}
    STATE["gold_fails"] = True
    lab.run("03-20T01:01", gold, first="2026-03-19")
    lab.run("03-20T01:01", mart, first="2026-03-19")
    assert all(lab.asked(f"03-20T{hour:02d}:30") == {} for hour in range(2, 8)), "a lasting failure fails once"
    STATE["gold_fails"], STATE["check_passes"] = False, False
    lab.run("03-20T09:00", silver, first="2026-03-19")
    assert lab.asked("03-20T09:01") == {}
    STATE["check_passes"] = True
    lab.run("03-20T09:10", silver, first="2026-03-19")
    assert lab.asked("03-20T09:15")["gold"] == ["2026-03-19"]


def test_after_an_outage_every_missed_day_is_asked_for_once(lab: Lab) -> None:
    lab.run("03-22T15:05", silver, first="2026-03-19", last="2026-03-22")
    days = ["2026-03-19", "2026-03-20", "2026-03-21"]
    assert lab.asked("03-22T15:10") == {"gold": days, "mart": days}
    assert lab.asked("03-22T15:11") == {}


def test_an_evaluator_without_memory_catches_up_too(lab: Lab) -> None:
    lab.run("03-20T00:05", silver, first="2026-03-19")
    lab.cursor = None
    assert lab.asked("03-20T05:00") == {"gold": ["2026-03-19"], "mart": ["2026-03-19"]}


def test_older_than_the_catching_up_is_left_to_a_person(lab: Lab) -> None:
    lab.run("03-31T00:05", silver, first="2026-03-19", last="2026-03-30")
    assert lab.asked("03-31T01:05")["gold"] == [f"2026-03-{day}" for day in range(24, 31)]


def test_late_rows_redo_the_mart_of_their_day_and_not_the_point_in_time_features(lab: Lab) -> None:
    lab.run("03-20T00:05", silver, first="2026-03-19")
    lab.asked("03-20T01:00")
    lab.run("03-20T01:01", gold, mart, first="2026-03-19")
    assert lab.asked("03-20T01:10").keys() == {"page"}
    lab.run("03-20T10:00", silver, first="2026-03-12")
    assert lab.asked("03-20T10:05") == {"mart": ["2026-03-12"]}
    lab.run("03-20T10:06", mart, first="2026-03-12")
    lab.run("03-20T11:00", silver, first="2026-03-20")
    assert lab.asked("03-20T11:05") == {}, "today is not over"


def test_an_input_rewritten_after_the_mart_within_one_evaluation_is_not_lost(lab: Lab) -> None:
    lab.run("03-19T23:40", silver, first="2026-03-12")
    assert lab.asked("03-19T23:41") == {"mart": ["2026-03-12"]}
    lab.run("03-19T23:42", mart, first="2026-03-12")
    lab.run("03-19T23:43", silver, first="2026-03-12")
    assert lab.asked("03-19T23:44") == {"mart": ["2026-03-12"]}
    lab.run("03-19T23:45", mart, first="2026-03-12")
    assert lab.asked("03-19T23:46") == {}


def test_an_input_rewritten_while_the_mart_was_made_is_told_by_its_version(lab: Lab) -> None:
    def rewritten() -> None:
        STATE.update(silver_version=11, meanwhile=None)
        lab.run("03-19T23:41", silver, first="2026-03-12")

    STATE.update(silver_version=10)
    lab.run("03-19T23:40", silver, first="2026-03-12")
    STATE["meanwhile"] = rewritten
    lab.run("03-19T23:41", mart, first="2026-03-12")
    assert lab.asked("03-19T23:42") == {"mart": ["2026-03-12"]}, "its event is the later one, its input the older one"
    lab.run("03-19T23:43", silver, mart, first="2026-03-12")
    assert lab.asked("03-19T23:44") == {}, "planned before silver was written, made of it in the same run"


def test_a_failed_mart_is_asked_for_again_when_its_input_is_rewritten_after(lab: Lab) -> None:
    lab.run("03-19T23:40", silver, first="2026-03-12")
    assert lab.asked("03-19T23:41") == {"mart": ["2026-03-12"]}
    STATE["mart_fails"] = True
    lab.run("03-19T23:42", mart, first="2026-03-12")
    assert lab.asked("03-19T23:43") == lab.asked("03-19T23:50") == {}, "a lasting failure fails once"
    lab.run("03-19T23:51", silver, first="2026-03-12")
    assert lab.asked("03-19T23:52") == {"mart": ["2026-03-12"]}


def test_an_evaluator_without_memory_finds_what_was_rewritten(lab: Lab) -> None:
    lab.run("03-19T23:40", silver, first="2026-03-12", last="2026-03-13")
    lab.cursor = None
    assert lab.asked("03-19T23:41") == {"mart": ["2026-03-12", "2026-03-13"]}


def test_a_mart_without_days_is_made_once_a_day_and_not_after_every_reading(lab: Lab) -> None:
    lab.with_summary = True
    lab.run("03-20T00:05", silver, first="2026-03-19")
    assert lab.asked("03-20T01:05")["summary"] == [""]
    lab.run("03-20T01:10", summary, gold, mart, first="2026-03-19")
    lab.asked("03-20T01:15")
    lab.run("03-20T10:00", silver, first="2026-03-20")
    lab.run("03-20T10:10", silver, first="2026-03-12")
    assert lab.asked("03-20T10:15") == {"mart": ["2026-03-12"]}


def test_training_waits_for_sunday_and_for_every_day_up_to_saturday(lab: Lab) -> None:
    lab.run("03-22T00:05", silver, first="2026-03-19", last="2026-03-21")
    lab.run("03-22T01:05", gold, mart, first="2026-03-19", last="2026-03-20")
    assert "model" not in lab.asked("03-22T03:05"), "Saturday's features are not there"
    lab.run("03-22T03:10", gold, mart, first="2026-03-21")
    assert lab.asked("03-22T03:15")["model"] == [""]
    lab.run("03-22T03:20", model, first="2026-03-21")
    assert "model" not in lab.asked("03-23T12:00")


def test_a_missed_sunday_is_trained_on_the_next_day_there_is_somebody(lab: Lab) -> None:
    lab.run("03-23T10:00", silver, first="2026-03-19", last="2026-03-22")
    lab.run("03-23T10:05", gold, mart, first="2026-03-19", last="2026-03-22")
    assert lab.asked("03-23T10:10")["model"] == [""]


def test_a_report_follows_its_input_and_a_register_must_be_there(lab: Lab) -> None:
    lab.run("03-20T00:05", silver, first="2026-03-19")
    lab.run("03-20T00:30", gold, first="2026-03-19")
    assert lab.asked("03-20T00:35") == {"page": [""]}
    with freeze_time(at("03-20T12:00")):
        lab.instance.wipe_assets([register.key])
    lab.run("03-21T00:05", silver, first="2026-03-20")
    assert "gold" not in lab.asked("03-21T01:05")
    lab.run("03-21T01:10", register, first="2026-03-20")
    assert lab.asked("03-21T01:15")["gold"] == ["2026-03-20"]


@pytest.mark.parametrize("day", [date(2026, 3, 28), date(2026, 3, 29)])
def test_the_clock_change_moves_no_window(lab: Lab, day: date) -> None:
    after = day + timedelta(days=1)
    lab.run(f"{after:%m-%d}T00:05", silver, first="2026-03-19", last=day.isoformat())
    assert day.isoformat() not in lab.asked(f"{after:%m-%d}T00:59").get("gold", [])
    assert day.isoformat() in lab.asked(f"{after:%m-%d}T01:00")["gold"]
