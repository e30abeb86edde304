"""UCUM behind its guard: what it reads, what it must never read, and the units table held against it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.laboratory.ucum import _kinds, convert, is_valid, measure, with_ucum
from lims_platform.laboratory.units import alias_table, conversion_table
from lims_platform.lakehouse.reference import load_reference

ROOT = Path(__file__).parents[2]
REFERENCE = load_reference(ROOT / "data" / "reference")
CASES = Path(os.environ.get("LIMS_SHARED_DATA", ROOT.parent / "shared" / "data")) / "ucum" / "UcumFunctionalTests.xml"


def test_the_functional_tests_of_ucum() -> None:
    if not CASES.exists():
        message = "shared/data/ucum is absent: UCUM's functional tests did not run"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    root = ElementTree.parse(CASES).getroot()
    cases = root.findall("validation/case")
    assert [c.get("unit") for c in cases if is_valid(c.get("unit", "")) != (c.get("valid") == "true")] == []
    assert len(cases) == 529


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (6.3, "[in_i]", "cm", 16.002),
        (1.0, "10*3/uL", "10*9/L", 1.0),
        (5.0, "g/L", "mg/dL", 500.0),
        (1.0, "kat/L", "U/L", 6e7),
    ],
)
def test_conversions(value: float, source: str, target: str, expected: float) -> None:
    assert convert(value, source, target) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("source", "target"), [("mg/dL", "mmol/L"), ("nonsense", "g"), ("g", "10+3/ul"), ("{titer}", "g")])
def test_what_does_not_convert_says_so(source: str, target: str) -> None:
    with pytest.raises(ValueError, match=r"UCUM code|does not convert"):
        convert(1.0, source, target)


@pytest.mark.parametrize(
    "code",
    [
        "K/uL",
        "pH",
        "G/L",
        "T/L",
        "mg/ML",
        "Pg/uL",
        "[IU]/L",
        "ug/mL{FEU}",
        "%",
        "/[HPF]",
        "10+3/ul",
        "MMOL/CL",
        "",
        "g" * 41,
    ],
)
def test_the_guard_reads_nothing_that_could_mean_something_else(code: str) -> None:
    assert measure(code) is None


@pytest.mark.parametrize(
    ("spelling", "unit", "kind", "factor"),
    [
        ("ug/cL", "ug/cL", "mass_concentration", 1e-4), ("µmol/cl", "umol/cL", "substance_concentration", 1e-4),
        ("mol/m3", "mol/m3", "substance_concentration", 1e-3), ("nmol/min/mL", "nmol/min/mL", "catalytic_activity", 1.0),
        ("meq/cL", "meq/cL", "equivalents", 0.1),
    ],
)  # fmt: skip
def test_a_code_no_table_knows_gets_its_kind_and_size(spelling: str, unit: str, kind: str, factor: float) -> None:
    extended = with_ucum(REFERENCE, [spelling])
    assert extended.units.tail(1).rows() == [(unit, kind, factor)]
    # both spellings of the litre are one unit, and the tables above it still build
    both = with_ucum(REFERENCE, [spelling, spelling.replace("L", "l")])
    assert both.units.height == REFERENCE.units.height + 1
    assert alias_table(both).height > alias_table(REFERENCE).height
    assert conversion_table(both).height > conversion_table(REFERENCE).height


def test_what_ucum_does_not_know_changes_nothing() -> None:
    # a volume in decilitres could be a cell's or a day's: its dimension does not say
    assert with_ucum(REFERENCE, ["no such unit", "dL", "K/uL", ""]) is REFERENCE


def test_the_units_table_agrees_with_ucum() -> None:
    kinds = _kinds(tuple(REFERENCE.units.select("unit", "unit_kind", "factor").rows()))
    checked = 0
    for unit, kind, factor in REFERENCE.units.rows():
        size = measure(unit)
        if size is not None and (size.dimension, size.counted) in kinds:
            known, base = kinds[(size.dimension, size.counted)]
            assert known == kind, unit
            assert size.factor / base == pytest.approx(factor, rel=1e-5), unit
            checked += 1
    assert checked > 70


def test_molar_factors_follow_from_the_molar_mass_they_name() -> None:
    """Standard unit to molar unit, recomputed from the molar mass in molar_source, within 0.2 %."""
    grams = {"g": 1.0, "mg": 1e-3, "ug": 1e-6, "ng": 1e-9, "pg": 1e-12}
    moles = {"mol": 1.0, "mmol": 1e-3, "umol": 1e-6, "nmol": 1e-9, "pmol": 1e-12}
    litres = {"L": 1.0, "dL": 0.1, "mL": 1e-3}
    named = REFERENCE.analytes.filter(pl.col("molar_source").str.contains("molar mass"))
    assert named.height > 20
    for row in named.iter_rows(named=True):
        found = re.search(r"molar mass ([0-9.]+) (k?)g/mol", row["molar_source"])
        assert found, row["loinc_code"]
        mass = float(found[1]) * (1000 if found[2] else 1)
        (a, b), (c, d) = row["unit"].split("/"), row["molar_unit"].split("/")
        if a in grams:
            expected = grams[a] / litres[b] / mass / (moles[c] / litres[d])
        else:
            expected = moles[a] / litres[b] * mass / (grams[c] / litres[d])
        assert row["molar_factor"] == pytest.approx(expected, rel=2e-3), (row["loinc_code"], expected)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="mgulLdck/0123456789*^.{}[]()-+ µKGTHUI%", max_size=20))
def test_no_text_raises(code: str) -> None:
    size = measure(code)
    assert size is None or (size.factor > 0 and is_valid(code))


def test_threads_that_meet_their_first_unknown_unit_together_all_get_an_answer() -> None:
    # a fresh process: the library is loaded once, and that is when threads trod on each other
    script = """
import sys, threading
from pathlib import Path
from lims_platform.laboratory.ucum import measure
start, failed = threading.Barrier(4), []
def first(code):
    start.wait()
    try:
        assert measure(code) is not None
    except BaseException as error:
        failed.append(repr(error))
threads = [threading.Thread(target=first, args=(c,)) for c in ("ng/dL", "cg/L", "pg/dL", "fmol/dL")]
[t.start() for t in threads], [t.join() for t in threads]
sys.exit("; ".join(failed) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
