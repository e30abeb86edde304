"""Findings about batch samples in words: one row per sample and finding, joined to one line per sample.

Here: wording and gravity (1 WARNING, 2 CRITICAL). Not here: whether something is a finding (``sample_watch``).
Every function answers a frame of the columns of ``NONE``: _row (place in the batch), _rank (order in which reasons are
told), _gravity, text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from lims_platform.laboratory.sample_limits import Limit
from lims_platform.laboratory.sample_statistics import Centre, Floats, Ints, Runs, places

NONE = pl.DataFrame(schema={"_row": pl.Int64, "_rank": pl.Int8, "_gravity": pl.Int8, "text": pl.String})
_WARNING, _CRITICAL = 1, 2
#: A run whose slope is that many standard errors from none is told as growing.
_GROWS = 3.0


def _finding(rows: pl.DataFrame, rank: int, gravity: int, text: pl.Expr) -> pl.DataFrame:
    if rows.is_empty():
        return NONE
    return rows.select(
        pl.col("_row").cast(pl.Int64),
        pl.lit(rank, pl.Int8).alias("_rank"),
        pl.lit(gravity, pl.Int8).alias("_gravity"),
        text.alias("text"),
    )


def _number(value: pl.Expr) -> pl.Expr:
    """Three decimals at most, as people write numbers."""
    return value.round(3).cast(pl.String).str.strip_suffix(".0")


def _unit(limit: Limit) -> str:
    return f" {limit.unit}" if limit.unit else ""


def _named(limit: Limit) -> str:
    """The column first, because people search for it, then what it is called."""
    return f"{limit.measurement} ({limit.label})"


def faults(frame: pl.DataFrame, known: Mapping[str, Limit]) -> pl.DataFrame:
    """Sensor faults: what was there instead of a measurement."""
    parts = []
    for name, limit in known.items():
        raw = pl.col(f"_raw_{name}")
        code = pl.any_horizontal(*(raw == c for c in limit.fault_codes)) if limit.fault_codes else pl.lit(False)
        said = (
            pl.when(pl.col(f"_text_{name}"))
            .then(pl.lit("the sensor's text is no number"))
            .when(raw.is_null())
            .then(pl.lit("the measurement was taken out when it was standardised"))
            .when(~raw.is_finite())
            .then(pl.lit("the sensor's number is not finite"))
            .when(code)
            .then(pl.format("fault code {}", _number(raw)))
            .when(raw < limit.physical_low)
            .then(
                pl.format(f"{{}}{_unit(limit)} is below what is physically possible ({limit.physical_low:g})", _number(raw))
            )
            .otherwise(
                pl.format(f"{{}}{_unit(limit)} is above what is physically possible ({limit.physical_high:g})", _number(raw))
            )
        )
        text = pl.format(f"{_named(limit)} sensor fault: {{}}", said)
        needed = frame.select("_row", f"_raw_{name}", f"_text_{name}", f"_fault_{name}")
        parts.append(_finding(needed.filter(pl.col(f"_fault_{name}")), 0, _CRITICAL, text))
    return pl.concat(parts)


def critical(frame: pl.DataFrame, known: Mapping[str, Limit]) -> pl.DataFrame:
    """Values beyond a critical limit."""
    parts = []
    for name, limit in known.items():
        value = pl.col(name)
        for bound, beyond, word in ((limit.critical_low, pl.Expr.lt, "below"), (limit.critical_high, pl.Expr.gt, "above")):
            if bound is not None:
                words = f"{_named(limit)} {{}}{_unit(limit)} is {word} its critical limit {bound:g}"
                rows = frame.select("_row", name).filter(beyond(value, bound))
                parts.append(_finding(rows, 1, _CRITICAL, pl.format(words, _number(value))))
    return pl.concat(parts) if parts else NONE


def unusual(frame: pl.DataFrame, limit: Limit, centre: Centre, z: Floats, rows: Ints) -> pl.DataFrame:
    """Single values too far from the batch's centre."""
    middle = _back(limit, centre.centre)
    chosen = frame.select("_row", limit.measurement)[rows].with_columns(pl.Series("_z", z[rows]))
    words = f"{_named(limit)} {{}}{_unit(limit)} is {{}} SD {{}} the batch's centre {middle:.3g}, {{}}"
    inside = pl.col(limit.measurement).is_between(limit.expected_low, limit.expected_high)
    text = pl.format(
        words,
        _number(pl.col(limit.measurement)),
        pl.col("_z").abs().round(1),
        pl.when(pl.col("_z") > 0).then(pl.lit("above")).otherwise(pl.lit("below")),
        pl.when(inside).then(pl.lit("though inside its expected range")).otherwise(pl.lit("outside its expected range")),
    )
    return _finding(chosen, 2, _WARNING, text)


