"""Standardisation: one raw laboratory result in, one standardised result out, or the reason why not.

Here: the plan that joins values, codes, units, plausibility and limits; no row is ever added or dropped. Not here:
the pieces (``values``, ``ordered_tests``, ``plausibility``, ``limits``), or which version of a row is current (the
caller).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.laboratory.distinct import first_word, one_of, per_distinct, translated
from lims_platform.laboratory.limits import LIMIT_FIELDS, beyond, limits_for
from lims_platform.laboratory.number_text import LOCALES
from lims_platform.laboratory.ordered_tests import TEST_FIELDS, TestResolver, validity_epoch
from lims_platform.laboratory.plausibility import ASSESS_FIELDS, READING_FIELDS, Plausibility
from lims_platform.laboratory.reasons import REASONS, first_reason
from lims_platform.laboratory.standardise_qc import standardise_qc
from lims_platform.laboratory.unit_evidence import unit_evidence, with_evidence
from lims_platform.laboratory.values import parse_values

__all__ = ["ADDED", "RENAMED", "standardise_lab_results", "standardise_qc", "unit_evidence"]

RENAMED = {
    "result_value": "result_text", "result_unit": "result_unit_text", "collected_timestamp": "collected_at",
    "received_timestamp": "received_at", "resulted_timestamp": "resulted_at", "verified_timestamp": "verified_at",
}  # fmt: skip
ADDED = (
    "source_loinc", "loinc_code", "analyte", "value_kind", "value_number", "value_upper", "comparator", "value_code", "unit",
    "unit_origin", "is_critical", "turnaround_time_hours", "pre_analytical_hours", "in_lab_hours", "time_flag", "reason",
    "detail", "proposal", "confidence", "reference_digest",
)  # fmt: skip
_OPTIONAL = {"date_source": pl.String(), "time_flag": pl.String(), "is_conflict": pl.Boolean(), "device_model": pl.String()}


def standardise_lab_results(
    rows: pl.LazyFrame, reference: Reference, locales: Mapping[str, str], evidence: pl.DataFrame | None = None
) -> pl.LazyFrame:
    """Every row of ``rows`` with its standardised columns; lazy, streams, one row for one row in the same order.

    ``rows`` has LAB_RESULTS.stored_schema (optional columns may be absent), source and event_date, and, where known,
    date_source, time_flag, is_conflict and device_model; every other column passes through. ``locales`` gives each
    source's number locale (number_text.LOCALES). ``evidence`` is unit_evidence of the same rows: with it an absent unit is
    taken from what the day's results of the same code and device say (unit_origin inferred, with its confidence), and
    a stated unit that all of them contradict sends them to quarantine; without it each row stands alone.

    The result has the columns of ``rows`` (RENAMED ones under their new names) and ADDED. value_number is in
    ``unit``, the analyte's standard unit; for a row with a reason it is the reading under the stated unit if there is
    one, else the number as written. reason is null for a usable row, else a key of REASONS; detail, proposal and
    confidence (of the proposal, or of an assumed unit) go with it. is_critical is tested for every row with a number
    and an analyte, usable or not.

    Raises ValueError naming the column (missing or of the wrong type), or the source without a locale when it is met.
    """
    present = rows.collect_schema()
    _check_columns(dict(present))
    unknown = {s: rule for s, rule in locales.items() if rule not in LOCALES}
    if unknown:
        raise ValueError(
            f"number locale of source {next(iter(unknown))}: {next(iter(unknown.values()))!r} is none of {LOCALES}"
        )
    wanted = {**LAB_RESULTS.stored_schema, **_OPTIONAL}
    frame = rows.with_columns([pl.lit(None, dtype).alias(name) for name, dtype in wanted.items() if name not in present])
    frame = with_evidence(frame, evidence).rename({"loinc_code": "__reported__"})
    frame = _with_meaning(frame, reference, locales)
    frame = _with_numbers(frame)
    frame = _with_judgement(frame, reference)
    frame = _with_times(frame).with_columns(**_answer(reference))
    keep = [RENAMED.get(name, name) for name in [*present.names(), *[n for n in wanted if n not in present]]]
    keep = [n for n in keep if n not in ("device_model", "is_conflict") or n in present]
    return frame.rename(RENAMED).select(*dict.fromkeys([*keep, *ADDED]))


def _check_columns(present: Mapping[str, pl.DataType]) -> None:
    needed = {f"{c.identifies}_hash" if c.identifies else c.name: c.dtype for c in LAB_RESULTS.columns if c.required}
    needed |= {"source": pl.String(), "event_date": pl.Date()}
    for name, dtype in needed.items():
        if name not in present:
            raise ValueError(f"lab_results: column {name} is missing")
        if present[name] != dtype:
            raise ValueError(f"lab_results: column {name} is {present[name]}, not {dtype}")


def _with_meaning(frame: pl.LazyFrame, reference: Reference, locales: Mapping[str, str]) -> pl.LazyFrame:
    """What the text says, and what the test is: the fields of values.VALUE_FIELDS and ordered_tests.TEST_FIELDS."""
    # a source without a locale must not be guessed: the grammar refuses this word and the message names the source
    lost = pl.format("(none given for source {})", pl.col("source").fill_null("null"))
    rule = pl.col("source").replace_strict(dict(locales), default=lost, return_dtype=pl.String).alias("locale")
    locale = per_distinct({"source": pl.col("source")}, lambda d: d.select(rule), {"locale": pl.String()})
    value = parse_values(pl.col("result_value"), locale.struct.field("locale"), reference)
    frame = frame.with_columns(value.alias("__value__")).unnest("__value__")
    resolver = TestResolver(reference)
    inferred = pl.col("evidence_missing") & pl.col("value_unit").is_null()
    frame = frame.with_columns(__inferred__=inferred.fill_null(False))
    keys = {name: pl.col(name) for name in ("source", "test_code", "specimen_type", "device_model", "value_unit")}
    keys |= {"result_unit": pl.when("__inferred__").then("evidence_unit").otherwise("result_unit")}
    keys |= {"loinc_code": pl.col("__reported__"), "day": validity_epoch(pl.col("event_date"), reference)}
    frame = frame.with_columns(per_distinct(keys, resolver.resolve, TEST_FIELDS).alias("__test__")).unnest("__test__")
    # "+2" is the number 2 of a base excess and the rank 2+ of a test strip: the test decides, where it is known
    plus = (pl.col("value_kind") == "number") & pl.col("value_code").is_not_null()
    strip = one_of(pl.col("scale"), "Ord", "OrdQn")
    ranked = plus & strip & pl.col("unit_source").ne_missing("text")
    either = plus & (pl.col("scale").is_null() | (strip & ~ranked))
    kind = pl.when(ranked).then(pl.lit("ordinal")).when(either).then(pl.lit("ambiguous")).otherwise("value_kind")
    return frame.with_columns(
        value_kind=kind,
        value_number=pl.when(~(ranked | either)).then("value_number"),
        value_code=pl.when(~plus | ranked).then("value_code"),
        __numeric__=one_of(kind, "number", "censored", "range"),
    )


def _with_numbers(frame: pl.LazyFrame) -> pl.LazyFrame:
    """The number and upper end in the standard unit, where there is a way to it, and the first thing to doubt about
    them.
    """
    counted = pl.col("__numeric__")

    def standard(column: str) -> pl.Expr:
        plain = (pl.col("factor") == 1.0) & (pl.col("offset") == 0.0)
        # 12 digits: the reader wrote 5.3 mmol/L, not the last bits of a product
        product = (pl.when(~plain).then(column) * pl.col("factor") + pl.col("offset")).round_sig_figs(12)
        return pl.when(counted).then(pl.when(plain).then(column).otherwise(product))

    x, upper = pl.col("__x__"), pl.coalesce("__upper__", "__x__")
    sign = pl.col("comparator").str.slice(0, 1)
    # a limit of detection may lie below any patient's value, an upper reporting limit above none
    outside = (
        pl.when(sign == "<").then((x > pl.col("high")) | (x < 0) & (pl.col("low") >= 0))
        .when(pl.col("value_kind") == "range")
        .then((upper < pl.col("low")) | (upper > pl.col("high")) | (x < pl.col("low")) & (x != 0))
        .otherwise((x < pl.col("low")) | (x > pl.col("high")))
    )  # fmt: skip
    in_trap = (
        pl.col("trap_note").is_not_null()
        & (x >= pl.col("trap_low").fill_null(-1e308))
        & (x <= pl.col("trap_high").fill_null(1e308))
    )
    doubt = (
        pl.when(counted & pl.col("unit_problem").is_not_null()).then("unit_problem")
        .when(outside.fill_null(False)).then(pl.lit("implausible_value"))
        .when(in_trap.fill_null(False)).then(pl.lit("trap"))
        .when(counted & ~pl.col("evidence_missing")).then(pl.lit("evidence"))
    )  # fmt: skip
    return frame.with_columns(__x__=standard("value_number"), __upper__=standard("value_upper")).with_columns(
        __doubt__=doubt
    )


def _with_judgement(frame: pl.LazyFrame, reference: Reference) -> pl.LazyFrame:
    """Judges the doubtful numbers and the two readings of ambiguous ones, and finds the critical limits."""
    judge = Plausibility(reference)
    doubtful = ~one_of(pl.col("__doubt__"), "trap", "evidence") & pl.col("std_name").is_not_null()
    asked = {"std_loinc": "std_loinc", "unit": "ucum", "doubt": "__doubt__", "number": "value_number"}
    keys = {name: pl.col(column) for name, column in asked.items()}
    double = (pl.col("value_kind") == "ambiguous") & pl.col("reading_b").is_not_null()
    read = {name: pl.col(name) for name in ("std_loinc", "factor", "offset", "reading_a", "reading_b")}
    place = {name: pl.col(name) for name in ("std_loinc", "age_band", "location_class")}
    frame = frame.with_columns(
        per_distinct(keys, judge.assess, ASSESS_FIELDS, doubtful).alias("__fit__"),
        per_distinct(read, judge.choose_reading, READING_FIELDS, double).alias("__reading__"),
        per_distinct(place, lambda d: limits_for(d, reference), LIMIT_FIELDS).alias("__limits__"),
    )
    return frame.unnest("__fit__", "__reading__", "__limits__").with_columns(__reason__=first_reason())


def _with_times(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Turnaround times in hours, and time_flag extended by what is wrong with them."""

    def hours(end: pl.Expr, start: str) -> pl.Expr:
        return (end - pl.col(start)).dt.total_microseconds() * (1 / 3.6e9)  # not a quotient: see asof on columns of one row

    done = pl.coalesce("verified_timestamp", "resulted_timestamp")
    frame = frame.with_columns(
        turnaround_time_hours=hours(pl.col("resulted_timestamp"), "collected_timestamp"),
        pre_analytical_hours=hours(pl.col("received_timestamp"), "collected_timestamp"),
        in_lab_hours=hours(done, "received_timestamp"),
    )
    flags = {
        "missing_collected": pl.col("collected_timestamp").is_null(),
        "missing_resulted": pl.col("resulted_timestamp").is_null(),
        "negative_turnaround": pl.col("turnaround_time_hours") < 0,
        "negative_pre_analytical": pl.col("pre_analytical_hours") < 0,
        "negative_in_lab": pl.col("in_lab_hours") < 0,
    }
    parts = [pl.col("time_flag"), *[pl.when(condition).then(pl.lit(flag)) for flag, condition in flags.items()]]
    joined = pl.concat_str(parts, separator=";", ignore_nulls=True)
    return frame.with_columns(time_flag=pl.when(joined != "").then(joined))


