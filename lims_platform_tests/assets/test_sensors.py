"""Every sensor: what changed at a real SQLite source leads to runs over just those days."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import freeze_time

from lims_platform.automation import sensors
from lims_platform.automation.sensors import look_at_sources, moved_rows, requests_for, source_changes
from lims_platform.contracts.extract import DayWindow, SourceError
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.definitions import defs
from lims_platform.settings import Settings
from lims_platform.sources.config import parse_sources
from lims_platform.sources.reader import Sources, open_sources

TODAY = date(2026, 3, 20)
BRONZE = dg.AssetKey(["bronze", "lab_results_raw"])
COLUMNS = (
    "result_id, patient_id, test_code, result_value, result_unit, device_id, collected_timestamp, resulted_timestamp, "
    "technician_id, updated_at"
)


def insert(lims: sqlite3.Connection, name: str, day: date, updated: str) -> None:
    moment = f"{day} 10:00:00"
    row = (name, "P1", "GLU", "95", "mg/dL", "D1", moment, moment, "T1", updated)
    lims.execute(f"INSERT INTO lab_results VALUES ({','.join('?' * 10)})", row)
    lims.commit()


@pytest.fixture
def lims(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A LIMS with two results a day for 40 days up to today."""
    connection = sqlite3.connect(tmp_path / "lims.db")
    connection.execute(f"CREATE TABLE lab_results ({COLUMNS})")
    for back in range(40):
        day = TODAY - timedelta(days=back)
        for n in range(2):
            insert(connection, f"R{back}-{n}", day, f"{day} 10:00:00")
    yield connection
    connection.close()


