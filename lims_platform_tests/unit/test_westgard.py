"""Westgard rules against a reading of their words, one measurement at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.westgard import RULES, violations

T0 = datetime(2024, 1, 1, tzinfo=UTC)
SCHEMA = {
    "device_id": pl.String,
    "loinc_code": pl.String,
    "lot": pl.String,
    "qc_level": pl.String,
    "run_id": pl.String,
    "run_at": pl.Datetime("us", "UTC"),
    "z": pl.Float64,
}


def _runs(rows: list[tuple[str, str | None, str, str | None, float, float]]) -> pl.DataFrame:
    """(device, lot, level, run_id, minutes, z)."""
    data = [(d, "2345-7", lot, level, run, T0 + timedelta(minutes=m), z) for d, lot, level, run, m, z in rows]
    return pl.DataFrame(data, schema=SCHEMA, orient="row")


def _rules(frame: pl.DataFrame, **kwargs: object) -> set[tuple[str, str, int]]:
    out = violations(frame, **kwargs)
    assert dict(out.schema) == TABLES["westgard_violations"].dtypes
    return {(r["rule"], r["qc_level"], int((r["run_at"] - T0).total_seconds() // 60)) for r in out.iter_rows(named=True)}


def _brute(frame: pl.DataFrame) -> set[tuple[str, str, str, datetime]]:
    """The rules in their own words; run_id is given on every row."""
    return {hit for part in frame.partition_by("device_id") for hit in _brute_device(part)}


def _brute_device(frame: pl.DataFrame) -> set[tuple[str, str, str, datetime]]:
    rows = sorted(frame.iter_rows(named=True), key=lambda r: (r["run_at"], r["qc_level"]))
    found = set()
    for i, row in enumerate(rows):
        z = row["z"]
        run = [r["z"] for r in rows if r["run_id"] == row["run_id"]]
        past = [r for r in rows[: i + 1] if r["qc_level"] == row["qc_level"]]
        lots = [r["lot"] for r in past]
        unbroken = next((k for k in range(len(past)) if any(lot != lots[-1] for lot in lots[-k - 1 :])), len(past))
        series = [r["z"] for r in past[len(past) - unbroken :]]

        def hit(rule: str, row: dict[str, object] = row) -> None:
            found.add((rule, str(row["device_id"]), str(row["qc_level"]), row["run_at"]))  # type: ignore[arg-type]

        if abs(z) > 2:
            hit("1-2s")
        if abs(z) > 3:
            hit("1-3s")
        for side in (1, -1):
            if side * z > 2 and (
                sum(side * v > 2 for v in run) >= 2 or (len(series) >= 2 and all(side * v > 2 for v in series[-2:]))
            ):
                hit("2-2s")
            if side * z > 2 and any(side * v < -2 for v in run):
                hit("R-4s")
            if side * z > 1 and (
                sum(side * v > 1 for v in run) >= 4 or (len(series) >= 4 and all(side * v > 1 for v in series[-4:]))
            ):
                hit("4-1s")
            if len(series) >= 10 and all(side * v > 0 for v in series[-10:]):
                hit("10x")
    return found


@pytest.mark.parametrize("seed", range(10))
def test_random_sequences_equal_the_rules_read_word_by_word(seed):
    rng = np.random.default_rng(seed)
    rows = []
    shift = 0.0
    for device in "ABCD":
        for run in range(250):
            shift = float(rng.normal(0, 1.3)) if rng.random() < 0.15 else shift
            lot = f"lot{int(run > 40) + int(run > 180)}" if rng.random() > 0.01 else None
            for level in ("L1", "L2", "L3", "L4")[: int(rng.integers(1, 5))]:
                z = float(np.round(rng.normal(shift, 1 + 2 * (run % 10 == 0)), 1))  # rounded: exact 1, 2, 3 and 0 occur
                rows.append((device, lot, level, f"r{run}", run * 60 + float(level[1]) / 10, z))
    frame = _runs(rows)
    got = {
        (r["rule"], r["device_id"], r["qc_level"], r["run_at"])
        for r in violations(frame.sample(fraction=1.0, shuffle=True, seed=seed)).iter_rows(named=True)
    }
    want = _brute(frame)
    assert got == want
    assert {rule for rule, *_ in want} == set(RULES)


def test_power_of_a_single_run_of_two_and_of_four_controls():
    """Westgard's published power: false rejection 0.72 % and 2.23 %; detection of a 2.35 SD shift 59.4 % and 94.7 %."""
    rng = np.random.default_rng(11)
    n = 20_000
    for controls, shift, expected in ((2, 0.0, 0.72), (2, 2.35, 59.4), (4, 0.0, 2.23), (4, 2.35, 94.7)):
        z = rng.normal(shift, 1, n * controls)
        frame = pl.DataFrame(
            {
                "device_id": "A",
                "loinc_code": "1",
                "lot": np.repeat(np.arange(n), controls).astype(str),
                "qc_level": np.tile([f"L{i}" for i in range(controls)], n),
                "run_id": np.repeat(np.arange(n), controls).astype(str),
                "run_at": pl.Series(np.repeat(np.arange(n), controls) * 3_600_000_000).cast(pl.Datetime("us", "UTC")),
                "z": z,
            }
        )
        rejected = violations(frame).filter(severity="rejection")["run_id"].n_unique()
        margin = 4 * 100 * np.sqrt(expected / 100 * (1 - expected / 100) / n)
        assert abs(100 * rejected / n - expected) < margin


def test_limits_are_strict():
    rows = [("A", "x", "L1", "r1", 0, 2.0), ("A", "x", "L1", "r2", 60, 3.0), ("A", "x", "L2", "r3", 120, -2.0)]
    assert _rules(_runs(rows)) == {("1-2s", "L1", 60)}


def test_two_of_one_run_and_two_of_one_level_but_not_across_a_new_lot():
    assert ("2-2s", "L2", 1) in _rules(_runs([("A", "x", "L1", "r1", 0, 2.1), ("A", "x", "L2", "r1", 1, 2.2)]))
    consecutive = [("A", "x", "L1", "r1", 0, 2.1), ("A", "x", "L1", "r2", 60, 2.2)]
    assert ("2-2s", "L1", 60) in _rules(_runs(consecutive))
    new_lot = [consecutive[0], ("A", "y", "L1", "r2", 60, 2.2)]
    assert {rule for rule, *_ in _rules(_runs(new_lot))} == {"1-2s"}


def test_controls_without_run_id_form_runs_by_their_gap():
    rows = [("A", "x", "L1", None, 0, 2.4), ("A", "x", "L2", None, 20, -2.4)]
    assert {rule for rule, *_ in _rules(_runs(rows))} == {"1-2s", "R-4s"}
    assert {rule for rule, *_ in _rules(_runs(rows), run_gap=timedelta(minutes=10))} == {"1-2s"}


def test_first_run_at_is_the_start_of_the_sequence():
    rows = [("A", "x", "L1", f"r{i}", i * 60.0, 0.4) for i in range(11)]
    out = violations(_runs(rows)).sort("run_at")
    assert out["rule"].to_list() == ["10x", "10x"]
    assert out["first_run_at"].to_list() == [T0, T0 + timedelta(hours=1)]


def test_what_cannot_be_judged_is_left_out():
    rows = [("A", "x", "L1", "r1", 0, float("nan")), ("A", "x", "L1", "r2", 1, 4.0)]
    assert _rules(_runs(rows)) == {("1-2s", "L1", 1), ("1-3s", "L1", 1)}
    assert violations(_runs([])).height == 0
