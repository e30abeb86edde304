"""Outbreak features: patients counted once, windows by collection, knowledge at the end of the day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import validity, windowed_sums
from lims_platform.laboratory.outbreaks import ALL_SITES, LOOKBACK_DAYS, counted_patients, outbreak_risk_features

CALENDAR = "Europe/Berlin"
FLU = "85477-8"
D0 = datetime(2024, 1, 10, 12, tzinfo=UTC)
TIME = pl.Datetime("us", "UTC")
PATHOGENS = pl.DataFrame(
    {
        "loinc_code": [FLU, "5196-1"],
        "analyte": ["Influenza A", "HBsAg"],
        "takes_part_in_outbreak_alarms": [True, False],
    }
)
SCHEMA = {"patient_hash": pl.String, "facility_id": pl.String, "value_code": pl.String, "collected_at": TIME}
SCHEMA |= {"known_from": TIME, "row_key": pl.String, "row_version": pl.Int32, "change": pl.String, "loinc_code": pl.String}


def _test(day: float, patient: str | None, positive: bool, known: float = 0.5, **other: object) -> dict[str, object]:
    row = {
        "patient_hash": patient,
        "facility_id": "F1",
        "value_code": "POSITIVE" if positive else "NEGATIVE",
        "collected_at": D0 + timedelta(days=day),
        "known_from": D0 + timedelta(days=day + known),
        "row_version": 1,
        "change": "insert",
        "loinc_code": FLU,
    }
    return {**row, **other}


def _history(rows: list[dict[str, object]]) -> pl.DataFrame:
    frame = pl.DataFrame([{"row_key": f"k{i}", **r} for i, r in enumerate(rows)], schema=SCHEMA)
    frame = frame.with_columns(
        pl.col("known_from").min().over("row_key").alias("resulted_at"),
        pl.lit(False).alias("is_conflict"),
        pl.lit(None, dtype=pl.String).alias("reason"),
    )
    frame = frame.with_columns(pl.col("resulted_at").dt.convert_time_zone(CALENDAR).dt.date().alias("event_date"))
    return validity(frame.lazy()).collect()


def _features(rows: list[dict[str, object]], first: int = 0, last: int = 20) -> pl.DataFrame:
    day = D0.date()
    out = outbreak_risk_features(
        _history(rows), PATHOGENS, day + timedelta(days=first), day + timedelta(days=last), CALENDAR
    )
    TABLES["outbreak_risk_features"].schema.validate(out)
    assert dict(out.schema) == TABLES["outbreak_risk_features"].dtypes
    return out


def _at(frame: pl.DataFrame, day: int, site: str = ALL_SITES) -> dict[str, object]:
    return frame.row(
        by_predicate=(pl.col("as_of_date") == D0.date() + timedelta(days=day)) & (pl.col("facility_id") == site), named=True
    )


def test_a_patient_counts_once_and_the_first_positive_replaces_an_earlier_negative():
    rows = [_test(0, "p1", False), _test(2, "p1", True), _test(3, "p1", True), _test(4, "p1", False), _test(1, "p2", False)]
    out = _features(rows)
    assert [_at(out, d)["total_tests_7d"] for d in (0, 1, 3)] == [0, 1, 2]  # known half a day later, the next local day
    assert (_at(out, 5)["positive_tests_7d"], _at(out, 5)["total_tests_7d"]) == (1, 2)
    assert _at(out, 5)["positive_rate_7d"] == pytest.approx(0.5)
    assert (_at(out, 8)["positive_tests_7d"], _at(out, 8)["total_tests_7d"]) == (1, 1)  # counted on day 2 of collection
    assert _at(out, 9)["positive_tests_7d"] == 0


def test_after_the_episode_window_a_patient_counts_again():
    out = _features([_test(0, "p", True), _test(89, "p", True), _test(180, "p", True)], last=185)
    assert _at(out, 92)["positive_tests_7d"] == 0
    assert _at(out, 182)["positive_tests_7d"] == 1


def test_results_without_a_patient_count_each_and_sites_add_up():
    out = _features([_test(1, None, True), _test(1, None, True, facility_id="F2"), _test(1, None, False, facility_id=None)])
    assert (_at(out, 3)["total_tests_7d"], _at(out, 3)["positive_tests_7d"]) == (3, 2)
    assert [_at(out, 3, s)["positive_tests_7d"] for s in ("F1", "F2", "UNKNOWN")] == [1, 1, 0]
    assert _at(out, 3, "F1")["geographic_cluster_score"] == pytest.approx(1 / 2 - 1 / 3)
    assert out.filter(pl.col("loinc_code") != FLU).is_empty()


def test_an_outbreak_rises_to_high_and_a_steady_state_stays_low():
    rng = np.random.default_rng(3)
    rows = [_test(d, f"p{d}-{i}", bool(rng.random() < 0.05)) for d in range(-150, 0) for i in range(20)]
    rows += [_test(d, f"q{d}-{i}", bool(rng.random() < 0.5)) for d in range(7) for i in range(20)]
    out = _features(rows, first=-60, last=7)
    quiet = out.filter(pl.col("as_of_date") < D0.date())
    assert quiet["risk_level"].is_in(["HIGH"]).sum() == 0
    loud = _at(out, 7)
    assert loud["risk_level"] == "HIGH" and loud["temporal_cluster_score"] == 10 and loud["case_count_delta"] > 30
    assert quiet.filter(pl.col("positive_tests_7d") > pl.col("threshold_cases")).height <= 2  # of 120
    assert loud["detector"] == "5 recent weeks: season not known" and loud["expected_cases"] == pytest.approx(7, abs=3)
    assert loud["positive_tests_7d"] > loud["threshold_cases"] > loud["expected_cases"]


def test_the_detector_sees_the_weeks_before_as_they_were_known():
    rows = [_test(d, f"p{d}-{i}", i < 2) for d in range(-60, 0) for i in range(10)]
    rows += [_test(d, f"late{d}-{i}", True, known=-d + 0.5) for d in range(-20, -10) for i in range(10)]
    out = _features(rows, first=-1, last=1)
    before, after = (_at(out, day)["expected_cases"] for day in (-1, 1))
    assert before < 14 and after > before + 4  # 100 positives of past weeks became known on day 0
    young = _features([_test(d, f"p{d}", True) for d in range(-30, 0)], first=-1, last=-1)
    assert _at(young, -1)["threshold_cases"] is None and _at(young, -1)["detector"].startswith("not evaluable: less than")


def test_the_season_comes_from_last_year_where_it_is_known_and_from_recent_weeks_where_not():
    rows = [_test(d, f"a{d}", True) for d in range(-400, 1, 2)]
    first_year = _features(rows, first=-300, last=-299)
    assert _at(first_year, -300)["seasonal_baseline"] == pytest.approx(3.5)  # 28 in the 8 weeks
    assert _at(_features(rows, first=-350, last=-350), -350)["seasonal_baseline"] is None
    burst = [_test(-364 - k, f"b{k}", True) for k in range(6)]
    assert _at(_features(rows + burst, last=0), 0)["seasonal_baseline"] == pytest.approx((10 + 6) / 3, abs=0.4)


def test_an_amended_result_counts_as_it_was_known():
    wrong = _test(0, "p", True, row_key="k")
    right = {**wrong, "value_code": "NEGATIVE", "row_version": 2, "change": "update", "known_from": D0 + timedelta(days=4)}
    out = _features([wrong, right])
    assert [_at(out, d)["positive_tests_7d"] for d in (1, 3, 4)] == [1, 1, 0]
    assert _at(out, 4)["total_tests_7d"] == 1


def test_a_day_built_alone_with_the_history_it_depends_on_equals_the_day_within_a_range():
    rng = np.random.default_rng(9)
    sites = {"F1": (0, 1700), "F2": (0, 600), "F3": (900, 1700)}
    rows = []
    for site, span in sites.items():
        for at, late in zip(rng.uniform(*span, 300), rng.exponential(2, 300), strict=True):
            rows.append(_test(at, f"p{rng.integers(60)}", bool(rng.random() < 0.3), late, facility_id=site))
    history = _history(rows)
    day = D0.date()
    span = (day, day + timedelta(days=1690))
    whole = outbreak_risk_features(history, PATHOGENS, *span, CALENDAR)
    for offset in (10, 700, 830, 1200, 1500, 1690):
        today = day + timedelta(days=offset)
        kept = history.filter(pl.col("event_date") > today - timedelta(days=LOOKBACK_DAYS))
        alone = outbreak_risk_features(kept, PATHOGENS, today, today, CALENDAR)
        assert alone.equals(whole.filter(pl.col("as_of_date") == today)), offset


row = st.tuples(st.integers(0, 60), st.sampled_from("pq"), st.booleans(), st.integers(0, 12), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(st.lists(row, max_size=14))
def test_counting_equals_the_rule_read_day_by_day(tests):
    rows = []
    for i, (day, patient, positive, known, until) in enumerate(tests):
        base = _test(day, patient, positive, known=known, row_key=f"k{i:02d}")
        rows.append(base)
        if i % 3 == 0:  # amended to the opposite; every sixth withdrawn
            later = D0 + timedelta(days=day + known + until)
            code = "NEGATIVE" if positive else "POSITIVE"
            change = "delete" if i % 6 == 0 else "update"
            rows.append({**base, "value_code": code, "row_version": 2, "change": change, "known_from": later})
    history = _history(rows)
    start, end, episode = D0.date(), D0.date() + timedelta(days=80), 20
    counted = counted_patients(history, [FLU], CALENDAR, episode)
    sums = {"tests": pl.lit(1), "cases": pl.col("positive")}
    got = windowed_sums(counted, ["loinc_code"], sums, 7, start, end)
    table = {r["as_of_date"]: (r["tests"], r["cases"]) for r in got.iter_rows(named=True)}
    for offset in range(81):
        day = start + timedelta(days=offset)
        known = _known(history, day)
        tests_7d = cases_7d = 0
        for a in known:
            others = [b for b in known if b is not a and b["patient_hash"] == a["patient_hash"]]
            before = [b for b in others if (b["collected_at"], b["row_key"]) < (a["collected_at"], a["row_key"])]
            before = [b for b in before if (_day(a) - _day(b)).days < episode]
            positives = [b for b in others if b["value_code"] == "POSITIVE" and abs((_day(a) - _day(b)).days) < episode]
            if a["value_code"] == "POSITIVE":
                counts = not any(b["value_code"] == "POSITIVE" for b in before)
            else:
                counts = not before and not positives
            if counts and day - timedelta(days=7) < _day(a) <= day:
                tests_7d += 1
                cases_7d += a["value_code"] == "POSITIVE"
        assert table.get(day, (0, 0)) == (tests_7d, cases_7d)


def _day(row: dict[str, object]) -> date:
    return row["collected_at"].date()  # type: ignore[attr-defined]


def _known(history: pl.DataFrame, day: date) -> list[dict[str, object]]:
    local = pl.col("known_from").dt.convert_time_zone(CALENDAR).dt.date()
    latest = history.filter(local <= day).sort("row_version").unique("row_key", keep="last")
    return latest.filter(pl.col("change") != "delete").to_dicts()
