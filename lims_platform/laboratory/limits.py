"""Critical limits: which results a clinician must hear of at once.

Here: limits by analyte, age and location, and the test of a value against them. Not here: who is told
(``automation``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.reference_table import ANY

LIMIT_FIELDS: dict[str, pl.DataType] = {"critical_low": pl.Float64(), "critical_high": pl.Float64()}
AGES = ("neonate", "infant", "child", "adult")


def age_class(band: pl.Expr) -> pl.Expr:
    """neonate, infant, child, adult, or null, of an age band as laboratories write it ("18-64", "0-28d", "<1", "65+",
    "child").

    The upper end of a band decides: years unless days, weeks or months are named; up to 28 days neonate, up to 1 year
    infant, below 18 child.
    """
    text = band.str.to_lowercase().str.strip_chars()
    number = text.str.extract(r"([0-9]+(?:\.[0-9]+)?)[^0-9]*$").cast(pl.Float64, strict=False)
    years = (
        pl.when(text.str.contains(r"[0-9] *d")).then(number * (1 / 365.25))
        .when(text.str.contains(r"[0-9] *w")).then(number * (1 / 52.18))
        .when(text.str.contains(r"[0-9] *m")).then(number * (1 / 12))
        .otherwise(number)
    )  # fmt: skip
    return (
        pl.when(text.str.contains(r"neo|newborn|\bnb\b")).then(pl.lit("neonate"))
        .when(text.str.contains("infan|baby")).then(pl.lit("infant"))
        .when(text.str.contains("child|paed|pedia|adolesc|teen|youth")).then(pl.lit("child"))
        .when(text.str.contains("adult|elder|senior|geriat")).then(pl.lit("adult"))
        .when(years <= 28 / 365.25).then(pl.when(years > 0).then(pl.lit("neonate")).otherwise(pl.lit("infant")))
        .when(years <= 1).then(pl.lit("infant"))
        .when((years < 18) | ((years == 18) & text.str.starts_with("<"))).then(pl.lit("child"))
        .when(years.is_not_null()).then(pl.lit("adult"))
    )  # fmt: skip


def limits_for(frame: pl.DataFrame, reference: Reference) -> pl.DataFrame:
    """LIMIT_FIELDS for each row of std_loinc, age_band and location_class, in the same order.

    The most specific row of critical_limits.csv counts: age and location, then age, then location, then neither. An
    age band that says nothing takes the limits for any age.
    """
    rows = frame.with_columns(
        age=age_class(pl.col("age_band")), place=pl.col("location_class").str.to_lowercase().str.strip_chars()
    )
    table = reference.critical_limits.with_columns(pl.col("location").str.to_lowercase())
    low, high, found = [], [], []
    for rank, (age, place) in enumerate(((1, 1), (1, 0), (0, 1), (0, 0))):
        some = table.filter(
            (pl.col("age_band") != ANY) if age else (pl.col("age_band") == ANY),
            (pl.col("location") != ANY) if place else (pl.col("location") == ANY),
        )
        keys = ["std_loinc", *(["age"] if age else []), *(["place"] if place else [])]
        named = some.select(
            std_loinc="loinc_code", age="age_band", place="location",
            **{f"low_{rank}": pl.col("low"), f"high_{rank}": pl.col("high"), f"found_{rank}": pl.lit(True)},
        ).select(*keys, f"low_{rank}", f"high_{rank}", f"found_{rank}")  # fmt: skip
        rows = rows.join(named, on=keys, how="left", maintain_order="left")
        low.append(f"low_{rank}")
        high.append(f"high_{rank}")
        found.append(f"found_{rank}")

    def first(columns: list[str]) -> pl.Expr:
        # the whole row of limits wins, an empty cell of it included: an empty high is "no high limit here"
        expression = pl.lit(None, pl.Float64)
        for column, flag in reversed(list(zip(columns, found, strict=True))):
            expression = pl.when(pl.col(flag)).then(column).otherwise(expression)
        return expression

    return rows.select(critical_low=first(low), critical_high=first(high))


def beyond(value: pl.Expr, upper: pl.Expr, comparator: pl.Expr, low: pl.Expr, high: pl.Expr) -> pl.Expr:
    """True where a reading lies strictly outside its critical limits; never null.

    A censored reading counts where it must lie outside ("<2.0" with low 2.8), a range where either end does.
    """
    number = comparator.is_null()
    is_low = (number | (comparator == "<=")) & (value < low) | (comparator == "<") & (value <= low)
    is_high = number & (pl.coalesce(upper, value) > high) | (comparator == ">=") & (value > high)
    is_high = is_high | (comparator == ">") & (value >= high)
    return is_low.fill_null(False) | is_high.fill_null(False)
