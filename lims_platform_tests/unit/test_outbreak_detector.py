"""Outbreak detector: agreement with R where its figures are at hand, and the properties that make it one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.laboratory import outbreak_detector as detector
from lims_platform.laboratory.outbreak_detector import WEEKS, expectations, season_parts

SHARED = Path(os.environ.get("LIMS_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")) / "surveillance"
LONG = 10_000


def _weeks(rng: np.random.Generator, rows: int, rate: float = 0.1, tests: int = 100) -> tuple[np.ndarray, np.ndarray]:
    looked = rng.poisson(tests, (WEEKS, rows)) + 1
    return rng.binomial(looked, rate), looked


def _one(cases: np.ndarray, tests: np.ndarray, known: int = LONG) -> tuple[float, float, str]:
    found = expectations(cases[:, None], tests[:, None], np.array([known]), 0.01)
    return found.expected[0], found.threshold[0], found.detector[0]


def test_alarms_and_bounds_agree_with_r_surveillance():
    if not SHARED.exists():
        message = "shared/data/surveillance is absent: the comparison with R did not run"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    series = pl.read_csv(SHARED / "series_long.csv.gz", infer_schema_length=None).group_by("series", "t")
    counts = series.agg(pl.col("observed").sum()).sort("t")
    golden = pl.read_csv(SHARED / "golden_alarms.csv.gz", infer_schema_length=None).filter(method="farringtonFlexible")
    assert golden["series"].n_unique() == 16
    for (name,), rows in golden.group_by("series"):
        observed = counts.filter(series=name)["observed"].to_numpy()
        at = rows["t"].to_numpy() - 1
        cases = np.stack([observed[at - k] for k in range(WEEKS)])
        found = expectations(cases, np.ones_like(cases), np.full(len(at), LONG), 0.01)
        assert ((cases[0] > found.threshold) == (rows["alarm"] == 1).to_numpy()).all(), name
        bound = rows["upperbound"].cast(pl.Float64).to_numpy()  # null where less than five cases in four weeks
        enough = ~np.isnan(bound)
        least = detector.LEAST_CASES - 1 - cases[1:4].sum(axis=0)
        np.testing.assert_array_equal(found.threshold[enough], np.maximum(bound, least)[enough])


def test_the_year_is_a_season_of_seven_weeks_and_nine_parts_of_five():
    parts = season_parts(2)
    assert len(parts) == WEEKS == 108
    assert not parts[:27].any()  # the last half year takes no part
    assert parts[49:56].tolist() == parts[101:108].tolist() == [1] * 7
    assert parts[56:101].tolist() == [part for part in range(10, 1, -1) for _ in range(5)]
    assert parts[27:49].tolist() == parts[79:101].tolist()  # the same weeks of both years


def test_a_short_history_is_judged_by_what_it_has_and_none_is_not_evaluable():
    cases, tests = _weeks(np.random.default_rng(0), 1)
    names = {days: _one(cases[:, 0], tests[:, 0], days)[2] for days in (41, 42, 391, 392, 755, 756)}
    assert names[41] == "not evaluable: less than 6 weeks known"
    assert names[42] == names[391] == "5 recent weeks: season not known"
    assert names[392] == names[755] == "season of 1 year" and names[756] == "season of 2 years"
    assert np.isnan(_one(cases[:, 0], tests[:, 0], 41)[:2]).all()


def test_weeks_without_a_test_give_no_verdict():
    cases, tests = np.zeros(WEEKS, dtype=np.int64), np.zeros(WEEKS, dtype=np.int64)
    cases[0], tests[0] = 9, 20
    expected, threshold, name = _one(cases, tests)
    assert np.isnan([expected, threshold]).all() and name == detector.NO_TESTS


def test_a_site_that_did_not_test_in_past_seasons_is_judged_by_the_weeks_before():
    cases, tests = np.full(WEEKS, 2), np.full(WEEKS, 40)
    tests[49:56] = tests[101:108] = cases[49:56] = cases[101:108] = 0
    expected, threshold, name = _one(cases, tests)
    assert name == "5 recent weeks: season not known" and expected == pytest.approx(2) and threshold >= 4


def test_twice_the_tests_are_no_outbreak_but_twice_the_positives_are():
    cases, tests = np.full(WEEKS, 20), np.full(WEEKS, 200)
    expected, threshold, _ = _one(cases, tests)
    assert expected == pytest.approx(20) and 20 < threshold < 40
    doubled = tests.copy()
    doubled[0] = 400
    assert _one(cases, doubled)[0] == pytest.approx(40)


def test_the_season_is_expected_and_an_outbreak_of_last_year_is_not():
    season = np.where(season_parts(2) == 1, 40, 5)
    season[:4] = 40  # and now
    expected, threshold, _ = _one(season, np.full(WEEKS, 500))
    assert expected == pytest.approx(40) and threshold > 40
    outbreak = season.copy()
    outbreak[52] = 300
    raised, _, _ = _one(outbreak, np.full(WEEKS, 500))
    assert raised < 46  # unweighted, the mean of the 14 weeks would be 58.6


def test_four_cases_in_four_weeks_are_never_an_alarm():
    cases = np.zeros(WEEKS, dtype=np.int64)
    tests = np.full(WEEKS, 50)
    cases[0] = 4
    assert cases[0] <= _one(cases, tests)[1]
    cases[0] = 5
    assert cases[0] > _one(cases, tests)[1]
    cases[0], cases[2] = 4, 1
    assert cases[0] > _one(cases, tests)[1]


def test_false_alarms_are_about_as_many_as_chosen():
    cases, tests = _weeks(np.random.default_rng(5), 20_000)
    for known, low, high in ((LONG, 0.004, 0.02), (400, 0.004, 0.02), (50, 0.0005, 0.02)):
        found = expectations(cases, tests, np.full(20_000, known), 0.01)
        assert low < (cases[0] > found.threshold).mean() < high, known


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 30), st.floats(0.0, 0.5), st.integers(0, 60))
def test_a_row_does_not_depend_on_the_rows_beside_it(seed: int, rows: int, rate: float, tests: int):
    rng = np.random.default_rng(seed)
    looked = rng.poisson(tests, (WEEKS, rows))
    cases = rng.binomial(looked, rate)
    known = rng.integers(0, 900, rows)
    whole = expectations(cases, looked, known, 0.01)
    for row in range(rows):
        alone = expectations(cases[:, [row]], looked[:, [row]], known[[row]], 0.01)
        np.testing.assert_array_equal(alone.expected, whole.expected[[row]])
        np.testing.assert_array_equal(alone.threshold, whole.threshold[[row]])
        assert alone.detector == [whole.detector[row]]
        assert np.isnan(alone.expected[0]) == np.isnan(alone.threshold[0]) == alone.detector[0].startswith("not evaluable")
