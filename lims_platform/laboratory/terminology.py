"""Terminology: local test codes to LOINC by the laboratory's map, the source's own LOINC codes, and what is left
unmapped.

Here: the map with its full key and validity, equivalents, the check digit, what to do with a code that has no entry.
Not here: units' arithmetic (``units``), values (``values``), the work list of unmapped codes (``proposals``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.reference_table import ANY, NO_SPECIMEN
from lims_platform.laboratory.proposals import unmapped_codes

__all__ = ["CODE_FIELDS", "is_loinc", "resolve_codes", "unmapped_codes"]

#: What code resolution adds to its keys.
CODE_FIELDS: dict[str, pl.DataType] = {
    "source_loinc": pl.String(),
    "std_loinc": pl.String(),
    "code_origin": pl.String(),
    "default_unit": pl.String(),
    "code_problem": pl.String(),
    "code_detail": pl.String(),
    "code_proposal": pl.String(),
}


def is_loinc(code: pl.Expr) -> pl.Expr:
    """True where a text is a well-formed LOINC code: one to seven digits, a hyphen and the mod-10 check digit (LOINC
    Users' Guide).
    """
    digits = code.str.extract(r"^([0-9]{1,7})-[0-9]$").str.zfill(7)
    total = pl.lit(0, pl.Int32)
    for place in range(7):
        digit = digits.str.slice(place, 1).cast(pl.Int32, strict=False)
        weighted = digit * (2 if place % 2 == 0 else 1)
        total = total + weighted // 10 + weighted % 10
    check = code.str.extract(r"-([0-9])$").cast(pl.Int32, strict=False)
    return ((10 - total % 10) % 10 == check).fill_null(False)


def resolve_codes(keys: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """The keys with CODE_FIELDS added, row for row in the same order.

    ``keys`` has source, test_code, specimen_type, device_model, unit_kind (null: unknown), loinc_code (the source's
    own) and day. Rows of the map for this source beat rows for '*'; then the most specific of specimen, method, unit
    kind wins. What the row leaves open (no specimen, no unit, no model) matches every map row: more than one LOINC
    code among those is ``ambiguous_code``, unless the source's own code is one of them. A code absent from the map
    takes the source's own LOINC code: ``code_origin`` 'source' where the analytes table knows it (or an equivalent),
    'as_reported' where only its form is right; else ``unmapped_code``.
    """
    rows = _normalised(keys, reference).with_row_index("__row__")
    rows = _with_reported(rows, reference)
    entries = _map_entries(reference)
    matches = rows.join(entries, on="code", how="inner").filter(
        pl.col("map_source").is_in([ANY]) | (pl.col("map_source") == pl.col("source")),
        _fits("map_specimen", "specimen"),
        _fits("map_method", "device_model"),
        _fits("map_unit_kind", "unit_kind"),
        (pl.col("valid_from").is_null() | (pl.col("valid_from") <= pl.col("day"))).fill_null(False),
        (pl.col("valid_to").is_null() | (pl.col("day") <= pl.col("valid_to"))).fill_null(False),
    )
    chosen = _choose(matches)
    known = entries.group_by("code").agg(pl.col("map_loinc").unique().sort().str.join(" or ").alias("listed"))
    out = rows.join(chosen, on="__row__", how="left", maintain_order="left").join(
        known, on="code", how="left", maintain_order="left"
    )
    return keys.hstack(_verdict(out, reference).select(*CODE_FIELDS))


def _normalised(keys: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """Adds code (upper case) and the specimen's own name and family; an unknown specimen keeps its text, without
    family.
    """
    alias = reference.specimens.select("alias", "specimen", "family")
    return (
        keys.select("source", "test_code", "specimen_type", "device_model", "unit_kind", "loinc_code", "day")
        .with_columns(
            code=pl.col("test_code").str.strip_chars().str.to_uppercase(),
            alias=pl.col("specimen_type").str.strip_chars().str.to_uppercase(),
            reported=pl.col("loinc_code").str.strip_chars(),
        )
        .with_columns(pl.when(pl.col("alias") != "").then("alias").alias("alias"))
        .join(alias, on="alias", how="left", maintain_order="left")
        .with_columns(pl.coalesce("specimen", pl.col("alias").str.to_lowercase()).alias("specimen"))
    )


def _with_reported(rows: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """Adds what the source's own LOINC code stands for: reported_loinc, reported_component, and its default unit.

    A unit that the code cannot have names another property (a count "in %"): such an equivalence, given for the
    unit's kind, comes before the analytes table; one given for any unit comes after it.
    """
    equal = reference.loinc_equivalents.select(
        reported="source_loinc", unit_kind="unit_kind", to="loinc_code", unit="default_unit"
    )
    by_kind = equal.filter(pl.col("unit_kind") != ANY).select("reported", "unit_kind", kind_to="to")
    for_any = equal.filter(pl.col("unit_kind") == ANY).select("reported", any_to="to")
    known = reference.analytes.select("loinc_code", "component").rename({"loinc_code": "reported", "component": "__c__"})
    rows = (
        rows.join(by_kind, on=["reported", "unit_kind"], how="left", maintain_order="left")
        .join(for_any, on="reported", how="left", maintain_order="left")
        .join(known, on="reported", how="left", maintain_order="left")
    )
    standard = pl.coalesce("kind_to", pl.when(pl.col("__c__").is_not_null()).then("reported"), "any_to")
    rows = rows.with_columns(standard.alias("reported_loinc")).drop("__c__")
    component = reference.analytes.select(reported_loinc="loinc_code", reported_component="component")
    return rows.join(component, on="reported_loinc", how="left", maintain_order="left")


def _map_entries(reference: Reference) -> pl.DataFrame:
    """The LOINC map with its specimens under the platform's names and with the analyte's component and specimen
    family.
    """
    alias = reference.specimens.select(alias="alias", __s__="specimen")
    about = reference.analytes.select(map_loinc="loinc_code", component="component", specimen="specimen")
    families = reference.specimens.select("specimen", map_family="family").unique()
    entries = reference.loinc_map.select(
        code=pl.col("local_code").str.strip_chars().str.to_uppercase(), map_source="source",
        alias=pl.col("specimen_type").str.to_uppercase(),
        map_method="method_or_model", map_unit_kind="unit_kind", map_loinc="loinc_code", map_source_loinc="source_loinc",
        valid_from="valid_from", valid_to="valid_to",
    ).join(alias, on="alias", how="left")  # fmt: skip
    return (
        entries.with_columns(map_specimen=pl.coalesce("__s__", pl.col("alias").str.to_lowercase()))
        .drop("alias", "__s__")
        .join(about, on="map_loinc", how="left")
        .join(families, on="specimen", how="left")
        .drop("specimen")
    )


def _fits(entry: str, row: str) -> pl.Expr:
    """A map cell fits a row: it is '*', the row says nothing, or both say the same."""
    return (pl.col(entry) == ANY) | pl.col(row).is_null() | (pl.col(entry) == pl.col(row)).fill_null(False)


def _choose(matches: pl.DataFrame) -> pl.DataFrame:
    """Per __row__: the winning LOINC code, or null with ``candidates`` joined where more than one remains."""
    dims = (("map_specimen", "specimen", 4), ("map_method", "device_model", 2), ("map_unit_kind", "unit_kind", 1))
    loose = pl.any_horizontal(*[(pl.col(m) != ANY) & pl.col(r).is_null() for m, r, _ in dims])
    score = pl.sum_horizontal(
        *[pl.when((pl.col(m) != ANY) & pl.col(r).is_not_null()).then(w).otherwise(0) for m, r, w in dims]
    )
    matches = matches.with_columns(own=pl.col("map_source") != ANY, loose=loose, score=score)
    matches = matches.filter(pl.col("own") == pl.col("own").max().over("__row__"))
    best = (
        ~pl.col("loose") & (pl.col("score") == pl.col("score").filter(~pl.col("loose")).max().over("__row__"))
    ).fill_null(False)
    left = matches.filter(pl.col("loose") | best)
    return left.group_by("__row__").agg(
        pl.col("map_loinc").n_unique().alias("n"),
        pl.col("map_loinc").unique().sort().alias("candidates"),
        pl.col("map_loinc").first().alias("map_loinc"),
        pl.when(pl.col("map_source_loinc").n_unique() == 1)
        .then(pl.col("map_source_loinc").first())
        .alias("map_source_loinc"),
        pl.col("component").first(),
        pl.col("map_family").first(),
        (pl.col("map_specimen") == ANY).any().alias("any_specimen"),
        pl.col("own").first(),
    )


def _verdict(out: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """CODE_FIELDS from the map's answer, the source's own code and the specimen."""
    mapped, several = pl.col("n") == 1, pl.col("n") > 1
    settles = several & pl.col("candidates").list.contains(pl.col("reported_loinc"))
    wrong_specimen = (
        mapped
        & pl.col("any_specimen")
        & pl.col("family").is_not_null()
        & (pl.col("family") != pl.col("map_family"))
        & ~pl.col("map_family").is_in(NO_SPECIMEN)
    )
    # the shipped map knows what K usually means; a source that says its K is something else is believed over neither
    contradicted = mapped & ~pl.col("own") & (pl.col("component") != pl.col("reported_component")).fill_null(False)
    no_entry = pl.col("n").is_null() & pl.col("listed").is_null()
    unfit = pl.col("n").is_null() & pl.col("listed").is_not_null()
    by_source = (no_entry | unfit) & pl.col("reported_loinc").is_not_null()
    as_reported = no_entry & ~by_source & is_loinc(pl.col("reported"))
    doubt = (wrong_specimen | contradicted).fill_null(False)
    picked = (
        pl.when(mapped & ~doubt).then("map_loinc")
        .when(settles | by_source).then("reported_loinc")
        .when(as_reported).then("reported")
    )  # fmt: skip
    other = (
        reference.analytes.select("loinc_code", "component", "specimen")
        .join(reference.specimens.select("specimen", "family").unique(), on="specimen")
        .group_by("component", "family").agg(pl.col("loinc_code").sort().str.join(" or ").alias("elsewhere"))
    )  # fmt: skip
    out = out.join(other, on=["component", "family"], how="left", maintain_order="left").with_columns(std_loinc=picked)
    out = out.with_columns(
        source_loinc=pl.when(mapped & ~doubt).then(pl.coalesce("map_source_loinc", "reported", "std_loinc"))
        .otherwise(pl.coalesce("reported", "std_loinc")),
        code_origin=pl.when(pl.col("std_loinc").is_null()).then(None).when(mapped).then(pl.lit("map"))
        .when(as_reported).then(pl.lit("as_reported")).otherwise(pl.lit("source")),
        code_problem=pl.when(pl.col("std_loinc").is_not_null()).then(None).when(no_entry).then(pl.lit("unmapped_code"))
        .otherwise(pl.lit("ambiguous_code")),
        code_detail=pl.when(pl.col("std_loinc").is_not_null()).then(None)
        .when(wrong_specimen).then(pl.format("the map gives {}, which is not for specimen {}", "map_loinc", "specimen_type"))
        .when(contradicted).then(pl.format("the shipped map gives {}, the source says {}", "map_loinc", "reported"))
        .when(several).then(pl.format("could be {}", pl.col("candidates").list.join(" or ")))
        .when(unfit)
        .then(pl.format("no row of loinc_map.csv fits its specimen, method and unit; the code is listed as {}", "listed"))
        .otherwise(pl.lit("not in loinc_map.csv, and the source gives no usable LOINC code")),
        code_proposal=pl.when(pl.col("std_loinc").is_not_null()).then(None)
        .when(wrong_specimen & pl.col("elsewhere").is_not_null())
        .then(pl.format("map it to {} for this specimen", "elsewhere"))
        .when(contradicted).then(pl.format("map it for this source, e.g. to {}", "reported_loinc"))
        .when(several | unfit).then(pl.lit("state specimen and unit, or add a row to loinc_map.csv for this source")),
    )  # fmt: skip
    implied = reference.loinc_equivalents.filter(pl.col("unit_kind") == ANY).select("source_loinc", "default_unit")
    return out.join(implied, on="source_loinc", how="left", maintain_order="left").sort("__row__")