def _answer(reference: Reference) -> dict[str, pl.Expr]:
    """The ADDED columns that are not times."""
    kind, reason = pl.col("value_kind"), pl.col("__reason__")
    numeric, reported = pl.col("__numeric__"), pl.col("code_origin") == "as_reported"
    standard = numeric & pl.col("__x__").is_not_null()
    assumed, inferred, told = pl.col("fit") == "assumed", pl.col("__inferred__"), pl.col("__doubt__") == "evidence"
    number = pl.when(standard).then("__x__").otherwise("value_number")
    same = (pl.col("factor") == 1.0) & (pl.col("offset") == 0.0)
    low, high = pl.col("critical_low"), pl.col("critical_high")
    trap = pl.col("__doubt__") == "trap"
    named = pl.when(reason == "ambiguous_code").then(
        pl.coalesce("code_detail", pl.format("the text names {}, the test is {}", "value_target", "std_name"))
    )
    return {
        "loinc_code": pl.col("std_loinc"),
        "analyte": pl.when(reported).then("test_name").otherwise("std_name"),
        "value_number": number,
        "value_upper": pl.when(standard).then("__upper__").otherwise("value_upper"),
        "unit": pl.when(kind == "titre").then(pl.lit("{titer}"))
        .when(standard | (numeric & assumed)).then("std_unit").when(numeric).then("ucum"),
        "unit_origin": first_word(
            [
                (~numeric | one_of(reason, "unmapped_code", "ambiguous_code"), "none"),
                (reported & pl.col("ucum").is_null(), "none"),
                (reported, "reported"),
                (inferred & standard, "inferred"),
                (assumed | (pl.col("unit_source") == "code"), "assumed"),
                (pl.col("unit_source") == "none", "none"),
                (pl.col("std_spelling") & same, "reported"),
                (standard & same, "alias"),
                (standard, "converted"),
            ],
            "none",
        ),
        "is_critical": beyond(
            pl.when(numeric).then(number).otherwise("reading_low"),
            pl.when(numeric).then(pl.coalesce("__upper__", "value_upper")).otherwise("reading_high"),
            pl.col("comparator"), low, high,
        ),
        "reason": reason,
        "detail": pl.when(reason.is_not_null()).then(
            pl.coalesce(
                named,
                pl.when(reason == "refused_message").then(pl.col("result_value").str.strip_chars("[]")),
                pl.when(reason == "unmapped_code").then("code_detail"),
                pl.when(reason == "ambiguous_number").then("value_note"),
                pl.when(trap & (reason == "unit_contradicts_value")).then("trap_note"),
                pl.when(told & (reason == "unit_contradicts_value")).then(
                    pl.format("the day's {} results of this code and device are not in {}", "evidence_rows", "ucum")
                ),
                pl.when(reason == pl.col("unit_problem")).then("unit_detail"),
                pl.when(reason == pl.col("fit")).then("fit_detail"),
                translated(reason, REASONS),
            )
        ),
        "proposal": pl.when(one_of(reason, "unmapped_code", "ambiguous_code")).then("code_proposal")
        .when((reason == "ambiguous_number") & pl.col("value_note").is_not_null())
        .then(pl.format("read as the range {}-{}", *[pl.col(f"reading_{end}").cast(pl.Int64) for end in "ab"]))
        .when(reason == "ambiguous_number").then("reading_proposal")
        .when(told & (reason == "unit_contradicts_value")).then(pl.format("read as {}", "evidence_unit"))
        .when(reason.is_not_null() & numeric & (reason != "unreadable_value"))
        .then(pl.coalesce("unit_proposal", "fit_proposal")),
        "confidence": pl.when((reason == "ambiguous_number") & pl.col("value_note").is_null())
        .then("reading_confidence")
        .when(numeric & ((inferred & reason.is_null()) | (told & (reason == "unit_contradicts_value"))))
        .then("evidence_confidence")
        .when(numeric & (assumed | (reason == pl.col("fit"))) & pl.col("unit_proposal").is_null()).then("fit_confidence"),
        "reference_digest": pl.lit(reference.digest),
    }  # fmt: skip
