"""Point-in-time sums against a reading of the rule day by day, and the identity of rebuilt days."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.laboratory.asof import days_between, decayed_sums, known_days, latest_known, validity, windowed_sums

CALENDAR = "Europe/Berlin"
FIRST, LAST = date(2024, 3, 20), date(2024, 4, 12)  # spans the change to summer time
START = datetime(2024, 3, 10, tzinfo=UTC)
SCHEMA = {
    "device_id": pl.String,
    "row_key": pl.String,
    "row_version": pl.Int32,
    "event_date": pl.Date,
    "known_from": pl.Datetime("us", "UTC"),
    "change": pl.String,
    "is_conflict": pl.Boolean,
    "value": pl.Float64,
}

# device, day of the event, hours between midnight of the event and each version, kinds of the later versions, value
row_strategy = st.tuples(
    st.sampled_from(["A", "B", "C"]),
    st.integers(0, 34),
    st.lists(st.tuples(st.floats(0, 500), st.sampled_from(["update", "delete"])), min_size=1, max_size=4),
    st.integers(-50, 50),
)


def _bronze(rows: list[tuple[str, int, list[tuple[float, str]], int]]) -> pl.DataFrame:
    out = []
    for index, (device, day, versions, value) in enumerate(rows):
        for number, (hours, change) in enumerate(versions):
            known = START + timedelta(days=day, hours=hours)
            kind = "insert" if number == 0 else change
            event = (START + timedelta(days=day)).date()
            amount = value / 4 + number  # quarters are exact in binary
            out.append((device, f"k{index}", number + 1, event, known, kind, index % 7 == 6, amount))
    return pl.DataFrame(out, schema=SCHEMA, orient="row")


def _known_at(bronze: pl.DataFrame, day: date) -> list[dict[str, object]]:
    """The rule as written: per key the latest version known before the end of the day."""
    latest: dict[str, dict[str, object]] = {}
    for row in bronze.sort("row_version").iter_rows(named=True):
        if row["known_from"].astimezone(ZoneInfo(CALENDAR)).date() <= day:
            latest[row["row_key"]] = row
    return [r for r in latest.values() if r["change"] != "delete" and not r["is_conflict"] and r["event_date"] <= day]  # type: ignore[operator]


@settings(max_examples=40, deadline=None)
@given(st.lists(row_strategy, max_size=25), st.integers(1, 12), st.integers(0, 9))
def test_windowed_sums_equal_the_rule_read_day_by_day(rows, window, lag):
    bronze = _bronze(rows)
    known = known_days(validity(bronze.lazy()), CALENDAR)
    values = {"n": pl.lit(1), "total": pl.col("value")}
    got = windowed_sums(known, ["device_id"], values, window, FIRST, LAST, lag)
    table = {(r["device_id"], r["as_of_date"]): (r["n"], r["total"]) for r in got.iter_rows(named=True)}
    for day in days_between(FIRST, LAST):
        sums: dict[str, list[float]] = {}
        for row in _known_at(bronze, day):
            if day - timedelta(days=lag + window) < row["event_date"] <= day - timedelta(days=lag):
                entry = sums.setdefault(str(row["device_id"]), [0, 0.0])
                entry[0] += 1
                entry[1] += row["value"]
        for device in ("A", "B", "C"):
            assert table.get((device, day), (0, 0.0)) == tuple(sums.get(device, [0, 0.0]))


@settings(max_examples=40, deadline=None)
@given(st.lists(row_strategy, max_size=25))
def test_latest_known_and_decayed_sums_equal_the_rule(rows):
    bronze = _bronze(rows)
    known = known_days(validity(bronze.lazy()), CALENDAR)
    newest = latest_known(known, ["device_id"], pl.col("event_date"), "newest", FIRST, LAST)
    decayed = decayed_sums(known, ["device_id"], {"n": pl.lit(1)}, 2.0, FIRST, LAST)
    newest_at = {(r["device_id"], r["as_of_date"]): r["newest"] for r in newest.iter_rows(named=True)}
    decayed_at = {(r["device_id"], r["as_of_date"]): r["n"] for r in decayed.iter_rows(named=True)}
    for day in days_between(FIRST, LAST):
        for device in ("A", "B", "C"):
            mine = [r["event_date"] for r in _known_at(bronze, day) if r["device_id"] == device]
            assert newest_at.get((device, day)) == (max(mine) if mine else None)
            weight = {k: 0.5 ** (k / 2.0) for k in range(10)}
            expected = sum(weight.get((day - d).days, 0) for d in mine) / sum(weight.values())
            assert abs(decayed_at.get((device, day), 0.0) - expected) < 1e-4


@settings(max_examples=30, deadline=None)
@given(st.lists(row_strategy, min_size=1, max_size=25), st.integers(0, 20))
def test_rebuilding_a_day_after_later_changes_gives_the_identical_row(rows, offset):
    day = FIRST + timedelta(days=offset)
    bronze = _bronze([(device, at, sorted(versions), value) for device, at, versions, value in rows])
    known_by_then = bronze.filter(pl.col("known_from").dt.convert_time_zone(CALENDAR).dt.date() <= day)
    built = []
    for history, first in ((known_by_then, day), (bronze, FIRST)):
        known = known_days(validity(history.lazy()), CALENDAR)
        sums = windowed_sums(known, ["device_id"], {"v": pl.col("value") / 3}, 7, first, LAST)
        built.append(sums.filter(pl.col("as_of_date") == day, pl.col("v") != 0))
    assert built[0].equals(built[1])


def test_validity_closes_a_version_when_the_next_is_known_and_marks_the_last():
    bronze = _bronze([("A", 12, [(5.0, "insert"), (30.0, "update"), (80.0, "delete")], 4), ("B", 12, [(1.0, "insert")], 4)])
    out = validity(bronze.lazy()).collect().sort("row_key", "row_version")
    assert out["known_to"].to_list() == [bronze["known_from"][1], bronze["known_from"][2], None, None]
    assert out["is_current"].to_list() == [False, False, True, True]
    known = known_days(out, CALENDAR).collect().sort("row_key", "row_version")
    assert known.height == 3  # the delete contributes nothing
    assert known["last_day"].to_list() == [date(2024, 3, 22), date(2024, 3, 24), None]


def test_sums_of_nothing_are_an_empty_frame_with_the_right_columns():
    known = known_days(validity(pl.DataFrame(schema=SCHEMA).lazy()), CALENDAR)
    out = windowed_sums(known, ["device_id"], {"n": pl.lit(1), "v": pl.col("value")}, 7, FIRST, LAST)
    assert out.height == 0
    assert out.columns == ["device_id", "as_of_date", "n", "v"]