def shifts(frame: pl.DataFrame, limit: Limit, centre: Centre, order: Ints, runs: Runs) -> pl.DataFrame:
    """Runs on one side of the batch's centre; ``order``: row of each place the runs speak of."""
    if not runs.first.size:
        return NONE
    length = runs.stop - runs.first
    run = np.repeat(np.arange(length.size), length)
    rows = order[places(runs.first, runs.stop)]
    mean = np.bincount(run, frame[limit.measurement].to_numpy()[rows], minlength=length.size) / length
    by = _number(pl.col("_by"))
    told = pl.DataFrame(
        {"_by": mean - _back(limit, centre.centre), "_length": length, "_grows": runs.growth > _GROWS}
    ).select(
        pl.format(
            f"{_named(limit)} drift: shift of {{}}{_unit(limit)} over {{}} consecutive samples{{}}",
            pl.when(pl.col("_by") > 0).then(pl.format("+{}", by)).otherwise(by),
            pl.col("_length"),
            pl.when(pl.col("_grows")).then(pl.lit(", growing")).otherwise(pl.lit("")),
        ).alias("_text")
    )
    return _finding(pl.DataFrame({"_row": rows, "_text": told["_text"].gather(run)}), 3, _WARNING, pl.col("_text"))


def trends(frame: pl.DataFrame, limit: Limit, rows: Ints, direction: float) -> pl.DataFrame:
    """Samples a trend through the whole batch has carried away from where it began."""
    word = "rising" if direction > 0 else "falling"
    text = pl.lit(f"{_named(limit)} drift: {word} through the whole batch")
    return _finding(pl.DataFrame({"_row": np.sort(rows)}), 4, _WARNING, text)


def whole_batch(frame: pl.DataFrame, limit: Limit, centre: Centre) -> pl.DataFrame:
    """Values outside the expected range in a batch whose centre lies outside it too."""
    outside = frame.select("_row", limit.measurement).filter(limit.outside(pl.col(limit.measurement)))
    middle = f"{_back(limit, centre.centre):.3g}{_unit(limit)}"
    text = (
        f"{_named(limit)} of the whole batch (centre {middle}) is outside {limit.expected_low:g} to {limit.expected_high:g}"
    )
    return _finding(outside, 5, _WARNING, pl.lit(text))


def combinations(frame: pl.DataFrame, z: Mapping[str, Floats], distance: Floats, rows: Ints) -> pl.DataFrame:
    """Combinations too rare for how the measurements go together, with the two measurements that stand out most."""
    if not rows.size:
        return NONE
    names = np.array(list(z))
    size = np.abs(np.nan_to_num(np.column_stack([values[rows] for values in z.values()])))
    top = np.argsort(-size, axis=1, kind="stable")[:, :2]
    chosen = pl.DataFrame({"_row": rows, "_d": distance[rows], "_one": names[top[:, 0]], "_two": names[top[:, 1]]})
    text = pl.format(
        "unusual combination of measurements, most of all {} with {} (Mahalanobis distance {})",
        pl.col("_one"),
        pl.col("_two"),
        pl.col("_d").round(1),
    )
    return _finding(chosen, 6, _WARNING, text)


def joined(findings: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """One row per sample that has any: _row, _gravity (the gravest), reasons ('; '-joined, in rank order)."""
    return (
        pl.concat(findings)
        .sort("_row", "_rank", maintain_order=True)
        .group_by("_row", maintain_order=True)
        .agg(pl.col("_gravity").max(), pl.col("text").unique(maintain_order=True).str.join("; ").alias("reasons"))
    )


def _back(limit: Limit, value: float) -> float:
    return value**3 if limit.scale == "cube_root" else value
