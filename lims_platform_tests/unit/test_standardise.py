"""Standardisation end to end: one row in, one row out, with the right number, or the right reason."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import polars as pl
import pytest

from lims_platform.contracts.silver import SILVER_TABLES
from lims_platform.laboratory.limits import age_class
from lims_platform.laboratory.standardise import ADDED, RENAMED, standardise_lab_results, standardise_qc
from lims_platform.sources.versioned import refusal
from lims_platform_tests.lab_rows import NOON, REFERENCE, raw


def standard(locale: str = "point", **row: Any) -> dict[str, Any]:
    return standardise_lab_results(raw([row]), REFERENCE, {"lab": locale}).collect().row(0, named=True)


def result(code: str, value: str | None, unit: str | None = None, **more: Any) -> dict[str, Any]:
    return standard(test_code=code, result_value=value, result_unit=unit, **more)


@pytest.mark.parametrize(
    ("code", "value", "unit", "number", "standard_unit", "origin"),
    [
        ("GLU", "98", "mg/dL", 98.0, "mg/dL", "reported"), ("GLU", "5.5", "mmol/L", 99.08, "mg/dL", "converted"),
        ("GLU_MMOL", "5.5", "mmol/L", 99.08, "mg/dL", "converted"), ("GLU_MMOL", "5.5", None, 99.08, "mg/dL",
        "assumed"),
        ("GLU", "98", None, 98.0, "mg/dL", "assumed"), ("NA", "140", "mEq/L", 140.0, "mmol/L", "alias"),
        ("HBA1C", "53", "mmol/mol", 7.0, "%", "converted"), ("UREA", "30", "mg/dL", 14.02, "mg/dL", "converted"),
        ("UREA", "5", "mmol/L", 14.01, "mg/dL", "converted"), ("HGB", "8.5", "mmol/L", 13.7, "g/dL", "converted"),
        ("PLT", "245", "G/L", 245.0, "10*3/uL", "alias"), ("HGB", "140", "G/L", 14.0, "g/dL", "converted"),
        ("WBC", "6500", "/uL", 6.5, "10*3/uL", "converted"), ("HCT", "0.41", "L/L", 41.0, "%", "converted"),
        ("ALT", "25", "IU/L", 25.0, "U/L", "alias"), ("ALT", "0.5", "µkat/L", 30.0, "U/L", "converted"),
        ("TSH", "1.5", "uIU/mL", 1.5, "m[IU]/L", "alias"), ("INR", "2.5", None, 2.5, "{INR}", "none"),
        ("CA", "2.4", "mmol/L", 9.6, "mg/dL", "converted"), ("K", "4,2", "mmol/L", 4.2, "mmol/L", "reported"),
        ("CREAT", "88.4", "umol/L", 1.0, "mg/dL", "converted"), ("GLU", "98 mg/dL", None, 98.0, "mg/dL", "reported"),
    ],
)  # fmt: skip
def test_numbers_arrive_in_the_standard_unit(
    code: str, value: str, unit: str | None, number: float, standard_unit: str, origin: str
) -> None:
    row = result(code, value, unit)
    assert row["reason"] is None, row
    assert row["value_number"] == pytest.approx(number, rel=0.001)
    assert (row["unit"], row["unit_origin"]) == (standard_unit, origin)
    assert (row["result_text"], row["result_unit_text"]) == (value, unit)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"test_code": "GLU", "result_value": "1,234", "result_unit": "mg/dL"}, "ambiguous_number"),
        ({"test_code": "GLU", "result_value": "5.5", "result_unit": "mg/dL"}, "unit_contradicts_value"),
        ({"test_code": "K", "result_value": "42", "result_unit": "mmol/L"}, "implausible_value"),
        ({"test_code": "HGB", "result_value": "9.1"}, "unit_missing"),
        ({"test_code": "GLU", "result_value": "98", "result_unit": "furlong"}, "unit_unknown"),
        ({"test_code": "GLU", "result_value": "98", "result_unit": "U/L"}, "unit_not_convertible"),
        ({"test_code": "TSH", "result_value": "1.5", "result_unit": "uU/mL"}, "unit_not_convertible"),
        ({"test_code": "CA", "result_value": "1.2", "result_unit": "mmol/L"}, "unit_contradicts_value"),
        ({"test_code": "GLU", "result_value": "98 mmol/L", "result_unit": "mg/dL"}, "unit_contradicts_value"),
        ({"test_code": "DDIMER", "result_value": "450", "result_unit": "ng/mL"}, "ambiguous_code"),
        ({"test_code": "NEUT", "result_value": "60"}, "ambiguous_code"),
        ({"test_code": "NOPE", "result_value": "60"}, "unmapped_code"),
        ({"test_code": "GLU", "result_value": "-999", "result_unit": "mg/dL"}, "instrument_error"),
        ({"test_code": "GLU", "result_value": "9999", "result_unit": "mg/dL"}, "instrument_error"),
        ({"test_code": "GLU", "result_value": "HEMOLYZED", "result_unit": "mg/dL"}, "not_done"),
        ({"test_code": "GLU", "result_value": None, "result_unit": "mg/dL"}, "missing_value"),
        ({"test_code": "NA", "result_value": "POSITIVE", "result_unit": "mmol/L"}, "unreadable_value"),
        ({"test_code": "FLUA", "result_value": "23.4"}, "unreadable_value"),
        ({"test_code": "FLUB", "result_value": "INFLUENZA A DETECTED"}, "ambiguous_code"),
        ({"test_code": "GLU", "result_value": "98", "result_unit": "mg/dL", "result_status": "X"}, "cancelled"),
        ({"test_code": "GLU", "result_value": "98", "result_unit": "mg/dL", "is_conflict": True}, "conflicting_duplicate"),
        ({"test_code": "GLU", "result_value": "98", "result_unit": "mg/dL", "date_source": "ingestion"}, "no_usable_time"),
        ({"test_code": "GLU", "result_value": "98", "result_unit": "mg/dL", "date_source": "outside"}, "outside_partitions"),
        ({"test_code": " ", "result_value": "98", "result_unit": "mg/dL"}, "missing_key"),
    ],
)
def test_what_cannot_be_used_says_why(row: dict[str, Any], reason: str) -> None:
    out = standard(**row)
    assert out["reason"] == reason, out
    assert out["detail"]
    assert out["result_text"] == row["result_value"]


def test_proposals_name_the_fix_and_its_confidence() -> None:
    row = result("GLU", "5.5", "mg/dL")
    assert "mmol/L" in row["proposal"] and "99.08" in row["proposal"]
    assert 0.9 < row["confidence"] <= 1
    row = result("WBC", "6,500", "K/uL")
    assert row["proposal"] == "read as 6.5" and row["confidence"] == 1.0


def test_a_censored_value_keeps_its_limit_in_the_standard_unit() -> None:
    row = result("CREAT", "<44.2", "umol/L")
    assert (row["value_kind"], row["comparator"], row["reason"]) == ("censored", "<", None)
    assert row["value_number"] == pytest.approx(0.5)


def test_pathogens() -> None:
    assert result("SARS2", "Not detected")["value_code"] == "NEGATIVE"
    assert result("FLUA", "INFLUENZA A DETECTED")["value_code"] == "POSITIVE"
    assert result("FLUA", "INFLUENZA A DETECTED")["reason"] is None


def test_critical_values_even_in_quarantine() -> None:
    assert result("GLU", "49", "mg/dL")["is_critical"]
    assert not result("GLU", "50", "mg/dL")["is_critical"]
    assert result("GLU", "451", "mg/dL")["is_critical"]
    assert result("K", "6.3", "mmol/L")["is_critical"]
    assert not result("K", "6.2", "mmol/L")["is_critical"]
    assert not result("K", "6.3", "mmol/L", age_band="0-28d")["is_critical"]
    assert result("K", "<2.8", "mmol/L")["is_critical"]
    assert not result("K", "<3.0", "mmol/L")["is_critical"]
    assert result("K", ">10", "mmol/L")["is_critical"]
    implausible = result("K", "62", "mmol/L")
    assert implausible["reason"] == "implausible_value" and implausible["is_critical"]
    two_readings = result("K", "7,100", "mmol/L")
    assert two_readings["reason"] == "ambiguous_number" and two_readings["is_critical"]
    missing = result("HGB", "6.5")
    assert missing["reason"] == "unit_missing" and missing["is_critical"]


def test_age_bands() -> None:
    bands = ["0-28d", "newborn", "<1", "0-1", "1-17", "0-17", "<18", "18-64", "65+", "child", "6 months", "unknown", None]
    out = pl.DataFrame({"b": bands}).select(age_class(pl.col("b")).alias("c"))["c"].to_list()
    assert out == [
        "neonate",
        "neonate",
        "infant",
        "infant",
        "child",
        "child",
        "child",
        "adult",
        "adult",
        "child",
        "infant",
        None,
        None,
    ]


def test_a_known_loinc_of_another_world_is_kept_as_reported() -> None:
    row = result("Q1", "3", "%", loinc_code="26498-6", test_name="Myelocytes")
    assert (row["reason"], row["loinc_code"], row["analyte"]) == (None, "26498-6", "Myelocytes")
    assert (row["value_number"], row["unit"], row["unit_origin"]) == (3.0, "%", "reported")
    assert result("Q1", "3", "furlong", loinc_code="26498-6")["reason"] == "unit_unknown"
    percent = result("Q2", "4.9", "%", loinc_code="742-7")
    assert (percent["loinc_code"], percent["source_loinc"]) == ("5905-5", "742-7")


def test_times_are_flagged_never_dropped() -> None:
    row = result("GLU", "98", "mg/dL", received_timestamp=NOON - timedelta(hours=1))
    assert (row["turnaround_time_hours"], row["pre_analytical_hours"], row["in_lab_hours"]) == (2.0, 1.0, 1.0)
    assert row["time_flag"] is None
    row = result("GLU", "98", "mg/dL", collected_timestamp=NOON + timedelta(hours=1), time_flag="repeated_hour")
    assert (row["turnaround_time_hours"], row["time_flag"]) == (-1.0, "repeated_hour;negative_turnaround")
    assert result("GLU", "98", "mg/dL", collected_timestamp=None)["time_flag"] == "missing_collected"


def test_columns_and_errors() -> None:
    frame = raw([{"test_code": "GLU", "result_value": "98"}]).with_columns(row_key=pl.lit("k"), anything=pl.lit(7))
    out = standardise_lab_results(frame, REFERENCE, {"lab": "point"})
    names = out.collect_schema().names()
    assert len(names) == len(set(names))
    assert {"row_key", "anything", *ADDED, *RENAMED.values()} <= set(names) and not set(RENAMED) & set(names)
    contract = set(SILVER_TABLES["lab_results_quarantine"].dtypes) - {
        "row_version",
        "row_digest",
        "known_from",
        "knowledge_origin",
    }
    assert contract <= set(names)
    dtypes = SILVER_TABLES["lab_results_quarantine"].dtypes
    assert {n: t for n, t in out.collect_schema().items() if n in contract} == {
        n: t for n, t in dtypes.items() if n in contract
    }
    with pytest.raises(ValueError, match="column result_value is missing"):
        standardise_lab_results(frame.drop("result_value"), REFERENCE, {"lab": "point"})
    with pytest.raises(ValueError, match="column result_value is Int64"):
        standardise_lab_results(frame.with_columns(result_value=pl.lit(1, pl.Int64)), REFERENCE, {"lab": "point"})
    with pytest.raises(ValueError, match="source lab"):
        standardise_lab_results(frame, REFERENCE, {"lab": "roman"})
    with pytest.raises(ValueError, match="elsewhere"):
        standardise_lab_results(frame.with_columns(source=pl.lit("elsewhere")), REFERENCE, {"lab": "point"}).collect()


def test_a_refused_message_says_why_and_where() -> None:
    told = refusal(b"rubbish", "part 1 of the file with SHA-256 0123", "it does not begin with MSH")
    no_time = {"date_source": "no_time", "resulted_timestamp": None, "test_code": None}
    rows = [{**told, **no_time}, {"result_id": "1", "result_value": "98", **no_time}, {**told, "test_code": "GLU"}]
    out = standardise_lab_results(raw(rows), REFERENCE, {"lab": "point"}).collect()
    assert out["reason"].to_list() == ["refused_message", "no_usable_time", "unreadable_value"]
    where = "7 bytes, part 1 of the file with SHA-256 0123"
    assert out["detail"][0] == f"refused: it does not begin with MSH; {where}"


def test_quality_control() -> None:
    rows = pl.DataFrame(
        {
            "source": ["lab"] * 5, "qc_id": ["1", "2", "3", "4", None], "test_code": ["GLU", "GLU", "NOPE", "K", "K"],
            "device_id": ["d"] * 5, "expected_value": [100.0, 100.0, 10.0, None, 4.0],
            "measured_value": [104.0, -999.0, 11.0, 4.0, 4.0],
            "expected_sd": [2.0, 2.0, None, 0.1, 0.1], "other": [1, 2, 3, 4, 5],
        }
    )  # fmt: skip
    out = standardise_qc(rows.lazy(), REFERENCE).collect()
    assert out["reason"].to_list() == [None, "instrument_error", None, "missing_target", "missing_key"]
    assert out["loinc_code"].to_list() == ["2345-7", "2345-7", None, "2823-3", "2823-3"]
    assert out["z"].to_list() == [2.0, None, None, None, None]
    assert out["bias_percent"].to_list() == [4.0, None, 10.0, None, None]
    assert out["other"].to_list() == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="measured_value is missing"):
        standardise_qc(rows.lazy().drop("measured_value"), REFERENCE)


def test_plus_two_is_a_rank_on_a_strip_and_a_number_elsewhere() -> None:
    strip = result("UPROT_STRIP", "+2")
    assert (strip["value_kind"], strip["value_code"], strip["value_number"]) == ("ordinal", "2+", None)
    excess = result("BE", "+2", "mmol/L")
    assert (excess["value_kind"], excess["value_code"], excess["value_number"]) == ("number", None, 2.0)
    # with a unit on a strip it could be either
    assert result("UPROT_STRIP", "+2", "mg/dL")["reason"] == "ambiguous_number"


def test_nines_are_no_result_and_a_date_names_its_range() -> None:
    assert [result("CK", text, "U/L")["reason"] for text in ("9999", "99999", "999.9", "999", "9998")] == [
        "instrument_error", "instrument_error", "instrument_error", None, None
    ]  # fmt: skip
    assert result("K", "999", "mmol/L")["reason"] == "instrument_error"
    dated = result("WBC", "2024-10-05", "/HPF")
    assert (dated["reason"], dated["proposal"]) == ("ambiguous_number", "read as the range 5-10")


def test_a_unit_of_ucum_that_no_table_knows_is_read() -> None:
    out = result("FERR", "12", "ug/cL")
    assert (out["value_number"], out["unit"], out["unit_origin"]) == (1200.0, "ng/mL", "converted")
    assert result("CA_ION", "4.8", "mg/dL")["value_number"] == pytest.approx(1.1976, abs=1e-4)
