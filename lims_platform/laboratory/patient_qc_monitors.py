"""Patient-based QC, second step: statistics that run along a stream of scores, and their limit.

Here: EWMA, moving mean, moving median and two-sided CUSUM, the day's maximum, the control limit from a false-alarm rate
per day. Not here: what a result scores (``patient_qc_scores``), which monitor is best (``patient_qc_tuning``).

Streams lie end to end in one array. ``first[i]`` is the position of the earliest score that counts for position i:
the start of its stream, or of a trailing window of days. It never falls within a stream, and a statistic at i depends on
scores first[i] … i alone, so that a day computed alone equals the day within a range.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.signal import lfilter

from lims_platform.laboratory.patient_qc_scores import Floats

Positions = NDArray[np.int64]

EWMA, MEAN, MEDIAN, CUSUM = "EWMA", "moving mean", "moving median", "CUSUM"


@dataclass(frozen=True)
class Monitor:
    """A method and its parameter: the weight λ of an EWMA, the window of a mean or median; a CUSUM's lies in its scores."""

    method: str
    parameter: float | None = None

    def __post_init__(self) -> None:
        if self.method not in (EWMA, MEAN, MEDIAN, CUSUM):
            raise ValueError(f"unknown method {self.method!r}")
        if self.method == EWMA and not (self.parameter is not None and 0 < self.parameter <= 1):
            raise ValueError(f"an EWMA's weight lies above 0 and at most at 1, not {self.parameter}")
        if self.method in (MEAN, MEDIAN) and not (self.parameter is not None and self.parameter >= 1):
            raise ValueError(f"a window holds at least one result, not {self.parameter}")
        if self.method == MEDIAN and int(self.parameter or 0) % 2 == 0:
            raise ValueError(f"a moving median's window is odd, not {self.parameter}")

    @property
    def memory(self) -> int:
        """Results it takes until the statistic can answer: a full window, 1 / λ of an EWMA, 1 of a CUSUM."""
        if self.method == CUSUM or self.parameter is None:
            return 1
        return int(np.ceil(1 / self.parameter)) if self.method == EWMA else int(self.parameter)

    def centre(self, scores: Floats) -> float:
        """Where the statistic stands in control: mean of the scores, their median, or 0 for a CUSUM."""
        if self.method == CUSUM:
            return 0.0
        return float(np.median(scores) if self.method == MEDIAN else scores.mean())

    def centres(self, scores: Floats, streams: Positions) -> Floats:
        """``centre`` of each stream 0 … max(streams) by itself; streams lie end to end in ascending order."""
        counts = np.bincount(streams)
        if self.method == CUSUM:
            return np.zeros(len(counts))
        if self.method == MEAN or self.method == EWMA:
            return np.asarray(np.bincount(streams, scores) / np.maximum(counts, 1))
        ordered = scores[np.lexsort((scores, streams))]
        offset, top = np.cumsum(counts) - counts, len(scores) - 1
        low, high = (np.clip(offset + (counts - odd) // 2, 0, top) for odd in (1, 0))
        return np.asarray((ordered[low] + ordered[high]) / 2)

    def statistic(self, up: Floats, down: Floats | None, first: Positions, centre: float | Floats) -> Floats:
        """statistic − centre, signed, per score; 0 while a window is not full.

        up, down, first: one value per result, see the module. centre: one, or one per result, constant in a stream.
        A CUSUM has none and gives the greater of its two sides, signed: max(0, C + up) and max(0, C + down), down being
        −up unless given. An EWMA starts at the centre.
        """
        if len(up) == 0:
            return np.empty(0)
        if self.method == CUSUM:
            high, low = _cusum(up, first), _cusum(-up if down is None else down, first)
            return np.where(high >= low, high, -low)
        if self.method == EWMA:
            return _ewma(up - centre, first, float(self.parameter or 1.0))
        return _moving(up - centre, first, int(self.parameter or 1), median=self.method == MEDIAN)


def starts_of(streams: NDArray[np.integer] | NDArray[np.str_]) -> Positions:
    """``first`` of streams without a trailing window: streams holds each result's stream, lying end to end."""
    new = np.r_[True, streams[1:] != streams[:-1]] if len(streams) else np.empty(0, dtype=bool)
    return np.flatnonzero(new)[np.cumsum(new) - 1]


def day_maxima(statistic: Floats, starts: Positions) -> Floats:
    """Greatest |statistic| of each day; ``starts``: position of each day's first result, ascending."""
    return np.maximum.reduceat(np.abs(statistic), starts) if len(starts) else np.empty(0)


def control_limit(maxima: Floats, false_alarms_per_day: float) -> float:
    """The limit a day's maximum exceeds in a share ``false_alarms_per_day`` of in-control days.

    The quantile whose expected exceedance is that share whatever the distribution (p = i / (n + 1), Hyndman & Fan, Am
    Stat 1996;50:361-365, type 6). ValueError with fewer days than it takes to see one such day in expectation.
    """
    if len(maxima) + 1 < 1 / false_alarms_per_day:
        raise ValueError(f"{len(maxima)} days cannot give a limit exceeded on {false_alarms_per_day:.3g} of days")
    return float(np.quantile(maxima, 1 - false_alarms_per_day, method="weibull"))


def control_limits(maxima: Floats, groups: Positions, false_alarms_per_day: float) -> tuple[Floats, Positions]:
    """``control_limit`` of each group 0 … max(groups) at once, and its days; NaN for a group with too few days."""
    days = np.bincount(groups)
    ordered = maxima[np.lexsort((maxima, groups))]
    offset = np.cumsum(days) - days
    rank = np.minimum((1 - false_alarms_per_day) * (days + 1), np.maximum(days, 1))
    whole = np.floor(rank).astype(np.int64)
    last = len(ordered) - 1
    below = ordered[np.clip(offset + whole - 1, 0, last)]
    above = ordered[np.clip(offset + np.minimum(whole, days - 1), 0, last)]
    limits = below + (rank - whole) * (above - below)
    return np.where(days + 1 < 1 / false_alarms_per_day, np.nan, limits), days


def detection_delays(statistic: Floats, limit: float, clean: int, length: int) -> NDArray[np.int64]:
    """Results from the onset of a bias to the first alarm, censored at ``length`` − ``clean``; one per stream.

    statistic: streams of ``length`` results end to end, the bias beginning after ``clean`` of them. Alarms before the
    onset are false and count neither way.
    """
    alarms = np.abs(statistic.reshape(-1, length)[:, clean:]) > limit
    return np.where(alarms.any(axis=1), alarms.argmax(axis=1) + 1, length - clean)


def _ewma(scores: Floats, first: Positions, weight: float) -> Floats:
    keep = 1 - weight
    run = lfilter([weight], [1.0, -keep], scores)
    if first[-1] == 0:
        return np.asarray(run)
    # linear: what came before ``first`` is taken out again
    before = np.where(first > 0, run[np.maximum(first - 1, 0)], 0.0)
    age = np.arange(len(run)) - first + 1
    return np.asarray(run - before * (keep ** np.arange(age.max() + 1))[age])


def _moving(scores: Floats, first: Positions, window: int, *, median: bool) -> Floats:
    at = np.arange(len(scores))
    if median:
        # origin: the window ends at the result; a bare 1-d filter is the fast one
        found = median_filter(scores, size=window, mode="nearest", origin=(window - 1) // 2)
    else:
        total = np.concatenate([[0.0], np.cumsum(scores)])
        found = (total[1:] - total[np.maximum(at + 1 - window, 0)]) / window
    return np.where(at - first + 1 >= window, found, 0.0)


def _cusum(scores: Floats, first: Positions) -> Floats:
    """max(0, C + score) from 0 at ``first``: the running sum minus its least value since just before ``first``."""
    total = np.concatenate([[0.0], np.cumsum(scores)])
    return total[1:] - _least(total, first, np.arange(1, len(total)))


def _least(values: Floats, low: Positions, high: Positions) -> Floats:
    """min(values[low … high]) for each pair, by doubling spans: log₂ of the longest range passes over the array."""
    level = np.frexp(high - low + 1)[1] - 1
    found = np.empty(len(low))
    spans = values
    for step in range(int(level.max()) + 1):
        here = np.flatnonzero(level == step)
        found[here] = np.minimum(spans[low[here]], spans[high[here] - (1 << step) + 1])
        spans = np.minimum(spans[: -(1 << step)], spans[1 << step :]) if len(spans) > 1 << step else spans
    return found
