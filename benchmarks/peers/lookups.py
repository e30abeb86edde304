"""What a peer of the standardisation joins: words, codes and units, critical limits, resolved by the platform beforehand."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl

from lims_platform.laboratory.limits import limits_for
from lims_platform.laboratory.ordered_tests import TEST_KEYS, TestResolver
from lims_platform.lakehouse.reference import load_reference
from lims_platform_tests.system.deployment import ROOT


def lookups(folder: Path, bronze: Path) -> Path:
    """The tables the peer joins, resolved from the reference tables for the keys that occur; a head start for the peer."""
    target, reference = folder / "lookups", load_reference(ROOT / "data" / "reference")
    target.mkdir(exist_ok=True)
    rows = pl.scan_delta(str(bronze))
    given = ["source", "test_code", "specimen_type", "result_unit"]
    keys = rows.select(given).unique().with_columns(
        device_model=pl.lit(None, pl.String), value_unit=pl.lit(None, pl.String), loinc_code=pl.lit(None, pl.String),
        day=pl.lit(date.min),
    ).select(TEST_KEYS).collect(engine="streaming")  # fmt: skip
    wanted = ["source_loinc", "std_loinc", "std_name", "std_unit", "factor", "offset", "low", "high", "unit_problem"]
    tests = pl.concat(
        [keys.select(pl.col(given).name.prefix("key_")), TestResolver(reference).resolve(keys).select(wanted)],
        how="horizontal",
    ).with_columns(loinc_code="std_loinc").rename({"std_name": "analyte", "std_unit": "unit"})  # fmt: skip
    places = rows.select("age_band", "location_class").unique().collect(engine="streaming")
    place = tests.select("std_loinc").unique().join(places, how="cross")
    limits = pl.concat([place.select(pl.all().name.prefix("limit_")), limits_for(place, reference)], how="horizontal")
    exact = reference.value_codes.filter(match="exact").with_columns(clean=pl.col("text").str.to_uppercase())
    words = exact.unique("clean").select("clean", word_kind="kind", value_code="code")
    signs = reference.comparator_words.filter(place="before").select(pl.col("text").str.to_uppercase(), "comparator")
    for name, frame in {"tests": tests, "limits": limits, "words": words, "signs": signs.unique("text")}.items():
        frame.write_parquet(target / f"{name}.parquet")
    return target
