"""How good are the scores? Discrimination, calibration and what a person at the bench gets for a number of alarms a
week.

Here: NumPy on arrays (label 0/1, score), one pass each. Not here: bootstrap (``resampling``), alarms (``alarms``),
thresholds of promotion (``gates``).
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Probabilities are kept this far from 0 and 1 before a logarithm.
EPSILON = 1e-6


class OneClassError(ValueError):
    """A measure needs both classes and got one."""


def _checked(label: NDArray[np.generic], score: NDArray[np.generic]) -> tuple[NDArray[np.bool_], Floats]:
    y, s = np.asarray(label) > 0, np.asarray(score, dtype=np.float64)
    if y.shape != s.shape or y.ndim != 1:
        raise ValueError(f"labels {y.shape} and scores {s.shape} must be vectors of one length")
    if not np.isfinite(s).all():
        raise ValueError(f"{int((~np.isfinite(s)).sum())} scores are not finite")
    return y, s


def _both(y: NDArray[np.bool_]) -> None:
    if y.all() or not y.any():
        raise OneClassError(f"{int(y.sum())} positives among {y.size} rows: both classes are needed")


def logit(probability: NDArray[np.generic]) -> Floats:
    """log(p / (1 − p)), p kept within [1e-6, 1 − 1e-6]."""
    p = np.clip(np.asarray(probability, dtype=np.float64), EPSILON, 1 - EPSILON)
    return np.log(p) - np.log1p(-p)


def sigmoid(x: NDArray[np.generic]) -> Floats:
    """1 / (1 + exp(−x)), without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, dtype=np.float64))))


def roc_auc(label: NDArray[np.generic], score: NDArray[np.generic], weight: NDArray[np.generic] | None = None) -> float:
    """P(score of a positive > score of a negative) + half of the ties (Mann-Whitney); rows may carry weights."""
    y, s = _checked(label, score)
    _both(y)
    w = np.ones(y.size) if weight is None else np.asarray(weight, dtype=np.float64)
    _, group = np.unique(s, return_inverse=True)
    positive, negative = np.bincount(group, w * y), np.bincount(group, w * ~y)
    below = np.cumsum(negative) - negative
    return float((positive * (below + 0.5 * negative)).sum() / (positive.sum() * negative.sum()))


