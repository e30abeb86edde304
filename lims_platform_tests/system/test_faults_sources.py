"""Sources that break: each fault has a clear outcome, loses and doubles nothing, and the run after the repair is right.

Ragged rows, encodings, broken Parquet and JSON: unit/test_sources_files.py. Locked or absent databases, junk in numbers and
flags: unit/test_sources_sqlite.py. Slow or unreachable servers: test_sql_sources.py.
"""

from __future__ import annotations

import threading
from datetime import date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import simulate
from lims_platform.simulator.writer import write
from lims_platform_tests.servers import cut_proxy, postgres_database, postgres_execute, postgres_server  # noqa: F401
from lims_platform_tests.works import FIRST, LAST, SOURCE_TABLES, ZONE, Works


@pytest.fixture
def works(tmp_path: Path) -> Works:
    return Works(tmp_path)


def fault(works: Works, table: str = "lab_results") -> str:
    """The table's run fails at the door and leaves every table readable; the error."""
    outcome = works.run(table=table)
    assert not outcome.success and list(outcome.errors) == [f"bronze__{table}_raw"], outcome
    works.state()
    return outcome.errors[f"bronze__{table}_raw"]


def healthy(works: Works, table: str | None = "lab_results") -> dict[str, str]:
    """The run succeeds; the digests of what it left."""
    outcome = works.run(table=table)
    assert outcome.success, outcome.errors
    return works.state()


def test_a_missing_column_is_named_and_stops_only_its_table(works: Works) -> None:
    works.sql("ALTER TABLE lab_results RENAME COLUMN result_value TO val")
    outcome = works.run()
    assert not outcome.success and list(outcome.errors) == ["bronze__lab_results_raw"], outcome
    said = outcome.errors["bronze__lab_results_raw"]
    assert "source main, table lab_results: column result_value is missing; the source offers result_id" in said
    assert works.rows("lab_results_raw").is_empty() and works.rows("quality_control_standardized").height > 0
    works.sql("ALTER TABLE lab_results RENAME COLUMN val TO result_value")
    state = healthy(works, None)
    assert works.kept().height > 100 and healthy(works) == state


def test_an_unreadable_time_is_quarantined(works: Works) -> None:
    healthy(works)
    before = works.kept()
    result = before.filter(pl.col("reason").is_null())["result_id"].min()
    works.sql("UPDATE lab_results SET resulted_timestamp = 'yesterday' WHERE result_id = ?", result)
    state = healthy(works)
    assert works.kept().filter(pl.col("result_id") == result)["reason"].to_list() == ["no_usable_time"]
    assert works.kept().height == before.height and healthy(works) == state


def test_text_in_a_number_is_kept_and_flagged(works: Works) -> None:
    healthy(works, "batch_results")
    before = works.rows("sample_measurements")
    sample = before["sample_id"].min()
    works.sql("UPDATE batch_results SET ph_level = 'acid' WHERE sample_id = ?", sample)
    healthy(works, "batch_results")
    raw = works.rows("batch_results_raw").filter(pl.col("sample_id") == sample).sort("row_version")
    assert raw["time_flag"].to_list() == [None, "uncastable_ph_level"] and raw["ph_level"].to_list()[1] is None
    assert works.rows("sample_measurements").height == before.height


def test_an_empty_day_and_a_table_without_rows_are_no_faults(works: Works) -> None:
    works.sql("DELETE FROM lab_results WHERE date(resulted_timestamp) = ?", FIRST.isoformat())
    works.sql("DELETE FROM device_logs")
    healthy(works, "device_logs")
    state = healthy(works)
    assert FIRST not in works.kept()["event_date"] and works.rows("device_metrics_normalized").is_empty()
    assert works.kept().height > 50 and healthy(works) == state


def test_a_table_that_lost_its_rows_is_not_believed(works: Works) -> None:
    state = healthy(works)
    works.sql("CREATE TABLE aside AS SELECT * FROM lab_results")
    works.sql("DELETE FROM lab_results")
    said = fault(works)
    assert "lab_results: rows vanished from source main" in said and "Nothing was written" in said
    assert "--confirm-vanished" in said and works.state() == state
    works.sql("INSERT INTO lab_results SELECT * FROM aside")
    assert healthy(works) == state


