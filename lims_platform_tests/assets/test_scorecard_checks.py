"""The scorecard's checks warn below 99 %, per source, and carry their trend; the quarantine's preview names nobody."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from lims_platform.automation.checks import valid_share
from lims_platform.automation.scorecard_checks import data_quality_shares, share_result
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.scorecard import SHARES, shares_by
from lims_platform.lakehouse.lake import Lake
from lims_platform.partitions import partition_bounds
from lims_platform.reporting.figures import markdown_table

SCORECARD, HELD = TABLES["data_quality_scorecard"], TABLES["lab_results_quarantine"]
DAY = partition_bounds()[1] - timedelta(days=3)


def card(day: date, source: str, test: str, rows: int, **shares: float) -> dict[str, Any]:
    whole = {"as_of_date": day, "source": source, "test_code": test, "device_id": "D1", "rows": rows, "valid_rows": rows}
    return whole | dict.fromkeys(SHARES, 1.0) | shares


def checked(lake: Lake, first: date, last: date) -> dict[str, dg.AssetCheckEvaluation]:
    """A run of the checks alone over the days."""
    job = dg.define_asset_job("checks", dg.AssetSelection.checks(data_quality_shares, valid_share))
    definitions = dg.Definitions(asset_checks=[data_quality_shares, valid_share], jobs=[job], resources={"lake": lake})
    tags = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
    with dg.DagsterInstance.ephemeral() as instance:
        result = definitions.resolve_job_def("checks").execute_in_process(tags=tags, instance=instance)
    assert result.success, "a share below its goal stops nothing"
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def test_a_share_below_the_goal_warns_with_its_worst_tests_and_its_trend(tmp_path: Path) -> None:
    lake, before = Lake(tmp_path), DAY - timedelta(days=1)
    rows = [
        card(before, "main", "GLU", 100, validity=0.5),  # not among the run's days: trend only
        card(DAY, "main", "GLU", 900, validity=1.0, conformity=0.985),
        card(DAY, "main", "NA", 100, validity=0.9, conformity=1.0),  # 990 of 1000 valid: exactly the goal
        card(DAY, "other", "GLU", 10, timeliness=0.9),  # one source's delay is not hidden by the other's rows
    ]
    lake.replace(SCORECARD, pl.LazyFrame(rows, schema=SCORECARD.dtypes), before, DAY)
    found = checked(lake, DAY, DAY)
    assert {name: found[name].passed for name in SHARES} == {
        "completeness": True,
        "validity": True,
        "uniqueness": True,
        "timeliness": False,
        "conformity": False,
    }
    assert all(found[name].severity is dg.AssetCheckSeverity.WARN and not found[name].blocking for name in SHARES)
    conformity = found["conformity"].metadata
    assert conformity["share/main"].value == pytest.approx(0.9865) and conformity["rows"].value == 1010
    assert found["conformity"].description == "main: 98.65%, other: 100.00%"
    assert conformity["days_below"].value == 1 and "| main | GLU | D1 | 900 | 0.985 | 14 |" in str(conformity["worst"].value)
    assert "data:image/png;base64," in str(conformity["trend"].value)
    assert all(len(str(found[name].metadata["trend"].value)) < 40_000 for name in SHARES)
    both_days = share_result(lake.scan(SCORECARD).collect(), SCORECARD.empty(), "validity")
    assert not both_days.passed and both_days.metadata["days_below"].value == 1


def test_days_without_results_are_said_to_be_not_evaluable(tmp_path: Path) -> None:
    found = checked(Lake(tmp_path), DAY, DAY)
    assert all("not evaluable" in str(found[name].metadata["outcome"].value) for name in SHARES)


def test_shares_are_weighted_by_rows() -> None:
    frame = pl.DataFrame([card(DAY, "m", "A", 1, validity=0.0), card(DAY, "m", "B", 99)], schema=SCORECARD.dtypes)
    assert shares_by(frame, "source").select("rows", "validity").rows() == [(100, 0.99)]


def quarantined(key: int, reason: str, text: str | None, **more: Any) -> dict[str, Any]:
    names = {"result_id": f"R-{key}", "row_key": f"main|R-{key}", "patient_hash": "k1:secret", "technician_hash": "k1:tech"}
    return {"event_date": DAY, "source": "main", "test_code": "GLU", "reason": reason, "result_text": text} | names | more


def test_the_preview_shows_the_commonest_reasons_with_samples_and_no_identifier(tmp_path: Path) -> None:
    lake = Lake(tmp_path)
    rows = [quarantined(i, "unit_missing", "5.4", proposal="read as mmol/L", confidence=0.97) for i in range(3)]
    rows += [quarantined(9, "unreadable_value", "<img src=x>|\n**5**")]
    rows += [quarantined(10, "unreadable_value", f"call k0123abcd:{'0' * 32} back")]
    lake.replace(HELD, pl.LazyFrame(rows, schema=HELD.dtypes), DAY, DAY)
    found = checked(lake, DAY, DAY)["valid_share"]
    assert not found.passed and found.severity is dg.AssetCheckSeverity.WARN
    preview = str(found.metadata["quarantine"].value)
    lines = preview.splitlines()
    assert lines[2].startswith("| unit&#95;missing | 3 | 3 | GLU | 5.4 |") and "read as mmol/L | 0.97 |" in lines[2]
    assert len(lines) == 5 and "&#60;img src=x&#62;&#124; &#42;&#42;5" in lines[3] and "call (pseudonym) back" in lines[4]
    assert not re.search(r"R-\d|secret|tech|k1:|k0123", preview)


def test_a_cell_of_markdown_is_text() -> None:
    lines = markdown_table(pl.DataFrame({"a_b": ["x|y", None], "n": [0.12345, 2.0]})).splitlines()
    assert lines == ["| a&#95;b | n |", "| --- | --- |", "| x&#124;y | 0.123 |", "|  | 2 |"]
