"""Censored samples: the estimates against hand-worked ones, against the truth, and against substitution."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.laboratory.censored import kaplan_meier, order_statistics, recensored


def test_kaplan_meier_by_hand() -> None:
    # <1, 2, <3, 4, 5: P(X<5) = 4/5, P(X<4) = 4/5 * 3/4 = 3/5; at 3 nothing is detected; P(X<2) = 3/5 * 1/2 = 3/10
    out = kaplan_meier(np.array([1.0, 2, 3, 4, 5]), np.array([True, False, True, False, False]))
    assert out.mean == pytest.approx(0.3 * 1 + 0.3 * 2 + 0.2 * 4 + 0.2 * 5)
    assert (out.median, out.q75) == (2.0, 4.0)
    assert np.isnan(out.q25)  # it lies below everything detected: no number is invented
    assert out.below == pytest.approx(0.4)


def test_without_censoring_both_are_the_plain_summary() -> None:
    x = np.random.default_rng(1).lognormal(1, 0.5, 200)
    none = np.zeros(200, dtype=bool)
    for out in (kaplan_meier(x, none), order_statistics(x, none)):
        assert out.mean == pytest.approx(x.mean())
        assert out.sd == pytest.approx(x.std(ddof=1))
        assert out.median == pytest.approx(np.median(x), rel=0.05)


def test_order_statistics_come_nearer_the_truth_than_the_limit() -> None:
    rng = np.random.default_rng(2)
    errors = []
    for _ in range(200):
        x = rng.lognormal(0, 1, 100)
        limits = rng.choice([0.5, 1.0], 100)
        below = x < limits
        seen = np.where(below, limits, x)
        ros = order_statistics(seen, below)
        errors.append(
            (ros.sd - x.std(ddof=1), ros.q25 - np.quantile(x, 0.25), np.quantile(seen, 0.25) - np.quantile(x, 0.25))
        )
    sd, q25, substituted = np.abs(np.array(errors)).mean(axis=0)
    assert sd < 0.05
    assert q25 < 0.5 * substituted


def test_too_little_is_said_to_be_too_little() -> None:
    out = order_statistics(np.array([1.0, 1, 2]), np.array([True, True, False]))
    assert np.isnan(out.mean) and out.method == "too few detected values"
    for values, flags in ((np.array([]), np.array([], dtype=bool)), (np.array([1.0]), np.array([True, False]))):
        with pytest.raises(ValueError, match="censored"):
            kaplan_meier(values, flags)
    with pytest.raises(ValueError, match="positive"):
        order_statistics(np.array([0.0, 1, 2, 3]), np.zeros(4, dtype=bool))


def test_recensoring_ties_what_cannot_be_ordered() -> None:
    frame = pl.DataFrame(
        {"g": list("aaaabbb"), "v": [0.5, 1.0, 2.0, 7.0, 0.2, 9.0, 50.0], "c": ["<", None, "<", None, None, ">", None]}
    )
    out = frame.select(recensored(pl.col("v"), pl.col("c"), over="g"))["v"].to_list()
    assert out == [2.0, 2.0, 2.0, 7.0, 0.2, 9.0, 9.0]
    whole = frame.select(recensored(pl.col("v"), pl.col("c")))["v"].to_list()
    assert whole == [2.0, 2.0, 2.0, 7.0, 2.0, 9.0, 9.0]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 1e6), st.booleans()), min_size=1, max_size=60))
def test_any_sample_has_bounds(sample: list[tuple[float, bool]]) -> None:
    values, flags = np.array([v for v, _ in sample]), np.array([f for _, f in sample])
    km = kaplan_meier(values, flags)
    assert values.min() - 1e-9 <= km.mean <= values.max() * (1 + 1e-12)
    assert np.isnan(km.median) or values.min() <= km.median <= values.max()
    ros = order_statistics(values, flags)
    assert np.isnan(ros.mean) or 0 < ros.mean < np.inf
