"""Westgard rules against a reading of their words, one measurement at a time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.westgard import SERIES_GAP, violations
from lims_platform.laboratory.westgard_rules import RULES, STANDARD, THREE_LEVELS

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


def _brute(frame: pl.DataFrame) -> dict[tuple[str, str, str, datetime], list[datetime]]:
    """The rules in their own words, each with the times it counted; run_id is given on every row."""
    found: dict[tuple[str, str, str, datetime], list[datetime]] = {}
    for part in frame.partition_by("device_id"):
        found |= _brute_device(part)
    return found


def _brute_device(frame: pl.DataFrame) -> dict[tuple[str, str, str, datetime], list[datetime]]:
    rows = sorted(frame.iter_rows(named=True), key=lambda r: (r["run_at"], r["qc_level"]))
    found: dict[tuple[str, str, str, datetime], list[datetime]] = {}
    for i, row in enumerate(rows):
        z = row["z"]
        run = [r for r in rows if r["run_id"] == row["run_id"]]
        series: list[dict[str, object]] = []
        for r in rows[: i + 1]:
            if r["qc_level"] != row["qc_level"]:
                continue
            if series and (
                r["lot"] != series[-1]["lot"]
                or r["calibrated_at"] != series[-1]["calibrated_at"]
                or r["run_at"] - series[-1]["run_at"] > SERIES_GAP
            ):
                series = []
            series.append(r)

        def hit(rule: str, involved: list[dict[str, object]], row: dict[str, object] = row) -> None:
            key = (rule, str(row["device_id"]), str(row["qc_level"]), row["run_at"])
            found[key] = sorted({*found.get(key, []), *[r["run_at"] for r in involved]})  # type: ignore[index, type-var]

        def last(n: int, limit: float, side: int, series: list[dict[str, object]] = series) -> list[dict[str, object]]:
            tail = series[-n:]
            return tail if len(tail) == n and all(side * r["z"] > limit for r in tail) else []  # type: ignore[operator]

        if abs(z) > 2:
            hit("1-2s", [row])
        if abs(z) > 3:
            hit("1-3s", [row])
        for side in (1, -1):
            for rule, limit, n in (("2-2s", 2, 2), ("2of3-2s", 2, 2), ("3-1s", 1, 3), ("4-1s", 1, 4)):
                same = [r for r in run if side * r["z"] > limit]
                if side * z > limit and len(same) >= n:
                    hit(rule, same)
                if rule != "2of3-2s" and last(n, limit, side):
                    hit(rule, last(n, limit, side))
            if side * z > 2 and any(side * r["z"] < -2 for r in run):
                hit("R-4s", [r for r in run if abs(r["z"]) > 2])
            for n in (6, 8, 9, 10, 12):
                if last(n, 0, side):
                    hit(f"{n}x", last(n, 0, side))
            seven = series[-7:]
            if len(seven) == 7 and all(side * (y["z"] - x["z"]) > 0 for x, y in pairwise(seven)):
                hit("7T", seven)
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
                z = z if run not in range(60, 70) else round((run - 65) * 0.3 + z / 20, 1)  # a trend
                # a fortnight without controls after run 200
                minutes = run * 60 + float(level[1]) / 10 + 20_160 * (run > 200)
                rows.append((device, lot, level, f"r{run}", minutes, z))
    calibrated = pl.col("run_at").dt.truncate("7d")
    frame = _runs(rows).with_columns(calibrated_at=calibrated)
    got = {
        (r["rule"], r["device_id"], r["qc_level"], r["run_at"]): r["runs_involved"]
        for r in violations(frame.sample(fraction=1.0, shuffle=True, seed=seed), rules=RULES).iter_rows(named=True)
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


def test_rules_across_runs_stop_at_a_calibration_and_at_a_gap():
    rows = _runs([("A", "x", "L1", f"r{i}", i * 60.0, 1.5) for i in range(4)])
    assert "4-1s" in violations(rows)["rule"].to_list()
    calibrated = rows.with_columns(calibrated_at=pl.when(pl.col("run_at") > T0).then(T0))
    assert violations(calibrated).is_empty()
    late = [("A", "x", "L1", f"r{i}", i * 60.0 + 11_000 * (i > 1), 1.5) for i in range(4)]
    assert violations(_runs(late)).is_empty()


def test_sets_of_rules_are_chosen_by_name():
    rows = _runs([("A", "x", "L1", f"r{i}", i * 60.0, 0.5 + i / 10) for i in range(8)])
    assert set(violations(rows, rules=["7T", "8x"])["rule"]) == {"7T", "8x"}
    assert set(STANDARD) | set(THREE_LEVELS) <= set(RULES)
    with pytest.raises(ValueError, match="5x"):
        violations(rows, rules=["5x"])


def test_columns_a_source_may_lack():
    rows = _runs([("A", "x", "L1", "r1", 0, 3.5)]).drop("run_id", "lot")
    assert set(violations(rows)["rule"]) == {"1-2s", "1-3s"}


def test_what_cannot_be_judged_is_left_out():
    rows = [("A", "x", "L1", "r1", 0, float("nan")), ("A", "x", "L1", "r2", 1, 4.0)]
    assert _rules(_runs(rows)) == {("1-2s", "L1", 1), ("1-3s", "L1", 1)}
    assert violations(_runs([])).height == 0


def test_a_frame_that_cannot_be_judged_at_all_says_why():
    runs = pl.DataFrame({"device_id": ["A"], "loinc_code": ["K"], "qc_level": ["1"], "run_at": [None], "z": [1.0]})
    with pytest.raises(ValueError, match="column z is missing"):
        violations(runs.drop("z"))
    with pytest.raises(ValueError, match="column run_at is String, not a datetime"):
        violations(runs.with_columns(run_at=pl.lit("2025-01-01 08:00")))
    assert violations(pl.DataFrame({name: [] for name in runs.columns})).is_empty()
