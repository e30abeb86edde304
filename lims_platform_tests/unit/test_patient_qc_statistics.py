"""Patient-based QC: statistics against their recursions, limits against a count, scores against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.laboratory import patient_qc_monitors as monitors
from lims_platform.laboratory.patient_qc_monitors import CUSUM, EWMA, MEAN, MEDIAN, Monitor
from lims_platform.laboratory.patient_qc_scores import (
    BiasModel,
    contrast,
    likelihood_ratio,
    logarithm,
    rank_normal,
    winsorised,
)
from lims_platform.laboratory.patient_qc_tuning import Design, History, NotEvaluableError, delays, detection, fitted, tune

EVERY = [Monitor(EWMA, 0.1), Monitor(EWMA, 1.0), Monitor(MEAN, 7), Monitor(MEDIAN, 5), Monitor(CUSUM)]


def _recursion(monitor: Monitor, window: np.ndarray) -> float:
    """The statistic at the end of ``window``, one result at a time, as the textbook writes it."""
    if monitor.method in (MEAN, MEDIAN):
        size = int(monitor.parameter)
        middle = np.mean if monitor.method == MEAN else np.median
        return float(middle(window[-size:])) if len(window) >= size else 0.0
    value = high = low = 0.0
    for score in window:
        value = (1 - (monitor.parameter or 0)) * value + (monitor.parameter or 0) * score
        high, low = max(0.0, high + score), max(0.0, low - score)
    if monitor.method == EWMA:
        return value
    return high if high >= low else -low


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    back=st.integers(0, 12),
    monitor=st.sampled_from(EVERY),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_statistic_is_its_recursion_over_the_scores_that_count(lengths, back, monitor, seed):
    scores = np.random.default_rng(seed).normal(size=sum(lengths))
    begun = monitors.starts_of(np.repeat(np.arange(len(lengths)), lengths))
    # a trailing window that never begins within another stream
    first = np.maximum(begun, np.arange(len(scores)) // 5 * 5 - back)
    centre = 0.0 if monitor.method == CUSUM else 0.3
    found = monitor.statistic(scores, None, first, centre)
    expected = [_recursion(monitor, scores[first[i] : i + 1] - centre) for i in range(len(scores))]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "parameter"),
    [("EWMA", 0.0), ("EWMA", 1.5), ("EWMA", None), (MEAN, 0), (MEDIAN, 20), ("Shewhart", 1.0)],
)
def test_a_monitor_refuses_parameters_that_mean_nothing(method, parameter):
    with pytest.raises(ValueError, match=r"weight|window|unknown"):
        Monitor(method, parameter)


def test_no_results_no_statistic():
    nothing = np.empty(0)
    assert len(Monitor(CUSUM).statistic(nothing, None, monitors.starts_of(np.empty(0, dtype=np.int64)), 0.0)) == 0


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(0, 60), min_size=1, max_size=5), rate=st.sampled_from([0.02, 0.05, 0.2]))
def test_limits_of_groups_are_those_of_each_group_by_itself(sizes, rate):
    if not sizes[-1]:
        sizes[-1] = 1
    groups = np.repeat(np.arange(len(sizes)), sizes)
    maxima = np.random.default_rng(sum(sizes)).exponential(size=len(groups))
    limits, days = monitors.control_limits(maxima, groups, rate)
    assert days.tolist() == sizes
    for group, size in enumerate(sizes):
        if size + 1 < 1 / rate:
            assert np.isnan(limits[group])
            with pytest.raises(ValueError, match="days cannot give a limit"):
                monitors.control_limit(maxima[groups == group], rate)
        else:
            assert limits[group] == pytest.approx(monitors.control_limit(maxima[groups == group], rate))


def test_a_limit_is_exceeded_by_the_chosen_share_of_new_days():
    rng = np.random.default_rng(5)
    exceeded = [
        (rng.exponential(size=500) > monitors.control_limit(rng.exponential(size=40), 0.05)).mean() for _ in range(600)
    ]
    assert np.mean(exceeded) == pytest.approx(0.05, abs=0.006)


def test_centres_of_streams_are_their_means_and_medians():
    rng = np.random.default_rng(2)
    streams = np.repeat([0, 1, 3], [5, 4, 1])
    scores = rng.normal(size=10)
    parts = [scores[streams == s] for s in (0, 1, 3)]
    for monitor, middle in ((Monitor(MEAN, 3), np.mean), (Monitor(MEDIAN, 3), np.median)):
        np.testing.assert_allclose(monitor.centres(scores, streams)[[0, 1, 3]], [middle(p) for p in parts])


def test_a_bias_is_the_greater_of_share_and_amount():
    found = BiasModel(0.08, 6.0).apply(np.array([50.0, 100.0]), -0.5)
    np.testing.assert_allclose(found, [47.0, 96.0])


def test_transformations_hold_at_their_limits_and_follow_their_function_between():
    history = np.exp(np.random.default_rng(1).normal(3, 0.5, 20_000))
    low, high = np.quantile(history, [0.025, 0.975])
    inside = np.linspace(low, high, 50)
    absurd = np.array([1e-9, 1e9])
    for table, function in ((winsorised(history, 0.025), lambda v: v), (logarithm(history, 0.025), np.log)):
        np.testing.assert_allclose(table.score(inside)[0], function(inside), rtol=1e-4)
        np.testing.assert_allclose(table.score(absurd)[0], function(np.array([low, high])))
    ranks = rank_normal(history, 0.025)
    np.testing.assert_allclose(ranks.score(inside)[0], (np.log(inside) - 3) / 0.5, atol=0.06)


def test_the_likelihood_ratio_of_normal_results_is_the_straight_line_of_the_textbook():
    history = np.random.default_rng(3).normal(140, 3, 200_000)
    table = likelihood_ratio(history, BiasModel(0.0, 4.0), 1.0)
    at = np.linspace(135, 145, 21)
    up, down = table.score(at)
    np.testing.assert_allclose(up, 4 / 9 * (at - 142), atol=0.12)
    np.testing.assert_allclose(down, -4 / 9 * (at - 138), atol=0.12)
    np.testing.assert_allclose(contrast(table).score(at)[0], 4 / 9 * (at - 140), atol=0.1)
    # results rounded to whole numbers do not make the density a comb
    rounded = likelihood_ratio(np.round(history), BiasModel(0.0, 4.0), 1.0)
    assert np.abs(rounded.score(at)[0] - up).max() < 0.4


def test_transformations_say_none_where_history_does_not_allow_them():
    same, signed = np.full(50, 4.0), np.linspace(-1, 1, 50)
    assert (logarithm(signed, 0.025), logarithm(same, 0.025), rank_normal(same, 0.025)) == (None, None, None)
    assert winsorised(same, 0.025) is None
    assert likelihood_ratio(same, BiasModel(0.1, 0), 1.0) is None
    with pytest.raises(ValueError, match="no second side"):
        contrast(winsorised(signed, 0.025))


QUICK = Design(weights=(0.2, 0.05), windows=(21, 51), design_shifts=(1.0,), onsets=64, screening_onsets=16, finalists=3)


def _stream(days: int, seed: int, per_day: int = 100) -> History:
    values = np.random.default_rng(seed).normal(140, 3, days * per_day)
    return History(values, np.zeros(len(values), dtype=np.int64), np.repeat(np.arange(days), per_day))


def test_the_choice_keeps_its_false_alarms_and_finds_the_bias_on_days_it_never_saw():
    history = _stream(400, 7)
    choice = tune(history, BiasModel(0.0, 4.0), QUICK)
    fresh = _stream(600, 8)
    alarms = (choice.candidate.maxima(fresh) > choice.candidate.limit).mean()
    assert 0.02 < alarms < 0.09
    assert choice.verified_from == 300
    assert choice.expected_results <= choice.fixed_results
    curve = {d.bias: d for d in detection(choice.candidate, fresh, BiasModel(0.0, 4.0), QUICK)}
    assert sorted(curve) == [-2, -1.5, -1, -0.5, 0.5, 1, 1.5, 2]
    for side in (-1, 1):
        along = [curve[side * size].anped for size in QUICK.verified_biases]
        assert along == sorted(along, reverse=True)
        assert curve[side].mnped <= curve[side].p95nped < 60
        assert curve[side].detected == 1.0
    again = tune(history, BiasModel(0.0, 4.0), QUICK)
    assert (again.candidate.monitor, again.candidate.limit) == (choice.candidate.monitor, choice.candidate.limit)


def test_delays_are_those_of_a_loop_over_onsets():
    history = _stream(40, 4, per_day=60)
    design = Design(max_results=80, lead_in=50)
    bias = BiasModel(0.0, 4.0)
    candidate = fitted(Monitor(EWMA, 0.1), winsorised(history.values, 0.025), history, design)
    n, found = len(history.values), delays(candidate, history, bias, 1.0, design, 8)
    for onset, needed in enumerate(found):
        at = (onset * n // 8 + np.arange(130)) % n
        values = np.where(np.arange(130) < 50, history.values[at], history.values[at] + 4)
        value, count = 0.0, 80
        for i, score in enumerate(candidate.table.score(values)[0] - candidate.centre):
            value = 0.9 * value + 0.1 * score
            if i >= 50 and abs(value) > candidate.limit:
                count = i - 49
                break
        assert needed == count


@pytest.mark.parametrize(
    ("history", "bias", "why"),
    [
        (_stream(400, 1), BiasModel(0.0, 0.0), "no allowable error"),
        (_stream(4, 1), BiasModel(0.0, 4.0), "400 usable results, 1000 needed"),
        (History(np.full(2000, 5.0), np.zeros(2000, dtype=int), np.arange(2000)), BiasModel(0, 1), "all results are equal"),
        (_stream(12, 1), BiasModel(0.0, 4.0), "6 device-days to fit a limit, 19 needed"),
        (_stream(1, 1, per_day=1000), BiasModel(0.0, 4.0), "too few to fit, select and verify"),
    ],
)
def test_history_that_allows_no_choice_says_why(history, bias, why):
    with pytest.raises(NotEvaluableError, match=why):
        tune(history, bias, QUICK)


def test_a_device_with_too_few_results_for_any_monitor_is_not_evaluable():
    sparse = History(np.random.default_rng(0).normal(5, 1, 2000), np.arange(2000) // 20, np.arange(2000) % 20 * 90)
    with pytest.raises(NotEvaluableError, match="too few for a monitor"):
        tune(sparse, BiasModel(0.0, 1.0), QUICK)
