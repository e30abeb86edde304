"""Conditions about batch samples: those that cannot be trusted.

Here: which rows of gold/sample_alerts are an alert, and in what words. Not here: the verdicts (``laboratory.sample_watch``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.alerting.rules import Evaluation, Rule, Situation, day_time, findings


def critical_sample(rule: Rule, given: Situation) -> Evaluation:
    """gold/sample_alerts: a sample of the window with a verdict of ``among``; one alert per sample."""
    first = (given.now - rule.window).date()
    in_window = pl.col("as_of_date").is_between(first, given.now.date())
    recent = given.tables["sample_alerts"].filter(in_window)
    bad = recent.filter(pl.col("qa_alert").is_in(rule.among)).collect().sort("as_of_date", "measured_at", "row_key")
    if bad.is_empty() and recent.select(pl.len()).collect().item() == 0:
        return Evaluation(not_evaluable=f"the table has no row of {first} or later")
    words = pl.format(
        "sample {}{}{}, measured {}: {}",
        pl.coalesce("sample_id", "row_key"),
        pl.coalesce(pl.lit(" of ") + pl.col("facility_id"), pl.lit("")),
        pl.coalesce(pl.lit(", batch ") + pl.col("batch_id"), pl.lit("")),
        pl.coalesce(given.clock(pl.col("measured_at")), pl.col("as_of_date").cast(pl.String)),
        pl.coalesce("reasons", "qa_alert"),
    )
    return Evaluation(
        findings(
            bad,
            subject=pl.col("row_key"),
            message=words,
            row_keys=pl.col("row_key"),
            evidence_at=pl.coalesce("measured_at", day_time(pl.col("as_of_date"))),
        )
    )
