"""Patient-based QC, first step: what a patient's result contributes to a monitor.

Here: the bias to be found, and the tables that turn a result into a score: winsorised, logarithm, rank-normal, or
log-likelihood ratio on a density estimated from history. Not here: how scores accumulate (``patient_qc_monitors``).

Every transformation is a table of knots, flat beyond the first and the last: truncation at limits from history is part
of it (winsorising, as IFCC's recommendations ask for: Badrick et al., Clin Chem Lab Med 2020;58:1029-1032).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtri

Floats = NDArray[np.float64]

#: Bins of a density estimate, knots of a score table.
_BINS, _KNOTS = 4096, 256
#: A likelihood ratio is trusted between the quantiles beyond which this many results of history lie.
_TAIL_RESULTS = 25
#: … but never further out than this quantile.
_TAIL = 0.001


@dataclass(frozen=True)
class BiasModel:
    """An analytical error of one unit of allowable error: the greater of a share of the result and a fixed amount.

    relative: share, 0.08 for 8 %; absolute: in the analyte's unit. Both 0: nothing is allowed, nothing can be tuned.
    low, high: the limits results are reported to; at and beyond them results stand for all that lie there.
    """

    relative: float
    absolute: float
    low: float = -np.inf
    high: float = np.inf

    def apply(self, values: Floats, size: float) -> Floats:
        """The results as an analyser with a bias of ``size`` allowable errors (signed) would have given them.

        A result at a limit stays there: some of those hidden would come forth, but nobody knows how many.
        """
        moved = values + size * np.maximum(self.relative * np.abs(values), self.absolute)
        return np.where((values > self.low) & (values < self.high), np.clip(moved, self.low, self.high), values)


@dataclass(frozen=True)
class ScoreTable:
    """A tabulated transformation. ``up`` scores evidence of results too high, ``down`` of too low (null: −up)."""

    name: str
    knots: Floats
    up: Floats
    down: Floats | None = None

    def score(self, values: Floats) -> tuple[Floats, Floats | None]:
        """``up`` and ``down`` of each result, linear between knots, flat beyond them."""
        down = None if self.down is None else np.interp(values, self.knots, self.down)
        return np.interp(values, self.knots, self.up), down


def winsorised(history: Floats, share: float) -> ScoreTable | None:
    """The result itself, held at the quantiles ``share`` and 1 − ``share`` of history; None where these are equal."""
    low, high = np.quantile(history, [share, 1 - share])
    if not high > low:
        return None
    knots = np.array([low, high])
    return ScoreTable(f"winsorised {100 * share:g} %", knots, knots.copy())


def logarithm(history: Floats, share: float) -> ScoreTable | None:
    """The logarithm, winsorised likewise; None where history is not all positive."""
    low, high = np.quantile(history, [share, 1 - share])
    if history.min() <= 0 or high <= low:
        return None
    knots = np.geomspace(low, high, _KNOTS)
    return ScoreTable(f"logarithm, winsorised {100 * share:g} %", knots, np.log(knots))


def rank_normal(history: Floats, share: float) -> ScoreTable | None:
    """The normal score of a result's rank in history (mid-ranks for ties); None where all results are equal."""
    distinct, counts = np.unique(history, return_counts=True)
    middle = (np.cumsum(counts) - 0.5 * counts) / len(history)
    inside = (middle >= share) & (middle <= 1 - share)
    if inside.sum() < 2:
        return None
    at = np.flatnonzero(inside)
    at = at[np.unique(np.linspace(0, len(at) - 1, _KNOTS).astype(int))]
    return ScoreTable(f"rank-normal, winsorised {100 * share:g} %", distinct[at], ndtri(middle[at]))


def likelihood_ratio(history: Floats, bias: BiasModel, size: float) -> ScoreTable | None:
    """log f(x under a bias of ± ``size``) / f(x), both densities estimated from history; None where all are equal.

    Kernel estimates on a common grid (logarithmic where that makes history less skewed): of history as it is, and of
    history with the bias applied. Bandwidth by Silverman's rule (1986, eq. 3.31), at least the step results are
    rounded to. The optimal increments of a CUSUM (Moustakides, Ann Stat 1986;14:1379-1387).
    """
    on_log = bool(history.min() > 0) and abs(_skew(np.log(history))) < abs(_skew(history))
    tail = max(_TAIL, min(0.05, _TAIL_RESULTS / len(history)))
    low, high = np.quantile(history, [tail, 1 - tail])
    if not high > low:
        return None
    shifted = [bias.apply(history, sign * size) for sign in (1.0, -1.0)]
    floor = history.min()
    # an analyser does not report below the lowest result it has ever given a logarithm for
    samples = [np.log(np.maximum(v, floor)) if on_log else v for v in (history, *shifted)]
    width = _bandwidth(samples[0])
    ends = min(s.min() for s in samples) - 4 * width, max(s.max() for s in samples) + 4 * width
    # one absurd value must not coarsen the grid of all others
    inner = np.quantile(samples[0], [tail, 1 - tail])
    reach = float(inner[1] - inner[0])
    ends = max(ends[0], inner[0] - 2 * reach), min(ends[1], inner[1] + 2 * reach)
    log_density = [_log_density(s, ends, width) for s in samples]
    grid = np.linspace(ends[0], ends[1], _BINS + 1)
    centres = (grid[:-1] + grid[1:]) / 2
    outer = np.log([low, high]) if on_log else np.array([low, high])
    at = np.linspace(outer[0], outer[1], _KNOTS)
    base, up, down = (np.interp(at, centres, d) for d in log_density)
    return ScoreTable(f"likelihood ratio at {size:g} TEa", np.exp(at) if on_log else at, up - base, down - base)


def contrast(table: ScoreTable) -> ScoreTable:
    """The difference of both ratios of a table as one score, for a linear monitor: (up − down) / 2."""
    if table.down is None:
        raise ValueError(f"{table.name} has no second side to contrast")
    return ScoreTable(table.name, table.knots, (table.up - table.down) / 2)


def _skew(values: Floats) -> float:
    spread = values.std()
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0


def _bandwidth(values: Floats) -> float:
    quartiles = np.quantile(values, [0.25, 0.75])
    robust = (quartiles[1] - quartiles[0]) / 1.349
    spread = min(values.std(), robust) if robust > 0 else values.std()
    distinct, counts = np.unique(values, return_counts=True)
    gaps = np.diff(distinct)
    order = np.argsort(gaps)
    # the step between neighbouring values where most results lie: rounding, or next to nothing
    half = np.searchsorted(np.cumsum(counts[1:][order]), counts[1:].sum() / 2)
    step = float(gaps[order][min(half, len(gaps) - 1)]) if len(gaps) else 0.0
    return float(max(0.9 * spread * len(values) ** -0.2, step))


def _log_density(values: Floats, ends: tuple[float, float], width: float) -> Floats:
    counts, _ = np.histogram(values, bins=_BINS, range=ends)
    smooth = gaussian_filter1d(counts.astype(np.float64), width * _BINS / (ends[1] - ends[0]), mode="constant")
    # a hundredth of one result, spread over the grid: where history has nothing, neither side is certain
    return np.log(smooth + 0.01 / _BINS)
