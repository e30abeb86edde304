"""How far the unit reading agrees with UCUM's own functional tests, and the factor table with measured factors.

Prints a share for each: the validity cases, the conversions (to the digits the case is written with, or 1e-5), and the
molar factors (within 0.2 %). The baseline of the first two is ucumvert alone, without the platform's guard. Below that,
what strict UCUM makes of ten spellings laboratories use, and what the platform makes of them. Run: python
benchmarks/ucum_agreement.py. The cases are read from LIMS_SHARED_DATA (default ../shared/data); without them the script
says so and ends.
"""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ElementTree
from decimal import Decimal
from pathlib import Path

import polars as pl
from ucumvert import PintUcumRegistry, get_ucum_parser

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.reference_table import ANY
from lims_platform.laboratory.ucum import convert, is_valid
from lims_platform.laboratory.units import alias_table, conversion_table, resolve_spelling
from lims_platform.lakehouse.reference import load_reference

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LIMS_SHARED_DATA", ROOT.parent / "shared" / "data"))
#: Measured on 5,900 people's results reported both ways, good to 0.2 %: LOINC code, unit, standard value of 1 in that unit.
MEASURED = [
    ("2345-7", "mmol/L", 1 / 0.05551), ("2160-0", "umol/L", 1 / 88.4), ("3094-0", "mmol/L", 1 / 0.357),
    ("17861-6", "mmol/L", 4.0), ("2093-3", "mmol/L", 1 / 0.02586), ("2085-9", "mmol/L", 1 / 0.02586),
    ("2571-8", "mmol/L", 1 / 0.01129), ("3084-1", "umol/L", 1 / 59.48), ("1975-2", "umol/L", 1 / 17.1),
    ("2498-4", "umol/L", 1 / 0.179), ("2777-1", "mmol/L", 1 / 0.3229), ("1751-7", "g/L", 0.1), ("2885-2", "g/L", 0.1),
]  # fmt: skip
SPELLINGS = ("K/uL", "pH", "G/L", "T/L", "x10^3/uL", "IU/L", "mEq/L", "mm Hg", "MMOL/L", "mcg/dL")


def as_written(number: float, text: str) -> bool:
    """The number rounded to the significant digits of the text equals the text, or lies within 1e-5 of it (the cases carry
    constants of 2010 and up to 24 digits).
    """
    wanted = Decimal(text)
    digits = len(wanted.as_tuple().digits)
    return Decimal(f"{number:.{max(digits, 1) - 1}e}") == wanted or abs(number / float(wanted) - 1) < 1e-5


def validity(cases: list[ElementTree.Element]) -> None:
    """Prints the agreement on which codes are valid, ours and the bare parser's."""
    parser, ours, bare = get_ucum_parser(), 0, 0
    for case in cases:
        unit, valid = case.get("unit", ""), case.get("valid") == "true"
        agrees = is_valid(unit) == valid
        ours += agrees
        try:
            parser.parse(unit)
            bare += valid
        except Exception:  # the baseline's own errors, whatever their class
            bare += not valid
        if not agrees:
            print(f"  differs: {unit!r} is {'valid' if valid else 'not valid'} ({case.get('reason', 'no reason given')})")
    print(f"validity     {ours} of {len(cases)} agree ({ours / len(cases):.4f}); baseline ucumvert alone {bare}")


def conversions(cases: list[ElementTree.Element]) -> None:
    """Prints the agreement on converted values, ours and the registry's without validity check."""
    registry, ours, bare = PintUcumRegistry(), 0, 0
    for case in cases:
        value, source, target, outcome = (case.get(k, "") for k in ("value", "srcUnit", "dstUnit", "outcome"))
        try:
            number = convert(float(value), source, target)
        except ValueError as error:
            print(f"  differs: {error}")
            continue
        agrees = as_written(number, outcome)
        ours += agrees
        start, end = (registry.from_ucum(u).to_base_units() for u in (source, target))
        bare += as_written(float(float(value) * start / end), outcome)
        if not agrees:
            print(f"  differs: {value} {source} is {number} {target}, the case says {outcome}")
    print(f"conversions  {ours} of {len(cases)} agree to the digits written or 1e-5; baseline ucumvert alone {bare}")


def factors(reference: Reference) -> None:
    """Prints how many factors of the table lie within 0.2 % of the measured ones, and the largest difference."""
    table = conversion_table(reference).filter(pl.col("source_loinc") == ANY)
    differences = []
    for loinc, unit, measured in MEASURED:
        row = table.filter((pl.col("loinc_code") == loinc) & (pl.col("from_unit") == unit))
        differences.append(abs(row["factor"][0] / measured - 1))
    within = sum(d <= 0.002 for d in differences)
    print(f"factors      {within} of {len(MEASURED)} within 0.2 % (largest difference {100 * max(differences):.3f} %)")
    row = table.filter((pl.col("loinc_code") == "4548-4") & (pl.col("from_unit") == "mmol/mol"))
    back = (7.0 - row["offset"][0]) / row["factor"][0]
    print(f"HbA1c        7.0 % is {back:.2f} mmol/mol; the master equation says {10.93 * 7 - 23.5:.2f}")


def spellings(reference: Reference) -> None:
    """Prints ten spellings as strict UCUM and as the platform read them."""
    ours = resolve_spelling(pl.DataFrame({"u": SPELLINGS}), alias_table(reference), "u")["unit"].to_list()
    registry = PintUcumRegistry()
    for spelling, unit in zip(SPELLINGS, ours, strict=True):
        try:
            strict = str(registry.from_ucum(spelling).units)
        except Exception as error:  # the baseline's own errors, whatever their class
            strict = f"({type(error).__name__})"
        print(f"  {spelling:<10} ours {unit!s:<10} strict UCUM {strict}")


def main() -> int:
    """Prints the four comparisons; 0 also where the cases are absent."""
    reference = load_reference(ROOT / "data" / "reference")
    cases = SHARED / "ucum" / "UcumFunctionalTests.xml"
    if cases.exists():
        root = ElementTree.parse(cases).getroot()
        validity(root.findall("validation/case"))
        conversions(root.findall("conversion/case"))
    else:
        print(f"not run: the UCUM cases are absent ({cases})")
    factors(reference)
    spellings(reference)
    return 0


if __name__ == "__main__":
    sys.exit(main())
