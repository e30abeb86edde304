"""An edit of the reference tables leads to runs over just the silver days it changes, and is never lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import freeze_time

from lims_platform.assets.door import Door
from lims_platform.automation import reference_changes as room
from lims_platform.automation import reference_days
from lims_platform.automation.again import FIRST_PAUSE, MOST_RUNS, Earlier
from lims_platform.automation.reference_days import READERS, Look
from lims_platform.contracts.silver import SILVER_TABLES
from lims_platform.definitions import defs
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference import ReferenceTableError
from lims_platform.partitions import days_of_text
from lims_platform_tests.stored_runs import store
from lims_platform_tests.works import FIRST, LAST, Works

MIDDLE = FIRST + timedelta(days=1)
LAB = ["lab_results_history", "lab_results_quarantine", "lab_results_standardized"]
NOW = datetime.now(UTC)
SHIPPED = Path(__file__).parents[2] / "data" / "reference"


class Desk:
    """A laboratory of three days in the lake, the tables it edits, and the sensor's looks."""

    def __init__(self, works: Works, instance: dg.DagsterInstance) -> None:
        self.works, self.instance = works, instance
        self.cursor: str | None = None
        self.said: str | None = None
        self.at = NOW

    def edit(self, table: str, old: str | None, new: str) -> None:
        """Replace a text of a CSV file, or add a line; the file was saved long ago."""
        path = self.works.settings.reference_dir / f"{table}.csv"
        text = path.read_text()
        assert old is None or old in text
        path.write_text(text + new + "\n" if old is None else text.replace(old, new, 1))
        os.utime(path, (0, 0))

    def accept(self, code: str) -> None:
        """One line in the LOINC map: the code is potassium."""
        self.edit("loinc_map", None, f"*,{code},*,*,*,2823-3,,,")

    def look(self) -> list[dg.RunRequest]:
        """What one tick asks for."""
        context = dg.build_sensor_context(
            self.instance,
            cursor=self.cursor,
            repository_def=defs.get_repository_def(),
            resources={"lake": self.works.lake, "door": Door(self.works.settings, self.works.lake)},
        )
        with freeze_time(self.at):
            result = room.reference_changes(context)
        if isinstance(result, dg.SkipReason):
            self.said = result.skip_message
            return []
        assert isinstance(result, dg.SensorResult)
        self.cursor, self.said = result.cursor, result.skip_reason.skip_message if result.skip_reason else None
        return list(result.run_requests or [])

    def asked(self) -> list[tuple[list[str], str, str]]:
        """Tables and first and last day of each run asked for."""
        return [told(request) for request in self.look()]

    def start(self, request: dg.RunRequest, status: dg.DagsterRunStatus = dg.DagsterRunStatus.FAILURE) -> None:
        """A run as Dagster stores it, failed (or still at work) now."""
        store(self.instance, request, "reference_changes", "rebuild_days", self.at, status)


def told(request: dg.RunRequest) -> tuple[list[str], str, str]:
    ends = [request.tags.get(f"dagster/asset_partition_range_{end}") or request.partition_key for end in ("start", "end")]
    return sorted(key.path[-1] for key in request.asset_selection or []), str(ends[0]), str(ends[1])


def whole(*days: date) -> list[tuple[list[str], str, str]]:
    return [(LAB, str(day), str(day)) for day in days]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Works:
    """Three days in bronze and silver; a code nobody mapped on the first and the last of them."""
    works = Works(tmp_path_factory.mktemp("built"))
    shutil.copytree(SHIPPED, works.folder / "reference")
    works.settings = works.settings.model_copy(update={"reference_dir": works.folder / "reference"})
    for day in (FIRST, LAST):
        enter(works, day, "NEWK")
    assert works.run().success
    return works


def copied(works: Works, folder: Path) -> Works:
    """The works and all it wrote, elsewhere, with reference tables of its own."""
    shutil.copytree(works.folder, folder)
    found = copy(works)
    found.folder, found.lake, found.database = folder, Lake(folder / "lake"), folder / "lims.db"
    found.connect({"uri": f"sqlite:///{found.database}"})
    found.settings = found.settings.model_copy(update={"reference_dir": folder / "reference"})
    return found


