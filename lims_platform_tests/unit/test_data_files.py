"""Data files: what the log says of them is true, other engines read them, no two writers' rows meet, a kill is no harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import pandera.polars as pa
import polars as pl
import pytest
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import CommitFailedError
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.contracts.base import Table
from lims_platform.lakehouse import data_files
from lims_platform.lakehouse import lake as lake_module
from lims_platform.lakehouse.catalog import build_catalog
from lims_platform.lakehouse.data_files import DataFile, statistics, write_files
from lims_platform.lakehouse.lake import ContractError, Lake, LakeWriteError
from lims_platform.lakehouse.maintenance import upkeep

FIRST = date(2026, 3, 1)
UTC_TIME = pl.Datetime("us", "UTC")
COLUMNS: dict[str, Any] = {
    "key": pl.String,
    "number": pl.Int32,
    "known_at": UTC_TIME,
    "value": pl.Float64,
    "passed": pl.Boolean,
    "knots": pl.List(pl.Float64),
}
SCHEMA = pa.DataFrameSchema({"day": pa.Column(pl.Date), **{n: pa.Column(t, nullable=True) for n, t in COLUMNS.items()}})
TABLE = Table("silver", "measured", ("key",), "day", "What is written", SCHEMA)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def rows(*numbers: int, on: int = 0) -> pl.LazyFrame:
    known = [datetime(2026, 3, 1, 12, tzinfo=UTC) + timedelta(microseconds=n) for n in numbers]
    given = {"day": [day(on)] * len(numbers), "key": [f"k{n}" for n in numbers], "number": numbers, "known_at": known}
    given |= {"value": [n / 4 for n in numbers], "passed": [n % 2 == 0 for n in numbers]}
    return pl.LazyFrame(given | {"knots": [[n / 2, None] for n in numbers]}, schema=TABLE.dtypes)


def put(lake: Lake, *numbers: int, first: int = 0, last: int | None = None) -> int:
    return lake.replace(TABLE, rows(*numbers, on=first), day(first), day(first if last is None else last))


def held(lake: Lake) -> list[tuple[int, int]]:
    frame = lake.scan(TABLE).select((pl.col("day") - FIRST).dt.total_days(), "number").collect()
    return sorted(frame.iter_rows())


def on_disk(lake: Lake) -> set[Path]:
    return set(lake.path(TABLE).rglob("*.parquet"))


def meanwhile(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """``what`` happens once, between the files of the next write and its commit."""
    real, done = write_files, list[bool]()

    def written(*args: Any) -> list[DataFile]:
        files = real(*args)
        if not done:
            done.append(True)
            what()
        return files

    monkeypatch.setattr(lake_module, "write_files", written)


texts = st.text(max_size=200) | st.text(alphabet="a\U0010ffff\U0001f600ä\x00", min_size=60, max_size=70)
times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
FIELDS = {
    "key": texts,
    "number": st.integers(-(2**31), 2**31 - 1),
    "known_at": times,
    "value": st.floats(),
    "passed": st.booleans(),
    "knots": st.just([1.0]),
}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({name: st.none() | field for name, field in FIELDS.items()}), min_size=1, max_size=8))
def test_statistics_bound_every_value_and_count_every_null(tmp_path_factory: pytest.TempPathFactory, drawn: Any) -> None:
    frame = pl.DataFrame(drawn, schema=COLUMNS)
    path = tmp_path_factory.mktemp("files") / "several_row_groups.parquet"
    frame.write_parquet(path, row_group_size=3)
    told = json.loads(json.dumps(statistics(path), allow_nan=False))
    assert told["numRecords"] == frame.height and "value" not in told["minValues"]
    flat = frame.drop("knots").with_columns(pl.col("known_at").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
    for name in flat.columns:
        present = flat[name].drop_nulls().to_list()
        assert told["nullCount"][name] == flat.height - len(present)
        if name in told["minValues"]:
            low, high = (told[end][name] for end in ("minValues", "maxValues"))
            if name == "key":
                low, high, present = low.encode(), high.encode(), [text.encode() for text in present]
            assert low <= min(present) and max(present) <= high
        if present and name in ("number", "known_at"):
            assert (told["minValues"][name], told["maxValues"][name]) == (min(present), max(present))


def test_files_are_passed_over_by_their_statistics(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    put(lake, 1, 2)
    put(lake, 8, 9, first=1)
    for file in on_disk(lake):
        if "2026-03-01" in str(file):
            file.write_bytes(b"unreadable")
    for test in (pl.col("key") >= "k8", pl.col("number") > 5):
        assert lake.scan(TABLE).filter(test).collect().height == 2


def test_other_engines_read_the_same_rows(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    put(lake, 1, 2)
    put(lake, 3, first=1)
    expected = pl.concat([rows(1, 2), rows(3, on=1)]).collect()
    delta = lake.open(TABLE)
    assert delta is not None
    read = pl.DataFrame(QueryBuilder().register("t", delta).execute("SELECT * FROM t ORDER BY number"))
    assert read.select(pl.col(name).cast(dtype) for name, dtype in TABLE.dtypes.items()).equals(expected)
    build_catalog(lake, [TABLE], tmp_path / "catalog.duckdb")
    with duckdb.connect(str(tmp_path / "catalog.duckdb"), read_only=True) as connection:
        found = pl.DataFrame(connection.execute("FROM silver.measured ORDER BY number").to_arrow_table())
    assert found.cast({"known_at": UTC_TIME}).equals(expected)
    assert lake.scan(TABLE).sort("number").collect().equals(expected)
    assert lake.rows_by_day(TABLE).rows() == [(day(0), 2), (day(1), 1)]


@pytest.mark.parametrize("is_empty", [False, True], ids=["days with rows", "days without"])
def test_of_two_overwrites_of_a_day_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_empty: bool) -> None:
    lake = Lake(tmp_path)
    put(lake, *(() if is_empty else (0,)), first=1)
    meanwhile(monkeypatch, lambda: put(lake, 1, first=1, last=2))
    with pytest.raises(CommitFailedError):
        put(lake, 2, first=0, last=1)
    assert held(lake) == [(1, 1)]


def test_a_writer_of_other_days_is_no_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake(tmp_path)
    put(lake, 0)
    meanwhile(monkeypatch, lambda: put(lake, 1, first=1))
    put(lake, 2)
    assert held(lake) == [(0, 2), (1, 1)]


def test_a_commit_that_comes_right_after_the_look_is_judged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, raced = Lake(tmp_path), list[bool]()
    put(lake, 0, first=3)

    class Racing(DeltaTable):
        def create_write_transaction(self, *args: Any, **kwargs: Any) -> None:
            if not raced:
                raced.append(True)
                put(lake, 1, first=1)
            super().create_write_transaction(*args, **kwargs)

    monkeypatch.setattr(data_files, "DeltaTable", Racing)
    with pytest.raises(CommitFailedError):
        put(lake, 2, first=1)
    assert held(lake) == [(1, 1), (3, 0)]


@pytest.mark.parametrize("other", ["append", "compaction"])
def test_an_append_or_a_compaction_meanwhile_is_a_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    lake = Lake(tmp_path)
    for number in (0, 1):
        lake.append(TABLE, rows(number).collect())
    acts = {
        "append": lambda: lake.append(TABLE, rows(2).collect()),
        "compaction": lambda: upkeep(lake, TABLE, None, 30, dry_run=False),
    }
    meanwhile(monkeypatch, acts[other])
    with pytest.raises(CommitFailedError):
        put(lake, 9)
    assert held(lake) == [(0, number) for number in range(3 if other == "append" else 2)]


def test_rows_of_other_days_leave_no_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    put(lake, 0)
    before = on_disk(lake)
    with pytest.raises(LakeWriteError, match=r"silver/measured: cannot be written: rows dated 2026-03-02, outside"):
        lake.replace(TABLE, pl.concat([rows(1), rows(2, on=1)]), day(0), day(0))
    with pytest.raises(LakeWriteError, match="rows dated None"):
        lake.replace(TABLE, rows(1).with_columns(day=pl.lit(None, pl.Date)), day(0), day(0))
    assert on_disk(lake) == before and held(lake) == [(0, 0)]


def test_a_write_that_fails_half_way_leaves_no_file(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    put(lake, 0)
    before = on_disk(lake)

    batches, written = count(), []

    def refuse(batch: pl.Series) -> pl.Series:
        if next(batches) < 4:
            return batch
        # the last batches wait for the first day's file: they come quicker than it opens on a busy machine
        until = time.monotonic() + 20
        while on_disk(lake) == before and time.monotonic() < until:
            time.sleep(0.01)
        written.append(on_disk(lake) != before)
        raise ValueError("the disk says no")

    day_by_day = pl.concat([rows(*range(200_000), on=number) for number in range(3)])
    failing = day_by_day.with_columns(pl.col("number").map_batches(refuse, return_dtype=pl.Int32, is_elementwise=True))
    with pytest.raises(Exception, match="the disk says no"):
        lake.replace(TABLE, failing, day(0), day(2))
    assert any(written), "no file was begun: the write failed before its first half"
    assert on_disk(lake) == before and held(lake) == [(0, 0)]


def test_a_kill_between_files_and_commit_leaves_what_a_vacuum_takes(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    put(lake, 0)
    before = on_disk(lake)
    killing = """
