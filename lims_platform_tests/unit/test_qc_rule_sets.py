"""Rules by sigma: who is judged by which set, from what was known the day before; the full multirule unless chosen."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.qc_rule_sets import RuleChoice, SigmaRulesError, performance_between, violations_between
from lims_platform.laboratory.qc_targets import qc_runs
from lims_platform.laboratory.westgard import violations
from lims_platform.laboratory.westgard_rules import STANDARD
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[2] / "data" / "reference")
T0 = datetime(2024, 1, 1, 6, tzinfo=UTC)
GLUCOSE = "2345-7"  # allowable error 8 % at 100 mg/dL
SCHEMA = TABLES["quality_control_standardized"].dtypes
LOGS = TABLES["device_metrics_normalized"].empty()
FULL = RuleChoice(STANDARD, False, REFERENCE.analytes, REFERENCE.sigma_rules)
BY_SIGMA = RuleChoice(STANDARD, True, REFERENCE.analytes, REFERENCE.sigma_rules)


def controls(device: str, cv: float, last: list[float], days: int = 40, level: str = "L1") -> pl.DataFrame:
    """One control a day at 100 mg/dL with this CV, then z values."""
    z = np.random.default_rng(4).normal(0, 1, days)
    z = (z - z.mean()) / z.std(ddof=1)
    rows = [
        {
            "qc_id": f"{device}{level}{i:03d}", "device_id": device, "loinc_code": GLUCOSE, "analyte": "Glucose",
            "qc_level": level, "run_at": T0 + timedelta(days=i), "event_date": (T0 + timedelta(days=i)).date(),
            "control_lot": "C", "measured_value": 100 + cv * x, "expected_value": 100.0, "expected_sd": cv,
            "is_repeat": False,
        }
        for i, x in enumerate([*np.clip(z, -1.9, 1.9).tolist(), *last])
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def day(number: int) -> date:
    return T0.date() + timedelta(days=number)


def broken(frame: pl.DataFrame, choice: RuleChoice, first: int = 40, last: int = 50) -> set[tuple[str, str]]:
    found = violations_between(frame, LOGS, day(first), day(last), "UTC", choice)
    TABLES["westgard_violations"].schema.validate(found)
    return set(found.select("device_id", "rule").rows())


PAIR = [2.5, 2.5]  # two beyond 2 SD on one side: 1-2s and 2-2s, no 1-3s
FLEET = pl.concat([controls("six", 1.0, PAIR), controls("three", 2.4, PAIR), controls("new", 1.0, PAIR, days=5)])


def test_the_full_multirule_judges_everybody_unless_the_laboratory_chooses():
    runs = qc_runs(FLEET, LOGS)
    assert violations_between(FLEET, LOGS, day(0), day(50), "UTC", FULL).equals(violations(runs))
    assert broken(FLEET, FULL) == {(d, r) for d in ("six", "three") for r in ("1-2s", "2-2s")}
    assert set(performance_between(FLEET, day(0), day(50), FULL)["rules_applied"]) == {";".join(STANDARD)}


def test_each_device_is_judged_by_the_rules_its_sigma_calls_for():
    assert broken(FLEET, BY_SIGMA) == {("three", "2-2s")}  # six sigma: 1-3s only; below four: without the warning
    assert broken(controls("six", 1.0, [3.1]), BY_SIGMA) == {("six", "1-3s")}
    shown = performance_between(FLEET, day(41), day(41), BY_SIGMA)
    TABLES["qc_performance"].schema.validate(shown)
    assert dict(shown.select("device_id", "rules_applied").rows()) == {
        "six": "1-3s",
        "three": "1-3s;2-2s;R-4s;4-1s;8x",
    }


def test_a_rule_beyond_the_full_set_counts_only_for_whom_it_was_chosen():
    eight = [0.5] * 8
    fleet = pl.concat([controls("six", 1.0, eight), controls("three", 2.4, eight)])
    assert ("three", "8x") in broken(fleet, BY_SIGMA) and ("six", "8x") not in broken(fleet, BY_SIGMA)


def test_without_a_known_sigma_the_full_multirule_stays():
    fleet = controls("new", 1.0, PAIR, days=5)
    assert broken(fleet, BY_SIGMA, 0) == {("new", "1-2s"), ("new", "2-2s")}
    paused = controls("six", 1.0, [])  # then silent for longer than a week
    later = controls("six", 1.0, PAIR).tail(2).with_columns(pl.col("run_at", "event_date") + pl.duration(days=9))
    fleet = pl.concat([paused, later])
    assert broken(fleet, BY_SIGMA, 49, 49) == {("six", "1-2s")}
    assert broken(fleet, BY_SIGMA, 50, 50) == set()  # by now 1-3s is enough again


def test_a_day_has_no_say_in_its_own_rules_and_the_lowest_level_decides():
    wrong = controls("six", 1.0, [40.0, 0.0])
    applied = performance_between(wrong, day(40), day(41), BY_SIGMA).sort("as_of_date")
    assert applied["sigma"][0] < 4 and applied["rules_applied"].to_list() == ["1-3s", "1-3s;2-2s;R-4s;4-1s;8x"]
    levels = pl.concat([controls("d", 1.0, PAIR), controls("d", 2.4, PAIR, level="L2")])
    assert ("d", "2-2s") in broken(levels, BY_SIGMA)


def test_a_range_equals_its_days_built_alone():
    whole = violations_between(FLEET, LOGS, day(10), day(50), "UTC", BY_SIGMA)
    for number in range(38, 43):
        alone = violations_between(FLEET, LOGS, day(number), day(number), "UTC", BY_SIGMA)
        assert alone.equals(whole.filter(as_of_date=day(number)))


def test_a_rule_that_does_not_exist_is_named_with_its_row():
    typo = REFERENCE.sigma_rules.with_columns(pl.col("rules").str.replace("R-4s", "R-5s"))
    choice = RuleChoice(STANDARD, True, REFERENCE.analytes, typo)
    with pytest.raises(SigmaRulesError, match=r"sigma_from .*column rules: unknown Westgard rules \['R-5s'\]"):
        violations_between(FLEET, LOGS, day(40), day(41), "UTC", choice)
