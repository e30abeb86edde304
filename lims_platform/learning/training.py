"""From a training frame to a calibrated model with honest figures. Pure but for scikit-learn; seeds fixed, so
reproducible.

Here: the order of things: split by time, compare on folds, calibrate on held-out time, refit, examine once on the
untouched test period. Not here: the candidates (``candidates``), ONNX (``onnx_model``), MLflow (``tracking``,
``registry``), promotion (``gates``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.learning import metrics
from lims_platform.learning.alarms import alarm_metrics
from lims_platform.learning.candidates import Calibrator, Candidate, compare, default_candidates, fit, predict
from lims_platform.learning.frames import feature_names, frame_digest, matrix
from lims_platform.learning.resampling import auc_interval
from lims_platform.learning.spec import DEVICE_FAILURE, ModelSpec
from lims_platform.learning.split import SplitError, TimeSplit, time_split

IMPORTANCE_ROWS = 2000


class NotTrainable(ValueError):  # noqa: N818 - an outcome to report, not a defect
    """No model can be made of this frame; ``reason`` says why in one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class TrainedModel:
    """A fitted, calibrated model and everything known about it.

    ``metrics`` are of the test period (``scored``: its rows with ``probability``). ``reference`` is the median of each
    feature among rows without failure, ``base_rate`` the share of positives among the rows learnt from.
    """

    candidate: Candidate
    estimator: Any
    calibrator: Calibrator
    features: list[str]
    dropped: list[str]
    reference: list[float]
    base_rate: float
    threshold: float
    split: TimeSplit
    seed: int
    digest: str
    metrics: dict[str, float]
    baseline_metrics: dict[str, float]
    comparison: pl.DataFrame
    calibration_table: pl.DataFrame
    confusion: dict[str, int]
    importance: pl.DataFrame
    scored: pl.DataFrame
    spec: ModelSpec = DEVICE_FAILURE

    def probability(self, frame: pl.DataFrame) -> NDArray[np.float64]:
        """Calibrated probability of the spec's event per row."""
        return self.calibrator(predict(self.estimator, frame, self.features))

    @property
    def params(self) -> dict[str, str]:
        """What was chosen and on what, as text, for the run's record."""
        return {
            "candidate": self.candidate.label,
            "features": str(len(self.features)),
            "dropped_features": ", ".join(self.dropped) or "none",
            "train": str(self.split.train),
            "validation": str(self.split.validation),
            "test": str(self.split.test),
            "gap_days": str(self.split.gap_days),
            "folds": str(len(self.split.folds)),
            "seed": str(self.seed),
            "calibration": f"sigmoid, slope {self.calibrator.slope:.4f}, intercept {self.calibrator.intercept:.4f}",
            "threshold": f"{self.threshold:.6f}",
        }


def _events(rows: pl.DataFrame, spec: ModelSpec) -> int:
    return rows.filter(pl.col("label") == 1).select(spec.event).n_unique()


def _require(rows: pl.DataFrame, spec: ModelSpec, period: str, events: int) -> None:
    found = _events(rows, spec)
    if found < events:
        raise NotTrainable(f"the {period} period holds {found} {spec.events}, at least {events} are needed")
    if (rows["label"] == 0).sum() == 0:
        raise NotTrainable(f"the {period} period holds no {spec.rows} that are '{spec.negative}'")


def _usable(rows: pl.DataFrame, names: Sequence[str]) -> list[str]:
    """Features with at least two different known values: others teach nothing."""
    counts = rows.select(pl.col(list(names)).drop_nulls().n_unique()).row(0)
    return [name for name, count in zip(names, counts, strict=True) if count > 1]


def permutation_importance(
    model: Any, frame: pl.DataFrame, features: Sequence[str], seed: int, repeats: int = 3, rows: int = IMPORTANCE_ROWS
) -> pl.DataFrame:
    """Fall of ROC-AUC when one feature's values are shuffled (Breiman 2001): feature, importance, sd; largest first.

    All positives up to half of ``rows`` and as many negatives as fit are used; AUC does not depend on their
    proportion.
    """
    rng = np.random.default_rng(seed)
    y = frame["label"].to_numpy() > 0
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(y))[: rows // 2], rng.permutation(np.flatnonzero(~y))[: rows // 2]]
    )
    x, y = matrix(frame, features)[chosen], y[chosen]
    whole = metrics.roc_auc(y, model.predict_proba(x)[:, 1])
    falls = np.empty((len(features), repeats))
    for j in range(len(features)):
        shuffled = np.concatenate([x] * repeats)
        shuffled[:, j] = np.concatenate([rng.permutation(x[:, j]) for _ in range(repeats)])
        score = model.predict_proba(shuffled)[:, 1].reshape(repeats, -1)
        falls[j] = [whole - metrics.roc_auc(y, s) for s in score]
    return pl.DataFrame({"feature": list(features), "importance": falls.mean(axis=1), "sd": falls.std(axis=1)}).sort(
        "importance", descending=True
    )


