"""PostgreSQL and MariaDB as sources, against real servers."""

from __future__ import annotations

import socket
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lims_platform.contracts.extract import DayWindow, SourceError
from lims_platform.contracts.source import LAB_RESULTS, QUALITY_CONTROL
from lims_platform.sources.config import load_sources, parse_sources
from lims_platform.sources.reader import Sources, open_sources
from lims_platform.sources.sql import SqlSource
from lims_platform_tests.servers import (  # noqa: F401
    cut_proxy,
    mariadb_database,
    mariadb_execute,
    mariadb_server,
    postgres_database,
    postgres_execute,
    postgres_server,
)

FIRST, LAST = date(2024, 3, 25), date(2024, 4, 5)
PG_TABLE = (
    "CREATE TABLE lab (id bigint PRIMARY KEY, patient_id text, test_code varchar(10), result_value numeric(12,4),"
    " result_unit char(6), device_id uuid, collected_timestamp timestamp, {event}, technician_id int)"
)
PG_QUERY = "SELECT id AS result_id, lab.* FROM lab"


def window(first: date = FIRST, last: date = LAST, strays: bool = False) -> DayWindow:
    return DayWindow(first, last, FIRST, LAST, with_strays=strays, stray_day=LAST if strays else None)


def sources(uri: str, table: str = "lab_results", query: str = PG_QUERY, **more: Any) -> Sources:
    entry = {"query": query} | more.pop("entry", {})
    source = {"uri": uri, "timezone": "Europe/Berlin", "tables": {table: entry}} | more
    return open_sources(parse_sources({"sources": {"main": source}}, base=Path()), calendar="Europe/Berlin")


def chunks(reader: Sources, size: int) -> pl.DataFrame:
    starts = [FIRST + timedelta(days=i) for i in range(0, (LAST - FIRST).days + 1, size)]
    windows = [window(s, min(s + timedelta(days=size - 1), LAST), strays=s == starts[-1]) for s in starts]
    return pl.concat([e.frame for w in windows for e in reader.fetch(LAB_RESULTS, w)])


@pytest.mark.parametrize(
    "event", ["resulted_timestamp timestamptz", "resulted_timestamp timestamp", "resulted_timestamp text"]
)
def test_postgres_windows_lose_nothing(postgres_database: str, event: str) -> None:  # noqa: F811
    stamps = [f"2024-03-{d:02d} {h:02d}:30:00" for d in range(20, 32) for h in (0, 2, 23)]
    stamps += [f"2024-04-{d:02d} 00:00:00" for d in range(1, 9)]
    if event.endswith("text"):
        stamps += ["28.03.2024", "", " ", "2024-02-30", "2024/03/28", "20240328", "2024-03-28T24:00:00", "x"]
    else:
        stamps += ["infinity", "-infinity"]
    rows = [f"({i}, 'P', 'GLU', 5.5, 'mg/dL', NULL, '2024-03-29 10:00', '{t}', 7)" for i, t in enumerate(stamps)]
    rows += [f"({900 + i}, 'P', 'GLU', 5.5, 'mg/dL', NULL, {c}, NULL, 7)" for i, c in enumerate(["NULL", "'2024-03-29'"])]
    postgres_execute(postgres_database, PG_TABLE.format(event=event), f"INSERT INTO lab VALUES {', '.join(rows)}")
    reader = sources(postgres_database)
    whole = chunks(reader, 12).sort("result_id")
    assert sorted(whole["result_id"], key=int) == [str(i) for i in [*range(len(stamps)), 900, 901]]
    for size in (1, 5):
        assert chunks(reader, size).sort("result_id").equals(whole)
    by_id = {r["result_id"]: r for r in whole.to_dicts()}
    assert by_id["900"]["date_source"] == "no_time" and by_id["901"]["event_date"] == date(2024, 3, 29)
    nonexistent = by_id[str(stamps.index("2024-03-31 02:30:00"))]
    if event.endswith("timestamptz"):  # written by a session in UTC, where that hour exists
        assert nonexistent["resulted_timestamp"] == datetime(2024, 3, 31, 2, 30, tzinfo=UTC)
    else:
        assert nonexistent["resulted_timestamp"] == datetime(2024, 3, 31, 1, 30, tzinfo=UTC)
        assert nonexistent["time_flag"] == "nonexistent_local_time"