def test_a_truncated_csv_is_refused_whole(works: Works, tmp_path: Path) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    database = f"sqlite:///{works.database}"
    for name in SOURCE_TABLES:
        pl.read_database_uri(f"SELECT * FROM {name}", database, engine="connectorx").write_csv(folder / f"{name}.csv")
    works.connect({"folder": str(folder)}, **{name: {"files": f"{name}.csv"} for name in SOURCE_TABLES})
    path = folder / "lab_results.csv"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    said = fault(works)
    assert "lab_results.csv" in said and works.rows("lab_results_raw").is_empty()
    path.write_bytes(whole)
    state = healthy(works)
    # Cut where a row ends, the file looks whole: what vanished is noticed.
    path.write_bytes(whole[: whole.rindex(b"\n", 0, len(whole) // 2) + 1])
    assert "rows vanished from source main" in fault(works) and works.state() == state


def clock_changes() -> tuple[datetime, datetime]:
    """Local midnights of the last day that skipped an hour and the last that repeated one."""
    zone, day, found = ZoneInfo(ZONE), FIRST, {}
    while len(found) < 2:
        start, stop = (datetime(d.year, d.month, d.day, tzinfo=zone) for d in (day, day + timedelta(days=1)))
        hours = (stop.timestamp() - start.timestamp()) / 3600
        if hours != 24:
            found.setdefault(hours, start.replace(tzinfo=None))
        day -= timedelta(days=1)
    return found[23.0], found[25.0]


def test_both_clock_change_days_keep_every_row(works: Works) -> None:
    columns = ", ".join(column.name for column in LAB_RESULTS.columns if column.required)
    for number, midnight in enumerate(clock_changes()):
        for half in range(48):
            at = f"{midnight + timedelta(minutes=30 * half):%Y-%m-%d %H:%M:%S}"
            values = (f"C{number}-{half}", "P0000001", "GLU", "95", "mg/dL", "D1", at, at, "T0001")
            works.sql(f"INSERT INTO lab_results ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", *values)
    for number, midnight in enumerate(clock_changes()):
        day = midnight.date()
        for _ in range(2):
            outcome = works.run(day, day, "lab_results")
            assert outcome.success, outcome.errors
            kept = works.kept().filter(pl.col("result_id").str.starts_with(f"C{number}-"))
            assert kept.height == 48 and kept["event_date"].unique().to_list() == [day]
            flags = works.rows("lab_results_raw").filter(pl.col("event_date") == day)["time_flag"].drop_nulls()
            assert flags.unique().to_list() == [("nonexistent_local_time", "ambiguous_local_time")[number]]
            assert flags.len() == 2 and works.rows("lab_results_raw").filter(pl.col("event_date") == day).height == 48


def test_dates_in_the_future_wait_in_quarantine(works: Works) -> None:
    healthy(works)
    before = works.kept().height
    ids = works.kept().filter(pl.col("reason").is_null())["result_id"].sort().head(2).to_list()
    for result, day in zip(ids, (date.today() + timedelta(days=2), date(2199, 1, 1)), strict=True):
        works.sql("UPDATE lab_results SET resulted_timestamp = ? WHERE result_id = ?", f"{day} 10:00:00", result)
    state = healthy(works)
    kept = works.kept()
    assert kept.filter(pl.col("result_id").is_in(ids))["reason"].to_list() == ["outside_partitions"] * 2
    assert kept.height == before and healthy(works) == state


def postgres_works(works: Works, uri: str, results_per_day: int) -> None:
    """The same LIMS in PostgreSQL, with more results, as the source."""
    config = LabConfig(seed=5, devices=4, days=3, end=LAST, results_per_day=results_per_day, timezone=ZONE)
    write(simulate(config), uri, works.folder / "truth-postgres")
    works.connect({"uri": uri})


def test_a_connection_cut_half_way_commits_whole_chunks_only(works: Works, postgres_database: str) -> None:  # noqa: F811
    postgres_works(works, postgres_database, 900)
    # One day heavier than the others: its extract is what the proxy cuts.
    postgres_execute(
        postgres_database,
        "INSERT INTO lab_results SELECT (jsonb_populate_record(l, jsonb_build_object('result_id', result_id || '-' || i))).*"
        f" FROM lab_results l, generate_series(1, 4) i WHERE l.resulted_timestamp::date = '{LAST}'",
    )
    parts = urlsplit(postgres_database)
    port, close = cut_proxy((parts.hostname or "", parts.port or 5432), after=500_000)
    direct = {"uri": postgres_database}
    works.connect({"uri": urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))})
    try:
        said = fault(works)
    finally:
        close()
    assert "source main, table lab_results" in said
    days = works.rows("lab_results_raw")["event_date"].unique()
    assert LAST not in days and days.len() == 2, "the days before the cut are there, whole"
    works.connect(direct)
    state = healthy(works)
    assert works.kept().filter(pl.col("event_date") == LAST).height > 4_000 and healthy(works) == state


def terminate(uri: str, done: threading.Event, killed: list[int]) -> None:
    """End the platform's session once, as soon as it reads lab_results."""
    asked = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'lims_platform'"
        " AND datname = current_database() AND state = 'active' AND query LIKE '%pg_sleep%'"
        " AND query LIKE '%lims_count%'"
    )
    while not done.is_set() and not killed:
        count = pl.read_database_uri(asked, uri, engine="connectorx").item()
        killed += [int(count)] if count else []


def test_a_session_the_server_ends_is_read_again(works: Works, postgres_database: str) -> None:  # noqa: F811
    postgres_works(works, postgres_database, 100)
    slow = "SELECT l.* FROM lab_results l WHERE pg_sleep(0.002) IS NOT NULL"
    works.connect({"uri": postgres_database}, lab_results={"query": slow})
    done, killed = threading.Event(), list[int]()
    thread = threading.Thread(target=terminate, args=(postgres_database, done, killed))
    thread.start()
    try:
        state = healthy(works)
    finally:
        done.set()
        thread.join()
    assert killed, "no session was ended: the test shows nothing"
    assert works.kept().height > 100 and healthy(works) == state
