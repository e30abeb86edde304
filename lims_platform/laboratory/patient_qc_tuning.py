"""Patient-based QC, third step: which monitor finds an allowable error soonest, and how soon.

Here: the grid of monitors, the choice on history without knowing any truth, verification on days that took no part in
it. Not here: tables of the lake (``patient_qc``).

History is cut by days into three: transformations and limits are fitted on the first part, candidates compared by the
results they need on the second, the choice verified on the third: the same days never set a limit and judge it. Bias is
injected, of both signs alike since nobody knows the sign of tomorrow's, at onsets spread evenly: no random numbers, the
same history gives the same choice. Terms as the IFCC working group's: ANPed, MNPed, 95NPed, the average, median and 95th
percentile of the number of patient results until error detection (Ng et al., Clin Chem 2016;62:1361-1371; bias detection
curves and MNPed: van Rossum & Kemperman, Clin Chem Lab Med 2017;55:1763-1773; Badrick et al., Clin Chem Lab Med
2020;58:1029-1032).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtri

from lims_platform.laboratory import patient_qc_monitors as monitors
from lims_platform.laboratory.patient_qc_monitors import CUSUM, EWMA, MEAN, MEDIAN, Monitor, Positions
from lims_platform.laboratory.patient_qc_scores import (
    BiasModel,
    Floats,
    ScoreTable,
    contrast,
    likelihood_ratio,
    logarithm,
    rank_normal,
    winsorised,
)

#: Chance that any of the candidates is left out for false alarms although it keeps the chosen rate.
EXCLUSION_LEVEL = 0.05


@dataclass(frozen=True)
class Design:
    """What the laboratory chooses, and the grid that is searched.

    false_alarms_per_day: share of in-control days (of a device and analyte) with an alarm. bias: the error to be found,
    in units of allowable error. Delays are censored at max_results; a monitor runs over lead_in clean results first.
    """

    false_alarms_per_day: float = 0.05
    bias: float = 1.0
    max_results: int = 1000
    lead_in: int = 600
    #: Days a statistic looks back over; a monitor that needs more results than half of what a device has then is out.
    memory_days: int = 28
    #: Shares of the days that fit limits and that select; the rest verifies.
    fitting: float = 0.5
    selecting: float = 0.25
    min_results: int = 1000
    #: Onsets of every candidate, then of the best few.
    screening_onsets: int = 32
    onsets: int = 128
    finalists: int = 6
    weights: tuple[float, ...] = (0.2, 0.1, 0.05, 0.025, 0.0125, 0.00625)
    windows: tuple[int, ...] = (21, 51, 101, 201)
    winsor_shares: tuple[float, ...] = (0.025, 0.1)
    #: Shifts likelihood ratios are made for, as shares of ``bias``.
    design_shifts: tuple[float, ...] = (0.5, 0.75, 1.0)
    verified_biases: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class History:
    """Results of one analyte: values, and the number of each one's stream (device) and day.

    Ordered by stream, then time; all of one length. Values finite.
    """

    values: Floats
    streams: Positions
    days: Positions

    def between(self, first: int, last: int) -> History:
        """The results of days ``first`` up to but not including ``last``."""
        inside = (self.days >= first) & (self.days < last)
        return History(self.values[inside], self.streams[inside], self.days[inside])

    @property
    def day_starts(self) -> Positions:
        """Position of the first result of each stream's each day."""
        new = (np.diff(self.streams) != 0) | (np.diff(self.days) != 0)
        return np.flatnonzero(np.r_[True, new]) if len(self.values) else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Candidate:
    """A monitor over a transformation, with centre and limit."""

    monitor: Monitor
    table: ScoreTable
    centre: float
    limit: float

    def maxima(self, history: History) -> Floats:
        """The day's greatest |statistic − centre|, per stream and day of history, in its order."""
        up, down = self.table.score(history.values)
        statistic = self.monitor.statistic(up, down, monitors.starts_of(history.streams), self.centre)
        return monitors.day_maxima(statistic, history.day_starts)


@dataclass(frozen=True)
class Detection:
    """Results until an alarm under a bias of ``bias`` allowable errors, censored at the design's max_results."""

    bias: float
    anped: float
    mnped: float
    p95nped: float
    detected: float
    onsets: int


