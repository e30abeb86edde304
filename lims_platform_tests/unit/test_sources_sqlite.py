"""SQLite sources: nothing is lost between windows, whatever the rows hold."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.contracts.extract import EXTRACT_COLUMNS, DayWindow, SourceError
from lims_platform.contracts.source import BATCH_RESULTS, DEVICE_LOGS, DEVICES, LAB_RESULTS, QUALITY_CONTROL
from lims_platform.sources.config import parse_sources
from lims_platform.sources.reader import Sources, open_sources

FIRST, LAST = date(2024, 3, 25), date(2024, 4, 5)
COLUMNS = (
    "result_id INTEGER PRIMARY KEY, patient_id TEXT, test_code TEXT, result_value REAL, result_unit TEXT, device_id TEXT,"
    " collected_timestamp TIMESTAMP, resulted_timestamp TIMESTAMP, technician_id TEXT"
)


def window(first: date, last: date, strays: bool = False) -> DayWindow:
    return DayWindow(first, last, FIRST, LAST, with_strays=strays, stray_day=LAST if strays else None)


def make(
    folder: Path,
    rows: Sequence[Sequence[Any]],
    *,
    calendar: str = "Europe/Berlin",
    zone: str = "Europe/Berlin",
    entry: dict[str, Any] | None = None,
    columns: str = COLUMNS,
    name: str = "lab_results",
    **more: Any,
) -> Sources:
    connection = sqlite3.connect(folder / "lims.db")
    connection.execute(f"CREATE TABLE {name} ({columns})")
    if rows:
        connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[0]))})", rows)
    connection.commit()
    connection.close()
    content = {
        "sources": {
            "main": {"uri": "sqlite:///lims.db", "timezone": zone, "tables": {name: entry or {"table": name}}, **more}
        }
    }
    return open_sources(parse_sources(content, base=folder), calendar=calendar)


def lab(number: int, resulted: Any, collected: Any = None, value: Any = "5.4") -> list[Any]:
    return [number, f"P{number:07d}", "GLU", value, "mg/dL", "D1", collected, resulted, "T0001"]


def days(size: int) -> list[DayWindow]:
    starts = [FIRST + timedelta(days=i) for i in range(0, (LAST - FIRST).days + 1, size)]
    return [window(s, min(s + timedelta(days=size - 1), LAST), strays=s == starts[-1]) for s in starts]


def read(sources: Sources, windows: list[DayWindow]) -> pl.DataFrame:
    extracts = [e for w in windows for e in sources.fetch(LAB_RESULTS, w)]
    assert all(e.source_rows == e.frame.height for e in extracts)
    return pl.concat([e.frame for e in extracts])


STAMPS = st.datetimes(datetime(2024, 3, 20), datetime(2024, 4, 10))
TEXTS = st.one_of(
    st.none(),
    STAMPS.map(lambda d: str(d.replace(microsecond=0))),
    STAMPS.map(str),
    STAMPS.map(lambda d: d.isoformat(timespec="milliseconds")),
    STAMPS.map(lambda d: f"{d:%Y-%m-%d %H:%M}"),
    STAMPS.map(lambda d: f"{d:%Y-%m-%d}"),
    STAMPS.map(lambda d: f"{d:%d.%m.%Y %H:%M}"),
    STAMPS.map(lambda d: f"{d:%Y/%m/%d}"),
    STAMPS.map(lambda d: f"{d:%Y%m%d}"),
    STAMPS.map(lambda d: f"{d:%Y-%m-%d  %H:%M:%S}"),
    STAMPS.map(lambda d: f"{d:%Y-%m-%d %H:%M:%S} "),
    STAMPS.map(lambda d: int(d.timestamp())),
    STAMPS.map(lambda d: d.timestamp() / 86400 + 2440587.5),
    st.sampled_from(
        (
            *("", " ", "n/a", "2024-03-32", "2024-02-30 10:00:00", "2024-13-01", "2024-03-28 25:00", "2024-03-28 10:60:00"),
            *("2024-3-28", "2024-03-28T24:00:00", "9999-12-31", "0001-01-01", "2024-03-28 10:00:00 foo", "+2024-03-28"),
            *("2024-03-28 10:00:60", "20:00", "2024-03-31 23:59:59.999999", "2024-03-31 02:30:00", b"2024-03-28", 0, -1),
            *("2024-03-28  24:00:00", "2024-03-28t10:00:00", "2024-03-28 10:00:00.", "2024-03-2810:00", "2024-03-28 1:00"),
        )
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(TEXTS, TEXTS), max_size=25),
    st.sampled_from(["Europe/Berlin", "America/New_York", "Pacific/Kiritimati", "UTC"]),
    st.integers(1, 12),
)
def test_every_row_arrives_exactly_once_for_every_chunk_size(times: list[tuple[Any, Any]], zone: str, size: int) -> None:
    with TemporaryDirectory() as folder:
        sources = make(Path(folder), [lab(i, r, c) for i, (r, c) in enumerate(times)], zone=zone)
        frame = read(sources, days(size))
        assert sorted(frame["result_id"].to_list(), key=int) == [str(i) for i in range(len(times))]
        strays = frame.filter(pl.col("date_source").is_in(["no_time", "outside"]))
        assert (strays["event_date"] == LAST).all()
        assert frame["event_date"].is_between(FIRST, LAST).all()
        whole = sources.fetch(LAB_RESULTS, window(FIRST, LAST, strays=True))[0].frame
        assert whole.sort("result_id").equals(frame.sort("result_id"))


def test_offset_texts_need_a_declaration_and_then_none_is_lost(tmp_path: Path) -> None:
    rows = [lab(i, f"2024-03-{25 + i // 4:02d} {i % 4 * 7:02d}:30:00{z}") for i in range(24) for z in ["-11:00"]]
    sources = make(tmp_path, rows)
    with pytest.raises(SourceError, match=r"lab_results, column resulted_timestamp: .*event_time_has_offset"):
        read(sources, days(3))
    entry = {"table": "lab_results", "event_time_has_offset": True}
    content = {"sources": {"m": {"uri": "sqlite:///lims.db", "timezone": "Europe/Berlin", "tables": {"lab_results": entry}}}}
    frame = read(open_sources(parse_sources(content, base=tmp_path), calendar="Europe/Berlin"), days(1))
    assert sorted(map(int, frame["result_id"])) == list(range(24))
    first = frame.filter(pl.col("result_id") == "0")["resulted_timestamp"].item()
    assert first == datetime(2024, 3, 25, 11, 30, tzinfo=ZoneInfo("UTC"))


def test_types_flags_and_days(tmp_path: Path) -> None:
    rows = [
        lab(1, None, "2024-03-28 09:00:00", -999),
        lab(2, "2024-03-31 02:30:00", value="abc"),
        lab(3, "2024-04-01 10:00:00", value=5.25),
        lab(4, "1999-01-01 10:00:00"),
        lab(5, "not a time", "2024-03-28 09:00:00"),
        lab(6, None, None),
    ]
    frame = make(tmp_path, rows).fetch(LAB_RESULTS, window(FIRST, LAST, strays=True))[0].frame.sort("result_id")
    assert frame.schema == pl.Schema(LAB_RESULTS.schema | EXTRACT_COLUMNS)
    assert frame["result_value"].to_list() == ["-999.0", "abc", "5.25", "5.4", "5.4", "5.4"]
    assert frame["date_source"].to_list() == ["fallback", "event", "event", "outside", "no_time", "no_time"]
    assert frame["event_date"].to_list() == [date(2024, 3, 28), date(2024, 3, 31), date(2024, 4, 1), LAST, LAST, LAST]
    assert frame["time_flag"].to_list()[1] == "nonexistent_local_time"
    assert frame["time_flag"].to_list()[4] == "unparseable_resulted_timestamp"
    assert frame["specimen_type"].null_count() == 6
    assert frame["source"].unique().to_list() == ["main"]


def test_no_rows_is_no_error_and_a_first_null_row_neither(tmp_path: Path) -> None:
    sources = make(tmp_path, [[1, None, None, None, None, None, None, None, None]])
    assert sources.fetch(LAB_RESULTS, window(FIRST, FIRST))[0].frame.is_empty()
    frame = sources.fetch(LAB_RESULTS, window(FIRST, FIRST, strays=True))[0].frame
    assert frame.height == 1 and frame["patient_id"].item() is None


def test_a_declared_time_format_dates_rows(tmp_path: Path) -> None:
    rows = [lab(1, "28.03.2024 10:00"), lab(2, "29.03.2024 10:00"), lab(3, "30/03/2024")]
    sources = make(tmp_path, rows, entry={"table": "lab_results", "time_format": "%d.%m.%Y %H:%M"})
    frame = read(sources, days(1)).sort("result_id")
    assert frame["event_date"].to_list() == [date(2024, 3, 28), date(2024, 3, 29), LAST]


def test_missing_column_is_named_with_what_is_offered(tmp_path: Path) -> None:
    sources = make(tmp_path, [], columns="result_id INTEGER, patient_id TEXT")
    with pytest.raises(SourceError, match=r"source main, table lab_results: column test_code is missing.*patient_id") as e:
        sources.fetch(LAB_RESULTS, window(FIRST, LAST))
    assert not e.value.transient


def test_absent_file_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    sources = make(tmp_path, [])
    (tmp_path / "lims.db").unlink()
    with pytest.raises(SourceError, match="no file"):
        sources.check(LAB_RESULTS)
    assert not (tmp_path / "lims.db").exists()


def test_keys_are_found_on_any_day(tmp_path: Path) -> None:
    rows = [lab(i, f"2024-03-{25 + i % 5:02d} 10:00:00") for i in range(3000)]
    sources = make(tmp_path, rows)
    wanted = [str(i) for i in range(0, 3000, 7)] + ["nope", "1' OR '1'='1", "99999"]
    frame = sources.fetch_keys(LAB_RESULTS, pl.DataFrame({"result_id": wanted}), window(FIRST, FIRST))[0].frame
    assert sorted(map(int, frame["result_id"])) == list(range(0, 3000, 7))
    assert set(frame["event_date"]) == {FIRST + timedelta(days=i) for i in range(5)}
    with pytest.raises(SourceError, match="keys lack column result_id"):
        sources.fetch_keys(LAB_RESULTS, pl.DataFrame({"x": ["1"]}))


def test_keys_with_a_time_and_free_text(tmp_path: Path) -> None:
    columns = "device_id TEXT, log_timestamp TIMESTAMP, event_type TEXT, severity TEXT, message TEXT"
    rows = [["D1", f"2024-03-28 10:00:{i:02d}", "ERROR", "1", f"sample of P{i:07d}"] for i in range(20)]
    rows.append(["D1", None, "ERROR", "1", "no time"])
    sources = make(tmp_path, rows, columns=columns, name="device_logs")
    frame = sources.fetch(DEVICE_LOGS, window(FIRST, LAST, strays=True))[0].frame
    keys = frame.filter(pl.col("log_timestamp").is_null() | (pl.col("log_timestamp").dt.second() == 7))
    keys = keys.with_columns(message=pl.lit("redacted")).select(DEVICE_LOGS.key)
    found = sources.fetch_keys(DEVICE_LOGS, keys, window(FIRST, LAST))[0].frame
    assert sorted(found["message"]) == ["no time", "sample of P0000007"]


def test_numbers_and_flags_that_are_junk_become_null_and_say_so(tmp_path: Path) -> None:
    columns = (
        "qc_id, device_id, test_code, qc_level, expected_value REAL, measured_value REAL, passed BOOLEAN,"
        " timestamp TIMESTAMP"
    )
    marks = [1, 0, "t", "F", "Y", "no", "maybe", None]
    rows = [
        [i, "D", "GLU", "L1", 100, "99,5" if i == 0 else "junk" if i == 1 else 1.5, m, "2024-03-28 10:00:00"]
        for i, m in enumerate(marks)
    ]
    sources = make(tmp_path, rows, columns=columns, name="quality_control", decimal="comma")
    frame = sources.fetch(QUALITY_CONTROL, window(FIRST, LAST))[0].frame.sort("qc_id")
    assert frame["passed"].to_list() == [True, False, True, False, True, False, None, None]
    assert frame["measured_value"].to_list() == [99.5, None, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5]
    assert frame["expected_value"].to_list() == [100.0] * 8
    flags = frame["time_flag"].to_list()
    assert flags[1] == "uncastable_measured_value" and flags[6] == "uncastable_passed" and flags[7] is None


def test_register_constants_and_renames(tmp_path: Path) -> None:
    columns = "id TEXT, kind TEXT, model TEXT, since DATE"
    entry = {
        "query": "SELECT * FROM devices;",
        "columns": {"device_id": "id", "device_type": "KIND", "installed_date": "since"},
        "constants": {"facility_id": "MAIN"},
    }
    sources = make(tmp_path, [["D1", "CHEM", "X", "2020-01-01"]], columns=columns, name="devices", entry=entry)
    frame = sources.fetch(DEVICES, None)[0].frame
    assert frame["facility_id"].item() == "MAIN" and frame["device_type"].item() == "CHEM"
    assert frame["installed_date"].item() == datetime(2019, 12, 31, 23, tzinfo=ZoneInfo("UTC"))
    assert frame["event_date"].item() is None and frame["date_source"].item() is None
    assert sources.count_by_day(DEVICES, window(FIRST, LAST))["rows"].item() == 1
    with pytest.raises(SourceError, match="table batch_results: no source has it"):
        sources.fetch(BATCH_RESULTS, None)


def test_counts_identifiers_and_settings(tmp_path: Path) -> None:
    rows = [lab(i % 50 + 100 * (i // 50), f"2024-03-{25 + i % 3:02d} 10:00:00") for i in range(100)]
    sources = make(tmp_path, rows, identifier_patterns={"patient": r"\bP\d{7}\b"})
    counted = sources.count_by_day(LAB_RESULTS, window(FIRST, FIRST + timedelta(days=1)))
    assert counted.columns == ["source", "event_date", "rows"] and counted["rows"].sum() == 67
    found = sources.identifiers(LAB_RESULTS)
    assert found["technician"] == {"T0001"} and len(found["patient"]) == 100
    assert sources.settings(LAB_RESULTS, "main").identifier_patterns == {"patient": r"\bP\d{7}\b"}


def test_a_locked_database_is_transient(tmp_path: Path) -> None:
    sources = make(tmp_path, [lab(1, "2024-03-28 10:00:00")])
    sources.check(LAB_RESULTS)
    # another process, as in life: POSIX locks do not hold between two copies of SQLite in one process
    hold = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN EXCLUSIVE'); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "lims.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as blocker:
        assert blocker.stdout is not None and blocker.stdin is not None
        assert blocker.stdout.readline().strip() == b"locked"
        with pytest.raises(SourceError, match="locked") as e:
            sources.fetch(LAB_RESULTS, window(FIRST, LAST))
        blocker.stdin.close()
    assert e.value.transient
    assert sources.fetch(LAB_RESULTS, window(FIRST, LAST))[0].frame.height == 1
