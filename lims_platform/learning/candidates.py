"""The models that compete: what they are, how they are searched over time folds, and the stated rule that picks one.

Here: estimators that convert to ONNX with their treatment of nulls inside, rolling-origin comparison, probability
calibration. Not here: the test period (``training``: no candidate sees it), ONNX (``onnx_model``).

- random_forest: the baseline. 100 trees (Breiman 2001); nulls become a number far outside every feature's range, so
  that a split can tell them apart (scikit-learn's own handling of nulls in forests converts to ONNX wrongly).
- gradient_boosting: histogram boosting (Ke et al. 2017), nulls learn their own direction.
- logistic: ridge-penalised logistic regression on standardised features, median imputation.
- blend: mean probability of the three above at their best settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.learning.frames import matrix
from lims_platform.learning.metrics import Floats, fit_logistic, log_loss, logit, pr_auc, roc_auc, sigmoid
from lims_platform.learning.split import Fold

#: What a null becomes for the forest: below every real value.
FAR_OUTSIDE = -1.0e6

#: Candidates whose PR-AUC is within this share of the best one's count as equal: less than its sampling error by far.
TIE = 0.02

#: Least slope of a calibration: a strictly increasing map even for a model that knows nothing.
FLATTEST = 0.05

#: With more rows than this a tree of a forest grows on so many drawn ones, and candidates are compared on as many, so that
#: ten thousand devices train in minutes. What the other rows would have added was not measured.
LARGE = 100_000

RULE = (
    f"highest PR-AUC on the pooled out-of-time folds; among candidates within {TIE:.0%} of it the lowest log-loss "
    "after calibration; the earlier named of equals"
)


@dataclass(frozen=True)
class Candidate:
    """A family at one setting; ``make`` gives a fresh, unfitted scikit-learn classifier that reads float32 with
    NaN."""

    name: str
    params: dict[str, Any]
    make: Callable[[int], Any]

    @property
    def label(self) -> str:
        """Name and setting, e.g. ``logistic(C=0.03)``."""
        return f"{self.name}({', '.join(f'{k}={v}' for k, v in self.params.items())})"


def random_forest(leaf: int = 20, trees: int = 100) -> Candidate:
    """The baseline forest; ``leaf`` is the fewest rows of a leaf."""

    def make(seed: int) -> Any:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.pipeline import make_pipeline

        forest = RandomForestClassifier(n_estimators=trees, min_samples_leaf=leaf, random_state=seed)
        return make_pipeline(SimpleImputer(strategy="constant", fill_value=FAR_OUTSIDE, keep_empty_features=True), forest)

    return Candidate("random_forest", {"trees": trees, "leaf": leaf}, make)


def gradient_boosting(
    leaves: int, iterations: int, rate: float = 0.05, leaf: int = 100, share: float = 0.3, l2: float = 10.0
) -> Candidate:
    """Histogram boosting; each split chooses among a ``share`` of the features.

    Without early stopping: its random hold-out would mix neighbouring days.
    """

    def make(seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(
            learning_rate=rate,
            max_iter=iterations,
            max_leaf_nodes=leaves,
            min_samples_leaf=leaf,
            l2_regularization=l2,
            max_features=share,
            early_stopping=False,
            random_state=seed,
        )

    params = {"leaves": leaves, "iterations": iterations, "rate": rate, "leaf": leaf, "share": share}
    return Candidate("gradient_boosting", params, make)


def logistic(c: float) -> Candidate:
    """Ridge-penalised logistic regression; ``c`` is the inverse penalty.

    Quantile bins and quantile transforms rank a little better, but convert badly: binning disagrees with ONNX
    for values on an edge, the transform takes seconds to convert and makes scoring ten times slower.
    """

    def make(seed: int) -> Any:
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(
            SimpleImputer(strategy="median", keep_empty_features=True),
            StandardScaler(),
            LogisticRegression(C=c, max_iter=500),
        )

    return Candidate("logistic", {"C": c}, make)


def blend(members: Sequence[Candidate]) -> Candidate:
    """Mean probability of the members."""

    def make(seed: int) -> Any:
        from sklearn.ensemble import VotingClassifier

        return VotingClassifier([(m.name, m.make(seed)) for m in members], voting="soft", flatten_transform=False)

    return Candidate("blend", {m.name: m.label for m in members}, make)


def default_candidates() -> list[Candidate]:
    """The small search: baseline first."""
    return [
        random_forest(),
        gradient_boosting(leaves=8, iterations=120),
        gradient_boosting(leaves=15, iterations=250, rate=0.02, leaf=200),
        logistic(0.01),
        logistic(1.0),
    ]


@dataclass(frozen=True)
class Calibrator:
    """Sigmoid calibration on the logit scale: P = sigmoid(slope × logit(p) + intercept) (Platt 1999; Cox 1958).

    Strictly increasing, so it never changes a ranking; isotonic regression would tie scores and needs some thousand
    independent positives (Niculescu-Mizil & Caruana 2005), more than a laboratory's failures.
    """

    slope: float
    intercept: float

    @classmethod
    def fit(cls, label: NDArray[np.generic], probability: NDArray[np.generic]) -> Calibrator:
        """Fit on predictions for days later than those the model learnt from; OneClassError without both classes."""
        slope, intercept = fit_logistic(logit(probability), label)
        if slope >= FLATTEST:
            return cls(slope, intercept)
        # a slope below zero would turn the ranking around: such a model knows nothing, so it says nearly the base rate
        y = np.asarray(label) > 0
        return cls(FLATTEST, float(logit(np.array([y.mean()]))[0] - FLATTEST * logit(probability).mean()))

    def __call__(self, probability: NDArray[np.generic]) -> Floats:
        """Calibrated probabilities."""
        return sigmoid(self.slope * logit(probability) + self.intercept)


@dataclass
class Comparison:
    """The outcome of the search. ``table``: one row per candidate; ``held_out``: the winner's rows of all folds with
    ``probability`` (uncalibrated), each predicted by a model that learnt from earlier days only."""

    winner: Candidate
    table: pl.DataFrame
    held_out: pl.DataFrame
    baseline: Candidate
    scores: dict[str, Floats] = field(repr=False, default_factory=dict)


def fit(candidate: Candidate, frame: pl.DataFrame, features: Sequence[str], seed: int) -> Any:
    """Fit on all rows of ``frame``; of more than LARGE each tree of a forest sees LARGE. The classifier."""
    model = candidate.make(seed)
    if frame.height > LARGE:
        model.set_params(**{name: LARGE for name in model.get_params() if name.endswith("max_samples")})
    from joblib import parallel_config  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    # one OpenMP thread: these frames are small, and spinning threads of a busy machine cost tenfold
    # all cores to grow trees, one to predict: threads would add up the trees' votes in changing order
    with threadpool_limits(limits=1, user_api="openmp"), parallel_config(backend="threading", n_jobs=-1):
        model.fit(matrix(frame, features), frame["label"].to_numpy())
    return model


def predict(model: Any, frame: pl.DataFrame, features: Sequence[str]) -> Floats:
    """Uncalibrated P(failure) per row."""
    return np.asarray(model.predict_proba(matrix(frame, features))[:, 1], dtype=np.float64)


def compare(
    candidates: Sequence[Candidate], frame: pl.DataFrame, folds: Sequence[Fold], features: Sequence[str], seed: int
) -> Comparison:
    """Fit every candidate on every fold (on at most LARGE of its rows), pool the predictions, pick by ``RULE``.

    A blend of the best setting of each family joins the contest; its fold predictions are the members' mean, as its
    own would be. The first candidate is the baseline. OneClassError if a fold's training days hold one class only.
    """
    held_out = pl.concat([fold.check.rows(frame) for fold in folds])
    y = held_out["label"].to_numpy()
    scores: dict[str, Floats] = {}
    learnt = [fold.train.rows(frame) for fold in folds]
    learnt = [rows.sample(LARGE, seed=seed) if rows.height > LARGE else rows for rows in learnt]
    for candidate in candidates:
        parts = []
        for rows, fold in zip(learnt, folds, strict=True):
            parts.append(predict(fit(candidate, rows, features, seed), fold.check.rows(frame), features))
        scores[candidate.label] = np.concatenate(parts)
    by_label = {c.label: c for c in candidates}
    best: dict[str, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: -pr_auc(y, scores[c.label])):
        best.setdefault(candidate.name, candidate)
    if len(best) > 1:
        mixed = blend([best[name] for name in dict.fromkeys(c.name for c in candidates)])
        by_label[mixed.label] = mixed
        scores[mixed.label] = np.mean([scores[m.label] for m in best.values()], axis=0)
    table = pl.DataFrame(
        [
            {
                "candidate": label,
                "pr_auc": pr_auc(y, s),
                "roc_auc": roc_auc(y, s),
                "log_loss": log_loss(y, Calibrator.fit(y, s)(s)),
            }
            for label, s in scores.items()
        ]
    )
    top = float(table["pr_auc"].to_numpy().max())
    equals = table.filter(pl.col("pr_auc") >= top * (1 - TIE)).sort("log_loss", maintain_order=True)
    winner = by_label[equals["candidate"][0]]
    return Comparison(
        winner,
        table.with_columns((pl.col("candidate") == winner.label).alias("chosen")),
        held_out.with_columns(pl.Series("probability", scores[winner.label])),
        candidates[0],
        scores,
    )
