"""Days an edit of the reference tables may change: none is missed, and per table only those that use the row are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lims_platform.contracts.reference import REFERENCE_TABLES, Reference
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.laboratory.reference_effects import days_read_otherwise, keys_of
from lims_platform.laboratory.standardise import standardise_lab_results
from lims_platform.laboratory.unit_evidence import unit_evidence
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[2] / "data" / "reference")
LOCALES = {"lab": "point", "ward": "comma"}
FIRST = date(2026, 3, 1)

#: What is measured, one kind a day: code, text, unit, specimen, more columns. Day 1 is FIRST.
RESULTS: list[list[dict[str, Any]]] = [
    [{"test_code": "GLU", "result_value": text, "result_unit": "mg/dL"} for text in ("98", "600", "1,5")],
    [{"test_code": "GLU", "result_value": "5.4", "result_unit": "mmol/L", "specimen_type": "SER"}],
    # the day's results tell the unit, which stands nowhere
    [{"test_code": "GLU", "result_value": f"{4 + n / 10:.1f}"} for n in range(30)],
    [
        {"test_code": "K", "result_value": text, "result_unit": "mEq/L", "age_band": "18-64"}
        for text in ("4.1", "2.7", "<2.0")
    ],
    [{"test_code": "NEWK", "result_value": "4.4", "result_unit": "mmol/L"}],
    [{"test_code": "SARS2", "result_value": text} for text in ("POSITIVE", "NOT DETECTED", "HOLD", "SARS-COV-2 DETECTED")],
    [
        {"test_code": "CRP", "result_value": text, "result_unit": "mg/L"}
        for text in ("LESS THAN 3", "below 3", "12", "err 4")
    ],
    [{"test_code": "HGB", "result_value": "8.4", "result_unit": "mmol/L", "device_id": "D2"}],
    [{"test_code": "X1", "result_value": "5.5", "result_unit": "mmol/L", "loinc_code": "14749-6"}],
    [{"test_code": "PLT", "result_value": "250", "result_unit": "G/L"}],
    [{"test_code": "GLU", "result_value": "98 mg/dL", "specimen_type": "CSF"}],
    [{"test_code": "K", "result_value": "4,1", "result_unit": "mmol/L", "source": "ward"}],
]


@cache
def rows() -> pl.DataFrame:
    """All results in bronze's columns."""
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    base = {
        "result_id": "r",
        "patient_hash": "p",
        "device_id": "D1",
        "source": "lab",
        "is_conflict": False,
        "date_source": "event",
    }
    given = []
    for number, of_day in enumerate(RESULTS):
        at = noon + timedelta(days=number)
        times = {"collected_timestamp": at - timedelta(hours=2), "resulted_timestamp": at, "event_date": at.date()}
        given += [{**base, **times, **row} for row in of_day]
    lineage = {"source": pl.String(), "event_date": pl.Date(), "is_conflict": pl.Boolean(), "date_source": pl.String()}
    schema = {**LAB_RESULTS.stored_schema, **lineage}
    return pl.DataFrame([{**dict.fromkeys(schema), **row} for row in given], schema=schema)


def standardised(reference: Reference) -> pl.DataFrame:
    lazy = rows().lazy()
    return (
        standardise_lab_results(lazy, reference, LOCALES, unit_evidence(lazy, reference)).drop("reference_digest").collect()
    )


@cache
def before() -> pl.DataFrame:
    return standardised(REFERENCE)


def named(reference: Reference) -> set[int]:
    """Numbers of the days the edit is said to change; day 1 is FIRST."""
    days = days_read_otherwise(keys_of(rows().lazy(), LOCALES), REFERENCE, reference)
    return {(day - FIRST).days + 1 for day in days}


def changed(reference: Reference) -> set[int]:
    """Numbers of the days that come out otherwise."""
    after = standardised(reference)
    same = before().select(pl.struct(pl.all()).alias("a")).hstack(after.select(pl.struct(pl.all()).alias("b")))
    other = after.filter(same.select(pl.col("a").ne_missing(pl.col("b"))).to_series())
    return {(day - FIRST).days + 1 for day in other["event_date"]}


def edited(table: str, edit: Callable[[pl.DataFrame], pl.DataFrame]) -> Reference:
    return replace(REFERENCE, **{table: edit(getattr(REFERENCE, table))})


