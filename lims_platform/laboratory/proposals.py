"""The work list of unmapped codes: what the map lacks, by volume, with ranked guesses.

Here: guesses for a person to accept, one line in loinc_map.csv each. Nothing here maps a code by itself.
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import ANY, Reference
from lims_platform.laboratory.units import alias_table, conversion_table, resolve_spelling

_WEIGHTS = {"name": 0.5, "unit": 0.25, "value": 0.25}
_FLOOR = 0.2


def unmapped_codes(quarantine: pl.DataFrame | pl.LazyFrame, reference: Reference, proposals: int = 3) -> pl.DataFrame:
    """Unmapped local codes, largest first, with ranked proposals from the analytes table.

    Input: rows with source, test_code, test_name, specimen_type, result_unit_text, value_number and reason; only
    reason 'unmapped_code' counts. Output: source, test_code, test_name, specimen_type, result_unit_text (the
    commonest of each), rows, share (of the unmapped rows), and proposal_1, score_1, … proposal_n, score_n: LOINC
    codes with a score in 0..1, half for the shared words of the names, a quarter each for a unit the analyte can have
    and a median plausible in it. Null below 0.2. Scores rank proposals; they are no probabilities.
    """
    about = ("test_name", "specimen_type", "result_unit_text")
    listed = (
        quarantine.lazy()
        .filter(pl.col("reason") == "unmapped_code")
        .group_by("source", "test_code")
        .agg(
            *[pl.col(c).drop_nulls().mode().sort().first() for c in about],
            pl.col("value_number").median().alias("median"),
            pl.len().alias("rows"),
        )
        .with_columns(share=pl.col("rows") / pl.col("rows").sum())
        .sort("rows", "source", "test_code", descending=[True, False, False], nulls_last=True)
        .with_row_index("__row__")
        .collect()
    )
    ranked = _scored(listed, reference)
    out = listed.drop("median")
    for place in range(proposals):
        one = ranked.filter(pl.col("place") == place + 1)
        named = one.select(
            "__row__", **{f"proposal_{place + 1}": pl.col("loinc_code"), f"score_{place + 1}": pl.col("score")}
        )
        out = out.join(named, on="__row__", how="left", maintain_order="left")
    return out.drop("__row__")


def _words(text: pl.Expr) -> pl.Expr:
    return text.fill_null("").str.to_lowercase().str.replace_all("ae", "e").str.extract_all(r"[a-z0-9]+|%").list.unique()


def _scored(listed: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """Every listed code against every analyte: __row__, loinc_code, score, place (1 the best), above the floor only."""
    names = pl.concat_str(
        "analyte", pl.col("component").str.replace_all("_", " "), "codes", separator=" ", ignore_nulls=True
    )
    local = reference.loinc_map.group_by("loinc_code").agg(pl.col("local_code").str.join(" ").alias("codes"))
    analytes = (
        reference.analytes.join(local, on="loinc_code", how="left")
        .join(reference.specimens.select("specimen", "family").unique(), on="specimen")
        .select("loinc_code", "family", "plausible_low", "plausible_high", theirs=_words(names))
    )
    families = reference.specimens.select(alias="alias", own_family="family")
    left = resolve_spelling(listed, alias_table(reference), "result_unit_text").with_columns(
        ours=_words(pl.concat_str("test_name", "test_code", separator=" ", ignore_nulls=True)),
        alias=pl.col("specimen_type").str.strip_chars().str.to_uppercase(),
    )
    left = left.join(families, on="alias", how="left").select("__row__", "ours", "unit", "median", "own_family")
    ways = (
        conversion_table(reference)
        .filter(pl.col("source_loinc") == ANY)
        .select("loinc_code", "from_unit", "factor", "offset")
    )
    pairs = left.join(analytes, how="cross").filter(
        pl.col("own_family").is_null() | (pl.col("own_family") == pl.col("family"))
    )
    pairs = pairs.join(ways, left_on=["loinc_code", "unit"], right_on=["loinc_code", "from_unit"], how="left")
    shared = pl.col("ours").list.set_intersection("theirs").list.len()
    name = shared / pl.min_horizontal(pl.col("ours").list.len(), pl.col("theirs").list.len()).clip(1)
    value = pl.col("median") * pl.col("factor") + pl.col("offset")
    plausible = value.is_between(pl.col("plausible_low"), pl.col("plausible_high")).fill_null(False)
    score = (
        _WEIGHTS["name"] * name
        + _WEIGHTS["unit"] * pl.col("factor").is_not_null().cast(pl.Float64)
        + _WEIGHTS["value"] * plausible.cast(pl.Float64)
    )
    return (
        pairs.with_columns(score=score)
        .filter((shared > 0) & (pl.col("score") >= _FLOOR))
        .sort("__row__", "score", "loinc_code", descending=[False, True, False])
        .with_columns(place=pl.int_range(1, pl.len() + 1).over("__row__"))
        .select("__row__", "loinc_code", "score", "place")
    )
