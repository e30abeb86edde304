"""Units: spellings, and the way to each analyte's standard unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from lims_platform.laboratory.units import alias_table, conversion_table, resolve_spelling
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[2] / "data" / "reference")


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        ("MG/DL", "mg/dL"), ("mg / dL", "mg/dL"), ("mg%", "mg/dL"), ("mEq/L", "meq/L"), ("MEQ/L", "meq/L"),
        ("µmol/L", "umol/L"),
        ("μmol/l", "umol/L"), ("mcg/mL", "ug/mL"), ("K/uL", "10*3/uL"), ("x10^3/uL", "10*3/uL"), ("×10³/µL", "10*3/uL"),
        ("10*3/uL", "10*3/uL"), ("x10E3/ul", "10*3/uL"), ("10^9/L", "10*9/L"), ("m/uL", "10*6/uL"),
        ("cells/cumm", "/uL"),
        ("mm Hg", "mm[Hg]"), ("MM HG", "mm[Hg]"), ("IU/L", "[IU]/L"), ("U/L", "U/L"), ("uIU/mL", "u[IU]/mL"),
        ("uU/mL", "uU/mL"),
        ("sec", "s"), ("#/hpf", "/[HPF]"), ("mL/min/1.73m²", "mL/min/{1.73_m2}"), ("percent", "%"),
        ("no such unit", None), (None, None),
    ],
)  # fmt: skip
def test_spellings(spelling: str | None, unit: str | None) -> None:
    frame = pl.DataFrame({"result_unit": [spelling]}, schema={"result_unit": pl.String})
    assert resolve_spelling(frame, alias_table(REFERENCE))["unit"].to_list() == [unit]


def _factor(loinc: str, unit: str, source: str = "*") -> tuple[float, float] | None:
    found = conversion_table(REFERENCE).filter(
        (pl.col("loinc_code") == loinc) & (pl.col("from_unit") == unit) & (pl.col("source_loinc") == source)
    )
    return found.select("factor", "offset").row(0) if found.height else None


@pytest.mark.parametrize(
    ("loinc", "unit", "published"),
    [  # what one unit of the standard gives in the other, measured on paired results
        ("2345-7", "mmol/L", 0.05551), ("2160-0", "umol/L", 88.4), ("3094-0", "mmol/L", 0.357), ("17861-6",
        "mmol/L", 0.25),
        ("2093-3", "mmol/L", 0.02586), ("2085-9", "mmol/L", 0.02586), ("2571-8", "mmol/L", 0.01129), ("3084-1",
        "umol/L", 59.48),
        ("1975-2", "umol/L", 17.1), ("2498-4", "umol/L", 0.179), ("2777-1", "mmol/L", 0.3229), ("1751-7", "g/L", 10.0),
        ("2885-2", "g/L", 10.0),
    ],
)  # fmt: skip
def test_mass_and_amount_agree_with_paired_results(loinc: str, unit: str, published: float) -> None:
    way = _factor(loinc, unit)
    assert way is not None
    assert 1 / way[0] == pytest.approx(published, rel=0.002)


def test_hba1c_is_affine() -> None:
    factor, offset = _factor("4548-4", "mmol/mol") or (0.0, 0.0)
    for percent in (5.0, 6.5, 10.0):
        assert (10.93 * percent - 23.5) * factor + offset == pytest.approx(percent, abs=1e-6)


def test_u_and_iu_are_one_for_enzymes_only() -> None:
    assert _factor("1742-6", "[IU]/L") == (1.0, 0.0)
    assert _factor("1742-6", "ukat/L") == (60.0, 0.0)
    assert _factor("3016-3", "uU/mL") is None
    assert _factor("3016-3", "u[IU]/mL") == (1.0, 0.0)


def test_equivalents_need_the_valence() -> None:
    assert _factor("2951-2", "meq/L") == (1.0, 0.0)
    assert _factor("17861-6", "meq/L") == (2.0, 0.0)  # 1 meq/L = 0.5 mmol/L = 2 mg/dL
    assert _factor("2160-0", "meq/L") is None


def test_lipoprotein_a_does_not_convert_and_urea_is_not_its_nitrogen() -> None:
    assert _factor("43583-4", "mg/dL") is None
    assert _factor("10835-7", "nmol/L") is None
    urea = _factor("3094-0", "mg/dL", "3091-6")
    assert urea is not None and 1 / urea[0] == pytest.approx(2.14, rel=0.002)


def test_every_conversion_of_a_unit_to_itself_is_one() -> None:
    own = REFERENCE.analytes.filter(pl.col("unit").is_not_null()).select("loinc_code", from_unit="unit")
    ways = own.join(conversion_table(REFERENCE).filter(pl.col("source_loinc") == "*"), on=["loinc_code", "from_unit"])
    assert ways.height == own.height
    assert (ways["factor"] == 1.0).all() and (ways["offset"] == 0.0).all()


def test_two_units_may_not_share_a_spelling() -> None:
    clash = pl.DataFrame(
        {"alias": ["mgdl", "mgdl"], "unit": ["mg/dL", "g/dL"], "analyte_kind": ["*", "*"], "match": ["folded", "folded"]}
    )
    with pytest.raises(ValueError, match="mgdl"):
        alias_table(replace(REFERENCE, unit_aliases=clash))
