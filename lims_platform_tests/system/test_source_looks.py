"""A cheap look at real PostgreSQL and MariaDB: which days changed, with and without a change cursor."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from lims_platform.contracts.extract import DayWindow
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.sources.config import parse_sources
from lims_platform.sources.reader import Sources, open_sources
from lims_platform_tests.servers import (
    mariadb_database,
    mariadb_execute,
    mariadb_server,
    postgres_database,
    postgres_execute,
    postgres_server,
)

__all__ = ["mariadb_database", "mariadb_server", "postgres_database", "postgres_server"]

WINDOW = DayWindow(date(2026, 3, 10), date(2026, 3, 20), date(2026, 1, 1), date(2026, 3, 20))
Execute = Callable[..., None]


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> tuple[str, Execute]:
    """A LIMS with a result a day from February on, and how to change it."""
    kind = "postgres" if request.param == "postgresql" else "mariadb"
    uri: str = request.getfixturevalue(f"{kind}_database")
    execute: Execute = postgres_execute if kind == "postgres" else mariadb_execute
    moment = "timestamp" if kind == "postgres" else "datetime(6)"
    days = [date.fromordinal(date(2026, 2, 1).toordinal() + offset) for offset in range(48)]
    execute(
        uri,
        "CREATE TABLE lab_results (result_id varchar(20), patient_id varchar(20), test_code varchar(20), "
        "result_value varchar(20), result_unit varchar(20), device_id varchar(20), "
        f"collected_timestamp {moment}, resulted_timestamp {moment}, technician_id varchar(20), updated_at {moment})",
        *(
            f"INSERT INTO lab_results VALUES ('R{day}', 'P1', 'GLU', '95', 'mg/dL', 'D1', '{day} 08:00:00', "
            f"'{day} 09:00:00', 'T1', '{day} 09:00:00.123456')"
            for day in days
        ),
    )
    return uri, execute


def opened(uri: str, folder: Path, cursor: bool) -> Sources:
    table = {"table": "lab_results"} | ({"change_cursor": "updated_at"} if cursor else {})
    entry = {"uri": uri, "timezone": "Europe/Berlin", "tables": {"lab_results": table}}
    return open_sources(parse_sources({"sources": {"lims": entry}}, folder), "Europe/Berlin", None)


@pytest.mark.parametrize("cursor", [True, False])
def test_a_look_names_the_days_that_changed(server: tuple[str, Execute], tmp_path: Path, cursor: bool) -> None:
    uri, execute = server
    sources = opened(uri, tmp_path, cursor)
    marks, days = sources.look(LAB_RESULTS, WINDOW, {})
    assert len(days) == 11
    assert sources.look(LAB_RESULTS, WINDOW, marks) == (marks, set())
    execute(uri, "DELETE FROM lab_results WHERE result_id = 'R2026-03-12'")
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date(2026, 3, 12)}
    change = "UPDATE lab_results SET result_value = '5', updated_at = '2026-03-20 12:00:0{}' WHERE result_id = 'R{}'"
    execute(uri, change.format(1, "2026-03-14"), change.format(2, "2026-02-03"))
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == ({date(2026, 3, 14), date(2026, 2, 3)} if cursor else {date(2026, 3, 14)})
    assert sources.look(LAB_RESULTS, WINDOW, marks)[1] == set()


@pytest.mark.parametrize("month", ["2026-02", "2026-03"])
def test_a_change_in_the_second_of_the_last_one_or_committed_late_is_seen_once(
    server: tuple[str, Execute], tmp_path: Path, month: str
) -> None:
    """On days before the window, and on days of it."""
    uri, execute = server
    sources = opened(uri, tmp_path, cursor=True)
    marks, _ = sources.look(LAB_RESULTS, WINDOW, {})
    change = "UPDATE lab_results SET result_value = '{}', updated_at = '2026-03-20 12:{}' WHERE result_id = 'R{}'"
    execute(uri, change.format(1, "00:00", f"{month}-13"))
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date.fromisoformat(f"{month}-13")}
    execute(uri, change.format(2, "00:00", f"{month}-14"), change.format(2, "00:00", f"{month}-13"))
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date.fromisoformat(f"{month}-13"), date.fromisoformat(f"{month}-14")}, (
        "the same second, and one row with the very same cursor"
    )
    execute(uri, change.format(3, "30:00", f"{month}-15"))
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date.fromisoformat(f"{month}-15")}
    execute(uri, change.format(4, "10:00", f"{month}-16"))
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date.fromisoformat(f"{month}-16")}, "committed after a change whose cursor is twenty minutes later"
    execute(uri, f"UPDATE lab_results SET updated_at = '2999-01-01' WHERE result_id = 'R{month}-17'")
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date.fromisoformat(f"{month}-17")}
    execute(uri, change.format(5, "40:00", f"{month}-18"))
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date.fromisoformat(f"{month}-18")}, "a cursor in the far future hides no later change"
    moved = f"resulted_timestamp = '{month}-18 10:00:00', updated_at = '2026-03-20 12:50:00'"
    execute(uri, f"UPDATE lab_results SET {moved} WHERE result_id = 'R{month}-19'")
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert date.fromisoformat(f"{month}-18") in days
    execute(uri, change.format(6, "45:00", f"{month}-18"))
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date.fromisoformat(f"{month}-18")}, "the day's greatest cursor and its number of rows stayed the same"
    assert sources.look(LAB_RESULTS, WINDOW, marks) == (marks, set())


def test_rows_without_a_cursor_of_their_own_are_told_by_their_fingerprint(
    server: tuple[str, Execute], tmp_path: Path
) -> None:
    uri, execute = server
    execute(uri, "UPDATE lab_results SET updated_at = NULL")
    sources = opened(uri, tmp_path, cursor=True)
    marks, _ = sources.look(LAB_RESULTS, WINDOW, {})
    execute(uri, "UPDATE lab_results SET result_unit = NULL WHERE result_id = 'R2026-03-14'")
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date(2026, 3, 14)}
    execute(uri, "UPDATE lab_results SET result_unit = '' WHERE result_id = 'R2026-03-14'")
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date(2026, 3, 14)}, "an empty text is not a null"
    execute(uri, "UPDATE lab_results SET resulted_timestamp = NULL WHERE result_id = 'R2026-03-15'")
    marks, _ = sources.look(LAB_RESULTS, WINDOW, marks)
    execute(uri, "UPDATE lab_results SET result_value = '7' WHERE result_id = 'R2026-03-15'")
    marks, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert days == {date(2026, 3, 15)}, "dated by the time of collection"


def test_a_source_in_another_zone_names_the_neighbouring_days_too(server: tuple[str, Execute], tmp_path: Path) -> None:
    uri, execute = server
    entry = {"uri": uri, "timezone": "UTC", "tables": {"lab_results": {"table": "lab_results"}}}
    sources = open_sources(parse_sources({"sources": {"lims": entry}}, tmp_path), "Europe/Berlin", None)
    marks, _ = sources.look(LAB_RESULTS, WINDOW, {})
    execute(uri, "UPDATE lab_results SET resulted_timestamp = '2026-03-14 23:30:00' WHERE result_id = 'R2026-03-14'")
    _, days = sources.look(LAB_RESULTS, WINDOW, marks)
    assert date(2026, 3, 15) in days, "half past midnight in the laboratory"