def period_metrics(rows: pl.DataFrame, threshold: float, seed: int, spec: ModelSpec = DEVICE_FAILURE) -> dict[str, float]:
    """All figures of rows with the spec's columns and probability: classification, events, AUC interval, weekly rounds."""
    y, p = rows["label"].to_numpy(), rows["probability"].to_numpy()
    interval = auc_interval(y, p, rows[spec.group].to_numpy(), seed=seed)
    return {
        **metrics.classification_metrics(y, p, threshold),
        **(alarm_metrics(rows, "probability") if spec.weekly_rounds else {}),
        "events": float(_events(rows, spec)),
        "roc_auc_low": interval.low,
        "roc_auc_high": interval.high,
    }


def train(
    frame: pl.DataFrame,
    *,
    features: Sequence[str] | None = None,
    candidates: Sequence[Candidate] | None = None,
    test_days: int = 60,
    gap_days: int | None = None,
    folds: int = 3,
    validation_days: int | None = None,
    data_end: date | None = None,
    min_episodes: int = 20,
    min_test_episodes: int = 5,
    seed: int = 20240601,
    spec: ModelSpec = DEVICE_FAILURE,
) -> TrainedModel:
    """Train on ``frame`` (from ``frames.training_frame`` or of the same form); see ``split.time_split`` for the periods.

    ``spec`` says which model it is; ``features`` and ``gap_days`` are the spec's unless given.

    1. Candidates are compared on rolling-origin folds before the test period; ``candidates.RULE`` picks the winner.
    2. Its fold predictions, each later in time than what the fold's model learnt, give calibration and the F1
    threshold. 3. It is refitted on all days before the gap, and examined once on the test period.

    Raises
    ------
    NotTrainable : too little time, too few failure episodes in a period, one class only, or no varying feature.
    """
    try:
        gap = spec.gap_days if gap_days is None else gap_days
        split = time_split(frame, test_days, gap, folds, validation_days, data_end)
    except SplitError as error:
        raise NotTrainable(str(error)) from error
    learnt, test = split.fit.rows(frame), split.test.rows(frame)
    _require(learnt, spec, "training", min_episodes)
    _require(split.folds[0].train.rows(frame), spec, "earliest fold's training", 1)
    _require(pl.concat([fold.check.rows(frame) for fold in split.folds]), spec, "validation", 1)
    _require(test, spec, "test", min_test_episodes)
    chosen = features if features is not None else spec.features
    wanted = list(chosen) if chosen is not None else feature_names(frame.schema)
    used = _usable(split.folds[0].train.rows(frame), wanted)
    if not used:
        raise NotTrainable(f"none of the {len(wanted)} features varies in the training period")

    outcome = compare(candidates or default_candidates(), frame, split.folds, used, seed)
    held_y, held_p = outcome.held_out["label"].to_numpy(), outcome.held_out["probability"].to_numpy()
    calibrator = Calibrator.fit(held_y, held_p)
    threshold = metrics.best_f1_threshold(held_y, calibrator(held_p))
    estimator = fit(outcome.winner, learnt, used, seed)
    scored = test.with_columns(pl.Series("probability", calibrator(predict(estimator, test, used))))
    y, p = scored["label"].to_numpy(), scored["probability"].to_numpy()
    healthy = learnt.filter(pl.col("label") == 0)
    try:
        figures = period_metrics(scored, threshold, seed, spec)
    except metrics.OneClassError as error:
        raise NotTrainable(f"the test period cannot be examined: {error}") from error
    return TrainedModel(
        candidate=outcome.winner,
        estimator=estimator,
        calibrator=calibrator,
        features=used,
        dropped=[name for name in wanted if name not in used],
        reference=[float(v) for v in np.nanmedian(matrix(healthy, used), axis=0)],
        base_rate=float(learnt["label"].cast(pl.Float64).to_numpy().mean()),
        threshold=threshold,
        split=split,
        seed=seed,
        digest=frame_digest(frame),
        metrics=figures,
        baseline_metrics=_baselines(scored, learnt, outcome.baseline, used, seed, spec.naive),
        comparison=outcome.table,
        calibration_table=metrics.calibration_table(y, p),
        confusion=metrics.confusion(y, p, threshold),
        importance=permutation_importance(estimator, scored, used, seed),
        scored=scored.select(*spec.columns, "probability"),
        spec=spec,
    )


def _baselines(
    scored: pl.DataFrame, learnt: pl.DataFrame, baseline: Candidate, features: list[str], seed: int, naive_feature: str
) -> dict[str, float]:
    """Test figures to beat: the base rate's PR-AUC, the random forest, and the naive feature alone."""
    y = scored["label"].to_numpy()
    forest = predict(fit(baseline, learnt, features, seed), scored, features)
    out = {
        "prevalence_pr_auc": float(np.mean(y)),
        "baseline_pr_auc": metrics.pr_auc(y, forest),
        "baseline_roc_auc": metrics.roc_auc(y, forest),
    }
    if naive_feature in scored.columns:
        naive = scored[naive_feature].fill_null(0.0).to_numpy()
        out |= {"naive_pr_auc": metrics.pr_auc(y, naive), "naive_roc_auc": metrics.roc_auc(y, naive)}
    return out
