"""Terminology: the full key of the LOINC map, its validity, the source's own codes, the check digit."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from lims_platform.contracts.reference_results import LOINC_MAP
from lims_platform.laboratory.terminology import is_loinc, resolve_codes, unmapped_codes
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[2] / "data" / "reference")
_KEYS = ("source", "test_code", "specimen_type", "device_model", "unit_kind", "loinc_code")


def resolve(rows: list[dict[str, Any]], entries: list[tuple[Any, ...]] | None = None) -> list[dict[str, Any]]:
    schema = {**dict.fromkeys(_KEYS, pl.String), "day": pl.Date}
    keys = pl.DataFrame(
        [{"source": "lab", "day": date(2025, 6, 1), **dict.fromkeys(_KEYS[1:]), **row} for row in rows], schema=schema
    )
    reference = REFERENCE
    if entries is not None:
        own = pl.DataFrame(entries, schema=LOINC_MAP.schema, orient="row")
        reference = replace(REFERENCE, loinc_map=pl.concat([REFERENCE.loinc_map, own]))
    return resolve_codes(keys, reference).to_dicts()


def test_the_first_fifteen_and_the_pathogens() -> None:
    expected = {
        "GLU": "2345-7", "HBA1C": "4548-4", "CHOL": "2093-3", "TRIG": "2571-8", "HDL": "2085-9",
        "LDL": "2089-1", "CREAT": "2160-0",
        "BUN": "3094-0", "NA": "2951-2", "K": "2823-3", "WBC": "6690-2", "RBC": "789-8", "HGB": "718-7", "PLT": "777-3",
        "SARS2": "94500-6", "FLUA": "85477-8", "FLUB": "85478-6", "RSV": "85479-4", "HBSAG": "5196-1",
        "HCVAB": "16128-1",
    }  # fmt: skip
    rows = resolve([{"test_code": c} for c in expected])
    assert {r["test_code"]: r["std_loinc"] for r in rows} == expected
    molar = resolve([{"test_code": "glu_mmol "}])[0]
    assert (molar["std_loinc"], molar["source_loinc"], molar["default_unit"]) == ("2345-7", "14749-6", "mmol/L")
    alarms = dict(REFERENCE.analytes.select("loinc_code", "takes_part_in_outbreak_alarms").rows())
    assert alarms["94500-6"] and not alarms["5196-1"] and not alarms["16128-1"]


def test_specimens_share_a_code() -> None:
    entries = [
        ("lab", "GX", "serum", "*", "*", "2345-7", None, None, None),
        ("lab", "GX", "urine", "*", "*", "2350-7", None, None, None),
    ]
    rows = resolve([{"test_code": "GX", "specimen_type": s} for s in ("SER", "Urine", None, "CSF")], entries)
    assert [r["std_loinc"] for r in rows] == ["2345-7", "2350-7", None, None]
    assert [r["code_problem"] for r in rows] == [None, None, "ambiguous_code", "ambiguous_code"]
    assert "2345-7 or 2350-7" in rows[2]["code_detail"]


def test_the_own_source_and_the_more_specific_row_win() -> None:
    entries = [
        ("lab", "GLU", "*", "*", "*", "2339-0", None, None, None),
        ("lab", "GLU", "*", "POC-1", "*", "2350-7", None, None, None),
    ]
    rows = resolve([{"test_code": "GLU", "device_model": "POC-1"}, {"test_code": "GLU", "device_model": "C500"}], entries)
    assert [r["std_loinc"] for r in rows] == ["2350-7", "2339-0"]
    assert resolve([{"test_code": "GLU", "source": "other"}], entries)[0]["std_loinc"] == "2345-7"


def test_validity_dates() -> None:
    entries = [
        ("lab", "X1", "*", "*", "*", "2345-7", None, None, date(2024, 12, 31)),
        ("lab", "X1", "*", "*", "*", "2339-0", None, date(2025, 1, 1), None),
    ]
    days = [date(2024, 12, 31), date(2025, 1, 1)]
    assert [r["std_loinc"] for r in resolve([{"test_code": "X1", "day": d} for d in days], entries)] == ["2345-7", "2339-0"]
    assert resolve([{"test_code": "X1", "day": None}], entries)[0]["code_problem"] == "ambiguous_code"


def test_unit_kind_tells_percent_from_count() -> None:
    rows = resolve([{"test_code": "NEUT", "unit_kind": k} for k in ("fraction", "number_concentration", None)])
    assert [r["std_loinc"] for r in rows] == ["770-8", "751-8", None]


def test_a_blood_code_on_urine_is_doubted() -> None:
    row = resolve([{"test_code": "NA", "specimen_type": "URINE"}])[0]
    assert row["code_problem"] == "ambiguous_code" and row["std_loinc"] is None
    assert "2955-3" in row["code_proposal"]


def test_the_sources_own_loinc() -> None:
    cases = {
        "2345-7": ("2345-7", "source"),  # in the analytes table
        "14749-6": ("2345-7", "source"),  # an equivalent
        "26498-6": ("26498-6", "as_reported"),  # well formed, unknown
        "26498-5": (None, None),  # wrong check digit
        "glucose": (None, None),
    }
    rows = resolve([{"test_code": "Q", "loinc_code": c} for c in cases])
    assert {r["loinc_code"]: (r["std_loinc"], r["code_origin"]) for r in rows} == cases
    assert [r["code_problem"] for r in rows] == [None, None, None, "unmapped_code", "unmapped_code"]


def test_the_sources_own_loinc_settles_and_contradicts() -> None:
    settled = resolve([{"test_code": "NEUT", "loinc_code": "770-8"}])[0]
    assert settled["std_loinc"] == "770-8"
    contradicted = resolve([{"test_code": "K", "loinc_code": "2345-7"}])[0]
    assert contradicted["code_problem"] == "ambiguous_code"
    same_component = resolve([{"test_code": "K", "loinc_code": "6298-4"}])[0]
    assert same_component["std_loinc"] == "2823-3"


def test_every_shipped_code_has_its_check_digit() -> None:
    codes = pl.concat([REFERENCE.analytes["loinc_code"], REFERENCE.loinc_equivalents["source_loinc"]]).unique()
    wrong = pl.DataFrame({"c": codes}).filter(~is_loinc(pl.col("c")))["c"].to_list()
    assert wrong == ["5895-7"]  # kept on purpose: hospital dictionaries write it so, its note says why


def test_unmapped_codes_are_listed_by_volume_with_proposals() -> None:
    rows = pl.DataFrame(
        {
            "source": ["lab"] * 4, "test_code": ["P-K", "P-K", "P-K",
            "ZZ"], "test_name": ["Potassium serum"] * 3 + ["Mystery"],
            "specimen_type": ["SERUM"] * 4, "result_unit_text": ["mmol/L"] * 3 + [None],
            "value_number": [4.0, 4.2, 4.4, None], "comparator": [None, None, ">", None],
            "reason": ["unmapped_code"] * 4, "event_date": [date(2025, 6, d) for d in (1, 2, 3, 4)],
        }
    )  # fmt: skip
    listed = unmapped_codes(rows, REFERENCE)
    assert listed["test_code"].to_list() == ["P-K", "ZZ"]
    assert listed["rows"].to_list() == [3, 1]
    assert listed["proposal_1"].to_list() == ["2823-3", None]
