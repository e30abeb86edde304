"""Units from a day's results together: what is inferred, what is contradicted, and what is left alone."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from lims_platform.laboratory.standardise import standardise_lab_results
from lims_platform.laboratory.unit_evidence import SMALLEST, unit_evidence
from lims_platform.lakehouse.reference import load_reference
from lims_platform_tests.unit.test_standardise import raw

REFERENCE = load_reference(Path(__file__).parents[2] / "data" / "reference")
DAY = date(2025, 6, 1)


def results(
    code: str, unit: str | None, median: float, spread: float, digits: int, n: int = 60, **more: Any
) -> pl.LazyFrame:
    """``n`` lognormal results around ``median``, as one device of one day writes them."""
    z = np.random.default_rng(7).normal(size=n)
    texts = [f"{median * np.exp(spread * x):.{digits}f}" for x in z]
    return raw([{"test_code": code, "result_value": t, "result_unit": unit, **more} for t in texts])


def standard(rows: pl.LazyFrame) -> pl.DataFrame:
    return standardise_lab_results(rows, REFERENCE, {"lab": "point"}, unit_evidence(rows, REFERENCE)).collect()


@pytest.mark.parametrize(
    ("code", "median", "spread", "digits", "low", "high"),
    [
        ("MG", 0.85, 0.12, 2, 1.8, 2.4), ("GLU", 5.6, 0.25, 1, 85, 115), ("CREAT", 85.0, 0.3, 0, 0.8, 1.1),
        ("CHOL", 5.1, 0.2, 1, 180, 220), ("HBA1C", 38.0, 0.12, 0, 5.3, 6.0), ("PHOS", 1.1, 0.2, 2, 3.0, 3.8),
    ],
)  # fmt: skip
def test_an_absent_unit_is_inferred_with_its_confidence(
    code: str, median: float, spread: float, digits: int, low: float, high: float
) -> None:
    out = standard(results(code, None, median, spread, digits)).filter(pl.col("reason").is_null())
    assert out.height >= 55
    assert low < out["value_number"].median() < high
    assert set(out["unit_origin"]) == {"inferred"} and out["confidence"].min() >= 0.99


@pytest.mark.parametrize(
    ("code", "unit", "median", "spread", "digits", "proposal"),
    [("HCT", "%", 0.41, 0.1, 2, "read as L/L"), ("PHOS", "mg/dL", 1.05, 0.2, 2, "read as mmol/L")],
)
def test_a_unit_contradicted_by_all_of_them_is_quarantined_with_a_proposal(
    code: str, unit: str, median: float, spread: float, digits: int, proposal: str
) -> None:
    out = standard(results(code, unit, median, spread, digits))
    assert set(out["reason"]) == {"unit_contradicts_value"}
    assert out["proposal"].str.starts_with(proposal).all() and out["confidence"].min() >= 0.9


@pytest.mark.parametrize(
    ("code", "unit", "median", "spread", "digits"),
    [
        # a dialysis ward, an intensive care unit, oncology: far from healthy, and right
        ("CREAT", "mg/dL", 8.0, 0.4, 1), ("CREAT", "umol/L", 700.0, 0.4, 0), ("HGB", "g/dL", 8.5, 0.12, 1),
        ("CRP", "mg/L", 90.0, 0.8, 1),
        ("TBIL", "mg/dL", 10.0, 0.6, 1), ("WBC", "10*3/uL", 0.6, 0.5, 1), ("MG", "mg/dL", 2.0, 0.12, 1),
    ],
)  # fmt: skip
def test_ill_patients_are_no_wrong_unit(code: str, unit: str, median: float, spread: float, digits: int) -> None:
    out = standard(results(code, unit, median, spread, digits))
    assert "unit_contradicts_value" not in out["reason"].drop_nulls().to_list()


def test_what_is_ambiguous_even_together_waits() -> None:
    # a haemoglobin of 8.5 without unit: anaemia in g/dL or health in mmol/L
    assert set(standard(results("HGB", None, 8.5, 0.12, 1))["reason"]) == {"unit_missing"}


def test_few_results_and_mixtures_decide_nothing() -> None:
    few = results("MG", "mg/dL", 0.85, 0.12, 2, n=SMALLEST - 1)
    assert unit_evidence(few, REFERENCE).is_empty()
    mixed = pl.concat([results("CREAT", None, 85.0, 0.2, 0, n=30), results("CREAT", None, 0.9, 0.2, 2, n=30)])
    assert unit_evidence(mixed, REFERENCE).is_empty()


def test_a_small_device_is_judged_with_its_sisters() -> None:
    parts = [results("MG", None, 0.85, 0.12, 2, n=8, device_id=f"d{i}") for i in range(4)]
    evidence = unit_evidence(pl.concat(parts), REFERENCE)
    assert evidence["device_id"].sort().to_list() == ["d0", "d1", "d2", "d3"]
    assert set(evidence["evidence_unit"]) == {"mmol/L"} and set(evidence["evidence_rows"]) == {32}


def test_a_day_alone_says_the_same_as_in_a_range_and_in_any_order() -> None:
    days = [
        results("MG", None, 0.85, 0.12, 2, event_date=DAY),
        results("MG", None, 2.0, 0.12, 1, event_date=DAY + timedelta(days=1)),
        results("GLU", "mg/dL", 98.0, 0.2, 0, event_date=DAY),
    ]
    together = standard(pl.concat(days))
    alone = pl.concat([standard(d) for d in days])
    assert together.equals(alone)
    turned = standard(pl.concat(days).reverse())
    assert turned.reverse().select("value_number", "reason").equals(together.select("value_number", "reason"))
