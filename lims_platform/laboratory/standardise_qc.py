"""Control measurements: the analyte they belong to, their z score and bias.

Here: what one control says. Not here: rules over several controls (Westgard), or results of patients
(``standardise``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.distinct import per_distinct
from lims_platform.laboratory.ordered_tests import TEST_FIELDS, TestResolver, validity_epoch

_OPTIONAL = {
    "date_source": pl.String(), "is_conflict": pl.Boolean(), "expected_sd": pl.Float64(), "event_date": pl.Date(),
    "loinc_code": pl.String(),
    "specimen_type": pl.String(), "device_model": pl.String(), "result_unit": pl.String(),
}  # fmt: skip
_REQUIRED = ("source", "qc_id", "test_code", "expected_value", "measured_value")
#: -999 and its like in a numeric column.
_SENTINELS = [-v for v in (99.0, 999.0, 9999.0, 99999.0, 99.9, 999.9, 999.99, 888.0, 8888.0, 777.0, 7777.0)]


def standardise_qc(rows: pl.LazyFrame, reference: Reference) -> pl.LazyFrame:
    """The rows with source_loinc, loinc_code, analyte, z, bias_percent, reason and reference_digest added; one row
    for one row.

    z = (measured - expected) / expected_sd where the SD is given and positive; bias_percent = 100 × (measured -
    expected) / |expected| where expected is not zero. reason is null for a usable control, else
    conflicting_duplicate, no_usable_time, outside_partitions, missing_key, missing_value (measured), instrument_error
    (an error code as measured value) or missing_target (expected). A control of an unmapped test is usable: its
    loinc_code is null. An ambiguous code stays null too, since a control has neither specimen nor unit. Raises
    ValueError naming a missing column.
    """
    present = rows.collect_schema()
    for name in _REQUIRED:
        if name not in present:
            raise ValueError(f"quality_control: column {name} is missing")
    frame = rows.with_columns([pl.lit(None, dtype).alias(n) for n, dtype in _OPTIONAL.items() if n not in present])
    resolver = TestResolver(reference)
    keys = {n: pl.col(n) for n in ("source", "test_code", "specimen_type", "device_model", "result_unit", "loinc_code")}
    keys |= {"value_unit": pl.lit(None, pl.String), "day": validity_epoch(pl.col("event_date"), reference)}
    wanted = {n: TEST_FIELDS[n] for n in ("source_loinc", "std_loinc", "std_name")}
    frame = frame.drop("source_loinc", strict=False).with_columns(
        per_distinct(keys, resolver.resolve, wanted).alias("__test__")
    )
    frame = frame.unnest("__test__")
    measured, expected = pl.col("measured_value"), pl.col("expected_value")
    is_number, has_target = measured.is_finite().fill_null(False), expected.is_finite().fill_null(False)
    empty = pl.any_horizontal(*[pl.col(c).is_null() | (pl.col(c).str.strip_chars() == "") for c in ("qc_id", "test_code")])
    reason = (
        pl.when(pl.col("is_conflict")).then(pl.lit("conflicting_duplicate"))
        .when(pl.col("date_source").is_in(["ingestion", "no_time"])).then(pl.lit("no_usable_time"))
        .when(pl.col("date_source") == "outside").then(pl.lit("outside_partitions"))
        .when(empty).then(pl.lit("missing_key"))
        .when(~is_number).then(pl.lit("missing_value"))
        .when(measured.is_in(_SENTINELS)).then(pl.lit("instrument_error"))
        .when(~has_target).then(pl.lit("missing_target"))
    )  # fmt: skip
    frame = frame.with_columns(reason=reason)
    usable = pl.col("reason").is_null()
    added = {
        "loinc_code": pl.col("std_loinc"),
        "analyte": pl.col("std_name"),
        "z": pl.when(usable & (pl.col("expected_sd") > 0)).then((measured - expected) / pl.col("expected_sd")),
        "bias_percent": pl.when(usable & (expected != 0)).then(100 * (measured - expected) / expected.abs()),
        "reference_digest": pl.lit(reference.digest),
    }
    names = [n for n in present.names() if n not in (*added, "source_loinc", "reason")]
    return frame.with_columns(**added).select(*names, "source_loinc", *added, "reason")
