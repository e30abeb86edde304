"""Device features against worked examples, and the identity of rebuilt days."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import validity
from lims_platform.laboratory.device_health import HISTORY_DAYS, device_failure_features

CALENDAR = "Europe/Berlin"
TIME = pl.Datetime("us", "UTC")
D0 = datetime(2024, 5, 1, 10, tzinfo=UTC)  # a Wednesday
FIRST, LAST = D0.date(), D0.date() + timedelta(days=9)
NEEDED = {
    "results": {"device_id": pl.String, "resulted_at": TIME, "turnaround_time_hours": pl.Float64},
    "logs": {
        "device_id": pl.String,
        "logged_at": TIME,
        "event_type": pl.String,
        "calibration_date": TIME,
        "maintenance_date": TIME,
        "reason": pl.String,
    },
    "controls": {
        "device_id": pl.String,
        "loinc_code": pl.String,
        "qc_level": pl.String,
        "z": pl.Float64,
        "passed": pl.Boolean,
        "run_at": TIME,
    },
}
WHEN = {"results": "resulted_at", "logs": "logged_at", "controls": "run_at"}


def _history(kind: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    """Rows with their columns; ``known`` (default: the event's time), ``change``, ``key``, ``version`` where needed."""
    extra = {"known": TIME, "change": pl.String, "key": pl.String, "version": pl.Int32}
    frame = pl.DataFrame(rows, schema={**NEEDED[kind], **extra})
    bronze = frame.with_row_index("_i").select(
        *NEEDED[kind],
        pl.col(WHEN[kind]).dt.convert_time_zone(CALENDAR).dt.date().alias("event_date"),
        pl.coalesce("known", WHEN[kind]).alias("known_from"),
        pl.coalesce("change", pl.lit("insert")).alias("change"),
        pl.coalesce("key", pl.format("k{}", "_i")).alias("row_key"),
        pl.coalesce("version", pl.lit(1, pl.Int32)).alias("row_version"),
        pl.lit(False).alias("is_conflict"),
    )
    return validity(bronze.lazy()).collect()


def _devices(*rows: tuple[str, str | None, datetime | None]) -> pl.DataFrame:
    schema = {"device_id": pl.String, "device_type": pl.String, "installed_date": TIME}
    return pl.DataFrame(list(rows), schema=schema, orient="row").with_columns(facility_id=pl.lit("F1"))


def _features(results=(), logs=(), controls=(), devices=None, first=FIRST, last=LAST):
    register = _devices(("A", "chemistry", datetime(2023, 5, 1, tzinfo=UTC))) if devices is None else devices
    frames = [_history(k, list(r)) for k, r in (("results", results), ("logs", logs), ("controls", controls))]
    out = device_failure_features(register, *frames, first, last, CALENDAR)
    TABLES["device_failure_features"].schema.validate(out)
    assert dict(out.schema) == TABLES["device_failure_features"].dtypes
    return out


def _at(frame: pl.DataFrame, day: int, device: str = "A") -> dict[str, object]:
    return frame.row(
        by_predicate=(pl.col("as_of_date") == D0.date() + timedelta(days=day)) & (pl.col("device_id") == device), named=True
    )


def _log(day: float, event: str, device: str = "A", **other: object) -> dict[str, object]:
    return {"device_id": device, "logged_at": D0 + timedelta(days=day), "event_type": event, **other}


def _result(day: float, hours: float | None = 2.0, device: str = "A", **other: object) -> dict[str, object]:
    return {"device_id": device, "resulted_at": D0 + timedelta(days=day), "turnaround_time_hours": hours, **other}


def test_the_ten_features_have_the_formulas_of_the_specification():
    results = [_result(d, hours=float(h)) for d, h in ((0, 1), (1, 3), (1, 5), (6, 7), (7, 9))]
    logs = [_log(0, "ERROR"), _log(2, "ERROR"), _log(2, "WARNING"), _log(-31, "CALIBRATION"), _log(-80, "MAINTENANCE")]
    logs.append(_log(-3, "FAILURE"))
    controls = [
        {"device_id": "A", "loinc_code": "1", "qc_level": "L1", "z": z, "passed": ok, "run_at": D0 + timedelta(days=d)}
        for d, z, ok in ((1, 1.0, True), (2, 3.0, False), (3, 2.0, True))
    ]
    out = _features(results, logs, controls)
    six = _at(out, 6)
    assert six["error_rate_7d"] == pytest.approx(2 / 5)  # 4 results in days 0..6
    assert six["warning_rate_7d"] == pytest.approx(1 / 5)
    assert six["qc_pass_rate_7d"] == pytest.approx(2 / 3)
    assert six["avg_turnaround_time_7d"] == pytest.approx(4.0)
    assert six["result_volume"] == 1
    assert six["result_volume_trend"] == pytest.approx((1 - 4 / 30) / (4 / 30 + 1))
    assert six["calibration_overdue"] is True and six["calibration_overdue_days"] == 7
    assert six["maintenance_overdue"] is False and six["maintenance_overdue_days"] == 0
    assert six["last_failure_days"] == 9
    assert six["device_age_months"] == pytest.approx((date(2024, 5, 7) - date(2023, 5, 1)).days / 30.4375)
    assert six["qc_bias_7d"] == pytest.approx(2.0, abs=1e-5) and six["qc_imprecision_7d"] == pytest.approx(1.0, abs=1e-5)
    assert six["failures_90d"] == 1
    seven = _at(out, 7)  # day 0 has left the window; the days without a row were zeros, not gaps
    assert seven["error_rate_7d"] == pytest.approx(1 / 5)
    assert seven["avg_turnaround_time_7d"] == pytest.approx(6.0)
    assert _at(out, 5)["result_volume"] == 0
    assert _at(out, 4, "A")["maintenance_overdue_days"] == 0


def test_a_device_that_never_logged_has_zero_rates_null_clocks_and_is_overdue():
    row = _at(_features(), 3)
    assert row["error_rate_7d"] == 0 and row["result_volume"] == 0 and row["failures_90d"] == 0
    assert row["calibration_overdue"] is True and row["calibration_overdue_days"] is None
    assert row["last_failure_days"] is None and row["qc_pass_rate_7d"] is None
    assert row["in_outage"] is False  # silent, but it never failed


def test_services_are_known_from_the_columns_of_any_log_but_a_planned_one_counts_for_nothing():
    told = _log(0, "INFO", calibration_date=D0 - timedelta(days=12), maintenance_date=D0 + timedelta(days=4))
    corrected = _log(5, "INFO", calibration_date=D0 - timedelta(days=20))
    out = _features(logs=[told, corrected])
    assert _at(out, 0)["days_since_calibration"] == 12
    assert _at(out, 5)["days_since_calibration"] == 25  # the latest row is believed
    assert _at(out, 6)["days_since_maintenance"] is None


def test_a_day_built_alone_with_the_history_it_depends_on_equals_the_day_within_a_range():
    rng = np.random.default_rng(8)
    days = rng.uniform(0, 900, 400)
    devices = rng.choice(["A", "X", "Y"], 400, p=[0.5, 0.4, 0.1])
    kinds = rng.choice(["ERROR", "FAILURE", "CALIBRATION", "MAINTENANCE", "INFO"], 400)
    logs = [
        _log(d, str(k), str(v), calibration_date=D0 + timedelta(days=d - 200 * rng.random()))
        for d, k, v in zip(days, kinds, devices, strict=True)
        if not (v == "X" and d > 380) and not (v == "Y" and 100 < d < 700)
    ]
    results = [_result(float(d), 2.0, "A") for d in rng.uniform(0, 300, 100)]
    whole = _features(results, logs, last=D0.date() + timedelta(days=880))
    for day in (50, 399, 400, 600, 777, 820, 880):
        today = D0.date() + timedelta(days=day)
        oldest = datetime.combine(today - timedelta(days=HISTORY_DAYS - 1), time(), ZoneInfo(CALENDAR))
        kept = [[r for r in results if r["resulted_at"] >= oldest], [r for r in logs if r["logged_at"] >= oldest]]
        alone = _features(*kept, first=today, last=today)
        assert alone.equals(whole.filter(pl.col("as_of_date") == today)), day


def test_failures_within_a_day_are_one_episode_even_across_the_edge_of_the_window():
    logs = [_log(0.0, "FAILURE"), _log(0.5, "FAILURE"), _log(1.2, "FAILURE"), _log(4.0, "FAILURE")]
    out = _features(logs=logs, last=D0.date() + timedelta(days=95))
    assert _at(out, 3)["failures_90d"] == 1
    assert _at(out, 4)["failures_90d"] == 2
    assert _at(out, 89)["failures_90d"] == 2
    assert _at(out, 90)["failures_90d"] == 1  # the first day left, the rest of its episode does not start another
    assert _at(out, 94)["failures_90d"] == 0


def test_outage_lasts_until_the_first_result_after_the_failure():
    results = [_result(-1), _result(4)]
    out = _features(results, [_log(0.1, "FAILURE")])
    flags = [_at(out, d)["in_outage"] for d in range(7)]
    # day 0 failed; Thursday and Friday silent; Saturday no working day; Sunday (day 4) it measures again
    assert flags == [True, True, True, False, False, False, False]


def test_devices_have_rows_from_installation_and_strangers_from_the_day_they_are_heard_of():
    register = _devices(("A", "chemistry", D0 + timedelta(days=4)), ("B", "chemistry", None))
    out = _features(logs=[_log(2, "ERROR", device="X")], devices=register)
    days = {k: v["as_of_date"].min() for (k,), v in out.partition_by("device_id", as_dict=True).items()}
    assert days == {"A": D0.date() + timedelta(days=4), "B": D0.date(), "X": D0.date() + timedelta(days=2)}
    assert _at(out, 5, "X")["device_type"] is None and _at(out, 5, "X")["sister_error_contrast"] is None


def test_a_device_twice_in_the_register_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"devices: device_id 'A'"):
        _features(devices=_devices(("A", "x", D0), ("A", "y", D0)))


