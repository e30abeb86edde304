"""The six shares of the scorecard on rows made to fail one of them each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.scorecard import data_quality_scorecard

T0 = datetime(2024, 3, 4, 9, tzinfo=UTC)


def _rows(table: str, *rows: dict[str, object]) -> pl.DataFrame:
    base = {
        "source": "lims", "test_code": "GLU", "device_id": "A", "event_date": T0.date(), "result_text": "95",
        "result_unit_text": "mg/dL", "value_kind": "number", "unit_origin": "reported", "known_from": T0,
        "collected_at": T0 - timedelta(hours=2), "resulted_at": T0,
    }  # fmt: skip
    return pl.DataFrame([{**base, **row} for row in rows], schema=TABLES[table].dtypes)


def test_each_share_counts_the_rows_that_fail_it():
    silver = _rows(
        "lab_results_standardized",
        {},
        {"result_text": "<0.5", "value_kind": "censored"},
        {"result_text": "1,5"},  # not the standard form
        {"unit_origin": "alias", "result_unit_text": "MG/DL"},
        {"collected_at": None},
        {"known_from": T0 + timedelta(hours=25)},
        {"result_text": "POSITIVE", "value_kind": "coded", "value_code": "POSITIVE", "result_unit_text": None},
    )
    bad = _rows("lab_results_quarantine", {"reason": "conflicting_duplicate"}, {"reason": "no_value", "result_text": None})
    out = data_quality_scorecard(silver, bad)
    TABLES["data_quality_scorecard"].schema.validate(out)
    assert dict(out.schema) == TABLES["data_quality_scorecard"].dtypes
    row = out.row(0, named=True)
    assert (row["rows"], row["valid_rows"]) == (9, 7)
    assert row["completeness"] == pytest.approx(7 / 9)
    assert row["validity"] == pytest.approx(7 / 9)
    assert row["uniqueness"] == pytest.approx(8 / 9)
    assert row["timeliness"] == pytest.approx(8 / 9)
    assert row["conformity"] == pytest.approx(5 / 9)


def test_absent_codes_and_devices_have_a_row_of_their_own():
    out = data_quality_scorecard(
        _rows("lab_results_standardized"),
        _rows("lab_results_quarantine", {"reason": "unmapped_code", "test_code": None, "device_id": None}),
    )
    assert out.select("test_code", "device_id", "validity").rows() == [("(none)", "(none)", 0.0)]
