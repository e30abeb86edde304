"""One test as ordered: code, unit and conversion together, because each decides the other.

Here: from (source, code, specimen, model, unit, source's LOINC, day) to analyte, factor and what is wrong with the
pair. Not here: anything that depends on the value (``plausibility``, ``standardise``).
"""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.reference_table import ANY
from lims_platform.laboratory.terminology import CODE_FIELDS, resolve_codes
from lims_platform.laboratory.ucum import with_ucum
from lims_platform.laboratory.units import alias_table, conversion_table, resolve_spelling, scoped_aliases

TEST_KEYS = ("source", "test_code", "specimen_type", "device_model", "result_unit", "value_unit", "loinc_code", "day")
TEST_FIELDS: dict[str, pl.DataType] = {
    **{name: dtype for name, dtype in CODE_FIELDS.items() if name != "default_unit"},
    "std_name": pl.String(),
    "scale": pl.String(),
    "target": pl.String(),
    "std_unit": pl.String(),
    "std_spelling": pl.Boolean(),
    "ucum": pl.String(),
    "unit_source": pl.String(),
    "factor": pl.Float64(),
    "offset": pl.Float64(),
    "low": pl.Float64(),
    "high": pl.Float64(),
    "unit_problem": pl.String(),
    "unit_detail": pl.String(),
    "unit_proposal": pl.String(),
    "trap_low": pl.Float64(),
    "trap_high": pl.Float64(),
    "trap_note": pl.String(),
}


def validity_epoch(day: pl.Expr, reference: Reference) -> pl.Expr:
    """A day that stands for all days on which the LOINC map is the same: the last change of the map up to ``day``.

    Keeps the number of distinct keys small. Null where the day is unknown and the map has dates.
    """
    changes = set(reference.loinc_map["valid_from"].drop_nulls().to_list())
    changes |= {d + timedelta(days=1) for d in reference.loinc_map["valid_to"].drop_nulls().to_list()}
    if not changes:
        return pl.lit(date.min)
    epoch = pl.when(day.is_not_null()).then(pl.lit(date.min))
    out: pl.Expr = epoch.otherwise(pl.lit(None, pl.Date))
    for change in sorted(changes):
        out = pl.when(day >= change).then(pl.lit(change)).otherwise(out)
    return out


