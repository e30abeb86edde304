"""Scores as people read them: probability, risk score, level, what raises it, what to do.

Here: from features to rows of the contract DeviceRiskScores. Not here: loading the champion (``registry``), the
workbook.

**Risk score.** A calibrated seven-day failure probability is small for nearly every device (about 8 % on average), so
100 × probability would call a device with a one-in-two chance MEDIUM. The probability stays calibrated; the score is
the same quantity on a scale for people: 100 times the probability the model would state in a fleet of which
REFERENCE_SHARE (one in five) fails within a week, by the prior-shift formula (Saerens et al. 2002, Neural Computation
14:21-41; Elkan 2001):

    odds = p / (1 − p) / (base_rate / (1 − base_rate)) × (REFERENCE_SHARE / (1 − REFERENCE_SHARE))
    risk_score = 100 × odds / (1 + odds)

``base_rate`` is the share of positives the model learnt from, kept in its file. The score rises strictly with the
probability, is 20 for the average device-day, and the levels read as odds against the average: MEDIUM (30) 1.7-fold,
HIGH (60) 6-fold, CRITICAL (80) 16-fold. At a base rate of 7.8 % these are probabilities of 13, 34 and 57 %.

**Top factors.** The three features whose replacement by their usual value (median of device-days without a failure
ahead) lowers the log-odds most: occlusion (Zeiler & Fergus 2014), one feature at a time. It shows what moves this
score, not what causes failures; of two features that say the same, each alone may move little.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.contracts.gold import GOLD_TABLES
from lims_platform.learning.frames import matrix
from lims_platform.learning.metrics import Floats, logit, sigmoid
from lims_platform.learning.onnx_model import OnnxScorer

REFERENCE_SHARE = 0.2
#: Levels from this risk score on, highest first.
LEVELS: tuple[tuple[str, float], ...] = (("CRITICAL", 80.0), ("HIGH", 60.0), ("MEDIUM", 30.0), ("LOW", 0.0))
TOP = 3
#: A factor must raise the log-odds by at least this (about 5 % of the odds) to be named.
MIN_EFFECT = 0.05

_URGENCY = {
    "CRITICAL": "Today: take off critical work, plan a back-up analyser",
    "HIGH": "Within 2 days: inspect",
    "MEDIUM": "This week: watch",
    "LOW": "No action: routine service",
}
#: What to look at, by the beginning of the top factor's name; the first that fits.
_LOOK_AT: tuple[tuple[tuple[str, ...], str], ...] = (
    (("calibration_overdue", "days_since_calibration"), "calibrate"),
    (("maintenance_overdue", "days_since_maintenance", "usage_since_maintenance"), "do the maintenance"),
    (("qc_",), "check controls, reagents and calibration"),
    (("error", "sister_error", "errors"), "read the error log and call service if errors go on"),
    (("warning",), "read the warnings of the last days"),
    (("avg_turnaround", "turnaround"), "look for slowing and repeated runs"),
    (("last_failure", "failures_"), "check that the last repair holds"),
    (("device_age",), "review the age of the analyser with its maker"),
    (("result", "results_"), "review the load"),
)
_OTHERWISE = "look at its recent log"


def risk_score(probability: NDArray[np.float64], base_rate: float) -> Floats:
    """0 to 100, strictly increasing in the probability; see the module. ValueError unless 0 < base_rate < 1."""
    if not 0 < base_rate < 1:
        raise ValueError(f"base_rate is {base_rate}; a share between 0 and 1 is needed")
    shift = np.log(REFERENCE_SHARE / (1 - REFERENCE_SHARE)) - np.log(base_rate / (1 - base_rate))
    return 100.0 * sigmoid(logit(probability) + shift)


def risk_level(scores: pl.Expr) -> pl.Expr:
    """CRITICAL from 80, HIGH from 60, MEDIUM from 30, else LOW."""
    level = pl.lit(LEVELS[-1][0])
    for name, lowest in reversed(LEVELS[:-1]):
        level = pl.when(scores >= lowest).then(pl.lit(name)).otherwise(level)
    return level


def effects(scorer: OnnxScorer, x: NDArray[np.float32], probability: Floats) -> NDArray[np.float32]:
    """How much each feature's value raises the log-odds over its usual value, shape (rows, features).

    Only pairs of row and feature whose value differs from the usual one are scored again, in one pass per feature.
    """
    whole = logit(probability)
    out = np.zeros(x.shape, dtype=np.float32)
    for j, usual in enumerate(scorer.reference):
        if np.isnan(usual):
            continue  # never known among the healthy: there is no usual value
        rows = np.flatnonzero(x[:, j] != usual)
        if rows.size:
            replaced = x[rows]
            replaced[:, j] = usual
            out[rows, j] = whole[rows] - logit(scorer(replaced))
    return out


def _number(values: NDArray[np.float32]) -> pl.Series:
    """Numbers as text with about three significant digits; unknown where NaN."""
    v = values.astype(np.float64)
    size = np.floor(np.log10(np.maximum(np.abs(np.nan_to_num(v)), 1e-12)))
    digits = np.clip(2 - size, 0, 4)
    rounded = pl.Series(np.round(v * 10**digits) / 10**digits)
    text = rounded.cast(pl.String).str.strip_suffix(".0")
    return text.set(rounded.is_nan(), "unknown")


def _factors(scorer: OnnxScorer, x: NDArray[np.float32], raised: NDArray[np.float32]) -> tuple[pl.Series, pl.Series]:
    """Text of the top factors (null if none is large enough), and the name of the first."""
    top = np.argsort(-raised, axis=1, kind="stable")[:, :TOP]
    rows = np.arange(len(x))
    names, usual = pl.Series(scorer.features), _number(scorer.reference)
    parts, first = [], pl.Series([], dtype=pl.String)
    for place in range(top.shape[1]):
        column = top[:, place]
        name = names.gather(column)
        text = name + " " + _number(x[rows, column]) + " (usual " + usual.gather(column) + ")"
        named = pl.Series(raised[rows, column] >= MIN_EFFECT)
        parts.append(text.set(~named, None))
        if place == 0:
            first = name.set(~named, None)
    joined = pl.DataFrame({str(i): p for i, p in enumerate(parts)}).select(
        pl.concat_str(pl.all(), separator="; ", ignore_nulls=True)
    )
    text = joined.to_series()
    return text.set(text == "", None), first


def _action(level: str, factor: str) -> pl.Expr:
    """Urgency by level; above LOW, what to look at by the top factor."""
    look = pl.lit(_OTHERWISE)
    for beginnings, advice in reversed(_LOOK_AT):
        fits = pl.any_horizontal(*(pl.col(factor).str.starts_with(b) for b in beginnings)).fill_null(False)
        look = pl.when(fits).then(pl.lit(advice)).otherwise(look)
    urgency = pl.col(level).replace_strict(_URGENCY, return_dtype=pl.String)
    return pl.when(pl.col(level) == "LOW").then(urgency).otherwise(urgency + "; " + look)


def score(features: pl.DataFrame, scorer: OnnxScorer, model_name: str, version: str, scored_at: datetime) -> pl.DataFrame:
    """Rows of DeviceRiskScores, one per row of ``features`` (DeviceFailureFeatures), in its order.

    Devices in outage are scored too; their action says that they are down. FrameError if a feature the model needs is
    missing; ValueError for a naive ``scored_at``.
    """
    if scored_at.tzinfo is None:
        raise ValueError("score: scored_at needs a time zone")
    x = matrix(features, scorer.features)
    probability = scorer(x)
    factors, first = _factors(scorer, x, effects(scorer, x, probability))
    down = pl.col("in_outage").fill_null(False) if "in_outage" in features.columns else pl.lit(False)
    rows = features.with_columns(
        pl.Series("failure_probability", np.clip(probability, 0, 1)),
        pl.Series("risk_score", risk_score(probability, scorer.base_rate)),
        factors.alias("top_factors"),
        first.alias("_first"),
        pl.lit(model_name).alias("model_name"),
        pl.lit(str(version)).alias("model_version"),
        pl.lit(scored_at).dt.convert_time_zone("UTC").dt.cast_time_unit("us").alias("scored_at"),
    )
    rows = rows.with_columns(risk_level(pl.col("risk_score")).alias("risk_level"))
    action = (
        pl.when(down)
        .then(pl.lit("Down after a failure: repair, then verify with controls"))
        .otherwise(_action("risk_level", "_first"))
    )
    dtypes = GOLD_TABLES["device_risk_scores"].dtypes
    return rows.with_columns(action.alias("recommended_action")).select(
        pl.col(name).cast(dtype) for name, dtype in dtypes.items()
    )
