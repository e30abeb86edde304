"""Censored samples: estimates against hand-worked and published ones, against SciPy, and against the truth."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from lims_platform.laboratory.censored import Regressed, order_statistics, quantiles, side_of
from lims_platform.laboratory.value_grid import Segments

SHARES = (0.25, 0.5, 0.75)


def summary(values: list[float], sides: list[int], shares: tuple[float, ...] = SHARES) -> dict[str, float | None]:
    frame = pl.DataFrame({"g": "a", "value": values, "side": sides}, schema_overrides={"value": pl.Float64})
    return quantiles(frame, ["g"], shares).row(0, named=True)


def regressed(samples: list[NDArray[np.float64]], flags: list[NDArray[np.bool_]]) -> Regressed:
    """Each sample is a subject of one day."""
    subject = np.repeat(np.arange(len(samples)), [len(s) for s in samples])
    frame = pl.DataFrame({"subject": subject, "value": np.concatenate(samples), "below": np.concatenate(flags)})
    grid = frame.group_by("subject", "value").agg(
        numbers=(~pl.col("below")).sum().cast(pl.Int32), below=pl.col("below").sum().cast(pl.Int32)
    )
    grid = grid.sort("subject", "value")
    segments = Segments(grid["subject"].to_numpy(), grid["value"].to_numpy(), len(samples))
    numbers, below = (grid[c].to_numpy()[None, :] for c in ("numbers", "below"))
    return order_statistics(segments, numbers, below, np.zeros_like(below))


def test_kaplan_meier_by_hand() -> None:
    # <1, 2, <3, 4, 5: P(X<5) = 4/5, P(X<4) = 3/5; at 3 nothing is detected; P(X<2) = 3/5 * 1/2 = 3/10
    out = summary([1, 2, 3, 4, 5], [-1, 0, -1, 0, 0], (0.0, 0.25, 0.5, 0.75, 1.0))
    # of five results the second lies at 2 (1.5 to 3 of them are expected up to there), the third too, the fourth at 4
    assert [out[f"q_{s}"] for s in (0.0, 0.25, 0.5, 0.75, 1.0)] == [None, 2.0, 2.0, 4.0, 5.0]
    assert (out["lowest"], out["highest"]) == (1.0, 5.0) and out["unknown_below"] == pytest.approx(0.3)


def test_the_other_side_is_the_mirror_image() -> None:
    below = summary([1, 2, 3, 4, 5, 9], [-1, 0, -1, 0, 0, 1])
    above = summary([-1, -2, -3, -4, -5, -9], [1, 0, 1, 0, 0, -1])
    for share in SHARES:
        mirrored = above[f"q_{1 - share}"]
        assert below[f"q_{share}"] == (None if mirrored is None else -mirrored)
    assert below["lowest"] == -above["highest"]  # type: ignore[operator]
    assert below["unknown_below"] == above["unknown_above"]


CELL = st.tuples(st.integers(1, 12).map(float), st.sampled_from([-1, 0, 0, 0, 1]))


@settings(max_examples=150, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=40))
def test_quantiles_agree_with_scipy(sample: list[tuple[float, int]]) -> None:
    sample = [(v, min(s, 0)) for v, s in sample]
    values, below = np.array([v for v, _ in sample]), np.array([s < 0 for _, s in sample])
    out = summary(values.tolist(), [s for _, s in sample], (0.1, 0.5, 0.9))
    # SciPy's empirical distribution knows right-censored samples: the flipped values
    survival = stats.ecdf(stats.CensoredData(uncensored=-values[~below], right=-values[below])).cdf
    for share in (0.1, 0.5, 0.9):
        got, height = out[f"q_{share}"], share * (len(values) - 1)
        ends = []
        for place in (int(height) + 1, int(height) + 1 + (height % 1 > 0)):
            # P(X <= x) = 1 - P(-X < -x); the smallest value with `place` results up to it
            upto = {x: 1 - _before(survival, -x) for x in np.unique(values)}
            ends.append(min((x for x, p in upto.items() if p * len(values) >= place - 1e-6), default=np.inf))
            least = 1 - _before(survival, -values.min() + 1)
            if place <= least * len(values) + 1e-6:
                ends = [np.nan]
                break
        if np.isnan(ends[0]):
            assert got is None
        else:
            assert got == pytest.approx(ends[0] + (ends[-1] - ends[0]) * (height % 1))


def _before(cdf: stats._result_classes.EmpiricalDistributionFunction, x: float) -> float:
    at = np.searchsorted(cdf.quantiles, x, side="left") - 1
    return float(cdf.probabilities[at]) if at >= 0 else 0.0


@settings(max_examples=100, deadline=None)
@given(st.lists(CELL, min_size=1, max_size=40), st.floats(0.0, 0.999))
def test_what_a_value_below_the_lowest_limit_really_was_changes_nothing(
    sample: list[tuple[float, int]], shrink: float
) -> None:
    # one limit: whatever number at or below it stands for "<limit", every determined quantile is the same
    limit = 5.0
    cut = [(limit, -1) if v <= limit else (v, 0) for v, _ in sample]
    told = summary([v for v, _ in cut], [s for _, s in cut])
    other = summary([v * shrink if s else v for v, s in cut], [s for _, s in cut])
    full = np.quantile([v * shrink if s else v for v, s in cut], SHARES)
    for share, truth in zip(SHARES, full, strict=True):
        assert told[f"q_{share}"] == other[f"q_{share}"]
        assert told[f"q_{share}"] is None or told[f"q_{share}"] == pytest.approx(truth)


def test_without_censoring_both_are_the_plain_summary() -> None:
    x = np.random.default_rng(1).lognormal(1, 0.5, 200)
    out = summary(x.tolist(), [0] * 200)
    assert [out[f"q_{s}"] for s in SHARES] == pytest.approx(np.quantile(x, SHARES))
    ros = regressed([x], [np.zeros(200, dtype=bool)])
    assert ros.mean[0, 0] == pytest.approx(x.mean()) and ros.sd[0, 0] == pytest.approx(x.std(ddof=1))


def test_order_statistics_come_nearer_the_truth_than_any_substitution() -> None:
    rng = np.random.default_rng(2)
    worst: dict[str, list[float]] = {"ours": [0.0, 0.0], "0.0": [0.0, 0.0], "0.5": [0.0, 0.0], "1.0": [0.0, 0.0]}
    # half the limit is about right for one spread; a laboratory has analytes of every spread
    for spread in (0.3, 0.6, 1.0):
        samples = [rng.lognormal(0, spread, 100) for _ in range(200)]
        limits = [rng.choice(np.exp([-0.8 * spread, -0.2 * spread]), 100) for _ in samples]
        flags = [x < limit for x, limit in zip(samples, limits, strict=True)]
        ros = regressed([np.where(f, m, x) for x, f, m in zip(samples, flags, limits, strict=True)], flags)
        for which, of in enumerate((np.mean, np.std)):
            truth = np.array([of(x) for x in samples])
            estimates = {"ours": (ros.mean, ros.sd)[which][0]} | {
                share: np.array(
                    [of(np.where(f, float(share) * m, x)) for x, f, m in zip(samples, flags, limits, strict=True)]
                )
                for share in ("0.0", "0.5", "1.0")
            }
            for name, estimate in estimates.items():
                error = float(np.sqrt(np.mean((estimate - truth) ** 2)) / truth.mean())
                worst[name][which] = max(worst[name][which], error)
    for share in ("0.0", "0.5", "1.0"):
        assert worst["ours"][0] < 0.5 * worst[share][0] and worst["ours"][1] < 0.5 * worst[share][1]


def test_too_little_is_said_to_be_too_little() -> None:
    few = np.array([1.0, 1, 2])
    zero = np.array([0.0, 1, 2, 3])
    mostly = np.r_[np.ones(17), 2.0, 3.0, 4.0]
    out = regressed([few, zero, mostly], [few < 2, np.zeros(4, dtype=bool), mostly < 2])
    assert np.isnan(out.mean).all() and np.isnan(out.sd).all()
    nothing = summary([1.0, 2.0], [-1, -1])
    assert nothing["q_0.5"] is None and nothing["lowest"] == 2.0 and nothing["unknown_below"] == 1.0


def test_sides() -> None:
    frame = pl.DataFrame(
        {"k": ["number", "censored", "censored", "censored", "coded", "censored"], "c": [None, "<", ">=", None, None, "<="]}
    )
    assert frame.select(side_of(pl.col("k"), pl.col("c"))).to_series().to_list() == [0, -1, 1, None, None, -1]
