"""Why a row waits in quarantine: the platform's list, in the order in which one reason hides the next.

Here: the list, and the first reason that holds for a standardised row. Not here: what the reason rests on (``values``,
``ordered_tests``, ``plausibility``), details and proposals (``standardise``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.source import REFUSED_ID, REFUSED_VALUE
from lims_platform.laboratory.distinct import first_word, one_of, per_distinct
from lims_platform.laboratory.value_patterns import NINES, SHORT_NINES

REASONS: dict[str, str] = {
    "conflicting_duplicate": "another row of the same key and day won",
    "refused_message": "a message or line of the source could not be read; the detail says why and where it is",
    "no_usable_time": "no time of the row says which day it belongs to",
    "outside_partitions": "the row's day lies outside the platform's calendar",
    "missing_key": "result_id or test_code is empty",
    "cancelled": "the source cancelled the result",
    "missing_value": "no result was written",
    "not_done": "the text says the test was not done",
    "instrument_error": "the text is an instrument's error code, not a result",
    "unmapped_code": "the test code has no LOINC code",
    "ambiguous_code": "the test code could be more than one LOINC code",
    "ambiguous_number": "the number can be read in two ways",
    "unreadable_value": "the text is not a result of this test",
    "unit_unknown": "the unit's spelling is not known",
    "unit_not_convertible": "the unit does not convert to the analyte's",
    "unit_contradicts_value": "the value is impossible in its unit and possible in another",
    "unit_missing": "no unit, and the value does not settle which",
    "implausible_value": "no living patient's result",
}

_KIND_REASONS = {"missing": "missing_value", "not_done": "not_done", "instrument_error": "instrument_error"}
_NINES: dict[str, pl.DataType] = {"nines": pl.Boolean(), "short_nines": pl.Boolean()}
_BLANK: dict[str, pl.DataType] = {"blank": pl.Boolean()}


def first_reason() -> pl.Expr:
    """The first reason that holds, in the order of REASONS; null for a usable row.

    Over the columns of lab_results as extracted, values.VALUE_FIELDS, ordered_tests.TEST_FIELDS and
    plausibility.ASSESS_FIELDS, and ``standardise``'s __numeric__ (a number, censored or a range) and __doubt__.
    """
    kind, scale, numeric, doubt = pl.col("value_kind"), pl.col("scale"), pl.col("__numeric__"), pl.col("__doubt__")
    unsuitable = ((scale == "Qn") & one_of(kind, "coded", "ordinal")) | (one_of(scale, "Ord", "Nom") & numeric)
    # an organism the text names must be the one the test looks for
    stranger = (
        pl.col("value_target").is_not_null()
        & (pl.col("code_origin") != "as_reported")
        & pl.col("value_target").ne_missing(pl.col("target"))
    )
    # a number of nines only is an interface's "no value", positive; three of them only where they are impossible
    large = (kind == "number") & (pl.col("value_number") >= 999)
    seen = per_distinct({"text": pl.col("result_value")}, _nines, _NINES, large).struct
    nines = seen.field("nines") | (doubt == "implausible_value") & seen.field("short_nines")
    empty = pl.any_horizontal(*[pl.col(c).is_null() | _is_blank(c) for c in ("result_id", "test_code")])
    numeric_reason = pl.when(numeric & (pl.col("fit") != "assumed").fill_null(True)).then(pl.coalesce("fit", "__doubt__"))
    before: list[tuple[pl.Expr, str | None]] = [
        (pl.col("is_conflict"), "conflicting_duplicate"),
        (refused_message(), "refused_message"),
        (one_of(pl.col("date_source"), "ingestion", "no_time"), "no_usable_time"),
        (pl.col("date_source") == "outside", "outside_partitions"),
        (empty, "missing_key"),
        (pl.col("result_status").str.contains(r"^\s*[Xx]\s*$"), "cancelled"),
        *[(kind == name, reason) for name, reason in _KIND_REASONS.items()],
        (nines, "instrument_error"),
    ]
    after: list[tuple[pl.Expr, str | None]] = [
        (stranger, "ambiguous_code"),
        (kind == "ambiguous", "ambiguous_number"),
        ((kind == "unreadable") | unsuitable, "unreadable_value"),
        (one_of(doubt, "trap", "evidence"), "unit_contradicts_value"),
    ]
    return pl.coalesce(first_word(before), "code_problem", first_word(after), numeric_reason)


def _is_blank(column: str) -> pl.Expr:
    # nothing between these two begins with white space, and only the rest is looked at whole
    edge = (pl.col(column) < "!") | (pl.col(column) > "~")
    blank = pl.col("text").str.strip_chars() == ""
    return per_distinct({"text": pl.col(column)}, lambda d: d.select(blank=blank), _BLANK, edge).struct.field("blank")


def _nines(texts: pl.DataFrame) -> pl.DataFrame:
    """_NINES of each text."""
    text = pl.col("text")
    return texts.select(nines=text.str.contains(NINES), short_nines=text.str.contains(SHORT_NINES))


def refused_message() -> pl.Expr:
    """Rows that stand for a message which could not be read: they have no test, so no result is taken for one."""
    told = pl.col("result_value").str.starts_with(REFUSED_VALUE) & pl.col("result_id").str.starts_with(REFUSED_ID)
    return told.fill_null(False) & pl.col("test_code").is_null()