@pytest.fixture
def sources(lims: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """The LIMS as a source with a change cursor; a fortnight is watched, the laboratory began on 1 January."""
    given = Settings(data_dir=tmp_path, start_date=date(2026, 1, 1), watch_days=14)
    monkeypatch.setattr(sensors, "settings", lambda: given)
    monkeypatch.setattr(sensors, "partition_bounds", lambda: (date(2026, 1, 1), TODAY))
    table = {"lab_results": {"table": "lab_results", "change_cursor": "updated_at"}}
    entry = {"uri": "sqlite:///lims.db", "timezone": "Europe/Berlin", "tables": table}
    return open_sources(parse_sources({"sources": {"lims": entry}}, tmp_path), "Europe/Berlin")


def look(sources: Sources, cursor: str | None) -> tuple[set[date], str]:
    touched, after, away = look_at_sources(sources, TODAY, cursor)
    assert away == []
    return touched.get(BRONZE, set()), after


def test_the_first_look_reads_the_whole_window_once_and_then_nothing(sources: Sources) -> None:
    days, cursor = look(sources, None)
    assert days == {TODAY - timedelta(days=back) for back in range(1, 15)}
    days, cursor = look(sources, cursor)
    assert days == set(), "the second goes far back, and has nothing to compare with there"
    assert look(sources, cursor) == (set(), cursor)


def test_late_amended_deleted_and_moved_rows_name_their_days(sources: Sources, lims: sqlite3.Connection) -> None:
    _, cursor = look(sources, None)
    insert(lims, "late", date(2026, 3, 9), "2026-03-20 11:00:00")
    days, cursor = look(sources, cursor)
    assert days == {date(2026, 3, 9)}
    lims.execute("UPDATE lab_results SET result_value = '5', updated_at = '2026-03-20 12:00:00' WHERE result_id = 'R4-0'")
    lims.commit()
    days, cursor = look(sources, cursor)
    assert days == {date(2026, 3, 16)}
    lims.execute("DELETE FROM lab_results WHERE result_id = 'R5-1'")
    lims.commit()
    days, cursor = look(sources, cursor)
    assert days == {date(2026, 3, 15)}
    lims.execute("UPDATE lab_results SET resulted_timestamp = '2026-03-12 09:00:00' WHERE result_id = 'R6-0'")
    lims.commit()
    days, cursor = look(sources, cursor)
    assert days == {date(2026, 3, 14), date(2026, 3, 12)}
    assert look(sources, cursor)[0] == set()


def test_the_change_cursor_finds_days_older_than_those_watched(sources: Sources, lims: sqlite3.Connection) -> None:
    _, cursor = look(sources, None)
    lims.execute("UPDATE lab_results SET result_value = '5', updated_at = '2026-03-20 12:00:00' WHERE result_id = 'R35-0'")
    lims.commit()
    days, cursor = look(sources, cursor)
    assert days == {date(2026, 2, 13)}
    assert look(sources, cursor)[0] == set()
    lims.execute("UPDATE lab_results SET result_value = '6', updated_at = '2026-03-20 12:01:00' WHERE result_id = 'R35-0'")
    lims.commit()
    days, cursor = look(sources, cursor)
    assert days == {date(2026, 2, 13)}
    assert look_at_sources(sources, TODAY + timedelta(days=1), cursor)[0] == {}, "the look far back knows what was found"


def test_a_row_deleted_from_an_older_day_is_found_at_the_first_look_of_the_next_day(
    sources: Sources, lims: sqlite3.Connection
) -> None:
    _, cursor = look(sources, None)
    assert look(sources, cursor)[0] == set(), "the first look far back has nothing to compare with"
    _, cursor = look(sources, cursor)
    lims.execute("DELETE FROM lab_results WHERE result_id = 'R30-0'")
    lims.execute("UPDATE lab_results SET result_value = '5' WHERE result_id = 'R12-0'")
    lims.commit()
    days, cursor = look(sources, cursor)
    assert days == set(), "neither the window nor the cursor shows it today"
    touched, cursor, _ = look_at_sources(sources, TODAY + timedelta(days=1), cursor)
    assert touched[BRONZE] == {TODAY - timedelta(days=30)}
    assert look_at_sources(sources, TODAY + timedelta(days=1), cursor)[0] == {}


def test_today_is_left_to_the_hourly_reading_and_told_apart_tomorrow(sources: Sources, lims: sqlite3.Connection) -> None:
    _, cursor = look(sources, None)
    insert(lims, "today", TODAY, "2026-03-20 11:00:00")
    days, cursor = look(sources, cursor)
    assert days == set()
    assert look_at_sources(sources, TODAY + timedelta(days=1), cursor)[0] == {}, "nothing changed since the look of today"
    insert(lims, "after", TODAY, "2026-03-20 23:30:00")
    assert look_at_sources(sources, TODAY + timedelta(days=1), cursor)[0] == {BRONZE: {TODAY}}


class Away:
    """Sources whose every look fails."""

    def __init__(self, transient: bool) -> None:
        self.transient = transient

    def names(self, table: object) -> list[str]:
        return ["lims"]

    def look(self, *_: object) -> None:
        raise SourceError("source lims: cannot connect", transient=self.transient)


def test_a_source_that_is_away_keeps_its_marks_and_loses_nothing(sources: Sources, lims: sqlite3.Connection) -> None:
    _, cursor = look(sources, None)
    insert(lims, "late", date(2026, 3, 9), "2026-03-20 11:00:00")
    touched, kept, away = look_at_sources(Away(transient=True), TODAY, cursor)  # type: ignore[arg-type]
    assert touched == {} and kept == cursor and "cannot connect" in away[0]
    assert look(sources, kept)[0] == {date(2026, 3, 9)}
    with pytest.raises(SourceError):
        look_at_sources(Away(transient=False), TODAY, cursor)  # type: ignore[arg-type]


def test_files_are_read_only_when_one_of_them_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pl.DataFrame({name: [f"{name}{n}" for n in range(2)] for name in COLUMNS.split(", ")}).with_columns(
        resulted_timestamp=pl.Series(["2026-03-10 10:00:00", "2026-03-11 10:00:00"])
    )
    frame = frame.drop("collected_timestamp", "updated_at").with_columns(collected_timestamp="resulted_timestamp")
    frame.write_csv(tmp_path / "a.csv")
    entry = {"folder": ".", "timezone": "Europe/Berlin", "tables": {"lab_results": {"files": "*.csv"}}}
    made = open_sources(parse_sources({"sources": {"files": entry}}, tmp_path), "Europe/Berlin")
    window = DayWindow(date(2026, 3, 9), date(2026, 3, 12), date(2026, 1, 1), date(2026, 3, 20))
    marks, _ = made.look(LAB_RESULTS, window, {})
    amended = frame.with_columns(
        result_value=pl.when(pl.col("result_id") == "result_id1").then(pl.lit("7")).otherwise("result_value")
    )
    amended.write_csv(tmp_path / "a.csv")
    changed, days = made.look(LAB_RESULTS, window, marks)
    assert days == {date(2026, 3, 11)}, "same number of rows, another value"
    assert made.look(LAB_RESULTS, window, changed) == (changed, set())
    late = frame.with_columns(resulted_timestamp=pl.lit("2026-01-20 10:00:00"), collected_timestamp=pl.lit("2026-01-20"))
    (tmp_path / "elsewhere").mkdir()
    late.write_csv(tmp_path / "elsewhere" / "b.csv")
    os.utime(tmp_path / "elsewhere" / "b.csv", (1, 1))
    (tmp_path / "elsewhere" / "b.csv").rename(tmp_path / "b.csv")
    changed, days = made.look(LAB_RESULTS, window, changed)
    assert days == {date(2026, 1, 20)}, "a late file, moved in with an old time, of a day before the window"
    assert made.look(LAB_RESULTS, window, changed) == (changed, set())


def test_requests_are_one_run_per_span_over_the_touched_tables_and_their_silver() -> None:
    graph = defs.resolve_asset_graph()
    controls = dg.AssetKey(["bronze", "quality_control_raw"])
    first, second, other = date(2026, 3, 9), date(2026, 3, 10), date(2026, 3, 15)
    requests = requests_for(graph, {BRONZE: {first, second, other}, controls: {other}}, "a look")
    assert [r.partition_key for r in requests] == [None, "2026-03-15"]
    assert requests[0].tags["dagster/asset_partition_range_end"] == "2026-03-10"
    names = {key.to_user_string() for key in requests[0].asset_selection or []}
    assert names == {
        "bronze/lab_results_raw",
        "silver/lab_results_history",
        "silver/lab_results_standardized",
        "silver/lab_results_quarantine",
    }
    assert "silver/quality_control_standardized" in {k.to_user_string() for k in requests[1].asset_selection or []}
    again = requests_for(graph, {BRONZE: {other}, controls: {other}}, "a look")
    assert again[0].run_key == requests[1].run_key != requests_for(graph, {BRONZE: {other}}, "another")[0].run_key


class Door:
    """A door with these sources."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources


def test_the_sensor_asks_for_runs_and_keeps_its_cursor(sources: Sources, lims: sqlite3.Connection) -> None:
    with dg.DagsterInstance.ephemeral() as instance, freeze_time(datetime(2026, 3, 20, 11, tzinfo=UTC)):
        context = dg.build_sensor_context(
            instance, repository_def=defs.get_repository_def(), resources={"door": Door(sources)}
        )
        first = source_changes(context)
        assert len(first.run_requests) == 1
        context = dg.build_sensor_context(
            instance, cursor=first.cursor, repository_def=defs.get_repository_def(), resources={"door": Door(sources)}
        )
        assert "no past day changed" in source_changes(context).skip_reason.skip_message


def test_moved_rows_lead_to_the_day_their_run_did_not_cover() -> None:
    with dg.DagsterInstance.ephemeral() as instance:

        def sense(cursor: str | None) -> dg.SensorResult:
            return moved_rows(dg.build_sensor_context(instance, cursor=cursor, repository_def=defs.get_repository_def()))

        def silver(day: str) -> None:
            made = dg.AssetMaterialization
            for name in (
                "bronze/lab_results_raw",
                *(f"silver/lab_results_{n}" for n in ("history", "standardized", "quarantine")),
            ):
                instance.report_runless_asset_event(made(dg.AssetKey(name.split("/")), partition=day))

        def read(day: str, others: str) -> None:
            @dg.asset(key=BRONZE, partitions_def=dg.DailyPartitionsDefinition("2026-03-01"))
            def bronze() -> dg.MaterializeResult:
                return dg.MaterializeResult(metadata={"other_days_touched": others} if others else {})

            tags = {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": day}
            dg.materialize([bronze], instance=instance, tags=tags)

        read("2026-03-03", "2026-03-01")
        first = sense(None)
        assert first.run_requests == [], "the first look only notes where the log ends"
        read("2026-03-05", "")
        second = sense(first.cursor)
        assert second.run_requests == []
        read("2026-03-10", "2026-03-04, 2026-03-10/2026-03-12")
        third = sense(second.cursor)
        assert [r.partition_key for r in third.run_requests] == ["2026-03-04", None]
        assert third.run_requests[1].tags["dagster/asset_partition_range_start"] == "2026-03-11"
        assert sense(third.cursor).run_requests == []
        read("2026-03-14", "2026-03-13, 2026-03-15")
        silver("2026-03-13")
        fourth = sense(third.cursor)
        assert [r.partition_key for r in fourth.run_requests] == ["2026-03-15"], "the 13th was made for another reason"


def test_one_sensor_evaluates_the_whole_plan() -> None:
    graph = defs.resolve_asset_graph()
    by_the_clock = {"bronze", "silver", "alerts", "keeping", "tuning"}
    planned = {key for key in graph.materializable_asset_keys if graph.get(key).group_name not in by_the_clock}
    assert sensors.data_starts.asset_selection.resolve(graph) == planned
    assert all(graph.get(key).automation_condition is not None for key in planned)
