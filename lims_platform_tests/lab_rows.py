"""Lab results as bronze holds them, for tests of the standardisation. Not here: tests."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[1] / "data" / "reference")
SHARED = Path(__file__).parents[1].parent / "shared" / "data"
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
LINEAGE = {
    "source": pl.String(),
    "event_date": pl.Date(),
    "date_source": pl.String(),
    "time_flag": pl.String(),
    "is_conflict": pl.Boolean(),
}


def raw(rows: list[dict[str, Any]]) -> pl.LazyFrame:
    """Rows as the standardisation takes them; one lineage where a row says nothing else."""
    base = {
        "result_id": "r", "patient_hash": "p", "device_id": "d", "collected_timestamp": NOON - timedelta(hours=2),
        "resulted_timestamp": NOON, "source": "lab", "event_date": date(2025, 6, 1), "date_source": "event",
        "is_conflict": False,
    }  # fmt: skip
    schema = {**LAB_RESULTS.stored_schema, **LINEAGE}
    return pl.DataFrame([{**dict.fromkeys(schema), **base, **row} for row in rows], schema=schema).lazy()
