"""The small frames behind charts and summaries: newest days, results a day, reasons. Not here: layout, or statistics."""

from __future__ import annotations

from datetime import date

import polars as pl

from lims_platform.privacy.pseudonyms import PSEUDONYM

#: Characters of a raw value that a preview shows.
_SHOWN = 40
#: What Markdown and HTML would read as more than text, as character references.
_PLAIN = {ord(c): f"&#{ord(c)};" for c in "&<>\\|`*_[]!"}


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


def quarantine_preview(quarantined: pl.LazyFrame, reasons: int = 10, samples: int = 2) -> pl.DataFrame:
    """The commonest reasons with sample rows: reason, rows, proposals (rows that have one), then one sample a line.

    Samples are the commonest ways a reason looks: test_code, value, unit, looks (rows that look so), proposal, confidence.
    No column names a patient, a technician or a result, and a pseudonym inside a text is left out.
    """
    look = ["test_code", "result_text", "result_unit_text", "proposal", "confidence"]
    counts = quarantined.group_by("reason").agg(rows=pl.len(), proposals=pl.col("proposal").count())
    commonest = counts.sort("rows", "reason", descending=[True, False]).head(reasons)
    looks = quarantined.group_by("reason", *look).agg(looks=pl.len())
    ordered = looks.sort("looks", *look, descending=[True, *[False] * len(look)], nulls_last=True)
    shown = ordered.group_by("reason", maintain_order=True).head(samples)
    return (
        commonest.join(shown, on="reason", maintain_order="left_right")
        .select("reason", "rows", "proposals", "test_code", value="result_text", unit="result_unit_text",
                looks="looks", proposal="proposal", confidence="confidence")
        .with_columns(
            pl.col("value", "unit", "test_code", "proposal")
            .str.replace_all(PSEUDONYM, "(pseudonym)").str.slice(0, _SHOWN)
        )
        .collect()
    )  # fmt: skip


def markdown_table(frame: pl.DataFrame) -> str:
    """The frame as a Markdown table; what a cell's text could do to Markdown or HTML is taken from it."""

    def cell(value: object) -> str:
        text = "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
        return " ".join("".join(c if c.isprintable() else " " for c in text).split()).translate(_PLAIN)

    lines = [
        [cell(name) for name in frame.columns],
        ["---"] * frame.width,
        *([cell(value) for value in row] for row in frame.iter_rows()),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
