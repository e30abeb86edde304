"""The work list of unmapped codes: what the map lacks, by volume, with ranked guesses.

Here: guesses for a person to accept, one line in loinc_map.csv each (``csv_line`` is that line). Nothing here maps a code by
itself.
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.reference_table import ANY, NO_SPECIMEN
from lims_platform.laboratory.plausibility import facts
from lims_platform.laboratory.units import alias_table, conversion_table, resolve_spelling

_WEIGHTS = {"name": 0.5, "unit": 0.25, "value": 0.25}
_FLOOR = 0.2
#: Words are compared by this many first letters: "tacroFK" is tacrolimus, "glukose" is not glucose.
_STEM = 5
#: Words that say where or how, not what.
_NOISE = ("blood", "serum", "plasm", "urine", "test", "level", "total", "auto", "in", "of", "the", "type")


def unmapped_codes(quarantine: pl.DataFrame | pl.LazyFrame, reference: Reference, proposals: int = 3) -> pl.DataFrame:
    """Unmapped local codes, largest first, with ranked proposals from the analytes table.

    Input: rows with source, test_code, test_name, specimen_type, result_unit_text, value_number, comparator, event_date
    and reason; only reason 'unmapped_code' counts. Output: source, test_code, test_name, specimen_type, result_unit_text
    (the commonest of each), rows, share (of the unmapped rows), first_day, last_day, median, and proposal_1, score_1, …
    proposal_n, score_n: LOINC codes with a score in 0..1, half for the shared words of the names, a quarter for a unit
    the analyte can have, a quarter for a median that is plausible in it (all of it at the centre of the reference
    interval). Null below 0.2. confidence is score_1 less half of score_2: two equal proposals halve each other. It ranks;
    it is no probability. csv_line is the line of loinc_map.csv that accepts proposal_1 for this source.
    """
    about = ("test_name", "specimen_type", "result_unit_text")
    # a censored value lies somewhere beyond its limit: a rank, no number; null where the median is among them
    sign, infinite = pl.col("comparator").str.slice(0, 1), float("inf")
    placed = pl.when(sign == "<").then(-infinite).when(sign == ">").then(infinite).otherwise("value_number")
    middle = pl.when(pl.col("value_number").is_not_null()).then(placed).median()
    middle = pl.when(middle.is_finite()).then(middle)
    listed = (
        quarantine.lazy()
        .filter(pl.col("reason") == "unmapped_code")
        .group_by("source", "test_code")
        .agg(
            *[pl.col(c).drop_nulls().mode().sort().first() for c in about],
            middle.alias("median"),
            pl.len().cast(pl.Int64).alias("rows"),
            pl.col("event_date").min().alias("first_day"),
            pl.col("event_date").max().alias("last_day"),
        )
        .with_columns(share=pl.col("rows") / pl.col("rows").sum())
        .sort("rows", "source", "test_code", descending=[True, False, False], nulls_last=True)
        .with_row_index("__row__")
        .collect()
    )
    ranked = _scored(listed, reference)
    out = listed
    for place in range(proposals):
        one = ranked.filter(pl.col("place") == place + 1)
        named = one.select(
            "__row__", **{f"proposal_{place + 1}": pl.col("loinc_code"), f"score_{place + 1}": pl.col("score")}
        )
        out = out.join(named, on="__row__", how="left", maintain_order="left")
    runner_up = pl.col("score_2").fill_null(0.0) if proposals > 1 else pl.lit(0.0)
    quoted = [
        pl.when(pl.col(c).str.contains('[,"]')).then('"' + pl.col(c).str.replace_all('"', '""') + '"').otherwise(pl.col(c))
        for c in ("source", "test_code")
    ]
    return out.drop("__row__").with_columns(
        confidence=pl.col("score_1") - runner_up / 2,
        csv_line=pl.format("{},{},*,*,*,{},,,", *quoted, "proposal_1"),
    )


def _words(text: pl.Expr) -> pl.Expr:
    return (
        text.fill_null("")
        .str.to_lowercase()
        .str.replace_all("ae", "e")
        .str.extract_all(r"[a-z0-9]+|%")
        .list.eval(pl.element().str.slice(0, _STEM))
        .list.unique()
    )


def _scored(listed: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """Every listed code against every analyte: __row__, loinc_code, score, place (1 the best), above the floor only."""
    names = pl.concat_str(
        "analyte", pl.col("component").str.replace_all("_", " "), "codes", separator=" ", ignore_nulls=True
    )
    local = reference.loinc_map.group_by("loinc_code").agg(pl.col("local_code").str.join(" ").alias("codes"))
    analytes = (
        reference.analytes.join(local, on="loinc_code", how="left")
        .join(reference.specimens.select("specimen", "family").unique(), on="specimen")
        .join(facts(reference).select("loinc_code", "mu", "sigma"), on="loinc_code")
        .select("loinc_code", "family", "plausible_low", "plausible_high", "mu", "sigma", theirs=_words(names))
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
        pl.col("own_family").is_null() | (pl.col("own_family") == pl.col("family")) | pl.col("family").is_in(NO_SPECIMEN)
    )
    pairs = pairs.join(ways, left_on=["loinc_code", "unit"], right_on=["loinc_code", "from_unit"], how="left")
    shared = pl.col("ours").list.set_intersection("theirs").list.len()
    name = shared / pl.min_horizontal(pl.col("ours").list.len(), pl.col("theirs").list.len()).clip(1)
    # without a unit the values are weighed in the standard one, and the unit earns nothing
    factor = pl.when(pl.col("unit").is_null()).then(1.0).otherwise("factor")
    value = pl.col("median") * factor + pl.col("offset").fill_null(0.0)
    plausible = value.is_between(pl.col("plausible_low"), pl.col("plausible_high")).fill_null(False)
    z = pl.when(value > 0).then((value.log() - pl.col("mu")) / pl.col("sigma"))
    central = (1 + z.pow(2) / 3).pow(-2).fill_nan(None).fill_null(0.0)
    score = (
        _WEIGHTS["name"] * name
        + _WEIGHTS["unit"] * pl.col("factor").is_not_null().cast(pl.Float64)
        + _WEIGHTS["value"] * plausible.cast(pl.Float64) * (1 + central) / 2
    )
    return (
        pairs.with_columns(score=score)
        .filter((shared > 0) & (pl.col("score") >= _FLOOR))
        .sort("__row__", "score", "loinc_code", descending=[False, True, False])
        .with_columns(place=pl.int_range(1, pl.len() + 1).over("__row__"))
        .select("__row__", "loinc_code", "score", "place")
    )
