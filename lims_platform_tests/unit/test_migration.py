"""Schema migration: a new nullable column costs nothing, a changed type empties a derived table only, bronze never loses."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pandera.polars as pa
import polars as pl
import pytest

from lims_platform.contracts.base import Table
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.migration import ADD, REBUILD, REFUSED, migrate, migrations

KPIS, BRONZE = TABLES["turnaround_kpis"], TABLES["batch_results_raw"]
DAY = date(2026, 3, 1)


def with_columns(table: Table, **columns: pa.Column) -> Table:
    kept = {name: column for name, column in table.schema.columns.items() if name not in columns}
    return replace(table, schema=pa.DataFrameSchema({**kept, **columns}, name=table.name, strict=True))


def one_row(table: Table) -> pl.DataFrame:
    row = {name: DAY if dtype == pl.Date else None for name, dtype in table.dtypes.items()}
    return pl.DataFrame([row], schema=table.dtypes)


@pytest.mark.parametrize("table", [KPIS, BRONZE], ids=lambda t: t.layer)
def test_a_new_nullable_column_is_added_and_the_next_append_fits(tmp_path: Path, table: Table) -> None:
    lake = Lake(tmp_path)
    lake.append(table, one_row(table))
    grown = with_columns(table, colour=pa.Column(pl.String, nullable=True))
    (found,) = migrations(lake, [grown])
    assert (found.action, found.added) == (ADD, ("colour",))
    migrate(lake, found)
    assert migrations(lake, [grown]) == []
    lake.append(grown, one_row(grown).with_columns(colour=pl.lit("red")))
    assert sorted(lake.scan(grown).collect()["colour"].to_list(), key=str) == [None, "red"]


def test_a_changed_type_empties_a_derived_table_and_its_old_version_stays(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    version = lake.append(KPIS, one_row(KPIS))
    changed = with_columns(KPIS, results=pa.Column(pl.Float64, nullable=True))
    (found,) = migrations(lake, [changed])
    assert found.action == REBUILD and found.changes == ("results: stored as Int64, the contract says Float64",)
    migrate(lake, found)
    assert migrations(lake, [changed]) == [] and lake.scan(changed).collect().is_empty()
    assert lake.scan(KPIS, version=version).collect().height == 1
    lake.replace(changed, one_row(changed).lazy(), DAY, DAY)
    assert lake.scan(changed).collect().schema["results"] == pl.Float64


def test_bronze_refuses_to_lose_or_change_a_column(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    lake.append(BRONZE, one_row(BRONZE))
    (found,) = migrations(lake, [with_columns(BRONZE, ph_level=pa.Column(pl.String, nullable=True))])
    assert found.action == REFUSED
    with pytest.raises(ValueError, match=r"bronze/batch_results_raw: ph_level: stored as Float64.*cannot be made again"):
        migrate(lake, found)
    assert lake.scan(BRONZE).collect().height == 1
