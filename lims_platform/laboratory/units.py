"""Units: spelling to UCUM, and each analyte's way from a reported unit to its standard one.

Here: folding of spellings, the alias lookup, the conversion table (prefixes, mass and amount of substance,
equivalents, affine). Not here: whether a value is plausible in a unit, or what happens when none is written
(``plausibility``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.reference_table import ANY

#: Kinds whose units are of one size although they differ in what they count; only for the analyte kind on the left.
_SAME_SIZE = {"catalytic_activity": ("arbitrary_iu",)}


def fold_unit(text: pl.Expr) -> pl.Expr:
    """A unit's spelling without case, spaces, kinds of micro sign and ways to write a power of ten or a microlitre.

    ``×10³/µL``, ``x10E3/ul`` and ``10*3/uL`` fold to ``10*3/ul``; ``mcg/mL`` to ``ug/ml``. U and IU stay apart.
    """
    folded = (
        text.str.to_lowercase()
        .str.replace_all(r"[\s\u00a0\u202f_]+", "")
        .str.replace_all(r"[µμ]", "u")
        # "(calc)" and "(SI)" say how, not what; "(FEU)" says what
        .str.replace(r"\((?:calc|si|us|conv)[a-z.]*\)$|\*+$", "").str.replace(r"\((feu|ddu|ngsp|ifcc)\)", "${1}")
        .str.replace_all("⁻¹", "-1", literal=True).str.replace_all("ˆ", "^", literal=True)
        .str.replace(r"^([a-z]+)[.·*]?([dmu]?l)-1$", "${1}/${2}")
        .str.replace_all(r"([a-z])\.(/|$)", "${1}${2}")
        .str.replace_all("²", "2", literal=True)
        .str.replace(r"10(?:³|\^\(?3\)?)", "10*3").str.replace("10⁶", "10*6")
        .str.replace("10⁹", "10*9").str.replace("10¹²", "10*12")
        .str.replace_all("³", "3", literal=True)
        .str.replace(r"^[x×*]?10(?:(?:\^|\*\*|\*|e|exp)\(?|\()\+?0?([0-9]{1,2})\)?", "10*${1}")
        .str.replace(r"^[x×]10(3|6|9|12)(/|$)", "10*${1}${2}").str.replace(r"^10x?(3|6|9|12)/", "10*${1}/")
        .str.replace(r"mcg|mkg", "ug")
        .str.replace(r"/(?:cu\.?mm\.?|cmm|mm\^?3|mcl|microlit(?:er|re))$", "/ul")
        .str.replace(r"lit(?:er|re)s?$", "l")
        .str.replace(r"decil$", "dl").str.replace(r"millil$", "ml")
    )  # fmt: skip
    return pl.when(folded.is_in(["/cumm", "/cmm", "/mm3"])).then(pl.lit("/ul")).otherwise(folded)


def alias_table(reference: Reference) -> pl.DataFrame:
    """Every folded spelling with its unit: columns folded, unit, unit_kind. Every UCUM unit is a spelling of itself.

    Raises ValueError where two units share a spelling: neither could be told from the other.
    """
    own = reference.units.select(fold_unit(pl.col("unit")).alias("folded"), "unit")
    told = reference.unit_aliases.filter((pl.col("match") == "folded") & (pl.col("analyte_kind") == ANY))
    # UCUM's brackets are rarely typed: [IU]/L is also written IU/L, mm[Hg] mmHg
    bare = own.with_columns(pl.col("folded").str.replace_all(r"[\[\]]", ""))
    every = pl.concat([told.select(fold_unit(pl.col("alias")).alias("folded"), "unit"), own, bare]).unique()
    clash = every.filter(pl.col("folded").is_duplicated()).sort("folded")
    if clash.height:
        raise ValueError(f"the unit spelling {clash['folded'][0]!r} stands for {clash['unit'][0]} and {clash['unit'][1]}")
    return every.join(reference.units.select("unit", "unit_kind"), on="unit")


def scoped_aliases(reference: Reference) -> pl.DataFrame:
    """Spellings that hold for analytes of one kind only: columns result_unit, analyte_kind, scoped_unit (G/L of a
    count).
    """
    return reference.unit_aliases.filter(pl.col("match") == "exact").select(
        pl.col("alias").alias("result_unit"), "analyte_kind", pl.col("unit").alias("scoped_unit")
    )


def conversion_table(reference: Reference) -> pl.DataFrame:
    """From each analyte's convertible units to its standard unit: loinc_code, source_loinc, from_unit, factor,
    offset.

    standard value = factor × value + offset. General rules (same kind, molar factor, valence, U and IU of enzymes)
    have source_loinc '*'; a row of unit_conversions.csv overrides them.
    """
    size = reference.units.select("unit", kind="unit_kind", size="factor")
    analytes = (
        reference.analytes.filter(pl.col("unit").is_not_null())
        .select("loinc_code", "unit", "unit_kind", "molar_factor", "molar_unit", "valence")
        .join(size.rename({"kind": "own_kind", "size": "own_size"}), on="unit", how="left")
        .join(size.rename({"unit": "molar_unit", "kind": "molar_kind", "size": "molar_size"}), on="molar_unit", how="left")
    )
    pairs = analytes.join(size.rename({"unit": "from_unit"}), how="cross")
    enzyme = pl.lit(False)
    for kind, others in _SAME_SIZE.items():
        enzyme = enzyme | ((pl.col("unit_kind") == kind) & pl.col("kind").is_in(list(others)))
    substance = "substance_concentration"
    moles = pl.when(pl.col("kind") == "equivalents").then(pl.col("size") / pl.col("valence")).otherwise(pl.col("size"))
    as_moles = pl.when(pl.col("kind") == "equivalents").then(pl.lit(substance)).otherwise(pl.col("kind"))
    factor = (
        pl.when((pl.col("kind") == pl.col("own_kind")) | enzyme)
        .then(pl.col("size") / pl.col("own_size"))
        .when(as_moles == pl.col("own_kind"))
        .then(moles / pl.col("own_size"))
        .when(as_moles == pl.col("molar_kind"))
        .then(moles / pl.col("molar_size") / pl.col("molar_factor"))
    )
    general = pairs.select("loinc_code", pl.lit(ANY).alias("source_loinc"), "from_unit", factor.alias("factor")).filter(
        pl.col("factor").is_not_null()
    )
    told = reference.unit_conversions.select("loinc_code", "source_loinc", "from_unit", "factor", "offset")
    general = general.with_columns(offset=pl.lit(0.0)).join(told, on=["loinc_code", "source_loinc", "from_unit"], how="anti")
    # 12 significant digits: a factor of exactly 0.01 must not carry the division's last bit into every value
    return pl.concat([general, told]).with_columns(pl.col("factor").round_sig_figs(12))


def resolve_spelling(frame: pl.DataFrame, aliases: pl.DataFrame, column: str = "result_unit") -> pl.DataFrame:
    """Adds ``unit`` and ``unit_kind`` for the spelling in ``column``; null where it is absent or not in ``aliases`` (an
    alias_table). Keeps row order.
    """
    return frame.with_columns(fold_unit(pl.col(column)).alias("__folded__")).join(
        aliases.rename({"folded": "__folded__"}), on="__folded__", how="left", maintain_order="left"
    ).drop("__folded__")  # fmt: skip