@dataclass(frozen=True)
class Choice:
    """The chosen candidate and its evidence.

    expected_results: its ANPed in the selection days, both signs; fixed_results: of the best textbook monitor (winsorised
    results, no CUSUM) that was not out for its false alarms, NaN if all were. selection_false_alarms: share of selection
    days with an alarm. verified_from: first day that took no part.
    """

    candidate: Candidate
    expected_results: float
    fixed_results: float
    selection_false_alarms: float
    compared: int
    verified_from: int
    notes: tuple[str, ...] = field(default=())


class NotEvaluableError(ValueError):
    """History does not allow a choice; the message says why."""


def tune(history: History, bias: BiasModel, design: Design) -> Choice:
    """The candidate with the least ANPed at ± design.bias; NotEvaluableError where history does not allow one.

    Candidates that alarm on more selection days than chance explains at the chosen rate (level EXCLUSION_LEVEL over all
    candidates, Bonferroni) are out, unless all do. Transformation, centre and limit of the choice are refitted on fitting
    and selection days together.
    """
    selecting, verifying = _cuts(history, bias, design)
    fit, select = history.between(0, selecting), history.between(selecting, verifying)
    both = history.between(0, verifying)
    affordable = _memory(fit, design)
    searched = grid(fit.values, bias, design)
    pairs = [pair for pair in searched if pair[0].memory <= affordable]
    if searched and not pairs:
        raise NotEvaluableError(
            f"{2 * affordable:.1f} results per device in {design.memory_days} days, too few for a monitor"
        )
    candidates = [c for pair in pairs if (c := fitted(*pair, fit, design)).limit > 0]
    if not candidates:
        raise NotEvaluableError("results hardly vary, every statistic stands still")
    pairs = [(c.monitor, c.table) for c in candidates]
    screened = [_expected(c, select, bias, design, design.screening_onsets) for c in candidates]
    alarms = [float((c.maxima(select) > c.limit).mean()) for c in candidates]
    # the days judged scatter, and so does the limit by the days it was fitted on
    rate, scatter = design.false_alarms_per_day, 1 / len(select.day_starts) + 1 / len(fit.day_starts)
    bound = rate + ndtri(1 - EXCLUSION_LEVEL / len(candidates)) * np.sqrt(rate * (1 - rate) * scatter)
    honest = [i for i, share in enumerate(alarms) if share <= bound]
    ranked = sorted(honest or range(len(candidates)), key=lambda i: screened[i])
    order, textbook = ranked[: design.finalists], [i for i in ranked if _textbook(*pairs[i])][:1]
    needed = {i: _expected(candidates[i], select, bias, design, design.onsets) for i in {*order, *textbook}}
    best = min(order, key=lambda i: needed[i])
    fixed = min((needed[i] for i in textbook), default=np.nan)
    notes = () if honest else (f"every monitor alarms on more than {bound:.3f} of the selection days",)
    again = next(
        (table for monitor, table in grid(both.values, bias, design) if _same(monitor, table, pairs[best])), pairs[best][1]
    )
    choice = fitted(pairs[best][0], again, both, design)
    if choice.limit <= 0:
        raise NotEvaluableError("results hardly vary, the chosen statistic stands still")
    return Choice(choice, needed[best], fixed, alarms[best], len(pairs), verifying, notes)


def grid(values: Floats, bias: BiasModel, design: Design) -> list[tuple[Monitor, ScoreTable]]:
    """Every monitor with every transformation that values allow."""
    ratios = [t for s in design.design_shifts if (t := likelihood_ratio(values, bias, s * design.bias))]
    plain = [t for share in design.winsor_shares if (t := winsorised(values, share))]
    first = design.winsor_shares[0]
    curved = [t for t in (logarithm(values, first), rank_normal(values, first)) if t is not None]
    linear = [*plain, *curved, *map(contrast, ratios)]
    return [
        *((Monitor(EWMA, weight), table) for table in linear for weight in design.weights),
        *((Monitor(MEAN, window), table) for table in linear for window in design.windows),
        # a monotone transformation does not change which result is the median
        *((Monitor(MEDIAN, window), table) for table in plain[:1] for window in design.windows),
        *((Monitor(CUSUM), table) for table in ratios),
    ]


