"""The simulated laboratory: its invariants, its dirt against its truth, and its clock."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lims_platform.contracts.source import SOURCE_TABLES
from lims_platform.simulator import catalogue
from lims_platform.simulator.clock import NEVER, Clock
from lims_platform.simulator.config import Dirt, LabConfig
from lims_platform.simulator.generate import Laboratory, simulate, simulate_days

CONFIG = LabConfig(seed=11, end=date(2025, 4, 20), days=60, devices=20, facilities=3, results_per_day=700)


@pytest.fixture(scope="module")
def laboratory() -> Laboratory:
    return simulate(CONFIG)


def _same(left: Laboratory, right: Laboratory) -> None:
    assert left.tables.keys() == right.tables.keys()
    for name in left.tables:
        by = left.tables[name].columns
        assert_frame_equal(left.tables[name].sort(by), right.tables[name].sort(by))
    for name in left.truth:
        by = left.truth[name].columns
        assert_frame_equal(left.truth[name].sort(by), right.truth[name].sort(by))


def test_same_config_same_laboratory_and_other_seed_another(laboratory: Laboratory) -> None:
    _same(laboratory, simulate(CONFIG))
    other = simulate(dataclasses.replace(CONFIG, seed=12))
    assert not other.tables["lab_results"]["result_value"].equals(laboratory.tables["lab_results"]["result_value"])


@pytest.mark.parametrize("chunk_days", [1, 7, 60])
def test_rows_do_not_depend_on_the_chunks(laboratory: Laboratory, chunk_days: int) -> None:
    chunks = list(simulate_days(CONFIG, chunk_days))
    tables = {n: pl.concat([c.tables[n] for c in chunks if n in c.tables]) for n in laboratory.tables}
    truth = {n: pl.concat([c.truth[n] for c in chunks if n in c.truth]) for n in laboratory.truth}
    _same(laboratory, Laboratory(CONFIG, tables, truth))


def test_a_longer_laboratory_has_the_same_past(laboratory: Laboratory) -> None:
    longer = simulate(CONFIG.extended_to(CONFIG.end + timedelta(days=9)))
    early = pl.col("updated_at") < pl.datetime(2025, 4, 10)
    left = longer.tables["lab_results"].filter(early)
    # what was changed later carries a later updated_at: the rest is the same
    assert_frame_equal(
        left.sort(left.columns),
        laboratory.tables["lab_results"]
        .filter(early)
        .join(left.unique("result_id"), on="result_id", how="semi")
        .sort(left.columns),
    )
    hazard = longer.truth["device_hazard"].filter(pl.col("date") <= CONFIG.end)
    assert_frame_equal(hazard, laboratory.truth["device_hazard"])


def test_tables_are_the_contracts(laboratory: Laboratory) -> None:
    for name, frame in laboratory.tables.items():
        contract = SOURCE_TABLES[name]
        assert set(frame.columns) <= set(contract.schema)
        assert {c.name for c in contract.columns if c.required} <= set(frame.columns)
        for column, dtype in frame.schema.items():
            assert dtype == (
                pl.Datetime("us") if contract.schema[column] == pl.Datetime("us", "UTC") else contract.schema[column]
            )
    keys = laboratory.tables["quality_control"]["qc_id"], laboratory.tables["batch_results"]["sample_id"]
    assert all(key.is_unique().all() for key in keys)
    logs = laboratory.tables["device_logs"]
    assert not logs.select(SOURCE_TABLES["device_logs"].key).is_duplicated().any()


def test_repeated_result_ids_are_exactly_the_planted_duplicates(laboratory: Laboratory) -> None:
    results = laboratory.tables["lab_results"]
    truth = laboratory.truth["dirt"].filter(pl.col("kind").is_in(["duplicate", "conflicting_duplicate"]))
    repeated = results.filter(pl.col("result_id").is_duplicated())["result_id"].unique()
    assert set(repeated) == set(truth["row_key"])
    identical = truth.filter(pl.col("kind") == "duplicate")["row_key"]
    copies = results.filter(pl.col("result_id").is_in(identical.implode()))
    assert copies.unique().height == len(identical) and copies.height == 2 * len(identical)
    conflicting = truth.filter(pl.col("kind") == "conflicting_duplicate").join(
        results, left_on="row_key", right_on="result_id"
    )
    assert len(conflicting)
    latest = pl.col("updated_at") == pl.col("updated_at").max().over("row_key")
    assert conflicting.filter(pl.col("result_value") != pl.when(latest).then("true_value").otherwise("planted")).is_empty()


def test_every_odd_value_unit_or_code_is_in_the_truth(laboratory: Laboratory) -> None:
    dirty = laboratory.truth["dirt"].filter(pl.col("table") == "lab_results")["row_key"].unique()
    clean = laboratory.tables["lab_results"].filter(~pl.col("result_id").is_in(dirty.implode()))
    assert clean["test_code"].is_in(catalogue.CODES).all()
    units = pl.DataFrame({"test_code": [a.code for a in catalogue.NUMERIC], "own": [a.unit for a in catalogue.NUMERIC]})
    numeric = clean.join(units, on="test_code")
    assert (numeric["result_unit"] == numeric["own"]).all()
    assert numeric["result_value"].cast(pl.Float64, strict=False).null_count() == 0
    coded = clean.filter(~pl.col("test_code").is_in(units["test_code"].implode()))
    assert coded["result_value"].is_in([catalogue.POSITIVE, catalogue.NEGATIVE]).all()
    assert clean["resulted_timestamp"].null_count() == 0 and clean["collected_timestamp"].null_count() == 0
    assert (clean["resulted_timestamp"] >= clean["received_timestamp"]).all()
    assert set(clean["result_status"]) <= {"F", "P"}


def test_planted_dirt_stands_in_the_table(laboratory: Laboratory) -> None:
    planted = laboratory.truth["dirt"].join(laboratory.tables["lab_results"], left_on="row_key", right_on="result_id")
    in_value = [
        "censored", "whitespace", "exponent", "coded_spelling", "not_done", "ambiguous_number", "instrument_code",
        "other_unit", "wrong_unit", "cancelled", "identifier_in_comment",
    ]  # fmt: skip
    value = planted.filter(pl.col("kind").is_in(in_value))
    assert set(value["kind"]) == set(in_value)
    assert (value["planted"] == value["result_value"]).all()
    censored = value.filter(pl.col("kind") == "censored")
    assert (censored["result_value"].str.strip_prefix("<").cast(float) > censored["true_value"].cast(float)).all()
    exponent = value.filter(pl.col("kind") == "exponent")
    assert ((exponent["result_value"].cast(float) - exponent["true_value"].cast(float)).abs() < 1e-9).all()
    of_kind = {kind: frame for (kind,), frame in planted.group_by("kind")}
    assert (of_kind["unit_spelling"]["result_unit"] == of_kind["unit_spelling"]["planted"]).all()
    assert (of_kind["unmapped_code"]["test_code"] == of_kind["unmapped_code"]["planted"]).all()
    assert of_kind["null_resulted"]["resulted_timestamp"].is_null().all()
    assert (of_kind["late"]["updated_at"] - of_kind["late"]["resulted_timestamp"] >= timedelta(hours=22)).all()
    comments = of_kind["identifier_in_comment"]
    assert comments.filter(pl.col("result_value").str.contains(pl.col("patient_id"), literal=True)).height == len(comments)
    amended = of_kind["amended"].filter(pl.col("result_status") == "C")
    assert len(amended) and (amended["result_value"] == amended["true_value"]).all()
    deleted = laboratory.truth["dirt"].filter(pl.col("kind") == "deleted")
    # the last days' deletions are still to come
    still_there = deleted.join(planted, on="row_key", how="semi")
    end = pl.lit(CONFIG.end).cast(pl.Datetime("us")) + pl.duration(days=1)
    assert still_there.height < len(deleted)
    assert set(still_there["row_key"]) == set(deleted.filter(pl.col("happens_at") >= end)["row_key"])


def test_no_dirt_when_none_is_wanted() -> None:
    nothing = dataclasses.replace(Dirt(), **dict.fromkeys((f.name for f in dataclasses.fields(Dirt)), 0.0))
    clean = simulate(dataclasses.replace(CONFIG, days=10, dirt=nothing))
    assert clean.truth["dirt"].is_empty()
    assert clean.tables["lab_results"]["result_id"].is_unique().all()


def test_volume_follows_the_settings_and_the_week(laboratory: Laboratory) -> None:
    results = laboratory.tables["lab_results"]
    assert len(results) / CONFIG.days == pytest.approx(CONFIG.results_per_day, rel=0.1)
    weekday = (
        results["collected_timestamp"]
        .dt.weekday()
        .value_counts()
        .sort("collected_timestamp")
        .drop_nulls()["count"]
        .to_numpy()
    )
    assert weekday[5:].mean() < 0.7 * weekday[:5].mean()
    night = results["collected_timestamp"].drop_nulls().dt.hour().is_between(0, 4).to_numpy().mean()
    assert 0.01 < night < 0.1


def test_a_device_in_outage_measures_nothing(laboratory: Laboratory) -> None:
    outages = laboratory.truth["failures"]
    assert len(outages)
    runs = laboratory.tables["quality_control"].join(outages, on="device_id")
    during = runs.filter((pl.col("timestamp") >= pl.col("failed_at")) & (pl.col("timestamp") < pl.col("back_at")))
    assert during.is_empty()
    logged = laboratory.tables["device_logs"].filter(pl.col("event_type") == "FAILURE")
    pair = outages.select("device_id", "failed_at").sort("device_id", "failed_at")
    assert logged.select("device_id", failed_at="log_timestamp").sort("device_id", "failed_at").equals(pair)


def test_drift_moves_results_of_its_device_only() -> None:
    from lims_platform.simulator.episodes import DriftEpisodes

    one = DriftEpisodes(*(np.array([v]) for v in (5, 9, 2, 3, 1.5, False)))
    bias = one.bias(0, 20, 4, qc_only=False)
    assert np.argwhere(bias).tolist() == [[d, 2, 3] for d in range(5, 10)] and bias.max() == np.float32(1.5)
    assert not one.bias(0, 20, 4, qc_only=True).any()


def test_outbreaks_raise_positivity() -> None:
    quiet = LabConfig(seed=3, end=date(2025, 9, 30), days=120, devices=10, facilities=2, results_per_day=1500)
    loud = dataclasses.replace(quiet, outbreaks=dataclasses.replace(quiet.outbreaks, per_facility_year=12.0, odds=12.0))
    rates = []
    for config in (quiet, loud):
        rows = simulate(config).tables["lab_results"].filter(pl.col("test_code").is_in(["SARS2", "FLUA", "FLUB", "RSV"]))
        value = rows["result_value"].str.to_lowercase()
        positive = value.str.starts_with("pos") | (value == "detected") | (value == "reactive")
        rates.append(float(positive.drop_nulls().to_numpy().mean()))
    assert rates[1] > 1.5 * rates[0] > 0


def test_samples_are_normal_outside_faults(laboratory: Laboratory) -> None:
    samples = simulate(dataclasses.replace(CONFIG, samples_per_day=200)).tables["batch_results"]
    ph = samples["ph_level"].filter(samples["ph_level"] > 0)
    assert ph.median() == pytest.approx(7.2, abs=0.01)
    mad = (ph - ph.median()).abs().median()
    assert isinstance(mad, float) and 1.4826 * mad == pytest.approx(0.15, rel=0.1)
    assert samples["turbidity_ntu"].filter(samples["turbidity_ntu"] >= 0).median() == pytest.approx(0.84, rel=0.12)
    dead = laboratory.truth["sample_faults"].filter(pl.col("fault").str.starts_with("dead_sensor"))
    rows = laboratory.tables["batch_results"].join(dead, on="sample_id")
    assert (
        (rows.select(pl.min_horizontal("ph_level", "storage_temp_c", "dissolved_oxygen_ppm", "turbidity_ntu")) == -999)
        .to_series()
        .all()
    )


@given(st.sampled_from(["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_wall_time_is_the_zones(zone: str, second: int) -> None:
    from datetime import UTC, datetime

    clock = Clock(date(2024, 1, 1), 400, zone)
    instant = int(clock.day_start(0)) + second % (400 * 86_400) * 1_000_000
    moment = datetime.fromtimestamp(instant / 1e6, UTC).astimezone(clock.zone)
    wall = datetime(1970, 1, 1) + timedelta(microseconds=int(clock.to_wall(np.array([instant]))[0]))
    assert wall == moment.replace(tzinfo=None)
    assert date(2024, 1, 1) + timedelta(days=int(clock.day_of(instant))) == moment.date()
    assert clock.to_wall(np.array([NEVER]))[0] == NEVER


@pytest.mark.parametrize(
    ("field", "value"), [("days", 0), ("devices", 0), ("results_per_day", -1), ("timezone", "Mars/Base"), ("seed", -1)]
)
def test_impossible_settings_are_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(CONFIG, **{field: value})


def test_config_survives_json() -> None:
    assert LabConfig.from_json(CONFIG.to_json()) == CONFIG


@pytest.mark.parametrize(("devices", "facilities"), [(1, 1), (3, 5), (7, 2)])
def test_tiny_laboratories_work(devices: int, facilities: int) -> None:
    tiny = simulate(
        LabConfig(seed=1, end=date(2025, 3, 31), days=3, devices=devices, facilities=facilities, results_per_day=40)
    )
    assert tiny.tables["devices"].height == devices
    assert tiny.tables["lab_results"].height > 0