def added(**cells: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: pl.concat([frame, pl.DataFrame([{**dict.fromkeys(frame.columns), **cells}], schema=frame.schema)])


def without(**cells: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.filter(~pl.all_horizontal([pl.col(name) == value for name, value in cells.items()]))


def with_cell(column: str, value: Any, **of: Any) -> Callable[[pl.DataFrame], pl.DataFrame]:
    chosen = pl.all_horizontal([pl.col(name) == wanted for name, wanted in of.items()])
    return lambda frame: frame.with_columns(pl.when(chosen).then(pl.lit(value)).otherwise(column).alias(column))


ANY_WAY = {"specimen_type": "*", "method_or_model": "*", "unit_kind": "*"}
EDITS: list[tuple[str, Callable[[pl.DataFrame], pl.DataFrame], set[int], set[int]]] = [
    # table, edit, days that come out otherwise, days named besides (in vain)
    ("loinc_map", added(source="*", local_code="newk", loinc_code="2823-3", **ANY_WAY), {5}, set()),
    ("loinc_map", added(source="ward", local_code="K", loinc_code="2823-3", **ANY_WAY), set(), set()),
    ("loinc_map", added(source="lab", local_code="NOBODYS", loinc_code="2823-3", **ANY_WAY), set(), set()),
    (
        "loinc_map",
        added(source="*", local_code="NEWK", loinc_code="2823-3", valid_from=date(2026, 3, 6), **ANY_WAY),
        {5},  # the code is listed now: the row in quarantine says so
        set(),
    ),
    ("loinc_equivalents", without(source_loinc="14749-6", unit_kind="*"), {9}, set()),
    ("specimens", without(alias="CSF"), {11}, set()),
    ("specimens", without(alias="SER"), set(), set()),
    ("units", with_cell("factor", 11.0, unit="mmol/L"), {4}, set()),
    ("unit_aliases", without(alias="G/L", match="exact"), {10}, set()),
    ("unit_aliases", added(alias="potassiums", unit="mmol/L", analyte_kind="*", match="folded"), set(), set()),
    (
        "unit_conversions",
        added(loinc_code="718-7", source_loinc="*", from_unit="mmol/L", factor=1.7, offset=0.0, note="-"),
        {8},
        set(),
    ),
    ("unit_traps", added(loinc_code="2823-3", from_unit="meq/L", proposal="?", note="?"), {4}, set()),
    # the unit nobody wrote, which the day's results tell
    ("unit_traps", added(loinc_code="2345-7", from_unit="mmol/L", value_low=0.0, proposal="?", note="?"), {2, 3, 9}, set()),
    ("value_codes", without(text="HOLD"), {6}, set()),
    ("value_codes", added(text="below 3", match="exact", kind="not_done", language="en"), {7}, set()),
    ("comparator_words", without(text="LESS THAN"), {7}, set()),
    ("critical_limits", with_cell("high", 90.0, loinc_code="2345-7", age_band="*"), {1, 2, 3, 9}, set()),
    ("critical_limits", with_cell("low", 2.6, loinc_code="2823-3", age_band="*"), {4}, {12}),
    ("analytes", with_cell("plausible_high", 500.0, loinc_code="2345-7"), {1}, {2, 3, 9}),
    ("analytes", with_cell("analyte", "Kalium", loinc_code="2823-3"), {4, 12}, set()),
    ("analytes", with_cell("tea_percent", 1.0, loinc_code="2345-7"), set(), set()),
    ("alert_rules", with_cell("limit", 99.0, rule="high_risk_device_high"), set(), set()),
]  # fmt: skip


@pytest.mark.parametrize(("table", "edit", "other", "in_vain"), EDITS, ids=[f"{n} {e[0]}" for n, e in enumerate(EDITS)])
def test_an_edit_names_the_days_that_use_it(
    table: str, edit: Callable[[pl.DataFrame], pl.DataFrame], other: set[int], in_vain: set[int]
) -> None:
    reference = edited(table, edit)
    assert changed(reference) == other
    assert named(reference) == other | in_vain


#: Cells that concern what is measured here, so that an edit drawn at random matters now and then.
TOUCHING = {
    *("2345-7", "2823-3", "94500-6", "1988-5", "718-7", "777-3", "14749-6", "mmol/L", "mg/dL", "mg/L", "G/L", "meq/L"),
    *("10*9/L", "SER", "CSF", "GLU", "K", "SARS2", "CRP", "HGB", "PLT", "POSITIVE", "NOT DETECTED", "DETECTED", "HOLD"),
    *("LESS THAN", "BELOW", "<", "ERR", "SARS-COV-2"),
}
TABLES = sorted(name for name, table in REFERENCE_TABLES.items() if table.standardises)


@st.composite
def edits(draw: st.DrawFn) -> Reference:
    """One table with a row gone, or a cell of it as another row has it, or nothing."""
    name = draw(st.sampled_from(TABLES))
    frame: pl.DataFrame = getattr(REFERENCE, name).with_row_index("__at__")
    texts = [pl.col(c).is_in(list(TOUCHING)) for c, dtype in frame.schema.items() if dtype == pl.String]
    at = draw(st.sampled_from(frame.filter(pl.any_horizontal(texts))["__at__"].to_list()))
    if draw(st.booleans()):
        frame = frame.filter(pl.col("__at__") != at)
    else:
        column = draw(st.sampled_from(frame.columns[1:]))
        value = frame[column][draw(st.integers(0, frame.height - 1))]
        cell = pl.lit(value, frame.schema[column])
        frame = frame.with_columns(pl.when(pl.col("__at__") == at).then(cell).otherwise(column).alias(column))
    assume(not frame.select(pl.struct(REFERENCE_TABLES[name].key).is_duplicated().any()).item())
    return replace(REFERENCE, **{name: frame.drop("__at__")})


@settings(max_examples=25)
@given(edits())
def test_no_day_that_comes_out_otherwise_is_missed(reference: Reference) -> None:
    try:
        other = changed(reference)
    except (ValueError, pl.exceptions.PolarsError):
        assume(False)  # a word with two meanings: no state a laboratory could run with
    assert other <= named(reference)


def test_plain_numbers_share_a_key_and_a_source_s_locale_decides_what_is_plain() -> None:
    base = rows().filter(pl.col("test_code") == "K").head(1)
    texts = [str(n) for n in range(100)] + ["1.5", "1,5", "<5"]
    many = pl.concat([base.with_columns(result_value=pl.lit(text)) for text in texts])
    assert sorted(keys_of(many.lazy(), {"lab": "point"})["text"].to_list(), key=str) == ["1,5", "<5", None]
    assert sorted(keys_of(many.lazy(), {"lab": "comma"})["text"].to_list(), key=str) == ["1,5", "1.5", "<5", None]


def test_a_column_that_is_absent_counts_as_null() -> None:
    lean = rows().drop("specimen_type", "loinc_code").lazy()
    assert days_read_otherwise(keys_of(lean, LOCALES), REFERENCE, edited(*EDITS[0][:2])) == {FIRST + timedelta(days=4)}
    assert days_read_otherwise(keys_of(lean.head(0), LOCALES), REFERENCE, edited(*EDITS[0][:2])) == set()
