"""What to make of a number whose unit is absent, unknown, or makes it impossible.

Here: the plausible ranges, and the odds between the units an analyte is reported in. Not here: the conversion factors
(``units``), critical limits (``limits``).

The odds follow from the value alone: on the log scale a result is taken to come from a Student t distribution with 3
degrees of freedom (heavy tails: hospital results lie far out more often than a normal distribution allows; Lange,
Little & Taylor 1989), centred on the reference interval and SPREAD times as wide. The standard unit has prior PRIOR,
the others share the rest.
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.reference_table import ANY
from lims_platform.laboratory.units import conversion_table

#: Prior odds that an unstated unit is the standard one.
PRIOR = 0.8
#: Width of a hospital's results against the healthy reference interval, on the log scale.
SPREAD = 1.5
#: An unstated unit is assumed only above this confidence; below it the row waits in quarantine with the proposal.
ASSUME_FROM = 0.99
#: An alternative that changes the number by less than this is no alternative (mEq/L and mmol/L of sodium).
_SAME = 1e-6

ASSESS_FIELDS: dict[str, pl.DataType] = {
    "fit": pl.String(),
    "fit_detail": pl.String(),
    "fit_proposal": pl.String(),
    "fit_confidence": pl.Float64(),
}
READING_FIELDS: dict[str, pl.DataType] = {
    "reading_proposal": pl.String(),
    "reading_confidence": pl.Float64(),
    "reading_low": pl.Float64(),
    "reading_high": pl.Float64(),
}


def facts(reference: Reference) -> pl.DataFrame:
    """One row per analyte: its plausible range, and centre and width of its results on the log scale."""
    high = pl.coalesce("reference_high", "plausible_high")
    low = pl.when(pl.col("reference_low") > 0).then("reference_low").otherwise(high / 20)
    return reference.analytes.select(
        "loinc_code",
        std_unit="unit",
        low="plausible_low",
        high="plausible_high",
        mu=((low * high).log() / 2).fill_nan(None),
        sigma=((high / low).log() / 3.92 * SPREAD).clip(0.03).fill_nan(None),
    )


def candidates(reference: Reference) -> pl.DataFrame:
    """The units each analyte is reported in, as loinc_code, option_unit, option_factor, option_offset, standard
    (bool).
    """
    ways = conversion_table(reference).filter(pl.col("source_loinc") == ANY).drop("source_loinc")
    others = reference.analytes.select(
        "loinc_code", pl.col("alternative_units").str.split(";").alias("option_unit")
    ).explode("option_unit")
    own = reference.analytes.select("loinc_code", option_unit="unit")
    named = pl.concat([own.with_columns(standard=True), others.with_columns(standard=False)]).drop_nulls("option_unit")
    return named.join(
        ways.rename({"from_unit": "option_unit", "factor": "option_factor", "offset": "option_offset"}),
        on=["loinc_code", "option_unit"],
        how="inner",
    )


def _density(value: pl.Expr) -> pl.Expr:
    """Relative density of a value, from the columns mu and sigma; 1 where zero, a negative number or no interval says
    nothing.
    """
    z = (value.log() - pl.col("mu")) / pl.col("sigma")
    return (
        pl.when(value > 0)
        .then((1 + z.pow(2) * (1 / 3)).pow(-2) / pl.col("sigma"))
        .otherwise(1.0)
        .fill_null(1.0)
        .fill_nan(1.0)
    )


class Plausibility:
    """Judges doubtful numbers; holds the analytes' facts and candidate units of one state of the reference tables."""

    def __init__(self, reference: Reference) -> None:
        self._facts = facts(reference)
        self._options = candidates(reference)

    def assess(self, frame: pl.DataFrame) -> pl.DataFrame:
        """ASSESS_FIELDS for each row of std_loinc, unit (UCUM, null if absent or unknown), doubt and number, in the
        same order.

        doubt: unit_missing, implausible_value, unit_unknown, unit_not_convertible, or null for nothing to judge. fit
        is 'assumed' (a missing unit that can only be the standard one), else the reason: the doubt itself, or
        unit_contradicts_value where the number is impossible in its stated unit and possible in another. fit_proposal
        names the likeliest unit with the value it gives; fit_confidence is its posterior probability among the
        candidate units.
        """
        rows = frame.with_row_index("__row__")
        asked = rows.filter(pl.col("doubt").is_not_null() & pl.col("number").is_not_null())
        pairs = asked.join(self._facts, left_on="std_loinc", right_on="loinc_code", how="inner").join(
            self._options, left_on="std_loinc", right_on="loinc_code", how="inner"
        )
        # a number impossible in its stated unit: that unit is not among the explanations
        pairs = pairs.filter(
            ~((pl.col("doubt") == "implausible_value") & (pl.col("option_unit") == pl.col("unit"))).fill_null(False)
        )
        value = pl.col("number") * pl.col("option_factor") + pl.col("option_offset")
        pairs = pairs.with_columns(value=value, plausible=value.is_between(pl.col("low"), pl.col("high")).fill_null(True))
        density = _density(pl.col("value"))
        share = pl.when("standard").then(PRIOR).otherwise((1 - PRIOR) / (pl.len().over("__row__") - 1).clip(1))
        pairs = pairs.with_columns(weight=pl.when("plausible").then(density * share).otherwise(0.0))
        pairs = self._merged(pairs)
        total = pl.col("weight").sum().over("__row__")
        pairs = pairs.with_columns(posterior=pl.when(total > 0).then(pl.col("weight") / total))
        best = (
            pairs.filter("plausible")
            .sort("__row__", "posterior", descending=[False, True], nulls_last=True)
            .unique("__row__", keep="first", maintain_order=True)
            .select("__row__", "option_unit", "value", "posterior", "standard", "std_unit")
        )
        out = rows.join(best, on="__row__", how="left", maintain_order="left").sort("__row__")
        return out.select(**self._answer())

    def choose_reading(self, frame: pl.DataFrame) -> pl.DataFrame:
        """READING_FIELDS for each row of std_loinc, factor, offset, reading_a and reading_b, in the same order.

        Proposes the likelier of the two readings of an ambiguous number under its stated unit, with its posterior
        probability at even odds; null where neither is plausible. reading_low and reading_high are both readings in the
        standard unit (as written where no unit is known), in order.
        """
        rows = frame.join(self._facts, left_on="std_loinc", right_on="loinc_code", how="left", maintain_order="left")
        weights = []
        for name in ("reading_a", "reading_b"):
            value = pl.col(name) * pl.col("factor") + pl.col("offset")
            plausible = value.is_between(pl.col("low"), pl.col("high"))
            weights.append(pl.when(plausible).then(_density(value)).otherwise(0.0).fill_null(0.0))
        total = weights[0] + weights[1]
        first = weights[0] >= weights[1]
        chosen = pl.when(first).then("reading_a").otherwise("reading_b")
        both = [
            pl.col(r) * pl.col("factor").fill_null(1) + pl.col("offset").fill_null(0) for r in ("reading_a", "reading_b")
        ]
        return rows.select(
            reading_low=pl.min_horizontal(both),
            reading_high=pl.max_horizontal(both),
            reading_proposal=pl.when(total > 0).then(pl.format("read as {}", chosen)),
            reading_confidence=pl.when(total > 0).then(pl.when(first).then(weights[0]).otherwise(weights[1]) / total),
        )

    @staticmethod
    def _merged(pairs: pl.DataFrame) -> pl.DataFrame:
        """Options that give the same value are one explanation: their weights add up and the standard unit speaks for
        them.
        """
        # rounding the logarithm groups values that agree to about _SAME; zero and negative values group by themselves
        group = pl.when(pl.col("value") > 0).then((pl.col("value").log() * (1 / _SAME)).round()).otherwise(pl.col("value"))
        return (
            pairs.with_columns(group=group)
            .sort("__row__", "standard", descending=[False, True])
            .with_columns(weight=pl.col("weight").sum().over("__row__", "group"))
            .unique(["__row__", "group"], keep="first", maintain_order=True)
        )

    @staticmethod
    def _answer() -> dict[str, pl.Expr]:
        doubt, found = pl.col("doubt"), pl.col("option_unit").is_not_null()
        sure = found & pl.col("standard") & (pl.col("posterior") >= ASSUME_FROM)
        contradicts = (doubt == "implausible_value") & found
        shown = pl.col("value").round_sig_figs(4).cast(pl.String)
        written, unit = pl.col("number").cast(pl.String), pl.col("unit").fill_null("the assumed unit")
        return {
            "fit": pl.when(doubt.is_null()).then(None)
            .when((doubt == "unit_missing") & sure).then(pl.lit("assumed"))
            .when(contradicts).then(pl.lit("unit_contradicts_value"))
            .otherwise(doubt),
            "fit_detail": pl.when(contradicts)
            .then(pl.format("{} is not plausible in {}, but in {}", written, unit, "option_unit"))
            .when(doubt == "implausible_value").then(pl.format("{} is plausible in no unit of this analyte", written))
            .when((doubt == "unit_missing") & ~sure.fill_null(False))
            .then(pl.lit("no unit, and the value does not settle it")),
            "fit_proposal": pl.when(doubt.is_not_null() & found)
            .then(pl.format("read as {}: {} {}", "option_unit", shown, "std_unit")),
            "fit_confidence": pl.when(doubt.is_not_null()).then(pl.col("posterior")),
        }  # fmt: skip