def enter(works: Works, day: date, code: str) -> None:
    """A potassium result under a code of the laboratory's own."""
    columns = "result_id, patient_id, test_code, result_value, result_unit, device_id, technician_id"
    moment = f"{day} 10:00:00"
    works.sql(
        f"INSERT INTO lab_results ({columns}, collected_timestamp, resulted_timestamp, updated_at) "
        "VALUES (?, 'P1', ?, '4.2', 'mmol/L', 'DEV-1', 'T1', ?, ?, ?)",
        f"{code}-{day}", code, moment, moment, moment,
    )  # fmt: skip


@pytest.fixture
def desk(built: Works, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    works = copied(built, tmp_path / "works")
    for path in works.settings.reference_dir.iterdir():
        os.utime(path, (0, 0))
    monkeypatch.setattr(room, "settings", lambda: works.settings)
    monkeypatch.setattr(reference_days, "partition_bounds", lambda: (FIRST, LAST))
    with dg.DagsterInstance.ephemeral() as instance:
        made = Desk(works, instance)
        assert made.asked() == [] and made.said == "no day's rows are read otherwise"
        yield made


def test_an_accepted_proposal_asks_for_the_days_that_hold_the_code(desk: Desk) -> None:
    before = desk.works.kept().filter(reason="unmapped_code")
    desk.accept("NEWK")
    requests = desk.look()
    assert [told(request) for request in requests] == whole(LAST, FIRST)
    assert [r.run_key for r in desk.look()] == [r.run_key for r in requests], "Dagster starts each of them once"
    for day in (FIRST, LAST):
        assert desk.works.run(day, day).success
    assert desk.asked() == []
    after = desk.works.kept().filter(reason="unmapped_code")
    assert set(before["result_id"]) - set(after["result_id"]) == {f"NEWK-{FIRST}", f"NEWK-{LAST}"}


def test_an_edit_nobodys_rows_use_starts_nothing(desk: Desk) -> None:
    desk.accept("NOBODYS")
    assert desk.asked() == [] and desk.said == "no day's rows are read otherwise"
    assert all(table["left"] == "" for table in json.loads(str(desk.cursor))["tables"].values())


def test_a_state_moments_old_waits(desk: Desk) -> None:
    desk.accept("NEWK")
    os.utime(desk.works.settings.reference_dir / "loinc_map.csv")
    assert desk.asked() == [] and "saved moments ago" in str(desk.said)


def test_a_broken_edit_names_its_place_starts_nothing_and_is_not_lost(desk: Desk) -> None:
    desk.accept("NEWK")
    desk.edit("critical_limits", "2345-7,*,*,50,450", "2345-7,*,*,fifty,450")
    cursor = desk.cursor
    with pytest.raises(ReferenceTableError, match=r"critical_limits.csv, line 2, column low: 'fifty' is not a Float64"):
        desk.look()
    assert desk.cursor == cursor
    desk.edit("critical_limits", "fifty", "50")
    assert desk.asked() == whole(LAST, FIRST)


def test_words_that_contradict_each_other_fail_the_look_too(desk: Desk) -> None:
    desk.edit("unit_aliases", None, "MMOL / L,mg/dL,*,folded")
    with pytest.raises(ValueError, match="the unit spelling 'mmol/l' stands for"):
        desk.look()


def test_days_made_by_tables_that_were_never_kept_all_count(desk: Desk) -> None:
    shutil.rmtree(desk.works.settings.reference_states)
    desk.accept("NOBODYS")
    assert desk.asked() == [(LAB, str(FIRST), str(LAST))]
    look = json.loads(str(desk.cursor))["tables"]["lab_results_history"]
    assert look["unknown"] == f"{FIRST}/{LAST}"


def test_a_run_that_read_the_old_tables_and_wrote_after_the_edit_is_found_out(desk: Desk) -> None:
    old = (desk.works.settings.reference_dir / "loinc_map.csv").read_text()
    desk.accept("OTHERK")
    assert desk.asked() == [], "compared: nobody uses it"
    new = (desk.works.settings.reference_dir / "loinc_map.csv").read_text()
    (desk.works.settings.reference_dir / "loinc_map.csv").write_text(old)
    enter(desk.works, MIDDLE, "OTHERK")
    assert desk.works.run(MIDDLE, MIDDLE).success
    (desk.works.settings.reference_dir / "loinc_map.csv").write_text(new)
    os.utime(desk.works.settings.reference_dir / "loinc_map.csv", (0, 0))
    assert desk.asked() == whole(MIDDLE)


def test_a_run_that_died_between_two_tables_leaves_its_day_behind(desk: Desk) -> None:
    desk.accept("NEWK")
    desk.cursor = None
    assert desk.works.run(table="lab_results").success
    assert desk.asked() == []
    # quarantine as the run before left it
    lake, table = desk.works.lake, SILVER_TABLES["lab_results_quarantine"]
    lake.replace(table, lake.scan(table, MIDDLE, LAST, version=1), MIDDLE, LAST)
    assert desk.asked() == whole(LAST), "the middle day has no such row"


def test_controls_and_samples_are_made_and_compared(desk: Desk) -> None:
    codes = desk.works.rows("quality_control_standardized").filter(event_date=MIDDLE)["test_code"].unique()
    code = codes.sort()[0]
    days = desk.works.rows("quality_control_standardized").filter(test_code=code)["event_date"].unique().sort()
    desk.edit("loinc_map", f"*,{code},*,*,*,", f"*,{code}-GONE,*,*,*,")
    assert {(first, last) for tables, first, last in desk.asked() if "quality_control_standardized" in tables}
    looked = json.loads(str(desk.cursor))["tables"]["quality_control_standardized"]["affected"]
    assert set(days_of_text(looked)) == set(days)


def test_sample_limits_concern_samples_alone(desk: Desk) -> None:
    desk.edit("sample_limits", "ph_level,pH,,0,14,7.0,7.4", "ph_level,pH,,0,14,7.0,7.1")
    between = desk.works.rows("sample_measurements").filter((pl.col("ph_level") > 7.1) & (pl.col("ph_level") <= 7.4))
    assert set(between["event_date"]) == {FIRST, MIDDLE, LAST}
    assert desk.asked() == [(["sample_measurements"], str(FIRST), str(LAST))]
    desk.edit("sample_limits", "7.0,7.1", "7.0,7.4")
    assert desk.asked() == []


def test_a_failed_run_is_asked_for_again_after_growing_pauses_then_given_up(desk: Desk) -> None:
    desk.accept("NEWK")
    for number in range(MOST_RUNS):
        requests = desk.look()
        assert [told(request) for request in requests] == whole(LAST, FIRST)
        for request in requests:
            desk.start(request)
        pause = FIRST_PAUSE * 2**number
        desk.at += pause - timedelta(seconds=1)
        assert desk.asked() == []
        desk.at += timedelta(seconds=1)
    assert desk.asked() == [] and "by hand" in str(desk.said)
    desk.accept("NOBODYS")
    assert desk.asked() == whole(LAST, FIRST), "another edit is another reason"


def test_a_run_at_work_is_not_asked_for_twice_unless_it_died(desk: Desk) -> None:
    desk.accept("NEWK")
    desk.start(desk.look()[0], dg.DagsterRunStatus.STARTED)
    assert desk.asked() == whole(FIRST)
    desk.at += timedelta(hours=2)
    assert desk.asked() == whole(LAST, FIRST), "no sign of life for two hours"


def looks(*days: date) -> dict[Any, Look]:
    return {READERS[0]: Look("d", affected=frozenset(days))}


def test_long_spans_are_cut_and_the_newest_days_come_first() -> None:
    days = [date(2026, 1, 1) + timedelta(days=offset) for offset in range(70)]
    requests = room.requests_for_days(Earlier(()), looks(*days), NOW)
    assert [told(r)[1:] for r in requests] == [
        ("2026-02-09", "2026-03-11"), ("2026-01-09", "2026-02-08"), ("2026-01-01", "2026-01-08"),
    ]  # fmt: skip


def test_so_many_runs_at_a_time() -> None:
    days = [date(2026, 1, 1) + timedelta(days=2 * offset) for offset in range(9)]
    requests = room.requests_for_days(Earlier(()), looks(*days), NOW)
    assert [told(r)[1] for r in requests] == [str(day) for day in days[:-6:-1]]


def test_a_look_ends_in_time_and_the_next_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(reference_days, "CHUNK_ROWS", 1)
    desk.accept("NEWK")
    assert desk.asked() == whole(LAST)
    assert desk.asked() == whole(LAST)
    assert desk.asked() == whole(LAST, FIRST)


def test_a_look_is_kept_as_json() -> None:
    look = Look("d", {"t": 3}, frozenset({FIRST}), frozenset({FIRST, MIDDLE, LAST}), frozenset())
    assert Look.from_dict(json.loads(json.dumps(look.as_dict()))) == look
    assert replace(look, left=frozenset()) != look
