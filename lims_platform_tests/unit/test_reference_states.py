"""States of the reference tables are kept whole or not at all, and each day of a table names the states that made it."""

from __future__ import annotations

import os
import shutil
import time
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from lims_platform.contracts.silver import SILVER_TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference import ReferenceTableError
from lims_platform.lakehouse.reference_states import DIGEST, SETTLED_SECONDS, ReferenceStates, digests_by_day

SHIPPED = Path(__file__).parents[2] / "data" / "reference"
TABLE = SILVER_TABLES["lab_results_history"]
DAYS = [date(2026, 3, day) for day in (1, 2, 3)]


@pytest.fixture
def states(tmp_path: Path) -> ReferenceStates:
    """The shipped tables to edit, nothing kept yet."""
    shutil.copytree(SHIPPED, tmp_path / "edited")
    return ReferenceStates(tmp_path / "edited", tmp_path / "kept")


def accept(states: ReferenceStates, line: str = "*,NEWK,*,*,*,2823-3,,,\n") -> None:
    with (states.edited / "loinc_map.csv").open("a") as file:
        file.write(line)


def test_a_state_is_found_again_after_an_edit(states: ReferenceStates) -> None:
    old = states.current()
    accept(states)
    new = states.current()
    assert old.digest != new.digest
    kept = states.of(old.digest)
    assert kept is not None and kept.loinc_map.equals(old.loinc_map)
    assert states.of("of nothing") is None
    assert states.current().digest == new.digest and len(list(states.kept.iterdir())) == 2


def test_an_edit_between_reading_and_copying_keeps_nothing_wrong(
    states: ReferenceStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile = shutil.copyfile

    def copied_late(source: Path, target: Path) -> None:
        if source.name == "loinc_map.csv":
            accept(states, "half a li")
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", copied_late)
    assert states.of(states.current().digest) is None and list(states.kept.iterdir()) == []


def test_a_kept_state_that_was_tampered_with_is_not_believed(states: ReferenceStates) -> None:
    digest = states.current().digest
    with (states.kept / digest / "units.csv").open("a") as file:
        file.write("mmol/XL,substance_concentration,1\n")
    assert states.of(digest) is None
    (states.kept / digest / "units.csv").write_text("unit,kind_of_an_older_release,factor\n")
    assert states.of(digest) is None


def test_a_broken_edit_names_the_file_the_laboratory_edits(states: ReferenceStates) -> None:
    accept(states, "*,NEWK,*,*,*,2823-3,,soon,\n")
    with pytest.raises(ReferenceTableError, match=rf"^{states.edited}/loinc_map.csv, line \d+, column valid_from: 'soon'"):
        states.current()
    assert not states.kept.exists()


def test_a_file_saved_moments_ago_may_be_half_saved(states: ReferenceStates) -> None:
    accept(states)
    assert states.is_being_edited()
    long_ago = time.time() - SETTLED_SECONDS - 1
    for path in states.edited.iterdir():
        os.utime(path, (long_ago, long_ago))
    assert not states.is_being_edited()


def write(lake: Lake, *rows: tuple[date, str | None]) -> int:
    """Replace the days of the rows; the version."""
    frame = pl.DataFrame({"event_date": [day for day, _ in rows], DIGEST: [digest for _, digest in rows]})
    blank = [pl.lit(None, dtype).alias(name) for name, dtype in TABLE.dtypes.items() if name not in frame.columns]
    ready = frame.with_columns(blank).select([pl.col(name).cast(dtype) for name, dtype in TABLE.dtypes.items()])
    days = frame["event_date"].to_list()
    lake.replace(TABLE, ready.lazy(), min(days), max(days))
    version = lake.version(TABLE)
    assert version is not None
    return version


def test_the_digests_of_a_day_and_those_written_since(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    long = "a" * 63
    first = write(lake, *[(day, f"{long}1") for day in DAYS])
    second = write(lake, (DAYS[1], f"{long}2"), (DAYS[1], f"{long}3"))
    assert digests_by_day(lake, TABLE, first).rows() == [(day, f"{long}1") for day in DAYS]
    now = [(DAYS[0], f"{long}1"), (DAYS[1], f"{long}2"), (DAYS[1], f"{long}3"), (DAYS[2], f"{long}1")]
    assert digests_by_day(lake, TABLE, second).rows() == now
    assert digests_by_day(lake, TABLE, second, since=first).rows() == now[1:3]
    assert digests_by_day(lake, TABLE, second, since=second).rows() == []
    assert digests_by_day(lake, TABLE, second, since=99).rows() == now, "a version that is not to be had: all count as new"


def test_files_without_statistics_are_read(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    write(lake, *[(day, "old") for day in DAYS])
    delta = DeltaTable(str(lake.path(TABLE)))
    delta.alter.set_table_properties({"delta.dataSkippingNumIndexedCols": "1"})
    version = write(lake, (DAYS[1], "new"))
    found = digests_by_day(lake, TABLE, version)
    assert found.rows() == [(DAYS[0], "old"), (DAYS[1], "new"), (DAYS[2], "old")]
