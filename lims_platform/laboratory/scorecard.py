"""The data-quality scorecard: five shares per source, test code, device and day.

Here: what completeness, validity, uniqueness, timeliness and conformity mean. Not here: limits and alerts.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame

ABSENT = "(none)"
#: The scorecard's shares, each of all live rows.
SHARES = ("completeness", "validity", "uniqueness", "timeliness", "conformity")
#: A row known later than this after its result was late.
TIMELY_HOURS = 24.0
_NUMBER = r"-?\d+(\.\d+)?"
_STANDARD_FORM = rf"^((<|<=|>|>=)?{_NUMBER}|{_NUMBER}-{_NUMBER}|\d+:\d+)$"
_NEEDED = (
    "source", "test_code", "device_id", "event_date", "result_text", "result_unit_text", "value_kind", "value_code",
    "unit_origin", "collected_at", "resulted_at", "known_from",
)  # fmt: skip


def data_quality_scorecard(silver: Frame, quarantine: Frame) -> pl.DataFrame:
    """Contract DataQualityScorecard from the live rows: lab_results_standardized and lab_results_quarantine.

    complete: a value, a unit or a coded value, and both the collected and the resulted time. valid: in silver.
    unique: not the losing side of a conflicting duplicate. timely: known within TIMELY_HOURS of the result.
    conforming: a valid row whose unit was reported in the standard spelling (or needs none) and whose value is
    written as a plain number, a comparator and a number, a range, a titre, or as the standard code itself.
    """
    good = silver.lazy().select(*_NEEDED, pl.lit(True).alias("valid"), pl.lit(True).alias("unique"))
    bad = quarantine.lazy().select(
        *_NEEDED, pl.lit(False).alias("valid"), (pl.col("reason") != "conflicting_duplicate").alias("unique")
    )
    text = pl.col("result_text").str.strip_chars()
    coded = pl.col("value_kind").is_in(["coded", "ordinal"])
    wrote_value = text.is_not_null() & (text != "")
    has_unit = pl.col("result_unit_text").is_not_null() | coded | (pl.col("value_kind") == "titre")
    rows = pl.concat([good, bad]).with_columns(
        complete=wrote_value
        & has_unit.fill_null(False)
        & pl.col("collected_at").is_not_null()
        & pl.col("resulted_at").is_not_null(),
        timely=((pl.col("known_from") - pl.col("resulted_at")) <= timedelta(hours=TIMELY_HOURS)).fill_null(False),
        conforming=(
            pl.col("valid")
            & pl.col("unit_origin").fill_null("none").is_in(["reported", "none"])
            & (
                pl.col("result_text").str.contains(_STANDARD_FORM)
                | (coded & (pl.col("result_text") == pl.col("value_code")))
            )
        ).fill_null(False),
    )
    out = (
        rows.group_by(
            pl.col("event_date").alias("as_of_date"),
            "source",
            pl.col("test_code").fill_null(ABSENT),
            pl.col("device_id").fill_null(ABSENT),
        )
        .agg(
            pl.len().alias("rows"),
            pl.col("valid").sum().alias("valid_rows"),
            pl.col("complete").mean().alias("completeness"),
            pl.col("valid").mean().alias("validity"),
            pl.col("unique").mean().alias("uniqueness"),
            pl.col("timely").mean().alias("timeliness"),
            pl.col("conforming").mean().alias("conformity"),
        )
        .collect()
    )
    return out.select([pl.col(name).cast(dtype) for name, dtype in TABLES["data_quality_scorecard"].dtypes.items()]).sort(
        "as_of_date", "source", "test_code", "device_id"
    )


def shares_by(scorecard: Frame, *by: str) -> pl.DataFrame:
    """The shares of whole groups of scorecard rows: ``by``, rows, and each of SHARES weighted by rows; ordered by ``by``."""
    weighted = [((pl.col(name) * pl.col("rows")).sum() / pl.col("rows").sum()).alias(name) for name in SHARES]
    return (
        scorecard.lazy()
        .group_by(by)
        .agg(*weighted, rows=pl.col("rows").sum())
        .select(*by, "rows", *SHARES)
        .sort(by)
        .collect()
    )
