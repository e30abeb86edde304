"""Measures against scikit-learn and against cases worked by hand."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.learning import metrics
from lims_platform.learning.alarms import alarm_metrics
from lims_platform.learning.candidates import Calibrator
from lims_platform.learning.resampling import auc_comparison, auc_interval

vectors = st.lists(st.tuples(st.booleans(), st.integers(1, 9)), min_size=4, max_size=60).filter(
    lambda rows: len({y for y, _ in rows}) == 2
)


@given(vectors)
@settings(max_examples=80, deadline=None)
def test_agree_with_scikit_learn_also_with_ties(rows: list[tuple[bool, int]]) -> None:
    from sklearn import metrics as sk

    y, p = np.array([a for a, _ in rows]), np.array([b for _, b in rows]) / 10
    assert metrics.roc_auc(y, p) == pytest.approx(sk.roc_auc_score(y, p))
    assert metrics.pr_auc(y, p) == pytest.approx(sk.average_precision_score(y, p))
    assert metrics.log_loss(y, p) == pytest.approx(sk.log_loss(y, p))
    assert metrics.brier(y, p) == pytest.approx(sk.brier_score_loss(y, p))
    got = metrics.at_threshold(y, p, 0.5)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, p >= 0.5, average="binary", zero_division=0)
    assert [got["precision"], got["recall"], got["f1"]] == pytest.approx([precision, recall, f1])
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y, p >= 0.5))
    best = metrics.best_f1_threshold(y, p)
    assert metrics.at_threshold(y, p, best)["f1"] == pytest.approx(
        max(metrics.at_threshold(y, p, t)["f1"] for t in np.unique(p))
    )


def test_the_precision_recall_curve_holds_points_of_scikit_learns() -> None:
    from sklearn.metrics import precision_recall_curve

    rng = np.random.default_rng(3)
    label, score = rng.random(3000) < 0.1, rng.integers(0, 900, 3000) / 900
    whole = metrics.pr_curve(label, score, points=10_000)
    precision, recall, _ = precision_recall_curve(label, score)
    theirs = {(round(r, 9), round(p, 9)) for r, p in zip(recall[:-1], precision[:-1], strict=True)}
    drawn = metrics.pr_curve(label, score)
    for curve in (whole, drawn):
        assert {(round(r, 9), round(p, 9)) for r, p in curve.iter_rows()} <= theirs
    assert drawn.height <= 200 < len(theirs) and drawn["recall"][-1] == 1.0 and drawn["recall"].is_sorted()


def test_weights_are_repeated_rows() -> None:
    rng = np.random.default_rng(1)
    y, s, w = rng.random(50) < 0.4, rng.integers(0, 8, 50), rng.integers(0, 4, 50)
    assert metrics.roc_auc(y, s, w) == pytest.approx(metrics.roc_auc(np.repeat(y, w), np.repeat(s, w)))


def test_one_class_and_bad_scores_are_errors() -> None:
    with pytest.raises(metrics.OneClassError, match="0 positives among 3"):
        metrics.roc_auc(np.zeros(3), np.arange(3))
    with pytest.raises(ValueError, match="1 scores are not finite"):
        metrics.brier(np.zeros(3), np.array([0.1, np.nan, 0.2]))


def test_calibration_finds_the_distortion_and_the_calibrator_mends_it() -> None:
    rng = np.random.default_rng(5)
    truth = rng.normal(-2, 1.5, 60_000)
    y = rng.random(truth.size) < metrics.sigmoid(truth)
    honest = metrics.calibration(y, metrics.sigmoid(truth))
    assert honest["calibration_slope"] == pytest.approx(1, abs=0.04)
    assert honest["calibration_intercept"] == pytest.approx(0, abs=0.06)
    assert honest["ece"] < 0.01
    loud = metrics.sigmoid(2 * truth + 1)  # too sure, and too high
    assert metrics.calibration(y, loud)["calibration_slope"] == pytest.approx(0.5, abs=0.03)
    assert metrics.calibration(y, loud)["ece"] > 0.05
    mended = Calibrator.fit(y[:30_000], loud[:30_000])(loud[30_000:])
    assert metrics.calibration(y[30_000:], mended)["calibration_slope"] == pytest.approx(1, abs=0.05)
    assert (np.diff(mended[np.argsort(loud[30_000:])]) >= 0).all()


def test_calibrator_never_turns_a_ranking_around() -> None:
    rng = np.random.default_rng(6)
    p = rng.uniform(0.05, 0.95, 4000)
    y = rng.random(p.size) < 1 - p  # a model that is always wrong
    got = Calibrator.fit(y, p)
    assert got.slope > 0 and got(p).mean() == pytest.approx(y.mean(), abs=0.02)


def test_calibration_table_covers_all_rows() -> None:
    rng = np.random.default_rng(2)
    p = rng.random(101)
    table = metrics.calibration_table(rng.random(101) < p, p)
    assert table["rows"].sum() == 101 and table["group"].to_list() == list(range(1, 11))
    assert table["mean_predicted"].is_sorted()
    assert ((table["low"] - 1e-9 <= table["observed"]) & (table["observed"] <= table["high"] + 1e-9)).all()


def _rows(days: int, devices: int, failures: dict[int, int], score: np.ndarray) -> pl.DataFrame:
    """Device i fails on day failures[i]; score has shape (days, devices)."""
    start = date(2024, 1, 1)
    out = []
    for day in range(days):
        for device in range(devices):
            fails = device in failures and 0 < failures[device] - day <= 7
            when = start + timedelta(days=failures[device]) if fails else None
            out.append((f"D{device:02d}", start + timedelta(days=day), int(fails), when, float(score[day, device])))
    schema = {"device_id": pl.String, "as_of_date": pl.Date, "label": pl.Int8, "failure_date": pl.Date, "s": pl.Float64}
    return pl.DataFrame(out, schema=schema, orient="row")


def test_alarms_by_hand() -> None:
    score = np.zeros((30, 16))
    score[:, 3] = 1.0  # always first
    score[14:, 5] = 0.9  # second from day 14 on
    rows = _rows(30, 16, {3: 20, 5: 17, 7: 20}, score)
    got = alarm_metrics(rows, "s")  # 16 devices: two alarms a week
    # device 3: all of its 7 days; device 5: days 14 to 16 of its 7; device 7: none
    assert got["alarm_recall"] == pytest.approx((7 + 3) / 21)
    assert got["alarms_per_week"] == 2 and got["alarm_episodes"] == 3
    assert got["alarm_precision"] == pytest.approx(10 / 60)
    assert got["alarm_lead_days"] == np.median([1, 2, 3, 4, 5, 6, 7, 1, 2, 3])


def test_alarm_policy_does_not_look_ahead() -> None:
    rng = np.random.default_rng(3)
    score = rng.random((30, 16))
    rows = _rows(30, 16, dict.fromkeys(range(8), 15), score)
    before = rows.filter(pl.col("as_of_date") <= date(2024, 1, 14))
    later = rows.with_columns(pl.when(pl.col("as_of_date") > date(2024, 1, 14)).then(0.0).otherwise(pl.col("s")).alias("s"))
    assert (
        alarm_metrics(before, "s")["alarm_recall"]
        == alarm_metrics(later.filter(pl.col("as_of_date") <= date(2024, 1, 14)), "s")["alarm_recall"]
    )
    perfect = rows.with_columns(pl.col("label").cast(pl.Float64).alias("s"))
    assert alarm_metrics(perfect, "s", alarms=20)["alarm_recall"] == 1.0


class TestBootstrap:
    rng = np.random.default_rng(8)
    devices = np.repeat(np.arange(40), 50)
    risky = np.repeat(rng.random(40) < 0.3, 50)
    y = rng.random(2000) < np.where(risky, 0.5, 0.02)
    score = risky + rng.normal(0, 0.7, 2000)

    def test_estimate_lies_within_and_devices_widen_the_interval(self) -> None:
        whole = auc_interval(self.y, self.score, self.devices, draws=200)
        rows = auc_interval(self.y, self.score, np.arange(2000), draws=200)
        assert whole.estimate == pytest.approx(metrics.roc_auc(self.y, self.score))
        assert whole.low < whole.estimate < whole.high
        assert whole.high - whole.low > 1.25 * (rows.high - rows.low)

    def test_a_score_against_itself_is_one_without_doubt(self) -> None:
        ratio, difference = auc_comparison(self.y, self.score, 3 * self.score + 1, self.devices, draws=50)
        assert (ratio.low, ratio.estimate, ratio.high) == (1, 1, 1)
        assert (difference.low, difference.high) == (0, 0)

    def test_same_seed_same_interval(self) -> None:
        assert auc_interval(self.y, self.score, self.devices, 60, 4) == auc_interval(self.y, self.score, self.devices, 60, 4)

    def test_one_device_with_failures_gives_no_interval(self) -> None:
        y = (self.devices == 0) & (np.arange(2000) < 5)
        with pytest.raises(metrics.OneClassError):
            auc_interval(np.zeros(2000), self.score, self.devices)
        assert auc_interval(y, self.score, self.devices, draws=100).draws < 100
