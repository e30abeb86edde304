"""The contract check, on a lake whose rows break the contract one way each."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lims_platform.assets.common import asset_key
from lims_platform.automation.checks import contract_check
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake

TABLE = TABLES["turnaround_kpis"]
DAY = date(2025, 3, 4)


def good_rows() -> pl.DataFrame:
    """Two rows that keep the contract: every number 1, every text its row's number."""
    rows = {}
    for name, dtype in TABLE.dtypes.items():
        value: list[object] = ["0", "1"] if dtype == pl.String else [DAY, DAY] if dtype == pl.Date else [1, 1]
        rows[name] = pl.Series(name, value).cast(dtype)
    return pl.DataFrame(rows)


def outcome(root: Path, rows: pl.DataFrame) -> dg.AssetCheckEvaluation:
    lake = Lake(root)
    lake.replace(TABLE, rows.lazy(), DAY, DAY)

    @dg.asset(key=asset_key(TABLE.name))
    def written() -> None: ...

    done = dg.materialize(
        [written, contract_check(TABLE)],
        resources={"lake": lake},
        tags={f"dagster/asset_partition_range_{end}": DAY.isoformat() for end in ("start", "end")},
        raise_on_error=False,
    )
    return done.get_asset_check_evaluations()[0]


def test_good_rows_pass(tmp_path: Path) -> None:
    seen = outcome(tmp_path, good_rows())
    assert seen.passed
    assert seen.metadata["rows_checked"].value == 2


def test_a_null_in_a_column_that_must_be_there_fails_and_is_named(tmp_path: Path) -> None:
    name = next(n for n, c in TABLE.schema.columns.items() if not c.nullable and n != TABLE.partition and not c.checks)
    seen = outcome(tmp_path, good_rows().with_columns(pl.lit(None, TABLE.dtypes[name]).alias(name)))
    assert not seen.passed
    assert f"`{name}`" in str(seen.metadata["failures"].value)


def test_a_value_outside_its_range_fails_and_is_named(tmp_path: Path) -> None:
    ranged = [n for n, c in TABLE.schema.columns.items() if c.checks and TABLE.dtypes[n].is_numeric()]
    if not ranged:
        pytest.fail("the table has no ranged column: choose another for this test")
    seen = outcome(tmp_path, good_rows().with_columns(pl.lit(-1).cast(TABLE.dtypes[ranged[0]]).alias(ranged[0])))
    assert not seen.passed
    assert f"`{ranged[0]}`" in str(seen.metadata["failures"].value)


def test_a_key_that_occurs_twice_fails_and_is_shown(tmp_path: Path) -> None:
    row = good_rows().head(1)
    seen = outcome(tmp_path, pl.concat([row, row]))
    assert not seen.passed
    assert "2" in str(seen.metadata["repeated_keys"].value)
