"""Days of samples: each day a batch of its own, figures that add up, four files a person and a machine can read."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.sample_days import daily_monitoring, monitoring_report, sample_alerts
from lims_platform.laboratory.sample_watch import watch
from lims_platform.lakehouse.catalog import build_catalog
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference import load_reference
from lims_platform.reporting.sample_files import write_sample_files

LIMITS = load_reference(Path(__file__).parents[2] / "data" / "reference").sample_limits
MEASURED = ["ph_level", "storage_temp_c", "dissolved_oxygen_ppm", "turbidity_ntu"]
FIRST = date(2024, 3, 1)


@pytest.fixture(scope="module")
def silver() -> pl.DataFrame:
    """Three days of 40 samples; on the second the store of FAC1 is warm, on the third a pH sensor is dead."""
    rng, n = np.random.default_rng(4), 120
    frame = pl.DataFrame(
        {
            "row_key": [f"k{i:03d}" for i in range(n)],
            "event_date": [FIRST + timedelta(days=i // 40) for i in range(n)],
            "sample_id": [f"S{i:03d}" for i in range(n)],
            "facility_id": [None if i == 5 else f"FAC{i % 2}" for i in range(n)],
            "measured_at": [datetime(2024, 3, 1 + i // 40, 8, i % 40, tzinfo=UTC) for i in range(n)],
            "ph_level": rng.normal(7.2, 0.1, n),
            "storage_temp_c": rng.normal(4.0, 0.3, n),
            "dissolved_oxygen_ppm": rng.normal(8.5, 0.4, n),
            "turbidity_ntu": rng.gamma(2, 0.5, n),
        }
    )
    warm = (pl.col("event_date") == FIRST + timedelta(days=1)) & (pl.col("facility_id") == "FAC1")
    dead = pl.col("row_key") == "k100"
    return frame.with_columns(
        storage_temp_c=pl.when(warm).then(15.0).otherwise("storage_temp_c"),
        ph_level=pl.when(~dead).then("ph_level"),
        sensor_faults=pl.when(dead).then(pl.lit("ph_level")),
    ).select(
        pl.col(name).cast(dtype) if name in [*frame.columns, "sensor_faults"] else pl.lit(None, dtype).alias(name)
        for name, dtype in TABLES["sample_measurements"].dtypes.items()
    )


@pytest.fixture(scope="module")
def alerts(silver: pl.DataFrame) -> pl.DataFrame:
    return sample_alerts(silver, LIMITS, 0.05)


def test_the_tables_keep_their_contracts(alerts: pl.DataFrame) -> None:
    for name, frame in (("sample_alerts", alerts), ("lims_daily_monitoring", daily_monitoring(alerts))):
        TABLES[name].schema.validate(frame)
        assert dict(frame.schema) == TABLES[name].dtypes
        assert not frame.select(TABLES[name].key).is_duplicated().any()


def test_no_samples_give_empty_tables(silver: pl.DataFrame) -> None:
    none = sample_alerts(silver.clear(), LIMITS, 0.05)
    assert none.is_empty() and daily_monitoring(none).is_empty()


def test_a_day_alone_is_the_day_in_a_range_in_any_order(silver: pl.DataFrame, alerts: pl.DataFrame) -> None:
    day = pl.col("event_date") == FIRST + timedelta(days=1)
    alone = sample_alerts(silver.filter(day).sample(fraction=1.0, shuffle=True, seed=1), LIMITS, 0.05)
    assert alone.equals(alerts.filter(pl.col("as_of_date") == FIRST + timedelta(days=1)))


@pytest.mark.parametrize("seed", range(20))
def test_the_last_bit_of_a_mean_follows_neither_the_order_nor_the_files_of_the_rows(alerts: pl.DataFrame, seed: int) -> None:
    shuffled = alerts.sample(fraction=1, shuffle=True, seed=seed)
    pieces = [shuffled[: 7 * seed], shuffled[7 * seed :]]
    assert daily_monitoring(pl.concat(pieces, rechunk=False)).equals(daily_monitoring(alerts))


def test_figures_add_up(alerts: pl.DataFrame) -> None:
    days = daily_monitoring(alerts)
    whole = days.filter(pl.col("facility_id") == "ALL")
    parts = (
        days.filter(pl.col("facility_id") != "ALL").group_by("as_of_date").agg(pl.col("samples", "critical_failures").sum())
    )
    joined = whole.join(parts, on="as_of_date")
    assert (joined["samples"] == joined["samples_right"]).all()
    assert (joined["critical_failures"] == joined["critical_failures_right"]).all()
    assert (whole["ok"] + whole["warnings"] + whole["critical_failures"] == whole["samples"]).all()
    assert whole["critical_failures"].to_list()[1:] == [20, 1]
    assert "(none)" in days["facility_id"]
    assert whole["data_quality_score"].to_list() == pytest.approx([100.0, 100.0, 100 * (1 - 1 / 160)])


def test_the_four_files_say_the_same(alerts: pl.DataFrame, tmp_path: Path) -> None:
    files = write_sample_files(alerts, LIMITS, tmp_path / "out", datetime(2024, 3, 4, tzinfo=UTC))
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(files)
    report = json.loads(files["monitoring_report.json"].read_text())
    assert set(report) == {
        "run_timestamp", "total_samples", "alert_summary", "critical_samples", "facilities_affected", "data_quality_score",
    }  # fmt: skip
    data, critical = pl.read_csv(files["dashboard_data.csv"]), pl.read_csv(files["critical_alerts.csv"])
    assert report["total_samples"] == data.height == 120
    assert report["critical_samples"] == critical["sample_id"].to_list() and critical.height == 21
    assert report["alert_summary"]["CRITICAL_FAILURE"] == 21
    assert "FAC1" in report["facilities_affected"]
    assert files["monitoring_dashboard.png"].read_bytes().startswith(b"\x89PNG")


def test_an_empty_batch_still_gives_four_files(tmp_path: Path) -> None:
    none = watch(pl.DataFrame(schema={"sample_id": pl.String, **dict.fromkeys(MEASURED, pl.Float64)}), LIMITS)
    write_sample_files(none, LIMITS, tmp_path, datetime(2024, 3, 4, tzinfo=UTC))
    assert monitoring_report(none, datetime(2024, 3, 4, tzinfo=UTC))["data_quality_score"] is None


def test_bi_tools_find_the_days_as_a_table(alerts: pl.DataFrame, tmp_path: Path) -> None:
    lake, table = Lake(tmp_path / "lake"), TABLES["lims_daily_monitoring"]
    lake.replace(table, daily_monitoring(alerts).lazy(), FIRST, FIRST + timedelta(days=2))
    build_catalog(lake, [table], tmp_path / "catalog.duckdb")
    with duckdb.connect(str(tmp_path / "catalog.duckdb"), read_only=True) as connection:
        query = "SELECT sum(samples) FROM lims_daily_monitoring WHERE facility_id = 'ALL'"
        assert connection.execute(query).fetchone() == (120,)
        kind = "SELECT table_type FROM information_schema.tables WHERE table_schema = 'main'"
        assert connection.execute(kind).fetchall() == [("BASE TABLE",)]
