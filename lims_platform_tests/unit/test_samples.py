"""Sensor faults are named and never kept as numbers; ranges are the specification's."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.samples import sample_measurements
from lims_platform.lakehouse.reference import load_reference

LIMITS = load_reference(Path(__file__).parents[2] / "data" / "reference").sample_limits
T0 = datetime(2024, 2, 1, 12, tzinfo=UTC)


def _bronze(*rows: dict[str, object]) -> pl.DataFrame:
    base = {
        "timestamp": T0, "ph_level": 7.2, "storage_temp_c": 4.0, "dissolved_oxygen_ppm": 8.5, "turbidity_ntu": 1.0,
        "source": "s", "event_date": T0.date(), "date_source": "event", "row_version": 1, "change": "insert",
        "is_conflict": False, "row_digest": "d", "known_from": T0, "knowledge_origin": "result_time",
        "ingested_at": T0, "ingest_run_id": "r",
    }  # fmt: skip
    full = [{**base, "sample_id": f"S{i}", "row_key": f"k{i}", **row} for i, row in enumerate(rows)]
    return pl.DataFrame(full, schema=TABLES["batch_results_raw"].dtypes)


def _one(**row: object) -> dict[str, object]:
    out = sample_measurements(_bronze(row), LIMITS).collect()
    TABLES["sample_measurements"].schema.validate(out)
    assert dict(out.schema) == TABLES["sample_measurements"].dtypes
    return out.row(0, named=True)


def test_a_good_sample_is_kept_as_it_is():
    row = _one()
    assert (row["ph_level"], row["sensor_faults"], row["out_of_range"], row["reason"]) == (7.2, None, None, None)


def test_fault_codes_impossible_values_and_not_a_number_become_null_and_are_named():
    row = _one(ph_level=-999.0, dissolved_oxygen_ppm=-3.0, turbidity_ntu=float("nan"))
    assert (row["ph_level"], row["dissolved_oxygen_ppm"], row["turbidity_ntu"]) == (None, None, None)
    assert row["sensor_faults"] == "ph_level;dissolved_oxygen_ppm;turbidity_ntu"
    assert row["out_of_range"] is None  # a fault is no measurement


def test_the_ends_of_a_range_belong_to_it_and_a_hot_store_is_a_measurement():
    assert _one(ph_level=7.4, storage_temp_c=2.0, dissolved_oxygen_ppm=10.0, turbidity_ntu=0.0)["out_of_range"] is None
    row = _one(ph_level=7.41, storage_temp_c=85.0)
    assert row["out_of_range"] == "ph_level;storage_temp_c" and row["storage_temp_c"] == 85.0
    assert row["sensor_faults"] is None


def test_a_missing_measurement_is_no_fault_and_a_missing_sample_number_is_a_reason():
    row = _one(turbidity_ntu=None, sample_id=None)
    assert row["sensor_faults"] is None and row["out_of_range"] is None
    assert row["reason"] == "missing_sample"
    assert _one(timestamp=None, date_source="no_time")["reason"] == "no_usable_time"