def _best_first(label: NDArray[np.generic], score: NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Positives and rows at or above each distinct score, best first."""
    y, s = _checked(label, score)
    _both(y)
    values, group = np.unique(-s, return_inverse=True)
    hits, seen = np.bincount(group, y, values.size), np.bincount(group, minlength=values.size)
    return np.cumsum(hits), np.cumsum(seen).astype(np.float64)


def pr_auc(label: NDArray[np.generic], score: NDArray[np.generic]) -> float:
    """Average precision: sum of precision × recall gained over the distinct scores, best first (no interpolation)."""
    hits, seen = _best_first(label, score)
    gained = np.diff(hits, prepend=0.0) / hits[-1]
    return float((hits / seen * gained).sum())


def pr_curve(label: NDArray[np.generic], score: NDArray[np.generic], points: int = 200) -> pl.DataFrame:
    """Precision and recall at the distinct scores, best first: recall, precision; at most ``points``, evenly in recall.

    ``pr_auc`` is the area under all of them.
    """
    hits, seen = _best_first(label, score)
    recall, precision = hits / hits[-1], hits / seen
    wanted = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1.0, points)))
    return pl.DataFrame({"recall": recall[wanted], "precision": precision[wanted]})


def log_loss(label: NDArray[np.generic], probability: NDArray[np.generic]) -> float:
    """Mean negative log-likelihood, in nats."""
    y, p = _checked(label, probability)
    p = np.clip(p, EPSILON, 1 - EPSILON)
    return float(-np.where(y, np.log(p), np.log1p(-p)).mean())


def brier(label: NDArray[np.generic], probability: NDArray[np.generic]) -> float:
    """Mean squared difference of probability and outcome (Brier 1950)."""
    y, p = _checked(label, probability)
    return float(((p - y) ** 2).mean())


def fit_logistic(x: Floats, label: NDArray[np.generic], ridge: float = 1e-6, steps: int = 50) -> tuple[float, float]:
    """Slope and intercept of P(label) = sigmoid(slope·x + intercept), by Newton's method; OneClassError without both
    classes."""
    y = np.asarray(label) > 0
    _both(y)
    design = np.column_stack([x, np.ones_like(x)])
    beta = np.array([1.0, 0.0])

    def loss(b: Floats) -> float:
        z = design @ b
        return float(np.logaddexp(0.0, np.where(y, -z, z)).mean() + 0.5 * ridge * b @ b)

    current = loss(beta)
    for _ in range(steps):
        p = sigmoid(design @ beta)
        gradient = design.T @ (p - y) / y.size + ridge * beta
        hessian = (design * (p * (1 - p))[:, None]).T @ design / y.size + ridge * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        scale = 1.0
        while scale > 1e-8 and loss(beta - scale * step) > current:  # halve until it descends
            scale /= 2
        beta = beta - scale * step
        new = loss(beta)
        if current - new < 1e-12:
            break
        current = new
    return float(beta[0]), float(beta[1])


def calibration(label: NDArray[np.generic], probability: NDArray[np.generic]) -> dict[str, float]:
    """Slope and intercept of the logistic recalibration (1 and 0 are perfect; Cox 1958), mean predicted, observed
    share, ECE.

    ECE is the mean over ten groups of equal size of |mean predicted − observed share|.
    """
    y, p = _checked(label, probability)
    slope, intercept = fit_logistic(logit(p), y)
    table = calibration_table(y, p)
    gap = (table["mean_predicted"] - table["observed"]).abs() * table["rows"]
    return {
        "calibration_slope": slope,
        "calibration_intercept": intercept,
        "mean_predicted": float(p.mean()),
        "observed": float(y.mean()),
        "ece": float(gap.sum()) / y.size,
    }


def calibration_table(label: NDArray[np.generic], probability: NDArray[np.generic], groups: int = 10) -> pl.DataFrame:
    """Groups of equal size by predicted probability: group, rows, positives, mean_predicted, observed, low, high
    (Wilson 95 %)."""
    y, p = _checked(label, probability)
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, groups) if part.size]
    n = np.array([part.size for part in parts], dtype=np.float64)
    k = np.array([y[part].sum() for part in parts], dtype=np.float64)
    z = 1.96
    centre = (k / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(k / n * (1 - k / n) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    return pl.DataFrame(
        {
            "group": np.arange(1, len(parts) + 1),
            "rows": n.astype(np.int64),
            "positives": k.astype(np.int64),
            "mean_predicted": [float(p[part].mean()) for part in parts],
            "observed": k / n,
            "low": np.clip(centre - half, 0, 1),
            "high": np.clip(centre + half, 0, 1),
        }
    )


def confusion(label: NDArray[np.generic], probability: NDArray[np.generic], threshold: float) -> dict[str, int]:
    """Counts tp, fp, fn, tn; an alarm is probability ≥ threshold."""
    y, p = _checked(label, probability)
    alarm = p >= threshold
    return {
        "tp": int((alarm & y).sum()),
        "fp": int((alarm & ~y).sum()),
        "fn": int((~alarm & y).sum()),
        "tn": int((~alarm & ~y).sum()),
    }


def at_threshold(label: NDArray[np.generic], probability: NDArray[np.generic], threshold: float) -> dict[str, float]:
    """Accuracy, precision, recall, F1 at the threshold; precision is 0 without any alarm, F1 without any hit."""
    c = confusion(label, probability, threshold)
    alarms, positives = c["tp"] + c["fp"], c["tp"] + c["fn"]
    return {
        "threshold": threshold,
        "accuracy": (c["tp"] + c["tn"]) / max(1, sum(c.values())),
        "precision": c["tp"] / alarms if alarms else 0.0,
        "recall": c["tp"] / positives if positives else 0.0,
        "f1": 2 * c["tp"] / (alarms + positives) if alarms + positives else 0.0,
    }


def best_f1_threshold(label: NDArray[np.generic], probability: NDArray[np.generic]) -> float:
    """The probability at which F1 is highest; the higher threshold of equals."""
    y, p = _checked(label, probability)
    _both(y)
    values, group = np.unique(-p, return_inverse=True)
    hits, seen = np.cumsum(np.bincount(group, y, values.size)), np.cumsum(np.bincount(group, minlength=values.size))
    return float(-values[np.argmax(2 * hits / (seen + y.sum()))])


def classification_metrics(
    label: NDArray[np.generic], probability: NDArray[np.generic], threshold: float
) -> dict[str, float]:
    """All measures of rows by name; OneClassError if the rows hold one class only."""
    y, p = _checked(label, probability)
    return {
        "rows": float(y.size),
        "positives": float(y.sum()),
        "prevalence": float(y.mean()),
        "roc_auc": roc_auc(y, p),
        "pr_auc": pr_auc(y, p),
        "log_loss": log_loss(y, p),
        "brier": brier(y, p),
        **calibration(y, p),
        **at_threshold(y, p, threshold),
    }
