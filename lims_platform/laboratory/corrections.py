"""Corrected reports: which corrections change what a result means.

Here: pairing a version with the one before it and testing the step against decision and critical limits. Not here:
versions (``lakehouse.history``), who is told (``alerting``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.limits import limits_for

_COLUMNS = [
    "row_key", "row_version", "change", "known_from", "loinc_code", "analyte", "device_id", "result_text", "unit",
    "value_number", "value_upper", "comparator", "is_critical", "age_band", "location_class",
]  # fmt: skip


def crossing_corrections(history: Frame, reference: Reference) -> pl.DataFrame:
    """Corrections in lab_results_history that cross a decision or critical limit, newest version of each first.

    A correction is a version that follows another of the same row_key; deleted versions are skipped, so that a result
    that changed its day is compared with what it was. A decision limit L is crossed where exactly one of the two values
    is at or above L (a limit such as 126 mg/dL means "from 126"); a censored value or a range counts where all it can
    stand for lies on one side: "<126" is below, "<130" says nothing of 126. A critical limit is
    crossed where exactly one of the two is critical, or both are, at opposite ends.

    Returns:
        row_key, row_version, known_from, loinc_code, analyte, device_id, unit, old_text, new_text, old_value,
        new_value, crossed (text: the limits crossed, e.g. "decision limit 126"; "critical limit"), limit (the first).
        Values in the standard unit. A version without a number (quarantined, coded) is tested by is_critical only.
    """
    versions = history.lazy().filter(pl.col("change") != "delete").select(_COLUMNS).collect()
    before = ("result_text", "value_number", "value_upper", "comparator", "is_critical", "loinc_code")
    pairs = (
        versions.sort("row_key", "row_version")
        .with_columns(pl.col(c).shift(1).over("row_key").alias(f"old_{c}") for c in before)
        .filter(pl.col("old_is_critical").is_not_null(), pl.col("result_text").ne_missing(pl.col("old_result_text")))
        .with_row_index("_pair")
    )
    decision = _decision_limits_crossed(pairs, reference.analytes)
    limits = limits_for(
        pairs.select(std_loinc="loinc_code", age_band="age_band", location_class="location_class"), reference
    )
    pairs = pl.concat([pairs, limits], how="horizontal").join(decision, on="_pair", how="left")
    old, new = pl.col("old_value_number"), pl.col("value_number")
    opposite = ((old <= pl.col("critical_low")) & (new >= pl.col("critical_high"))) | (
        (new <= pl.col("critical_low")) & (old >= pl.col("critical_high"))
    )
    critical = (pl.col("old_is_critical") != pl.col("is_critical")) | (pl.col("is_critical") & opposite.fill_null(False))
    extreme = pl.when(pl.col("is_critical")).then(new).otherwise(old)
    bound = pl.when(extreme <= pl.col("critical_low")).then("critical_low").otherwise("critical_high")
    words = pl.concat_list(
        pl.when(critical).then(pl.lit("critical limit")),
        pl.when(pl.col("decision_limits").is_not_null()).then(pl.lit("decision limit ") + pl.col("decision_limits")),
    )
    return (
        pairs.with_columns(
            crossed=words.list.drop_nulls().list.join(" and "),
            limit=pl.when(critical).then(bound).otherwise("first_limit"),
        )
        .filter(pl.col("crossed") != "")
        .select(
            "row_key", "row_version", "known_from", "loinc_code", "analyte", "device_id", "unit", "crossed", "limit",
            old_text="old_result_text", new_text="result_text", old_value=old, new_value=new,
        )
        .sort("row_key", "row_version", descending=[False, True])
    )  # fmt: skip


def _decision_limits_crossed(pairs: pl.DataFrame, analytes: pl.DataFrame) -> pl.DataFrame:
    """_pair, decision_limits (those crossed, joined by ', ') and first_limit; only pairs of one analyte count."""
    table = (
        analytes.select("loinc_code", one=pl.col("decision_limits").str.split(";"))
        .explode("one")
        .with_columns(at=pl.col("one").str.strip_chars().cast(pl.Float64))
        .drop_nulls("at")
    )
    same = pairs.filter(pl.col("old_loinc_code") == pl.col("loinc_code"))
    crossed = same.join(table, on="loinc_code").filter(_reaches("old_") != _reaches(""))
    return (
        crossed.sort("_pair", "at")
        .group_by("_pair", maintain_order=True)
        .agg(decision_limits=pl.col("one").str.strip_chars().str.join(", "), first_limit=pl.col("at").first())
    )


def _reaches(version: str) -> pl.Expr:
    """Whether a version's value is ``at`` or above; null where a censored value or a range leaves that open."""
    value, upper, sign = (pl.col(f"{version}{name}") for name in ("value_number", "value_upper", "comparator"))
    at = pl.col("at")
    return (
        pl.when(sign == "<").then(pl.when(value <= at).then(pl.lit(False)))
        .when(sign == "<=").then(pl.when(value < at).then(pl.lit(False)))
        .when(sign.is_not_null()).then(pl.when(value >= at).then(pl.lit(True)))
        .when((value >= at) == (pl.coalesce(upper, value) >= at)).then(value >= at)
    )  # fmt: skip
