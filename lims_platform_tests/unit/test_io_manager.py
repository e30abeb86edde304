"""The IO manager: what it writes and records, and that of two runs the one with the newest inputs has the last word."""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import pandera.polars as pa
import polars as pl
import pytest

from lims_platform.contracts.base import Table
from lims_platform.lakehouse import io_manager
from lims_platform.lakehouse.io_manager import DeltaIOManager
from lims_platform.lakehouse.lake import ContractError, Lake, LakeWriteError

DAYS = dg.DailyPartitionsDefinition("2026-03-01", end_date="2026-03-05")
FIRST = date(2026, 3, 1)
COLUMNS = pa.DataFrameSchema({"day": pa.Column(pl.Date), "n": pa.Column(pl.Int64)})
ROWS = Table("silver", "rows", ("n",), "day", "What is read", COLUMNS)
COPY = Table("silver", "copy", ("n",), "day", "What is written", COLUMNS)


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(io_manager, "CONFLICT_WAIT_SECONDS", (0.0, 0.0))
    return Lake(tmp_path)


def put(lake: Lake, table: Table, *numbers: int, day: date = FIRST) -> int:
    return lake.replace(table, pl.LazyFrame({"day": [day] * len(numbers), "n": numbers}), day, day)


def run(lake: Lake, during: Callable[[int], object]) -> tuple[dg.ExecuteInProcessResult, int]:
    """Copy rows to copy, with ``during(call number)`` happening while a call computes; the result and the calls."""
    calls: list[int] = []

    @dg.asset(key=["silver", "copy"], partitions_def=DAYS, ins={"rows": dg.AssetIn(["silver", "rows"])})
    def copy(rows: pl.LazyFrame) -> pl.LazyFrame:
        calls.append(len(calls) + 1)
        during(calls[-1])
        return rows

    upstream = dg.AssetSpec(["silver", "rows"], partitions_def=DAYS).with_io_manager_key("io_manager")
    manager = DeltaIOManager(lake, {"rows": ROWS, "copy": COPY})
    resources = {"io_manager": manager}
    result = dg.materialize(
        [upstream, copy], partition_key=str(FIRST), resources=resources, selection=[copy], raise_on_error=False
    )
    return result, len(calls)


def copied(lake: Lake) -> list[int]:
    return lake.scan(COPY).collect()["n"].sort().to_list()


def test_a_write_records_rows_and_versions(lake: Lake) -> None:
    read = put(lake, ROWS, 1, 2)
    result, calls = run(lake, lambda call: None)
    metadata = result.asset_materializations_for_node("silver__copy")[0].metadata
    assert result.success and calls == 1 and copied(lake) == [1, 2]
    assert metadata["dagster/row_count"].value == 2 and metadata["input_version/rows"].value == read


def test_a_range_run_tells_every_day_its_own_rows(lake: Lake) -> None:
    @dg.asset(key=["silver", "copy"], partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def copy() -> pl.LazyFrame:
        days = [FIRST, FIRST, FIRST + timedelta(days=2)]
        return pl.LazyFrame({"day": days, "n": [1, 2, 3]})

    put(lake, COPY, *range(9), day=FIRST + timedelta(days=3))  # another day's rows are no rows of this run
    span = {"dagster/asset_partition_range_start": "2026-03-01", "dagster/asset_partition_range_end": "2026-03-03"}
    result = dg.materialize([copy], tags=span, resources={"io_manager": DeltaIOManager(lake, {"copy": COPY})})
    told = {str(m.partition): m.metadata for m in result.asset_materializations_for_node("silver__copy")}
    assert {day: told[day]["dagster/row_count"].value for day in told} == {"2026-03-01": 2, "2026-03-02": 0, "2026-03-03": 1}
    assert {metadata[io_manager.ROWS_OF_RUN].value for metadata in told.values()} == {3}


def test_inputs_that_change_meanwhile_are_read_again(lake: Lake) -> None:
    put(lake, ROWS, 1)
    result, calls = run(lake, lambda call: put(lake, ROWS, 2) if call == 1 else None)
    assert result.success and calls == 2 and copied(lake) == [2]


def test_an_input_that_appears_meanwhile_is_read(lake: Lake) -> None:
    result, calls = run(lake, lambda call: put(lake, ROWS, 3) if call == 1 else None)
    assert result.success and calls == 2 and copied(lake) == [3]


def test_other_days_of_an_input_do_not_matter(lake: Lake) -> None:
    put(lake, ROWS, 1)
    result, calls = run(lake, lambda call: put(lake, ROWS, 9, day=date(2026, 3, 2)))
    assert result.success and calls == 1 and copied(lake) == [1]


def test_inputs_that_never_rest_fail_the_step(lake: Lake) -> None:
    put(lake, ROWS, 0)
    result, calls = run(lake, lambda call: put(lake, ROWS, call))
    assert not result.success and calls == 5


def test_rows_outside_their_days_or_contract_are_refused(lake: Lake) -> None:
    put(lake, COPY, 1)
    with pytest.raises(LakeWriteError, match="silver/copy: cannot be written"):
        lake.replace(COPY, pl.LazyFrame({"day": [date(2026, 3, 4)], "n": [1]}), FIRST, FIRST)
    with pytest.raises(ContractError, match="silver/copy: n: Float64, expected Int64"):
        lake.replace(COPY, pl.LazyFrame({"day": [FIRST], "n": [1.7]}), FIRST, FIRST)
    assert copied(lake) == [1]


def test_a_column_new_in_the_contract_is_added(lake: Lake) -> None:
    put(lake, COPY, 1)
    wider = Table("silver", "copy", ("n",), "day", "", COPY.schema.add_columns({"unit": pa.Column(pl.String)}))
    lake.replace(
        wider, pl.LazyFrame({"day": [date(2026, 3, 2)], "n": [2], "unit": ["g"]}), date(2026, 3, 2), date(2026, 3, 2)
    )
    assert lake.scan(wider).collect().sort("n")["unit"].to_list() == [None, "g"]