def test_postgres_types(postgres_database: str) -> None:  # noqa: F811
    uid = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    postgres_execute(
        postgres_database,
        PG_TABLE.format(event="resulted_timestamp timestamptz"),
        f"INSERT INTO lab VALUES (1, 'P', 'GLU', 5.5, 'mg', '{uid}', '2024-10-27 02:30', '2024-03-28 23:30:00+00', 7),"
        " (2, 'P', 'GLU', 'NaN', 'mg', NULL, NULL, '2024-03-28 10:00:00.123456+02', NULL)",
    )
    frame = sources(postgres_database).fetch(LAB_RESULTS, window())[0].frame.sort("result_id")
    assert frame["result_value"].to_list() == ["5.5000", "NaN"] and frame["device_id"][0] == uid
    assert frame["technician_id"].to_list() == ["7", None] and frame["result_unit"][0] == "mg"
    assert frame["event_date"].to_list() == [date(2024, 3, 29), date(2024, 3, 28)]
    assert frame["time_flag"].to_list() == ["ambiguous_local_time", None]
    assert frame["resulted_timestamp"][1] == datetime(2024, 3, 28, 8, 0, 0, 123456, tzinfo=UTC)
    comma = sources(postgres_database, decimal="comma").fetch(LAB_RESULTS, window())[0].frame.sort("result_id")
    assert comma["result_value"][0] == "5,5000"
    keys = pl.DataFrame({"result_id": ["2", "3", "x'"]})
    assert sources(postgres_database).fetch_keys(LAB_RESULTS, keys)[0].frame["result_id"].to_list() == ["2"]
    assert sources(postgres_database).identifiers(LAB_RESULTS) == {"patient": {"P"}, "technician": {"7"}}
    assert sources(postgres_database).count_by_day(LAB_RESULTS, window())["rows"].sum() == 2


QC_COLUMNS = "qc_id, device_id, test_code, qc_level, expected_value, measured_value, passed, timestamp"


def test_postgres_control_numbers_and_flags(postgres_database: str) -> None:  # noqa: F811
    query = (
        "SELECT 1 AS qc_id, 'D' AS device_id, 'GLU' AS test_code, 'L1' AS qc_level, 'NaN'::numeric AS expected_value,"
        " 99.5::numeric AS measured_value, true AS passed, timestamp '2024-03-28 10:00' AS timestamp"
    )
    frame = sources(postgres_database, "quality_control", query).fetch(QUALITY_CONTROL, window())[0].frame
    assert frame["measured_value"].item() == 99.5 and frame["passed"].item() is True
    assert frame["expected_value"].item() is None and frame["time_flag"].item() == "uncastable_expected_value"


def test_postgres_uses_the_index_of_the_event_time(postgres_database: str) -> None:  # noqa: F811
    postgres_execute(
        postgres_database,
        PG_TABLE.format(event="resulted_timestamp timestamp"),
        "INSERT INTO lab SELECT i, 'P', 'GLU', 1, 'mg', NULL, NULL, timestamp '2020-01-01' + i * interval '1 minute', 7"
        " FROM generate_series(1, 200000) i",
        "CREATE INDEX ON lab (resulted_timestamp)",
        "ANALYZE lab",
        "CREATE FUNCTION explained(statement text) RETURNS SETOF text LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN ' || statement; END $$",
    )
    reader = sources(postgres_database)._readers["main"]
    assert isinstance(reader, SqlSource)
    plan = reader.plan(LAB_RESULTS)
    day = date(2020, 3, 1)
    statement = plan.rows(plan.condition(DayWindow(day, day, date(2020, 1, 1), date(2020, 5, 1))))
    asked = "SELECT explained FROM explained($q$" + statement + "$q$)"
    text = "\n".join(pl.read_database_uri(asked, postgres_database, engine="connectorx").to_series())
    assert "lab_resulted_timestamp_idx" in text and "Seq Scan" not in text


MARIA_TABLE = (
    "CREATE TABLE lab (result_id int unsigned PRIMARY KEY, patient_id varchar(20), test_code varchar(10),"
    " result_value {value}, result_unit varchar(10), device_id varchar(10), collected_timestamp datetime,"
    " resulted_timestamp {event}, technician_id int)"
)