def test_usage_counts_the_results_after_the_last_maintenance():
    results = [_result(d) for d in (-2, 0, 1, 1, 3)]
    out = _features(results, [_log(-1, "MAINTENANCE"), _log(2, "MAINTENANCE")])
    assert [_at(out, d)["usage_since_maintenance"] for d in (0, 1, 2, 3)] == [1, 3, 0, 1]


def test_rebuilding_old_days_after_late_amended_and_deleted_rows_gives_identical_rows():
    rng = np.random.default_rng(7)
    cut = D0 + timedelta(days=30)
    results, logs, controls = [], [], []
    for i in range(900):
        day = float(rng.uniform(-40, 45))
        device = "ABX"[i % 3]
        event = str(rng.choice(["ERROR", "WARNING", "FAILURE", "CALIBRATION", "MAINTENANCE"]))
        control = {"device_id": device, "loinc_code": "1", "qc_level": f"L{i % 2}", "z": float(rng.normal()), "passed": True}
        for rows, base in (
            (results, _result(day, float(rng.gamma(2)), device)),
            (logs, _log(day, event, device)),
            (controls, {**control, "run_at": D0 + timedelta(days=day)}),
        ):
            known = D0 + timedelta(days=day)
            for version in range(1, 1 + int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1]))):
                known += timedelta(days=float(rng.exponential(2.0))) if version > 1 or i % 5 == 0 else timedelta(0)
                change = "insert" if version == 1 else str(rng.choice(["update", "delete"]))
                rows.append({**base, "known": known, "change": change, "key": f"k{i}", "version": version})
    register = _devices(("A", "chemistry", D0 - timedelta(days=900)), ("B", "chemistry", D0 - timedelta(days=300)))
    built = []
    for limit, first, last in ((cut, 20, 29), (cut + timedelta(days=900), 0, 40)):
        kept = [[r for r in rows if r["known"] < limit.replace(hour=0)] for rows in (results, logs, controls)]
        span = {"first": D0.date() + timedelta(days=first), "last": D0.date() + timedelta(days=last)}
        built.append(_features(*kept, devices=register, **span))
    days = pl.col("as_of_date").is_between(D0.date() + timedelta(days=20), D0.date() + timedelta(days=28))
    assert built[0].filter(days).height == 27
    assert built[0].filter(days).equals(built[1].filter(days))
