"""The reference tables: the shipped files are consistent, and a broken one is refused with file, line and column."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest

from lims_platform.contracts.reference import REFERENCE_TABLES
from lims_platform.lakehouse.reference import ReferenceTableError, load_reference

FOLDER = Path(__file__).parents[2] / "data" / "reference"


def test_the_shipped_tables_load_with_their_schemas() -> None:
    reference = load_reference(FOLDER)
    for table in REFERENCE_TABLES.values():
        frame: pl.DataFrame = getattr(reference, table.name)
        assert dict(frame.schema) == table.schema
        assert frame.height
    assert reference.analytes.height >= 80
    assert load_reference(FOLDER).digest == reference.digest


def test_limits_lie_in_order_and_inside_what_is_plausible() -> None:
    reference = load_reference(FOLDER)
    a = reference.analytes
    numbers = a.filter(pl.col("scale") == "Qn")
    assert (numbers["plausible_low"] < numbers["plausible_high"]).all()
    assert (a["reference_low"].is_null() | (a["reference_low"] >= a["plausible_low"])).all()
    assert (a["reference_high"].is_null() | (a["reference_high"] <= a["plausible_high"])).all()
    limits = reference.critical_limits.join(a, on="loinc_code")
    assert (limits["low"].is_null() | (limits["low"] > limits["plausible_low"])).all()
    assert (limits["high"].is_null() | (limits["high"] < limits["plausible_high"])).all()


def test_every_rank_and_code_is_stated() -> None:
    codes = load_reference(FOLDER).value_codes
    assert codes.filter(pl.col("kind").is_in(["coded", "ordinal", "target"]))["code"].null_count() == 0
    ordinal = codes.filter(pl.col("kind") == "ordinal")
    assert ordinal["rank"].null_count() == 0
    assert (ordinal.group_by("code").agg(pl.col("rank").n_unique())["rank"] == 1).all()


@pytest.mark.parametrize(
    ("table", "old", "new", "words"),
    [
        (
            "analytes",
            "2345-7,Glucose,glucose,serum_plasma,Qn,mg/dL",
            "2345-7,Glucose,glucose,serum_plasma,Qn,mg/XX",
            "column unit",
        ),
        ("critical_limits", "2345-7,*,*,50,450", "2345-7,*,*,fifty,450", "column low"),
        ("critical_limits", "2345-7,*,*,50,450", "2345-7,toddler,*,50,450", "column age_band"),
        ("loinc_map", "*,GLU,*,*,*,2345-7,,,", "*,GLU,*,*,*,9999-9,,,", "column loinc_code"),
        ("loinc_map", "*,GLU,*,*,*,2345-7,,,", "*,GLU,*,*,*,2345-7,,2024-31-12,", "column valid_from"),
        ("loinc_map", "*,GLU,*,*,*,2345-7,,,", "*,,*,*,*,2345-7,,,", "column local_code"),
        ("loinc_map", "*,GLUC,*,*,*,2345-7,,,", "*,GLU,*,*,*,2345-7,,,", "twice"),
        ("units", "unit,unit_kind,factor", "unit,kind,factor", "unit_kind is missing"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(tmp_path: Path, table: str, old: str, new: str, words: str) -> None:
    folder = tmp_path / "reference"
    shutil.copytree(FOLDER, folder)
    path = folder / f"{table}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    line = text[: text.index(old)].count("\n") + 1
    with pytest.raises(ReferenceTableError) as error:
        load_reference(folder)
    assert words in str(error.value)
    assert f"{table}.csv, line {line}" in str(error.value)


def test_an_extra_map_adds_rows_and_changes_the_digest(tmp_path: Path) -> None:
    extra = tmp_path / "own_map.csv"
    extra.write_text(",".join(REFERENCE_TABLES["loinc_map"].schema) + "\nnorth,SUGAR,*,*,*,2345-7,,2024-01-01,\n")
    base, more = load_reference(FOLDER), load_reference(FOLDER, [extra])
    assert more.loinc_map.height == base.loinc_map.height + 1
    assert more.digest != base.digest
    with pytest.raises(ReferenceTableError, match="nowhere"):
        load_reference(FOLDER, [tmp_path / "nowhere.csv"])