def fitted(monitor: Monitor, table: ScoreTable, history: History, design: Design) -> Candidate:
    """The monitor with its centre and limit from in-control history."""
    centre = monitor.centre(table.score(history.values)[0])
    free = Candidate(monitor, table, centre, np.inf)
    limit = monitors.control_limit(free.maxima(history), design.false_alarms_per_day)
    return Candidate(monitor, table, centre, limit)


def delays(candidate: Candidate, history: History, bias: BiasModel, size: float, design: Design, onsets: int) -> Positions:
    """Results until detection at each of ``onsets`` onsets of a bias of ``size`` allowable errors (signed).

    Streams are cut from history laid end to end (and round again): lead_in clean results, then max_results biased ones.
    """
    n, length = len(history.values), design.lead_in + design.max_results
    at = (np.arange(onsets) * n // onsets)[:, None] + np.arange(length)
    at %= n
    clean = candidate.table.score(history.values)
    biased = candidate.table.score(bias.apply(history.values, size))
    cut = design.lead_in

    def laid(before: Floats | None, after: Floats | None) -> Floats | None:
        if before is None or after is None:
            return None
        return np.concatenate([before[at[:, :cut]], after[at[:, cut:]]], axis=1).ravel()

    up, down = laid(clean[0], biased[0]), laid(clean[1], biased[1])
    first = np.repeat(np.arange(onsets) * length, length)
    assert up is not None
    statistic = candidate.monitor.statistic(up, down, first, candidate.centre)
    return monitors.detection_delays(statistic, candidate.limit, cut, length)


def detection(candidate: Candidate, history: History, bias: BiasModel, design: Design) -> list[Detection]:
    """The bias detection curve on history that took no part in the choice, both signs of each verified bias."""
    sizes = [sign * size for size in design.verified_biases for sign in (-1.0, 1.0)]
    found = []
    for size in sorted(sizes):
        needed = delays(candidate, history, bias, size, design, design.onsets)
        average, median, late = needed.mean(), np.median(needed), np.quantile(needed, 0.95)
        share = float((needed < design.max_results).mean())
        found.append(Detection(size, float(average), float(median), float(late), share, design.onsets))
    return found


def _expected(candidate: Candidate, history: History, bias: BiasModel, design: Design, onsets: int) -> float:
    """ANPed at ± design.bias."""
    signs = (delays(candidate, history, bias, sign * design.bias, design, onsets) for sign in (1.0, -1.0))
    return float(np.mean([needed.mean() for needed in signs]))


def _cuts(history: History, bias: BiasModel, design: Design) -> tuple[int, int]:
    """First day of selection and of verification; NotEvaluableError where one of the parts would be too thin."""
    if bias.relative <= 0 and bias.absolute <= 0:
        raise NotEvaluableError("no allowable error")
    if len(history.values) < design.min_results:
        raise NotEvaluableError(f"{len(history.values)} usable results, {design.min_results} needed")
    if history.values.min() == history.values.max():
        raise NotEvaluableError("all results are equal")
    days = np.unique(history.days)
    at = [int(len(days) * share) for share in (design.fitting, design.fitting + design.selecting)]
    if at[0] < 1 or at[1] <= at[0] or at[1] >= len(days):
        raise NotEvaluableError(f"{len(days)} days, too few to fit, select and verify on days apart")
    selecting, verifying = int(days[at[0]]), int(days[at[1]])
    device_days = len(history.between(0, selecting).day_starts)
    if device_days + 1 < 1 / design.false_alarms_per_day:
        raise NotEvaluableError(
            f"{device_days} device-days to fit a limit, {1 / design.false_alarms_per_day - 1:.0f} needed for "
            f"{design.false_alarms_per_day:g} false alarms a day"
        )
    return selecting, verifying


def _memory(history: History, design: Design) -> float:
    """Half the results a device has in the days a statistic looks back over, on average."""
    span = int(history.days.max() - history.days.min()) + 1
    per_day = len(history.values) / (len(np.unique(history.streams)) * span)
    return per_day * design.memory_days / 2


def _textbook(monitor: Monitor, table: ScoreTable) -> bool:
    return monitor.method != CUSUM and table.name.startswith("winsorised")


def _same(monitor: Monitor, table: ScoreTable, other: tuple[Monitor, ScoreTable]) -> bool:
    return monitor == other[0] and table.name == other[1].name
