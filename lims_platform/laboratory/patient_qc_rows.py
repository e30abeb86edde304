"""Patient-based QC: rows of the lake as the statistics want them, and settings rows as the monitors they describe.

Here: which results enter, in which order, what stays out and is counted. Not here: choosing or judging.

A censored result enters without a number of its own: history is winsorised at the limits it is reported to (truncation
limits inside the reportable range: Badrick et al., Clin Chem Lab Med 2020;58:1029-1032), so every score is flat at and
beyond a limit, and "<0.5" scores the same whatever number below 0.5 it was. Left out, it would hide the very bias that
sends results below the limit.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from lims_platform.contracts.patient_qc import NO_DEVICE
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.censored import side_of
from lims_platform.laboratory.patient_qc_monitors import Monitor
from lims_platform.laboratory.patient_qc_scores import BiasModel, ScoreTable
from lims_platform.laboratory.patient_qc_tuning import Candidate, History

#: Of the results at or below a limit at least this share must be censored: else it is no limit of the analyte's reports
#: but one of a single result (a diluted sample, a slip), and winsorising there would cost more than leaving that one out.
_SHARE_AT_LIMIT = 0.5
#: Kinds of result that are counted.
_QUANTITATIVE = ("number", "censored")
#: A stream's order; row_key where two results have one time.
ORDER = ["loinc_code", "device_id", "event_date", "resulted_at", "row_key"]


def quantitative(results: Frame) -> pl.LazyFrame:
    """Quantitative results with ``side`` (``censored.side_of``); ``usable`` where a number or a limit is known, at a known
    time on a known device.
    """
    side = side_of(pl.col("value_kind"), pl.col("comparator"))
    number = side.is_not_null() & pl.col("value_number").is_finite()
    known = pl.col("resulted_at").is_not_null() & pl.col("device_id").is_not_null()
    return (
        results.lazy()
        .filter(pl.col("value_kind").is_in(_QUANTITATIVE), pl.col("loinc_code").is_not_null())
        .select(
            "event_date", "resulted_at", "row_key", "loinc_code", "analyte", pl.col("device_id").fill_null(NO_DEVICE),
            value=pl.col("value_number"), side=side, usable=(number & known).fill_null(False),
        )
    )  # fmt: skip


def with_allowable(frame: pl.DataFrame, analytes: pl.DataFrame) -> pl.DataFrame:
    """In stream order, with the allowable error's two parts, 0 where there is none."""
    tea = analytes.select(
        "loinc_code",
        relative=pl.col("tea_percent").cast(pl.Float64).fill_null(0.0) / 100,
        absolute=pl.col("tea_absolute").cast(pl.Float64).fill_null(0.0),
    ).unique("loinc_code")
    joined = frame.join(tea, on="loinc_code", how="left").with_columns(pl.col("relative", "absolute").fill_null(0.0))
    return joined.sort(ORDER)


def by_analyte(frame: pl.DataFrame) -> list[pl.DataFrame]:
    return frame.partition_by("loinc_code", maintain_order=True) if frame.height else []


def bias_model(part: pl.DataFrame, reportable: tuple[float, float]) -> BiasModel:
    return BiasModel(float(part["relative"][0]), float(part["absolute"][0]), *reportable)


def at_limits(history: pl.DataFrame) -> tuple[pl.DataFrame, tuple[float, float]]:
    """History winsorised at the highest lower and the lowest upper limit it is reported to, and these two.

    A censored result whose own limit lies between them says too little and is no longer ``usable``.
    """
    known = history.filter("usable").select("value", "side")
    if known.is_empty():
        return history, (-np.inf, np.inf)
    middle = known["value"].median()
    ends = []
    for side in (-1, 1):
        ordered = known.sort("value", descending=side > 0)
        # over all results up to this limit, ties included
        share = (ordered["side"] == side).cum_sum() / (pl.int_range(1, known.height + 1, eager=True))
        places = pl.DataFrame({"value": ordered["value"], "share": share}).group_by("value", maintain_order=True).last()
        at_least = places.filter((pl.col("share") >= _SHARE_AT_LIMIT) & ((pl.col("value") - middle) * side >= 0))["value"]
        limits = ordered.filter((pl.col("side") == side) & pl.col("value").is_in(at_least.implode()))["value"]
        ends.append(float(limits[-1]) if len(limits) else side * np.inf)
    low, high = ends
    inside = within(pl.col("value"), pl.col("side"), low, high)
    return history.with_columns(usable=pl.col("usable") & inside, value=pl.col("value").clip(low, high)), (low, high)


def within(value: pl.Expr, side: pl.Expr, low: float, high: float) -> pl.Expr:
    """A number, or a limit at or beyond the end that scores are flat beyond."""
    return pl.when(side < 0).then(value <= low).when(side > 0).then(value >= high).otherwise(True)


def history_of(usable: pl.DataFrame) -> History:
    return History(
        usable["value"].to_numpy(),
        usable["device_id"].rank("dense").to_numpy().astype(np.int64) - 1,
        usable["event_date"].to_physical().to_numpy().astype(np.int64),
    )


def candidate_of(row: dict[str, object]) -> Candidate:
    """A settings row as the candidate it describes."""
    knots, up, down = (
        None if row[k] is None else np.array(row[k], dtype=float) for k in ("knots", "score_up", "score_down")
    )
    assert knots is not None and up is not None
    monitor = Monitor(str(row["method"]), row["parameter"])  # type: ignore[arg-type]
    return Candidate(monitor, ScoreTable(str(row["transformation"]), knots, up, down), row["centre"], row["control_limit"])  # type: ignore[arg-type]