class TestResolver:
    """Resolves distinct TEST_KEYS against one state of the reference tables."""

    __test__ = False  # not a pytest class

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._aliases = alias_table(reference)
        self._ways = conversion_table(reference)
        self._scoped = scoped_aliases(reference)
        self._about = reference.analytes.select(
            std_loinc="loinc_code", std_name="analyte", scale="scale", target="target", std_unit="unit",
            analyte_kind="unit_kind", low="plausible_low", high="plausible_high",
        )  # fmt: skip

    def resolve(self, keys: pl.DataFrame) -> pl.DataFrame:
        """TEST_FIELDS for each row of TEST_KEYS, in the same order.

        unit_source: 'text' (written), 'code' (implied by the source's LOINC code), 'none' (the analyte has none), or
        null. std_spelling: the unit is written as the standard one is. unit_problem: unit_unknown, unit_missing,
        unit_not_convertible, unit_contradicts_value (the result's text names another unit than the unit column), or
        null; it concerns numbers only.
        """
        blank = pl.col("result_unit").str.strip_chars()
        rows = keys.with_columns(
            pl.when(blank != "").then(blank).alias("result_unit"), written=pl.coalesce(blank, "value_unit")
        )
        aliases, ways = self._with_unknown(rows["result_unit"])
        rows = resolve_spelling(rows, aliases, "value_unit").rename({"unit": "text_ucum", "unit_kind": "text_kind"})
        rows = resolve_spelling(rows, aliases, "result_unit").rename({"unit": "column_ucum"})
        rows = rows.with_columns(
            ucum=pl.when(pl.col("result_unit").is_null()).then("text_ucum").otherwise("column_ucum"),
            unit_kind=pl.when(pl.col("result_unit").is_null()).then("text_kind").otherwise("unit_kind"),
        )
        rows = resolve_codes(rows, self._reference).join(self._about, on="std_loinc", how="left", maintain_order="left")
        rows = rows.join(self._scoped, on=["result_unit", "analyte_kind"], how="left", maintain_order="left")
        return self._converted(rows.with_columns(ucum=pl.coalesce("scoped_unit", "ucum")), ways)

    def _with_unknown(self, spellings: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Aliases and conversions, with those units added that no table knows and UCUM does."""
        spelled = pl.DataFrame({"result_unit": spellings.drop_nulls().unique()})
        unknown = resolve_spelling(spelled, self._aliases).filter(pl.col("unit").is_null())["result_unit"].to_list()
        extended = with_ucum(self._reference, unknown) if unknown else self._reference
        if extended is self._reference:
            return self._aliases, self._ways
        return alias_table(extended), conversion_table(extended)

    def _converted(self, rows: pl.DataFrame, ways: pl.DataFrame) -> pl.DataFrame:
        written = pl.col("result_unit").is_not_null() | pl.col("value_unit").is_not_null()
        rows = _with_way(rows, ways)
        # "units", "-" or "n/a" in the unit column of a test that has a unit is no unit at all
        placeholder = written & (pl.col("ucum") == "1") & pl.col("factor").is_null() & pl.col("std_unit").is_not_null()
        unitless = pl.col("analyte_kind") == "unitless"
        absent = ~written | placeholder.fill_null(False)
        rows = rows.with_columns(
            ucum=pl.when(~absent).then("ucum").when(pl.col("default_unit").is_not_null()).then("default_unit")
            .when(unitless).then("std_unit"),
            unit_source=pl.when(~absent).then(pl.lit("text")).when(unitless.fill_null(False)).then(pl.lit("none"))
            .when(pl.col("default_unit").is_not_null()).then(pl.lit("code")),
        )  # fmt: skip
        rows = _with_way(rows.drop("factor", "offset"), ways)
        traps = self._reference.unit_traps.select(
            std_loinc="loinc_code", ucum="from_unit", trap_low="value_low", trap_high="value_high",
            trap_proposal="proposal", trap_note="note",
        )  # fmt: skip
        rows = rows.join(traps, on=["std_loinc", "ucum"], how="left", maintain_order="left")
        trapped = pl.col("trap_note").is_not_null() & pl.col("trap_low").is_null() & pl.col("trap_high").is_null()
        disagree = (pl.col("result_unit").is_not_null() & (pl.col("text_ucum") != pl.col("column_ucum"))).fill_null(False)
        mapped = pl.col("std_name").is_not_null()
        problem = (
            pl.when(disagree).then(pl.lit("unit_contradicts_value"))
            .when((pl.col("unit_source") == "text") & pl.col("ucum").is_null()).then(pl.lit("unit_unknown"))
            .when(mapped & pl.col("std_unit").is_not_null() & pl.col("ucum").is_null()).then(pl.lit("unit_missing"))
            .when(trapped | (mapped & pl.col("std_unit").is_not_null() & pl.col("factor").is_null()))
            .then(pl.lit("unit_not_convertible"))
        )  # fmt: skip
        rows = rows.with_columns(unit_problem=problem)
        both = pl.format("the text says {}, the unit column {}", "value_unit", "result_unit")
        unknown = pl.format(
            "the unit {} is in no row of unit_aliases.csv and no UCUM code of a known kind",
            pl.coalesce("result_unit", "value_unit"),
        )
        stuck = pl.col("unit_problem") == "unit_not_convertible"
        return rows.with_columns(
            factor=pl.when(~trapped).then("factor"),
            std_spelling=pl.col("written") == pl.col("std_unit"),
            unit_detail=pl.when(disagree).then(both)
            .when(pl.col("unit_problem") == "unit_unknown").then(unknown)
            .when(stuck & trapped).then("trap_note")
            .when(stuck).then(pl.format("{} is no unit of {} ({})", "ucum", "std_name", "std_unit")),
            unit_proposal=pl.when(stuck & trapped).then("trap_proposal"),
            trap_note=pl.when(~trapped).then(pl.concat_str("trap_note", "trap_proposal", separator="; ")),
        ).select(*TEST_FIELDS)  # fmt: skip


def _with_way(rows: pl.DataFrame, ways: pl.DataFrame) -> pl.DataFrame:
    """Adds factor and offset from ``ucum`` to the standard unit; a conversion for the source's own LOINC code
    comes first.
    """
    general = ways.filter(pl.col("source_loinc") == ANY).drop("source_loinc")
    special = ways.filter(pl.col("source_loinc") != ANY)
    rows = rows.join(
        special.rename({"loinc_code": "std_loinc", "from_unit": "ucum", "factor": "own_factor", "offset": "own_offset"}),
        on=["std_loinc", "source_loinc", "ucum"], how="left", maintain_order="left",
    ).join(
        general.rename({"loinc_code": "std_loinc", "from_unit": "ucum"}),
        on=["std_loinc", "ucum"], how="left", maintain_order="left",
    )  # fmt: skip
    return rows.with_columns(factor=pl.coalesce("own_factor", "factor"), offset=pl.coalesce("own_offset", "offset")).drop(
        "own_factor", "own_offset"
    )
