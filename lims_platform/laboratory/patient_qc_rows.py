"""Patient-based QC: rows of the lake as the statistics want them, and settings rows as the monitors they describe.

Here: which results enter, in which order, what stays out and is counted. Not here: choosing or judging.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from lims_platform.contracts.patient_qc import NO_DEVICE
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.patient_qc_monitors import Monitor
from lims_platform.laboratory.patient_qc_scores import BiasModel, ScoreTable
from lims_platform.laboratory.patient_qc_tuning import Candidate, History

#: Kinds of result that are counted: a censored one has no number to enter a statistic, but it is there.
_QUANTITATIVE = ("number", "censored")
#: A stream's order; row_key where two results have one time.
ORDER = ["loinc_code", "device_id", "event_date", "resulted_at", "row_key"]


def quantitative(results: Frame) -> pl.LazyFrame:
    """Quantitative results; ``usable`` where a number can enter a statistic at a known time on a known device."""
    number = (pl.col("value_kind") == "number") & pl.col("value_number").is_finite()
    known = pl.col("resulted_at").is_not_null() & pl.col("device_id").is_not_null()
    return (
        results.lazy()
        .filter(pl.col("value_kind").is_in(_QUANTITATIVE), pl.col("loinc_code").is_not_null())
        .select(
            "event_date", "resulted_at", "row_key", "loinc_code", "analyte", pl.col("device_id").fill_null(NO_DEVICE),
            value=pl.col("value_number"), usable=(number & known).fill_null(False),
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


def bias_model(part: pl.DataFrame) -> BiasModel:
    return BiasModel(float(part["relative"][0]), float(part["absolute"][0]))


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
