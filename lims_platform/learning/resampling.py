"""How sure are we? Intervals by resampling whole devices: rows of one device on neighbouring days are no independent
evidence.

Here: the device (cluster) bootstrap of AUC, of ratios and of paired differences. Method: Field & Welsh (2007), JRSS B
69:369-390.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lims_platform.learning.metrics import Floats, OneClassError


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval; ``draws`` resamples had both classes and count."""

    estimate: float
    low: float
    high: float
    draws: int

    def __str__(self) -> str:
        return f"{self.estimate:.3f} ({self.low:.3f} to {self.high:.3f})"


def _counts(devices: NDArray[np.generic], draws: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Code of each row's device, and how often each device is drawn: shape (draws + 1, devices), first row all
    ones."""
    names, codes = np.unique(np.asarray(devices), return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=draws)
    return codes, np.vstack([np.ones(names.size), drawn])


def _aucs(y: NDArray[np.bool_], score: Floats, codes: NDArray[np.int64], counts: Floats) -> Floats:
    """Weighted Mann-Whitney AUC per resample; NaN where one class is missing. Sorts once, not once per resample."""
    order = np.argsort(score, kind="stable")
    y, codes = y[order], codes[order]
    ordered = score[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] > ordered[:-1]]))
    out = np.full(len(counts), np.nan)
    for i, count in enumerate(counts):
        w = count[codes]
        positive, negative = np.add.reduceat(w * y, starts), np.add.reduceat(w * ~y, starts)
        total = positive.sum() * negative.sum()
        if total > 0:
            out[i] = (positive * (np.cumsum(negative) - 0.5 * negative)).sum() / total
    return out


def _interval(values: Floats, level: float) -> Interval:
    if not np.isfinite(values[0]):
        raise OneClassError("an AUC needs both classes")
    drawn = values[1:][np.isfinite(values[1:])]
    if drawn.size < 20:
        raise OneClassError(f"only {drawn.size} resamples of devices hold both classes: too few devices with failures")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values[0]), float(low), float(high), int(drawn.size))


def auc_interval(
    label: NDArray[np.generic],
    score: NDArray[np.generic],
    devices: NDArray[np.generic],
    draws: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """ROC-AUC with its device-bootstrap interval. Arrays of one length; ``devices`` names each row's device."""
    y, s = np.asarray(label) > 0, np.asarray(score, dtype=np.float64)
    return _interval(_aucs(y, s, *_counts(devices, draws, seed)), level)


def auc_comparison(
    label: NDArray[np.generic],
    score: NDArray[np.generic],
    reference: NDArray[np.generic],
    devices: NDArray[np.generic],
    draws: int = 400,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Interval, Interval]:
    """Ratio and difference of two scores' AUC on the same rows (score / reference, score − reference), resampled
    together."""
    y = np.asarray(label) > 0
    codes, counts = _counts(devices, draws, seed)
    ours = _aucs(y, np.asarray(score, dtype=np.float64), codes, counts)
    theirs = _aucs(y, np.asarray(reference, dtype=np.float64), codes, counts)
    return _interval(ours / theirs, level), _interval(ours - theirs, level)