@pytest.mark.parametrize("event", ["datetime", "datetime(6)", "varchar(40)"])
def test_mariadb_windows_lose_nothing(mariadb_database: str, event: str) -> None:  # noqa: F811
    stamps = [f"2024-03-{d:02d} {h:02d}:30:00" for d in range(20, 32) for h in (0, 2, 23)]
    stamps += [f"2024-04-{d:02d} 00:00:00" for d in range(1, 9)]
    if event.startswith("varchar"):
        stamps += ["28.03.2024", "", " ", "2024-02-30", "2024/03/28", "20240328", "2024-03-28T24:00:00", "x"]
    else:
        stamps += ["0000-00-00 00:00:00", "2024-00-00 00:00:00", "2024-04-00 00:00:00"]
    rows = [f"({i}, 'P', 'GLU', '5.5', 'mg/dL', 'D', '2024-03-29 10:00', '{t}', 7)" for i, t in enumerate(stamps)]
    rows += [f"({900 + i}, 'P', 'GLU', '5', 'mg/dL', 'D', {c}, NULL, 7)" for i, c in enumerate(["NULL", "'2024-03-29'"])]
    mariadb_execute(
        mariadb_database,
        "SET sql_mode=''",
        MARIA_TABLE.format(value="varchar(40)", event=event),
        f"INSERT INTO lab VALUES {', '.join(rows)}",
    )
    reader = sources(mariadb_database, query="SELECT * FROM lab")
    whole = chunks(reader, 12).sort("result_id")
    assert sorted(whole["result_id"], key=int) == [str(i) for i in [*range(len(stamps)), 900, 901]]
    for size in (1, 5):
        assert chunks(reader, size).sort("result_id").equals(whole)


def test_mariadb_types(mariadb_database: str) -> None:  # noqa: F811
    mariadb_execute(
        mariadb_database,
        MARIA_TABLE.format(value="decimal(10,3)", event="datetime(6)"),
        "INSERT INTO lab VALUES (1, 'äß', 'GLU', 5.5, NULL, 'D', NULL, '2024-03-28 10:00:00.123456', 7),"
        " (2, NULL, 'GLU', NULL, 'µg', 'back\\\\slash', NULL, '2024-03-28 10:00:00', NULL)",
        "CREATE TABLE qc AS SELECT 1 AS qc_id, 'D' AS device_id, 'GLU' AS test_code, 'L1' AS qc_level,"
        " CAST(100 AS decimal(8,2)) AS expected_value, 99.5e0 AS measured_value,"
        " CAST('2024-03-28 10:00:00' AS datetime) AS timestamp",
        "ALTER TABLE qc ADD is_repeat tinyint(1) DEFAULT 0, ADD passed bit(1) DEFAULT b'1'",
    )
    frame = sources(mariadb_database, query="SELECT * FROM lab").fetch(LAB_RESULTS, window())[0].frame.sort("result_id")
    assert frame["result_value"].to_list() == ["5.500", None] and frame["patient_id"][0] == "äß"
    assert frame["device_id"][1] == "back\\slash" and frame["result_unit"][1] == "µg"
    assert frame["resulted_timestamp"][0] == datetime(2024, 3, 28, 9, 0, 0, 123456, tzinfo=UTC)
    by_device = {"device_id": "result_id", "result_id": "device_id"}
    swapped = sources(mariadb_database, query="SELECT * FROM lab", entry={"columns": by_device})
    keys = pl.DataFrame({"result_id": ["back\\slash", "d"]})
    assert swapped.fetch_keys(LAB_RESULTS, keys)[0].frame["device_id"].to_list() == ["2"]
    control = sources(mariadb_database, "quality_control", "SELECT * FROM qc").fetch(QUALITY_CONTROL, window())[0].frame
    assert control["passed"].item() is True and control["is_repeat"].item() is False
    assert control["expected_value"].item() == 100.0 and control["measured_value"].item() == 99.5


SLEEPS: dict[str, str] = {"postgresql": "pg_sleep(20)", "mysql": "sleep(20)"}


