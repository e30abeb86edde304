"""Log rows in one vocabulary, reasons, and failure episodes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import validity
from lims_platform.laboratory.device_logs import failure_episodes, normalise_device_logs

T0 = datetime(2024, 2, 1, 12, tzinfo=UTC)
BRONZE = TABLES["device_logs_raw"].dtypes


def _bronze(*rows: dict[str, object]) -> pl.DataFrame:
    base = {
        "device_id": "A",
        "log_timestamp": T0,
        "event_type": "ERROR",
        "source": "s",
        "event_date": T0.date(),
        "date_source": "event",
        "row_version": 1,
        "change": "insert",
        "is_conflict": False,
        "row_digest": "d",
        "known_from": T0,
        "knowledge_origin": "result_time",
        "ingested_at": T0,
        "ingest_run_id": "r",
    }
    return pl.DataFrame([{**base, "row_key": f"k{i}", **row} for i, row in enumerate(rows)], schema=BRONZE)


@pytest.mark.parametrize(
    ("written", "event_type"),
    [
        ("error", "ERROR"), (" Warn ", "WARNING"), ("WARNING!", "WARNING"), ("Maint.", "MAINTENANCE"),
        ("preventive maintenance", "MAINTENANCE"), ("Cal", "CALIBRATION"), ("FAILED", "FAILURE"), ("info", "INFO"),
        ("BOOT", None), (None, None), ("", None),
    ],
)  # fmt: skip
def test_spellings_of_event_types(written, event_type):
    out = normalise_device_logs(_bronze({"event_type": written})).collect()
    assert out["event_type"].to_list() == [event_type]
    assert out["reason"].to_list() == [None if event_type else "unknown_event_type"]


def test_rows_match_the_contract_and_keep_their_history_where_asked():
    bronze = _bronze({"severity": "major"}, {"severity": "3"})
    out = normalise_device_logs(bronze).collect()
    TABLES["device_metrics_normalized"].schema.validate(out)
    assert dict(out.schema) == TABLES["device_metrics_normalized"].dtypes
    assert out["severity"].to_list() == ["HIGH", None]
    history = normalise_device_logs(validity(bronze.lazy()), history=True).collect()
    assert history.columns[len(out.columns) :] == ["change", "known_to", "is_current", "is_conflict"]


def test_the_first_reason_that_holds_is_given():
    out = normalise_device_logs(
        _bronze(
            {"is_conflict": True, "device_id": None},
            {"device_id": "  "},
            {"date_source": "no_time", "log_timestamp": None},
            {"date_source": "outside", "event_type": "??"},
            {"log_timestamp": None},
        )
    ).collect()
    assert out["reason"].to_list() == [
        "conflicting_duplicate",
        "missing_device",
        "no_usable_time",
        "outside_partitions",
        "no_usable_time",
    ]


def test_failures_within_a_day_of_the_one_before_are_one_episode():
    hours = (0, 20, 43, 67.5, 100)
    rows = [{"event_type": "FAILURE", "log_timestamp": T0 + timedelta(hours=h)} for h in hours]
    other = {"event_type": "FAILURE", "device_id": "B", "log_timestamp": T0 + timedelta(hours=1)}
    out = failure_episodes(normalise_device_logs(_bronze(*rows[::-1], other)))
    assert out.select("device_id", "failures").rows() == [("A", 3), ("A", 1), ("A", 1), ("B", 1)]
    assert out["started_at"][1] == T0 + timedelta(hours=67.5)  # 24.5 h after the one before
