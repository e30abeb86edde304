"""Patient-based QC on the lake's tables: a bias is seen, a quiet device is silent, and what cannot be judged says so."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.patient_qc import NO_DEVICE, POOLED
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.patient_qc import patient_qc
from lims_platform.laboratory.patient_qc_settings import patient_qc_settings, patient_qc_verification
from lims_platform.laboratory.patient_qc_tuning import Design

TODAY = date(2024, 6, 30)
DAYS, PER_DAY, MEMORY = 120, 20, 28
DESIGN = Design(
    weights=(0.2, 0.05), windows=(21, 51), design_shifts=(1.0,), onsets=32, screening_onsets=16, finalists=2,
    max_results=200, lead_in=100,
)  # fmt: skip
ANALYTES = pl.DataFrame(
    {
        "loinc_code": ["na", "same", "cens", "notea", "one"],
        "analyte": ["Sodium", "Same", "Censored", "No TEa", "One"],
        "tea_percent": pl.Series([None, 10.0, 10.0, None, 10.0], dtype=pl.Float64),
        "tea_absolute": pl.Series([4.0, None, None, None, None], dtype=pl.Float64),
    }
)
NO_REJECTIONS = TABLES["westgard_violations"].empty()


def _results(code: str, values: np.ndarray, device: str | None = "A", last: date = TODAY, **columns: object) -> pl.DataFrame:
    """values: shape (days, results a day), the last day being ``last``."""
    days, per_day = values.shape
    start = datetime(last.year, last.month, last.day, 8, tzinfo=UTC) - timedelta(days=days - 1)
    at = [start + timedelta(days=d, minutes=i) for d in range(days) for i in range(per_day)]
    frame = pl.DataFrame(
        {"resulted_at": at, "value_number": values.ravel()}, schema_overrides={"resulted_at": pl.Datetime("us", "UTC")}
    )
    given = {"value_kind": "number", "comparator": None, "loinc_code": code, "analyte": code, "device_id": device} | columns
    return frame.with_columns(
        event_date=pl.col("resulted_at").dt.date(),
        row_key=pl.format("{}-{}-{}", pl.lit(code), pl.lit(device or ""), pl.int_range(pl.len())),
        **{name: pl.lit(value, pl.String) for name, value in given.items()},
    )


def _sodium(days: int, seed: int, per_day: int = PER_DAY) -> np.ndarray:
    return np.round(np.random.default_rng(seed).normal(140, 3, (days, per_day)))


def _tuned(results: pl.DataFrame, rejected: pl.DataFrame = NO_REJECTIONS) -> pl.DataFrame:
    found = patient_qc_settings(results, rejected, ANALYTES, DESIGN, TODAY, DAYS)
    TABLES["patient_qc_settings"].schema.validate(found)
    return found


def _judged(results: pl.DataFrame, settings: pl.DataFrame, first: date = TODAY, last: date = TODAY) -> pl.DataFrame:
    found = patient_qc(results, settings, first, last, MEMORY)
    TABLES["patient_qc"].schema.validate(found)
    return found


@pytest.fixture(scope="module")
def sodium() -> pl.DataFrame:
    """Two devices up to the day before TODAY, and a third that is new."""
    before = TODAY - timedelta(days=1)
    return pl.concat(
        [
            _results("na", _sodium(DAYS, 1), "A", before),
            _results("na", _sodium(DAYS, 2) + 1, "B", before),
            _results("na", _sodium(3, 3), "NEW", before),
        ]
    )


@pytest.fixture(scope="module")
def settings(sodium: pl.DataFrame) -> pl.DataFrame:
    return _tuned(sodium)


def test_a_setting_is_pooled_and_each_device_with_days_enough_has_its_own_limit(settings):
    assert settings["device_id"].sort().to_list() == [POOLED, "A", "B"]
    pooled, own = (settings.row(by_predicate=pl.col("device_id") == d, named=True) for d in (POOLED, "B"))
    assert own["method"] == pooled["method"] and own["control_limit"] != pooled["control_limit"]
    assert own["limit_days"] == 90 and pooled["results"] == 2 * DAYS * PER_DAY + 3 * PER_DAY
    assert pooled["verified_from"] == TODAY - timedelta(days=30)
    assert pooled["outcome"] == "evaluated"


def test_a_bias_of_one_allowable_error_is_found_on_its_first_day_with_time_and_direction(sodium, settings):
    for device, shift, direction in (("A", 4, "high"), ("A", -4, "low"), ("B", 4, "high"), ("NEW", 4, "high")):
        today = _results("na", _sodium(1, 9, 40) + shift + (device == "B"), device)
        row = _judged(pl.concat([sodium, today]), settings).row(0, named=True)
        assert (row["device_id"], row["alarm"], row["direction"]) == (device, True, direction)
        assert row["limit_of"] == ("pooled" if device == "NEW" else "device")
        assert row["max_statistic"] > row["control_limit"]
        assert datetime(2024, 6, 30, 8, tzinfo=UTC) < row["first_alarm_at"] < datetime(2024, 6, 30, 8, 40, tzinfo=UTC)


def test_in_control_days_alarm_about_as_often_as_the_laboratory_chose(settings):
    fresh = _results("na", _sodium(400, 77), "A")
    found = _judged(fresh, settings, TODAY - timedelta(days=350), TODAY)
    assert found.height == 351 and found["outcome"].unique().to_list() == ["evaluated"]
    assert 0.01 < found["alarm"].mean() < 0.12
    assert found.filter(~pl.col("alarm"))["first_alarm_at"].null_count() == found.filter(~pl.col("alarm")).height


def test_a_day_alone_equals_the_day_in_a_range_whatever_the_order_of_rows(sodium, settings):
    first, last = TODAY - timedelta(days=20), TODAY - timedelta(days=1)
    whole = _judged(sodium.sample(fraction=1, shuffle=True, seed=1), settings, first, last)
    day = TODAY - timedelta(days=2)
    recent = sodium.filter(pl.col("event_date").is_between(day - timedelta(days=MEMORY), day))
    alone = _judged(recent, settings, day, day)
    assert alone.height == 3 and alone.equals(whole.filter(pl.col("as_of_date") == day))


def test_tuning_does_not_depend_on_the_order_of_rows_and_leaves_days_with_rejected_controls_out(sodium, settings):
    assert _tuned(sodium.sample(fraction=1, shuffle=True, seed=2)).equals(settings)
    empty = NO_REJECTIONS.head(0)
    rejected = pl.DataFrame(
        {"device_id": ["A"], "loinc_code": ["na"], "as_of_date": [TODAY - timedelta(days=9)], "severity": ["rejection"]}
    ).select([pl.col(c) if c in ("device_id", "loinc_code", "as_of_date", "severity") else pl.lit(None, t).alias(c)
              for c, t in empty.schema.items()])  # fmt: skip
    assert _tuned(sodium, rejected)["results"][0] == settings["results"][0] - PER_DAY
    assert _tuned(sodium, rejected.with_columns(severity=pl.lit("warning")))["results"][0] == settings["results"][0]


def test_verification_uses_only_days_that_took_no_part(sodium, settings):
    found = patient_qc_verification(sodium, settings, ANALYTES, DESIGN)
    TABLES["patient_qc_verification"].schema.validate(found)
    assert found["device_days"].unique().to_list() == [2 * 30 + 3]
    curve = {row["bias"]: row for row in found.to_dicts()}
    assert curve[2.0]["anped"] < curve[1.0]["anped"] < curve[0.5]["anped"]
    assert curve[1.0]["detected"] == curve[-1.0]["detected"] == 1.0
    early = sodium.filter(pl.col("event_date") < settings["verified_from"][0])
    assert patient_qc_verification(early, settings, ANALYTES, DESIGN)["outcome"].to_list() == [
        "not evaluable: no usable result since the choice"
    ]


@pytest.mark.parametrize(
    ("results", "why"),
    [
        (_results("same", np.full((DAYS, 20), 5.0)), "all results are equal"),
        (
            _results("same", np.where(np.arange(DAYS * 20).reshape(DAYS, 20) % 500 == 7, 9.0, 5.0)),
            "results hardly vary, every statistic stands still",
        ),
        (_results("cens", np.full((DAYS, 20), 0.5), value_kind="censored"), "0 usable results, 1000 needed"),
        (_results("cens", np.full((DAYS, 20), np.nan)), "0 usable results, 1000 needed"),
        (_results("notea", _sodium(DAYS, 1)), "no allowable error"),
        (_results("unknown", _sodium(DAYS, 1)), "no allowable error"),
        (_results("one", np.array([[4.0]])), "1 usable results, 1000 needed"),
        (_results("one", _sodium(DAYS, 1), device=None), "0 usable results, 1000 needed"),
    ],
)
def test_an_analyte_that_allows_no_choice_has_a_row_in_every_table_that_says_so(results, why):
    history = results.with_columns(event_date=pl.col("event_date").dt.offset_by("-1d"))
    settings = _tuned(history)
    assert settings["outcome"].to_list() == [f"not evaluable: {why}"]
    verified = patient_qc_verification(history, settings, ANALYTES, DESIGN)
    assert verified["outcome"].to_list() == settings["outcome"].to_list()
    today = _judged(results, settings)
    assert today["outcome"].to_list() == settings["outcome"].to_list()
    assert today["alarm"].to_list() == [None]
    assert today["results"][0] + today["unusable"][0] == results.filter(pl.col("event_date") == TODAY).height


def test_no_history_no_setting_no_device_and_days_without_a_number_are_not_evaluable(sodium, settings):
    nothing = TABLES["patient_qc_settings"].empty()
    today = _results("na", _sodium(1, 5))
    assert _judged(today, nothing)["outcome"].to_list() == ["not evaluable: the analyte has no setting yet"]
    assert _tuned(sodium.head(0)).is_empty() and _judged(sodium.head(0), settings).is_empty()
    assert patient_qc_verification(sodium, nothing, ANALYTES, DESIGN).is_empty()
    censored = _results("na", np.full((1, 3), 100.0), value_kind="censored")
    row = _judged(pl.concat([sodium, censored]), settings).row(0, named=True)
    assert (row["results"], row["unusable"], row["alarm"]) == (0, 3, None)
    assert row["outcome"] == "not evaluable: no usable result on the day"
    nobody = _judged(_results("na", _sodium(1, 5), device=None), settings).row(0, named=True)
    assert (nobody["device_id"], nobody["outcome"]) == (NO_DEVICE, "not evaluable: the results name no device")


def _reported(values: np.ndarray, limit: float) -> pl.DataFrame:
    """Results as an analyser with this limit of detection reports them."""
    below = pl.col("value_number") < limit
    return _results("cens", values).with_columns(
        value_kind=pl.when(below).then(pl.lit("censored")).otherwise("value_kind"),
        comparator=pl.when(below).then(pl.lit("<")),
        value_number=pl.when(below).then(limit).otherwise("value_number"),
    )


def test_results_below_a_limit_of_detection_take_part_without_a_number_of_their_own():
    rng = np.random.default_rng(8)
    values = rng.lognormal(0, 0.25, (DAYS + 1, 60))
    values[-1] *= 0.7  # three allowable errors: most of the day falls below the limit
    told = _reported(values, 0.85)
    assert (told["value_kind"] == "censored").mean() == pytest.approx(0.26, abs=0.02)
    history = pl.col("event_date") < TODAY
    settings = _tuned(told.filter(history))
    pooled = settings.filter(device_id=POOLED).row(0, named=True)
    assert pooled["outcome"] == "evaluated" and pooled["unusable"] == 0 and min(pooled["knots"]) >= 0.85
    day = _judged(told, settings).row(0, named=True)
    assert day["alarm"] is True and day["direction"] == "low" and day["unusable"] == 0
    # whatever number at or below the limit stands for "<0.85", setting and verdict are the same
    below = pl.col("value_kind") == "censored"
    other = told.with_columns(value_number=pl.when(below & ~history).then(0.1).otherwise("value_number"))
    assert _judged(other, settings).equals(_judged(told, settings))
    # left out, as if they were not there, the day's results are those that hardly moved
    left_out = told.filter(~below)
    shorter = _judged(left_out, _tuned(left_out.filter(history))).row(0, named=True)
    assert shorter["max_statistic"] is None or shorter["max_statistic"] / shorter["control_limit"] < (
        day["max_statistic"] / day["control_limit"]
    )


def test_one_odd_limit_does_not_set_the_limit_of_an_analyte():
    told = _reported(np.random.default_rng(9).lognormal(0, 0.25, (DAYS, 60)), 0.7)
    odd = told.with_row_index().with_columns(
        value_kind=pl.when(pl.col("index") % 300 == 0).then(pl.lit("censored")).otherwise("value_kind"),
        comparator=pl.when(pl.col("index") % 300 == 0).then(pl.lit("<")).otherwise("comparator"),
        value_number=pl.when(pl.col("index") % 300 == 0).then(pl.lit(0.99)).otherwise("value_number"),
    )
    pooled = _tuned(odd.drop("index").with_columns(pl.col("event_date").dt.offset_by("-1d"))).row(0, named=True)
    assert pooled["unusable"] == DAYS * 60 / 300 and min(pooled["knots"]) < 0.99


def test_a_statistic_that_cannot_answer_yet_is_no_silent_pass(settings):
    slow = settings.with_columns(
        method=pl.lit("moving mean"), parameter=pl.lit(51.0), score_down=pl.lit(None, pl.List(pl.Float64))
    )
    found = _judged(_results("na", _sodium(3, 5), "NEW"), slow, TODAY - timedelta(days=2), TODAY)
    assert found["outcome"].to_list() == [
        "not evaluable: 51 results in 28 days needed, 20 there",
        "not evaluable: 51 results in 28 days needed, 40 there",
        "evaluated",
    ]
    assert found["alarm"].to_list()[:2] == [None, None]


def test_an_analyte_with_a_setting_stands_beside_one_without(sodium, settings):
    yesterday = TODAY - timedelta(days=1)
    other = _results("0000-0", np.full((1, PER_DAY), 7.0), last=yesterday)
    out = _judged(pl.concat([sodium, other]), settings, yesterday, yesterday)
    outcomes = out.group_by("loinc_code").agg("outcome").sort("loinc_code")["outcome"].to_list()
    assert outcomes[0] == ["not evaluable: the analyte has no setting yet"]
    assert "evaluated" in outcomes[1]
