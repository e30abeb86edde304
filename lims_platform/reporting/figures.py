"""The small frames behind charts and summaries: newest days, results a day, reasons. Not here: layout, or statistics."""

from __future__ import annotations

from datetime import date

import polars as pl


def newest_days(frame: pl.LazyFrame, today: date, days: int = 1) -> pl.DataFrame:
    """The rows of the last ``days`` complete days (``as_of_date``), counted back from the newest that has any.

    Today is left out: it is still filling, so its figures would be those of a few hours.
    """
    complete = frame.filter(pl.col("as_of_date") < today)
    return complete.filter(pl.col("as_of_date") > pl.col("as_of_date").max() - pl.duration(days=days)).collect()


def results_per_day(valid: pl.LazyFrame, quarantined: pl.LazyFrame) -> pl.DataFrame:
    """Number of results by event_date and state (standardised, quarantined)."""
    states = [
        valid.select("event_date", state=pl.lit("standardised")),
        quarantined.select("event_date", state=pl.lit("quarantined")),
    ]
    return pl.concat(states).group_by("event_date", "state").agg(rows=pl.len()).sort("event_date", "state").collect()


def quarantine_reasons(quarantined: pl.LazyFrame) -> pl.DataFrame:
    """Number of quarantined results by reason, the commonest first."""
    return quarantined.group_by("reason").agg(rows=pl.len()).sort("rows", "reason", descending=[True, False]).collect()