import os, signal, sys
from pathlib import Path
from lims_platform.lakehouse import lake
from lims_platform_tests.unit import test_data_files as here
lake.commit_files = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
here.put(lake.Lake(Path(sys.argv[1])), 7)
"""
    assert subprocess.run([sys.executable, "-c", killing, str(tmp_path)]).returncode == -signal.SIGKILL
    (orphan,) = on_disk(lake) - before
    assert held(lake) == [(0, 0)]
    put(lake, 8)
    assert held(lake) == [(0, 8)]
    assert upkeep(lake, TABLE, None, 30, dry_run=False).vacuumed_files == 0, "a young file may belong to a commit under way"
    long_ago = time.time() - 31 * 86400
    os.utime(orphan, (long_ago, long_ago))
    upkeep(lake, TABLE, None, 30, dry_run=False)
    assert not orphan.exists() and held(lake) == [(0, 8)]


def test_a_table_without_days_is_replaced_as_a_whole(tmp_path: Path) -> None:
    lake, register = Lake(tmp_path), Table("gold", "register", ("number",), None, "", SCHEMA)
    for numbers in ((1, 2), (3,), ()):
        lake.replace(register, rows(*numbers))
        assert lake.scan(register).collect()["number"].to_list() == list(numbers)


def test_a_column_stored_as_another_type_is_refused(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    put(lake, 0)
    other = Table("silver", "measured", ("key",), "day", "", SCHEMA.update_column("number", dtype=pl.String))
    with pytest.raises(ContractError, match="silver/measured: number: stored as integer, the contract says string"):
        lake.replace(other, rows(1).with_columns(pl.col("number").cast(pl.String)), day(0), day(0))
    assert held(lake) == [(0, 0)]
