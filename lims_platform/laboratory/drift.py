"""The drift report of a range of days: distributions of analytes, features and scores, and devices.

Here: what is compared with what, false-discovery control, levels and words. Not here: the statistics
(``distribution_shift``), devices (``device_drift``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.device_drift import NO_CONTROLS, device_drift
from lims_platform.laboratory.distribution_shift import MIN_BLOCKS, Windows, shifts
from lims_platform.laboratory.drift_limits import MAX_HISTORY_DAYS, DriftLimits
from lims_platform.laboratory.value_grid import grid_codes, grid_values

#: A week of results against eight weeks before; features need two weeks to have enough values.
RESULT_WINDOWS = Windows(current_days=7, blocks=8)
FEATURE_WINDOWS = Windows(current_days=14, blocks=8)
#: With more than this share of values at the limit they were re-censored at, nothing is left to compare.
MAX_AT_LIMIT = 0.8
#: Features that move by themselves as time passes, and identifiers.
UNTESTED_FEATURES = ("device_age_months", "last_failure_days", "as_of_date", "device_id", "device_type", "facility_id")
#: Scores whose distribution is watched, of device_risk_scores.
SCORES = ("failure_probability", "risk_score")

#: Binary digits results are compared with (see ``value_grid``); PSI's ten bins need less.
RESULT_BITS, FEATURE_BITS = 11, 6

_CELLS: dict[str, pl.DataType] = {
    "subject": pl.Int64(),
    "day": pl.Int64(),
    "value": pl.Float64(),
    "side": pl.Int64(),
    "rows": pl.Int64(),
}


#: Days before the first day asked for that ``drift_report`` looks at in any of its tables.
HISTORY_DAYS = MAX_HISTORY_DAYS


def drift_report(
    results: Frame,
    features: Frame,
    analytes: pl.DataFrame,
    days: Sequence[date],
    limits: DriftLimits | None = None,
    controls: Frame = NO_CONTROLS,
    scores: Frame | None = None,
) -> pl.DataFrame:
    """The contract DriftReport for every one of ``days``, each as if computed alone.

    results: lab_results_standardized (event_date, loinc_code, device_id, value_kind, value_number, comparator).
    features: device_failure_features (as_of_date, device_id and numeric columns; UNTESTED_FEATURES are left out).
    controls: quality_control_standardized. scores: device_risk_scores (as_of_date and SCORES). analytes: loinc_code,
    analyte, plausible_low, tea_percent, tea_absolute. All with the HISTORY_DAYS
    before the first of ``days``; later rows than a day do not enter it.

    An alarm on a distribution needs q < false_discovery_rate over all distributions of the day (Benjamini and Hochberg
    1995) and an effect above its floor: MEDIUM, or HIGH above the high one. Devices: ``device_verdict.verdicts``.
    """
    limits = limits or DriftLimits()
    wanted = sorted(set(days))
    parts = [
        _analyte_rows(results, analytes, wanted, limits),
        _feature_rows(features, wanted, limits, "feature"),
        device_drift(results, analytes, wanted, limits, controls),
    ]
    if scores is not None:
        known = [name for name in SCORES if name in scores.lazy().collect_schema()]
        parts.append(_feature_rows(scores.lazy().select("as_of_date", *known), wanted, limits, "prediction"))
    rows = pl.concat([part.select(parts[0].columns) for part in parts])
    out = _judged(rows, limits)
    dtypes = TABLES["drift_report"].dtypes
    return out.select([pl.col(n).cast(t) for n, t in dtypes.items()]).sort(
        "as_of_date", "kind", "subject", "loinc_code", "statistic"
    )


def benjamini_hochberg(p_values: NDArray[np.float64], day: NDArray[np.int64]) -> NDArray[np.float64]:
    """q values over the tests of each day (Benjamini and Hochberg 1995); NaN stays NaN and does not count as a test."""
    q = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    order = tested[np.lexsort((-p_values[tested], day[tested]))]
    if not len(order):
        return q
    of_day = day[order]
    start = np.r_[True, of_day[1:] != of_day[:-1]]
    group = np.cumsum(start) - 1
    size = np.bincount(group)
    rank = size[group] - (np.arange(len(order)) - np.flatnonzero(start)[group])
    scaled = np.minimum(p_values[order] * size[group] / rank, 1.0)
    q[order] = pl.DataFrame({"day": group, "q": scaled}).select(pl.col("q").cum_min().over("day"))["q"].to_numpy()
    return q


def _judged(rows: pl.DataFrame, limits: DriftLimits) -> pl.DataFrame:
    """Add q values; give distributions their level (devices have theirs)."""
    distribution = pl.col("kind") != "device"
    p = rows.select(pl.when(distribution).then("p_value").fill_null(float("nan"))).to_series().fill_null(float("nan"))
    day = rows["as_of_date"].to_physical().cast(pl.Int64).to_numpy()
    q = pl.Series("q_value", benjamini_hochberg(p.to_numpy(), day)).fill_nan(None)
    floor, high = (
        pl.col("statistic").replace_strict(
            {n: getattr(limits, f"{n}_{edge}") for n in ("ks", "wasserstein", "psi")}, default=None, return_dtype=pl.Float64
        )
        for edge in ("floor", "high")
    )
    sure = pl.col("q_value") < limits.false_discovery_rate
    level = (
        pl.when(~distribution)
        .then("alert_level")
        .when(sure & (pl.col("effect") >= high))
        .then(pl.lit("HIGH"))
        .when(sure & (pl.col("effect") >= floor))
        .then(pl.lit("MEDIUM"))
        .otherwise(pl.lit("LOW"))
    )
    return rows.with_columns(q).with_columns(alert_level=level)


def _first_day(wanted: list[date], windows: Windows) -> date:
    return wanted[0] - timedelta(days=windows.days - 1)


def _ends(wanted: list[date], windows: Windows) -> NDArray[np.int64]:
    first = _first_day(wanted, windows)
    return np.array([(day - first).days for day in wanted], dtype=np.int64)


def _analyte_rows(results: Frame, analytes: pl.DataFrame, wanted: list[date], limits: DriftLimits) -> pl.DataFrame:
    """KS and Wasserstein of every analyte with numbers or censored values in the span of a day."""
    first = _first_day(wanted, RESULT_WINDOWS)
    side = (
        pl.when(pl.col("value_kind") == "number")
        .then(0)
        .when(pl.col("comparator").is_in(["<", "<="]))
        .then(-1)
        .when(pl.col("comparator").is_in([">", ">="]))
        .then(1)
    )
    usable = (
        results.lazy()
        .filter(
            pl.col("loinc_code").is_not_null(),
            pl.col("value_kind").is_in(["number", "censored"]),
            pl.col("value_number").is_finite(),
            pl.col("event_date").is_between(first, wanted[-1]),
        )
        .select("loinc_code", "value_number", day=(pl.col("event_date") - first).dt.total_days(), side=side)
        .collect()
    )
    names = usable.select(subject="loinc_code").unique().sort("subject")
    cells = _cells(usable.rename({"loinc_code": "subject", "value_number": "value"}), names, RESULT_BITS)
    found = _found(cells, names, wanted, RESULT_WINDOWS, ("ks", "wasserstein"))
    readable = analytes.unique("loinc_code").select(subject="loinc_code", name="analyte")
    rows = found.join(readable, on="subject", how="left").with_columns(loinc_code=pl.col("subject"))
    return _rows(rows, "analyte", ("ks", "wasserstein"), limits.min_values)


def _feature_rows(features: Frame, wanted: list[date], limits: DriftLimits, kind: str) -> pl.DataFrame:
    """PSI of every numeric column."""
    first = _first_day(wanted, FEATURE_WINDOWS)
    frame = features.lazy().filter(pl.col("as_of_date").is_between(first, wanted[-1])).collect()
    tested = [n for n, t in frame.schema.items() if (t.is_numeric() or t == pl.Boolean) and n not in UNTESTED_FEATURES]
    long = (
        frame.select((pl.col("as_of_date") - first).dt.total_days().alias("day"), pl.col(tested).cast(pl.Float64))
        .unpivot(index="day", variable_name="subject", value_name="value")
        .filter(pl.col("value").is_finite())
        .with_columns(side=0)
    )
    # a column without a single value is reported too
    names = pl.DataFrame({"subject": sorted(tested)}, schema={"subject": pl.String})
    found = _found(_cells(long, names, FEATURE_BITS), names, wanted, FEATURE_WINDOWS, ("psi",))
    rows = found.with_columns(name=pl.col("subject"), loinc_code=pl.lit(None, dtype=pl.String))
    return _rows(rows, kind, ("psi",), limits.min_psi_values)


def _cells(values: pl.DataFrame, names: pl.DataFrame, bits: int) -> pl.DataFrame:
    """Rows per subject (numbered as in ``names``), day, grid value and side."""
    coded = values.with_columns(pl.Series("code", grid_codes(values["value"].to_numpy(), bits)))
    counted = coded.group_by("subject", "day", "code", "side").agg(rows=pl.len())
    counted = counted.with_columns(pl.Series("value", grid_values(counted["code"].to_numpy(), bits)))
    number = names.with_row_index("number")
    placed = counted.join(number, on="subject", how="inner").drop_nulls("side")
    return placed.select(pl.col("number").alias("subject"), "day", "value", "side", "rows").select(
        [pl.col(n).cast(t) for n, t in _CELLS.items()]
    )


def _found(
    cells: pl.DataFrame, names: pl.DataFrame, wanted: list[date], windows: Windows, statistics: tuple[str, ...]
) -> pl.DataFrame:
    """The statistics as a frame: one row per day and subject that has a row in the span of the day."""
    if names.is_empty() or not wanted:
        return pl.DataFrame(schema={"subject": pl.String, "as_of_date": pl.Date})
    ends = _ends(wanted, windows)
    arrays = shifts(cells, names.height, ends, windows, statistics)
    frame = pl.DataFrame({name: array.ravel() for name, array in arrays.items()}).with_columns(
        subject=pl.Series(np.tile(np.arange(names.height), len(wanted))).replace_strict(
            names.with_row_index()["index"], names["subject"], return_dtype=pl.String
        ),
        as_of_date=pl.Series(np.repeat(np.array(wanted, dtype="datetime64[D]"), names.height)).cast(pl.Date),
    )
    return frame


def _rows(found: pl.DataFrame, kind: str, statistics: tuple[str, ...], least: int) -> pl.DataFrame:
    """Rows of the contract DriftReport without q_value, one per statistic; levels come later."""
    dtypes = {n: t for n, t in TABLES["drift_report"].dtypes.items() if n != "q_value"}
    if found.is_empty():
        return pl.DataFrame(schema=dtypes)
    if kind == "analyte":
        found = found.filter(pl.col("reference_rows") + pl.col("current_rows") + pl.col("censored") > 0)
    current, reference = (pl.col(n).cast(pl.Int64) for n in ("current_rows", "reference_rows"))
    at_limit = (pl.col("at_limit") * 100).round(0).cast(pl.Int64)
    why_not = (
        pl.when(pl.min_horizontal("reference_rows", "current_rows") < least)
        .then(pl.format(f"not evaluable: {{}} reference and {{}} current values, {least} needed", reference, current))
        .when(pl.col("at_limit") > MAX_AT_LIMIT)
        .then(pl.format("not evaluable: {} % of the values are censored or at a censoring limit", at_limit))
        .when(pl.col("reference_sd") == 0)
        .then(pl.lit("not evaluable: all reference values are equal"))
        .when(pl.col("blocks") < MIN_BLOCKS)
        .then(pl.lit(f"not evaluable: fewer than {MIN_BLOCKS} past periods to take the noise from"))
    )
    limits = [
        pl.when(pl.col(name).is_finite()).then(pl.format(f" {sign} {{}}", pl.col(name).round_sig_figs(4)))
        for sign, name in (("<", "limit_low"), (">", "limit_high"))
    ]
    recensored = pl.concat_str(pl.lit("; re-censored at"), *[limit.fill_null("") for limit in limits])
    note = (
        pl.when(pl.col("recensored") > 0)
        .then(recensored)
        .when(pl.col("censored") > 0)
        .then(pl.format("; {} censored values left out", pl.col("censored").cast(pl.Int64)))
        .otherwise(pl.lit(""))
    )
    out = []
    for statistic in statistics:
        shown = pl.when(why_not.is_null())
        out.append(
            found.with_columns(
                kind=pl.lit(kind),
                statistic=pl.lit(statistic),
                value=shown.then(statistic),
                effect=shown.then(statistic),
                p_value=shown.then(f"{statistic}_p"),
                alert_level=pl.lit("LOW"),
                outcome=pl.coalesce(why_not, pl.concat_str(pl.lit("evaluated"), note)),
            )
        )
    rows = pl.concat(out)
    absent = [pl.lit(None).alias(n) for n in dtypes if n not in rows.columns]
    floats = [pl.col(n).fill_nan(None) for n, t in dtypes.items() if t == pl.Float64 and n in rows.columns]
    return rows.with_columns(*absent, *floats).select([pl.col(n).cast(t) for n, t in dtypes.items()])
