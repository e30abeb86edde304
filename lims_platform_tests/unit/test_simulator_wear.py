"""Wear and its oracle: the numbers against a plain simulation from the same state, and how hard failures are to foresee."""

from __future__ import annotations

import dataclasses
from datetime import date
from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lims_platform.simulator import wear
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.wear import HORIZON, oracle_probability, simulate_wear

CONFIG = LabConfig(seed=5, end=date(2025, 12, 31), days=400, devices=400)


@pytest.fixture(scope="module")
def path() -> wear.WearPath:
    return simulate_wear(CONFIG)


def _labels(path: wear.WearPath) -> np.ndarray:
    """A failure in (D, D+7] for every day D that has seven days after it."""
    fails = np.isfinite(path.failed_at)
    total = np.vstack([np.zeros(fails.shape[1]), fails.cumsum(axis=0)])
    return (total[1 + HORIZON :] - total[1:-HORIZON]) > 0


def test_failures_come_at_the_wanted_rate(path: wear.WearPath) -> None:
    rate = np.isfinite(path.failed_at).sum() / (400 * 400 / 365.25)
    assert rate == pytest.approx(4.0, rel=0.12)
    double = simulate_wear(dataclasses.replace(CONFIG, failures_per_device_year=8.0))
    assert np.isfinite(double.failed_at).sum() / (400 * 400 / 365.25) == pytest.approx(8.0, rel=0.12)


def test_oracle_is_calibrated_and_failures_are_hard(path: wear.WearPath) -> None:
    probability, label = oracle_probability(path)[:-HORIZON], _labels(path)
    assert 0.87 <= roc_auc_score(label.ravel(), probability.ravel()) <= 0.93
    edges = np.quantile(probability, [0, 0.5, 0.8, 0.9, 0.95, 1.0])
    for low, high in pairwise(edges.tolist()):
        inside = (probability >= low) & (probability < high)
        assert label[inside].mean() == pytest.approx(probability[inside].mean(), rel=0.25, abs=0.005)


def test_oracle_agrees_with_brute_force_from_one_state() -> None:
    """Twenty thousand devices put into one state and run on for a week."""
    count = 20_000
    from lims_platform.simulator.devices import Devices

    fleet = Devices.reference(count, seed=1)
    same = Devices(
        fleet.type_index, fleet.model_index, fleet.facility, np.full(count, 1500), np.ones(count), np.full(count, 1.1)
    )
    scale = wear.tuned_scale(4.0)
    start = wear._run(99, same, 60, 120, scale)
    probability, label = oracle_probability(start), _labels(start)
    # same state, same number, whatever happened next
    day = 40
    for level in (0, 3, 6):
        chosen = (start.level[day] == level) & (start.run_in[day] == 0)
        observed, expected = label[day][chosen].mean(), probability[day][chosen].mean()
        error = np.sqrt(expected * (1 - expected) / chosen.sum())
        assert abs(observed - expected) < 4 * error + 0.002, level


def test_oracle_knows_the_state_only() -> None:
    """Two futures after one past give one probability: cutting the path changes nothing."""
    short = simulate_wear(dataclasses.replace(CONFIG, days=200, end=date(2025, 6, 14), devices=50))
    long = simulate_wear(dataclasses.replace(CONFIG, devices=50))
    assert np.array_equal(short.level, long.level[:200])
    assert np.allclose(oracle_probability(short), oracle_probability(long)[:200], rtol=0, atol=1e-6)


def test_no_second_failure_within_a_day(path: wear.WearPath) -> None:
    fails = np.isfinite(path.failed_at)
    assert not (fails[1:] & fails[:-1]).any()
    assert (path.outage_hours[fails] > 0).all() and (path.outage_hours[fails] <= 48).all()


def test_more_wear_more_overdue_more_prone_is_worse() -> None:
    tables = wear._value_tables(np.array([0.5, 2.0]), 1.0)[0]
    assert (np.diff(tables, axis=0) > 0).all()
    # a worn device only: a healthy one may gain from being about to be serviced
    assert (np.diff(tables[:, :, 0, 0], axis=1) > 0).all()
