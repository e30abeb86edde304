"""Messages through the door into bronze: every version once, in order, whenever the ingest happens to run."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import groupby
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.assets.door import Door
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import Settings
from lims_platform_tests.hl7_messages import oru

FIRST = date.today() - timedelta(days=3)


def message(order: int, number: int, value: int, day: int, status: str = "C") -> bytes:
    """Version ``number`` of an order's result, resulted ``day`` days after FIRST."""
    when = (FIRST + timedelta(days=day)).strftime("%Y%m%d")
    obx = f"OBX|1|NM|2345-7^Glucose^LN||{value}|mg/dL|||||{status}|||||||AU5800|{when}1000"
    made = (FIRST + timedelta(days=2)).strftime("%Y%m%d") + f"12{number:02d}00"
    return oru(f"C{order}-{number}", [obx], made=made, order=f"F{order}")


def door(folder: Path) -> Door:
    (folder / "drop").mkdir(parents=True)
    (folder / "sources.yaml").write_text(
        "sources: {drop: {engine: hl7, folder: drop, timezone: Europe/Berlin, tables: {lab_results: {files: '*', "
        "allow_empty: true}}}}"
    )
    given = Settings(data_dir=folder / "data", sources=folder / "sources.yaml", start_date=FIRST, vanished_floor=1_000)
    return Door(given, Lake(given.lake_dir))


def ingest(opened: Door, first: date = FIRST, last: date | None = None) -> pl.DataFrame:
    intake = opened.ingest(LAB_RESULTS, first, last or FIRST + timedelta(days=3), "run", False, lambda _: None)
    days = intake.conservation()
    assert days["expected"].equals(days["live"], check_names=False)
    return opened._lake.scan(BRONZE_TABLES["lab_results"]).collect().sort("row_key", "row_version")


_STEPS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 2), st.booleans()), min_size=1, max_size=7)


@settings(max_examples=12, deadline=None)
@given(steps=_STEPS)
def test_bronze_holds_the_way_a_result_took_whenever_it_was_read(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int, int, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("door")
    opened = door(folder)
    way: dict[str, list[tuple[str, date]]] = {}
    for number, (order, value, day, read) in enumerate(steps):
        (folder / "drop" / f"{number:02d}.hl7").write_bytes(message(order, number, value, day))
        way.setdefault(f"F{order}^LIS|2345-7", []).append((str(value), FIRST + timedelta(days=day)))
        if read:
            ingest(opened)
    history = ingest(opened)
    for key, versions in way.items():
        stored = history.filter((pl.col("result_id") == key) & (pl.col("change") != "delete"))
        assert stored.select("result_value", "event_date").rows() == [step for step, _ in groupby(versions)]
        last = history.filter(pl.col("result_id") == key).sort("row_version")[-1]
        assert (last["change"].item() != "delete", last["event_date"].item()) == (True, versions[-1][1])
    assert ingest(opened).height == history.height


def test_a_late_correction_of_one_day_leaves_the_others_alone(tmp_path: Path) -> None:
    opened = door(tmp_path)
    (tmp_path / "drop" / "a.hl7").write_bytes(message(1, 1, 90, 0, "F") + message(2, 2, 80, 1, "F"))
    before = ingest(opened)
    (tmp_path / "drop" / "b.hl7").write_bytes(message(1, 3, 91, 0) + message(1, 4, 92, 0) + message(2, 5, 81, 1))
    after = ingest(opened, FIRST, FIRST)
    new = after.join(before.select("row_key", "row_version"), on=["row_key", "row_version"], how="anti")
    assert new.select("result_value", "row_version", "change").rows() == [("91", 2, "update"), ("92", 3, "update")]
    assert "patient_id" not in after.columns and "P0000001" not in str(after.to_dicts())