def sleeping(kind: str) -> str:
    required = [c.name for c in LAB_RESULTS.columns if c.required and c.name != "resulted_timestamp"]
    moment = "timestamp '2024-03-28 10:00:00'" if kind == "postgresql" else "CAST('2024-03-28 10:00:00' AS datetime)"
    dual = "(SELECT 1 AS one) d"
    items = ", ".join(f"'x' AS {n}" for n in required if n != "result_value")
    return f"SELECT {items}, {SLEEPS[kind]} AS result_value, {moment} AS resulted_timestamp FROM {dual}"


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_slow_statement_is_stopped_by_the_engine(kind: str, request: pytest.FixtureRequest) -> None:
    uri = request.getfixturevalue("postgres_database" if kind == "postgresql" else "mariadb_database")
    query = sleeping(kind).replace("pg_sleep(20)", "CAST(pg_sleep(20) AS text)")
    reader = sources(uri, query=query, statement_timeout_seconds=1)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"lab_results: .*statement_timeout_seconds: 1\)") as error:
        reader.fetch(LAB_RESULTS, window())
    assert error.value.transient and time.monotonic() - began < 15


def test_a_missing_column_is_named(postgres_database: str) -> None:  # noqa: F811
    with pytest.raises(SourceError, match=r"table lab_results: column patient_id is missing; the source offers result_id"):
        sources(postgres_database, query="SELECT 1 AS result_id").fetch(LAB_RESULTS, window())
    with pytest.raises(SourceError, match=r"lab_results: .*nowhere.*does not exist") as error:
        sources(postgres_database, query="SELECT * FROM nowhere").check(LAB_RESULTS)
    assert not error.value.transient


def test_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(SourceError, match=f"cannot connect to 127.0.0.1:{port}") as error:
        sources(f"postgresql://u:secret@127.0.0.1:{port}/x").check(LAB_RESULTS)
    assert error.value.transient and "secret" not in str(error.value) and time.monotonic() - began < 8


def test_a_refused_login_is_told_at_once(postgres_server: str) -> None:  # noqa: F811
    stranger = postgres_server.replace("postgres@", "nobody_here:s3cret@") + "/postgres"
    began = time.monotonic()
    with pytest.raises(SourceError, match=r'lab_results: .*role "nobody_here" does not exist') as error:
        sources(stranger).check(LAB_RESULTS)
    assert not error.value.transient and "s3cret" not in str(error.value)
    assert time.monotonic() - began < 8, "the connector's own pool tries for 30 seconds"


def test_a_connection_lost_midway_delivers_nothing(postgres_database: str) -> None:  # noqa: F811
    from urllib.parse import urlsplit, urlunsplit

    postgres_execute(
        postgres_database,
        PG_TABLE.format(event="resulted_timestamp timestamp"),
        "INSERT INTO lab SELECT i, 'P', 'GLU', 1, 'mg', NULL, NULL, timestamp '2024-03-28', 7"
        " FROM generate_series(1, 50000) i",
    )
    parts = urlsplit(postgres_database)
    port, close = cut_proxy((parts.hostname or "", parts.port or 0), after=300_000)
    user = f"{parts.username}:{parts.password}@" if parts.password else f"{parts.username}@"
    reader = sources(urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{port}")))
    try:
        with pytest.raises(SourceError) as error:
            reader.fetch(LAB_RESULTS, window())
        assert error.value.transient
    finally:
        close()
    assert sources(postgres_database).fetch(LAB_RESULTS, window())[0].source_rows == 50000


def test_the_session_cannot_write(postgres_database: str) -> None:  # noqa: F811
    postgres_execute(postgres_database, "CREATE SEQUENCE s")
    query = "SELECT nextval('s') AS result_id"
    with pytest.raises(SourceError, match="read-only"):
        sources(postgres_database, query=query, entry={"constants": {
            c.name: "2024-03-28" for c in LAB_RESULTS.columns if c.required and c.name != "result_id"
        }}).fetch(LAB_RESULTS, None)  # fmt: skip


def test_yaml_with_a_difficult_password(postgres_server: str, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "sources.yaml"
    path.write_text(
        "sources:\n  main:\n    uri: postgresql://${LAB_USER}:${LAB_PASSWORD}@${LAB_HOST}/postgres\n"
        "    timezone: UTC\n    tables: {devices: {query: SELECT 1 AS device_id}}\n"
    )
    host = postgres_server.rpartition("@")[2].removeprefix("postgresql://")
    config = load_sources(path, {"LAB_USER": "postgres", "LAB_PASSWORD": "p@ss:/w%rd", "LAB_HOST": host})
    assert config.sources["main"].uri is not None
    assert config.sources["main"].uri.get_secret_value() == f"postgresql://postgres:p%40ss%3A%2Fw%25rd@{host}/postgres"
