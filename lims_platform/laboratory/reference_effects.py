"""Which results come out otherwise under another state of the reference tables.

Told by asking, not by knowing what each table is for: the functions that standardise are asked about every distinct key of
the results, under both states. A result whose text and test mean the same under both, and whose analyte has the same
plausible range, units and critical limits, is standardised alike; every other day is named. So a day may be named in vain (a
critical limit moved and no result lies between), and none is missed.

Here: keys in, days out. Not here: where the results and the states lie (``lakehouse``), what is done about the days
(``automation.reference_changes``).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.distinct import per_distinct
from lims_platform.laboratory.ordered_tests import TEST_FIELDS, TEST_KEYS, TestResolver, validity_epoch
from lims_platform.laboratory.plausibility import candidates, facts
from lims_platform.laboratory.values import VALUE_FIELDS, means_its_digits, parse_values

#: Columns of raw results that decide what a test is; ``value_unit`` and ``day`` follow from the text and the event date.
_ORDERED = tuple(name for name in TEST_KEYS if name not in ("value_unit", "day"))


def keys_of(rows: pl.LazyFrame, locales: Mapping[str, str]) -> pl.DataFrame:
    """What the results of each day are read by, once: event_date, locale, the test's columns, and the text.

    ``rows``: raw lab results (columns that are absent count as null). The text is null for plain numbers, which every state
    reads alike: that keeps millions of results to some hundred keys a day.
    """
    present = rows.collect_schema().names()
    ordered = [pl.col(n) if n in present else pl.lit(None, pl.String).alias(n) for n in _ORDERED]
    # a source that is configured no more: how its numbers are written makes no difference between two states
    locale = pl.col("source").replace_strict(dict(locales), default="point", return_dtype=pl.String)
    text = pl.when(~means_its_digits(pl.col("result_value"), locale)).then("result_value")
    return rows.select("event_date", *ordered, locale=locale, text=text).unique().collect(engine="streaming")


def days_read_otherwise(keys: pl.DataFrame, old: Reference, new: Reference) -> set[date]:
    """Days of ``keys`` (see ``keys_of``) on which some result may come out otherwise under ``new`` than under ``old``.

    Raises ValueError where a state contradicts itself (a spelling or a word with two meanings).
    """
    if keys.is_empty():
        return set()
    keys = keys.with_columns(__row__=pl.int_range(pl.len()))
    read = [_with_values(keys, state) for state in (old, new)]
    found = _differing(*[frame.select("__row__", *VALUE_FIELDS) for frame in read])
    before, after = (_with_test(frame, state) for frame, state in zip(read, (old, new), strict=True))
    found |= _differing(*[frame.select("__row__", *TEST_FIELDS) for frame in (before, after)])
    # an absent unit may be inferred from the day's other results: each unit the analyte is reported in is a reading too
    asked = [_with_inferred(frame, state) for frame, state in ((before, old), (after, new))]
    units = pl.concat(asked).unique()
    inferred = [_with_test(frame.drop("result_unit").join(units, on="__row__"), state)
                for frame, state in zip(read, (old, new), strict=True)]  # fmt: skip
    found |= _differing(*[frame.select("__row__", "result_unit", *TEST_FIELDS) for frame in inferred])
    codes = _analytes_that_differ(old, new)
    found |= set(after.filter(pl.col("std_loinc").is_in(codes))["__row__"])
    return set(keys.filter(pl.col("__row__").is_in(list(found)))["event_date"])


def _with_values(keys: pl.DataFrame, state: Reference) -> pl.DataFrame:
    """The keys with what their texts mean."""
    return keys.with_columns(parse_values(pl.col("text"), pl.col("locale"), state).alias("__value__")).unnest("__value__")


def _with_test(keys: pl.DataFrame, state: Reference) -> pl.DataFrame:
    """The keys with the test they order."""
    asked = {name: pl.col(name) for name in TEST_KEYS if name != "day"} | {
        "day": validity_epoch(pl.col("event_date"), state)
    }
    test = per_distinct(asked, TestResolver(state).resolve, TEST_FIELDS)
    return keys.select("__row__", *_ORDERED, test.alias("__test__")).unnest("__test__")


def _with_inferred(tests: pl.DataFrame, state: Reference) -> pl.DataFrame:
    """__row__ and result_unit: for keys without a unit, the units their analyte is reported in."""
    unwritten = tests.filter(pl.col("result_unit").str.strip_chars().fill_null("") == "")
    options = candidates(state).select(std_loinc="loinc_code", unit="option_unit")
    return unwritten.join(options, on="std_loinc").select("__row__", result_unit="unit")


def _analytes_that_differ(old: Reference, new: Reference) -> list[str]:
    """LOINC codes whose plausible range, expected distribution, units or critical limits are not the same."""
    codes: set[str] = set()
    for table in (facts, candidates, lambda state: state.critical_limits):
        codes |= set(_in_one_only(table(old), table(new))["loinc_code"])
    return sorted(codes)


def _differing(old: pl.DataFrame, new: pl.DataFrame) -> set[int]:
    """__row__ of the rows that are not the same in both frames."""
    return set(_in_one_only(old, new)["__row__"])


def _in_one_only(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    both = pl.concat([old.unique(), new.unique()])
    return both.filter(both.is_unique())
