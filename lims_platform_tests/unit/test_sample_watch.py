"""Samples under watch: every kind of alarm with its reason in words, silence where nothing is wrong, bad input stated."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as some

from lims_platform.laboratory.sample_limits import SampleLimitError, read_limits
from lims_platform.laboratory.sample_watch import ALERTS, SampleFrameError, watch
from lims_platform.lakehouse.reference import load_reference

LIMITS = load_reference(Path(__file__).parents[2] / "data" / "reference").sample_limits
MEASURED = ["ph_level", "storage_temp_c", "dissolved_oxygen_ppm", "turbidity_ntu"]
T0 = datetime(2024, 3, 1, 8)


def batch(seed: int = 1, n: int = 50, **change: dict[int, float]) -> pl.DataFrame:
    """A batch in normal operation; ``change`` puts values at places, e.g. ph_level={3: -999}."""
    rng = np.random.default_rng(seed)
    columns = {
        "ph_level": rng.normal(7.2, 0.15, n),
        "storage_temp_c": rng.normal(4.0, 0.3, n),
        "dissolved_oxygen_ppm": rng.normal(8.5, 0.5, n),
        "turbidity_ntu": rng.gamma(2, 0.5, n),
    }
    for name, places in change.items():
        for place, value in places.items():
            columns[name][place] = value
    return pl.DataFrame(
        {
            "sample_id": [f"S{i:04d}" for i in range(n)],
            "facility_id": [f"FAC{i % 3}" for i in range(n)],
            "batch_id": "B1",
            "timestamp": [T0 + timedelta(minutes=10 * i) for i in range(n)],
            **columns,
        }
    )


def with_shift(frame: pl.DataFrame, by: float) -> pl.DataFrame:
    """pH shifted by ``by`` in samples 20 to 24."""
    return frame.with_columns(pl.col("ph_level") + by * pl.int_range(pl.len()).is_between(20, 24))


def reasons(verdicts: pl.DataFrame, place: int) -> str:
    return verdicts["reasons"][place] or ""


def test_most_sound_batches_are_silent_though_a_fifth_of_ph_lies_outside_its_range() -> None:
    verdicts = [watch(batch(seed), LIMITS) for seed in range(40)]
    alarmed = sum((v["qa_alert"] != "OK").sum() for v in verdicts)
    outside = sum(v["out_of_range"].str.contains("ph_level").sum() for v in verdicts)
    assert alarmed <= 8  # 0.05 a batch are expected: 2 of 2,000
    assert 0.12 < outside / 2000 < 0.25


@pytest.mark.parametrize("value", [-999.0, float("nan"), float("inf"), 1e308, -0.5])
def test_a_sensor_fault_is_critical_is_named_and_never_a_value(value: float) -> None:
    row = watch(batch(dissolved_oxygen_ppm={7: value}), LIMITS).row(7, named=True)
    assert row["qa_alert"] == "CRITICAL_FAILURE" and row["sensor_faults"] == "dissolved_oxygen_ppm"
    assert "dissolved_oxygen_ppm (dissolved oxygen) sensor fault" in row["reasons"]
    assert row["dissolved_oxygen_ppm"] is None and row["z_dissolved_oxygen_ppm"] is None


def test_hot_storage_is_beyond_its_critical_limit() -> None:
    verdicts = watch(batch(storage_temp_c={4: 85.0, 30: 82.5}), LIMITS)
    assert verdicts["qa_alert"][4] == verdicts["qa_alert"][30] == "CRITICAL_FAILURE"
    assert "storage_temp_c (storage temperature) 85 °C is above its critical limit 12" in reasons(verdicts, 4)
    assert verdicts.filter(pl.col("reasons").str.contains("storage_temp_c")).height == 2, "two outliers are no shift"


def test_a_whole_batch_in_a_warm_store_is_critical_without_an_outlier() -> None:
    frame = batch().with_columns(pl.col("storage_temp_c") + 80)
    verdicts = watch(frame, LIMITS)
    assert (verdicts["qa_alert"] == "CRITICAL_FAILURE").all()
    mild = watch(batch().with_columns(pl.col("ph_level") + 0.3), LIMITS)
    assert "of the whole batch (centre 7.5" in " ".join(mild["reasons"].drop_nulls())


def test_an_unusual_value_inside_its_range_is_a_warning() -> None:
    verdicts = watch(batch(storage_temp_c={9: 7.5}), LIMITS)
    assert verdicts["qa_alert"][9] == "WARNING" and "though inside its expected range" in reasons(verdicts, 9)
    assert verdicts["out_of_range"][9] is None or "storage" not in verdicts["out_of_range"][9]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_of_five_samples_is_told_on_each(sign: int) -> None:
    frame = with_shift(batch(), sign * 0.8)
    verdicts = watch(frame, LIMITS)
    told = verdicts["reasons"].str.contains("ph_level (pH) drift: shift of", literal=True).fill_null(False)
    assert told.arg_true().to_list() == [20, 21, 22, 23, 24]
    assert ("+" if sign > 0 else "-") in reasons(verdicts, 22).split("shift of ")[1][:2]


def test_a_shift_of_one_facility_is_found_among_the_others() -> None:
    frame = batch(n=90).with_columns(
        pl.when(pl.col("facility_id") == "FAC1").then(pl.col("ph_level") + 0.45).otherwise("ph_level").alias("ph_level")
    )
    verdicts = watch(frame, LIMITS).with_columns(told=pl.col("reasons").str.contains("shift").fill_null(False))
    assert verdicts.filter(pl.col("facility_id") == "FAC1")["told"].mean() > 0.8
    assert verdicts.filter(pl.col("facility_id") != "FAC1")["told"].mean() < 0.1


def test_a_ramp_and_a_slow_trend_are_told() -> None:
    place = pl.int_range(pl.len())
    ramp = batch(n=60).with_columns(pl.col("ph_level") + (place - 30).clip(0, 9) * 0.12 * (place < 40))
    told = watch(ramp, LIMITS)["reasons"].str.contains("ph_level (pH) drift", literal=True).fill_null(False)
    assert told[34:40].all() and not told[:30].any()
    trend = batch(n=60).with_columns(pl.col("storage_temp_c") + place * 0.03)
    told = watch(trend, LIMITS)["reasons"].str.contains("rising through the whole batch").fill_null(False)
    assert told[-10:].all() and not told[:15].any()


def test_a_combination_is_told_where_no_value_is() -> None:
    frame = batch(n=200)
    tied = frame.with_columns(
        dissolved_oxygen_ppm=8.5 - (pl.col("storage_temp_c") - 4) * 1.6 + 0.1 * (pl.col("ph_level") - 7.2)
    )
    odd = tied.with_columns(
        pl.when(pl.int_range(pl.len()) == 50).then(4.6).otherwise("storage_temp_c").alias("storage_temp_c"),
        pl.when(pl.int_range(pl.len()) == 50).then(9.4).otherwise("dissolved_oxygen_ppm").alias("dissolved_oxygen_ppm"),
    )
    verdicts = watch(odd, LIMITS)
    assert verdicts["qa_alert"][50] == "WARNING" and "unusual combination" in reasons(verdicts, 50)
    assert "storage_temp_c" in reasons(verdicts, 50) and "dissolved_oxygen_ppm" in reasons(verdicts, 50)


def test_rows_keep_their_order_and_time_decides_what_is_consecutive() -> None:
    frame = with_shift(batch(), 0.8)
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=3)
    mixed = watch(shuffled, LIMITS)
    assert mixed["sample_id"].to_list() == shuffled["sample_id"].to_list()
    columns = ["sample_id", "qa_alert", "reasons"]
    assert mixed.sort("sample_id").select(columns).equals(watch(frame, LIMITS).select(columns))


def test_silver_rows_say_what_was_taken_out() -> None:
    silver = batch(ph_level={5: 7.2}).rename({"timestamp": "measured_at"})
    silver = silver.with_columns(
        sensor_faults=pl.when(pl.int_range(pl.len()) == 5).then(pl.lit("ph_level")),
        ph_level=pl.when(pl.int_range(pl.len()) != 5).then("ph_level"),
    )
    row = watch(silver, LIMITS).row(5, named=True)
    assert row["qa_alert"] == "CRITICAL_FAILURE" and "taken out" in row["reasons"]


def test_a_missing_value_is_no_fault_and_no_alarm() -> None:
    frame = batch().with_columns(ph_level=pl.when(pl.int_range(pl.len()) != 5).then("ph_level"))
    row = watch(frame, LIMITS).row(5, named=True)
    assert row["qa_alert"] == "OK" and row["sensor_faults"] is None


@pytest.mark.parametrize(
    ("frame", "outcome"),
    [
        (batch().clear(), None),
        (batch(n=1), "not evaluable: pH has 1 usable values, 12 needed"),
        (batch().with_columns(pl.lit(None, pl.Float64).alias(name) for name in MEASURED), "not evaluable: no measurement"),
        (batch().drop("turbidity_ntu"), "not evaluable: turbidity is no column"),
        (batch().drop("facility_id", "batch_id", "timestamp"), "evaluated"),
        (batch().with_columns(timestamp=None), "evaluated"),
        (batch().with_columns(pl.col("timestamp").cast(pl.String)), "evaluated"),
        (batch().with_columns(pl.col("timestamp").dt.replace_time_zone("UTC")), "evaluated"),
        (batch().with_columns(pl.col(MEASURED).cast(pl.String)), "evaluated"),
        (batch().with_columns(pl.lit(7.2).alias("ph_level"), pl.lit(4.0).alias("storage_temp_c")), "evaluated"),
    ],
)
def test_bad_input_has_a_stated_outcome(frame: pl.DataFrame, outcome: str | None) -> None:
    verdicts = watch(frame, LIMITS)
    assert verdicts.height == frame.height
    assert verdicts["outcome"].is_null().sum() == 0
    assert (verdicts["qa_alert"] != "OK").sum() <= 1
    if outcome is not None:
        assert verdicts["outcome"].str.starts_with(outcome).all(), verdicts["outcome"][0]


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_times_are_kept_as_they_came_and_text_is_read(zone: str | None) -> None:
    frame = batch().with_columns(pl.col("timestamp").dt.replace_time_zone(zone))
    assert watch(frame, LIMITS)["measured_at"].equals(frame["timestamp"].rename("measured_at"))
    text = watch(batch().with_columns(pl.col("timestamp").dt.to_string("iso")), LIMITS)
    assert text["measured_at"].null_count() == 0


def test_a_sample_without_time_takes_no_part_in_runs_and_is_watched_otherwise() -> None:
    place = pl.int_range(pl.len())
    frame = with_shift(batch(ph_level={3: -999.0}), 0.8)
    frame = frame.with_columns(timestamp=pl.when(~place.is_in([3, 22])).then("timestamp"))
    verdicts = watch(frame, LIMITS)
    assert verdicts["qa_alert"][3] == "CRITICAL_FAILURE"
    assert "drift" not in reasons(verdicts, 22) and "drift" in reasons(verdicts, 21)


def test_all_nan_is_all_faults_and_text_that_is_no_number_is_one() -> None:
    nan = watch(batch().with_columns(pl.lit(float("nan")).alias(name) for name in MEASURED), LIMITS)
    assert (nan["qa_alert"] == "CRITICAL_FAILURE").all()
    text = watch(batch().with_columns(ph_level=pl.lit("clot")), LIMITS)
    assert "the sensor's text is no number" in reasons(text, 0)


def test_one_that_differs_among_equals_is_told_by_the_resolution() -> None:
    frame = batch().with_columns(ph_level=pl.when(pl.int_range(pl.len()) == 9).then(7.35).otherwise(7.2))
    assert watch(frame, LIMITS)["qa_alert"][9] == "WARNING"


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SampleFrameError, match="sample_id"):
        watch(batch().drop("sample_id"), LIMITS)
    with pytest.raises(SampleFrameError, match="ph_level"):
        watch(batch().drop(MEASURED), LIMITS)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("expected_low", 9.0, "expected_low 9 lies above expected_high 7.4"),
        ("resolution", 0.0, "resolution"),
        ("fault_codes", "-999;none", "fault_codes"),
        ("expected_low", None, "go together"),
    ],
)
def test_limits_that_contradict_themselves_are_refused(column: str, value: object, words: str) -> None:
    first = pl.col("measurement") == "ph_level"
    with pytest.raises(SampleLimitError, match=words):
        read_limits(LIMITS.with_columns(pl.when(first).then(pl.lit(value)).otherwise(column).alias(column)))


def test_a_measurement_without_limits_is_refused() -> None:
    with pytest.raises(SampleLimitError, match="no row for turbidity_ntu"):
        read_limits(LIMITS.filter(pl.col("measurement") != "turbidity_ntu"))


NUMBERS = some.one_of(some.none(), some.floats(allow_nan=True, allow_infinity=True), some.just(-999.0), some.floats(0, 14))


@tries(max_examples=40, deadline=None)
@given(some.lists(some.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), max_size=40))
def test_whatever_comes_every_sample_has_a_verdict_and_reasons_exactly_where_it_is_alarmed(rows: list[tuple]) -> None:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(MEASURED, pl.Float64), orient="row")
    frame = frame.with_columns(sample_id=pl.int_range(pl.len()).cast(pl.String))
    verdicts = watch(frame, LIMITS)
    assert verdicts.height == frame.height and verdicts["qa_alert"].is_in(ALERTS).all()
    assert ((verdicts["qa_alert"] != "OK") == verdicts["reasons"].is_not_null()).all()
    faulty = verdicts.filter(pl.col("sensor_faults").is_not_null())
    assert (faulty["qa_alert"] == "CRITICAL_FAILURE").all()
