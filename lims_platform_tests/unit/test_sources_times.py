"""Source times: the repeated hour, the missing hour, text."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lims_platform.sources.times import day_start, day_start_utc, to_utc

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC", "America/Havana"]


@given(st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1)), min_size=1, max_size=30), st.sampled_from(ZONES))
def test_naive_times_agree_with_the_standard_library(naive: list[datetime], zone: str) -> None:
    done = to_utc(pl.Series("t", naive, dtype=pl.Datetime("us")), zone)
    local = [t.replace(tzinfo=ZoneInfo(zone)) for t in naive]
    assert done.values.to_list() == [t.astimezone(UTC) for t in local]
    texts = to_utc(pl.Series("t", [str(t) for t in naive]), zone)
    assert texts.values.to_list() == done.values.to_list()
    # fold changes the offset exactly in the repeated and in the missing hour
    changes = [t.utcoffset() != t.replace(fold=1).utcoffset() for t in local]
    odd = [False] * len(naive)
    for mask in done.flags.values():
        odd = [a or b for a, b in zip(odd, mask.to_list(), strict=True)]
    assert odd == changes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-07-01", datetime(2024, 6, 30, 22)),
        ("2024-07-01 10:00", datetime(2024, 7, 1, 8)),
        ("2024-07-01T10:00:00.25", datetime(2024, 7, 1, 8, 0, 0, 250000)),
        ("2024-07-01T10:00:00Z", datetime(2024, 7, 1, 10)),
        ("2024-07-01 10:00:00 -05:30", datetime(2024, 7, 1, 15, 30)),
        ("2024-07-01 10:00:00+02", datetime(2024, 7, 1, 8)),
        ("2024-07-01 10:00+0200", datetime(2024, 7, 1, 8)),
        ("2024-03-31 02:30", datetime(2024, 3, 31, 1, 30)),
        ("2024-10-27 02:30", datetime(2024, 10, 27, 0, 30)),
        ("2023-02-29", None),
        ("2024-13-01", None),
        ("2024-7-1", None),
        ("01.07.2024", None),
        ("20240701", None),
        (" ", None),
    ],
)
def test_text_times(text: str, expected: datetime | None) -> None:
    done = to_utc(pl.Series("seen", [text]), "Europe/Berlin")
    assert done.values.to_list() == [expected.replace(tzinfo=UTC) if expected else None]
    assert ("unparseable_seen" in done.flags) == (expected is None)


def test_absent_is_not_unparseable() -> None:
    done = to_utc(pl.Series("t", [None, ""], dtype=pl.String), "UTC")
    assert done.values.to_list() == [None, None] and not done.flags


def test_other_dtypes() -> None:
    assert to_utc(pl.Series("t", [date(2024, 1, 1)]), "Europe/Berlin").values[0] == datetime(2023, 12, 31, 23, tzinfo=UTC)
    aware = (
        pl.Series("t", [datetime(2024, 1, 1, 12)]).dt.replace_time_zone("Asia/Tokyo").cast(pl.Datetime("ns", "Asia/Tokyo"))
    )
    assert to_utc(aware, "Europe/Berlin").values[0] == datetime(2024, 1, 1, 3, tzinfo=UTC)
    assert "unparseable_t" in to_utc(pl.Series("t", [20240101]), "UTC").flags
    infinity = pl.Series("t", [2**62], dtype=pl.Int64).cast(pl.Datetime("us"))
    assert to_utc(infinity, "UTC").values.to_list() == [None]
    assert not to_utc(pl.Series("t", [None, None]), "UTC").flags


def test_a_declared_format_with_and_without_offset() -> None:
    texts = pl.Series("t", ["01.07.2024 10:00", "x"])
    done = to_utc(texts, "Europe/Berlin", "%d.%m.%Y %H:%M")
    assert done.values.to_list() == [datetime(2024, 7, 1, 8, tzinfo=UTC), None]
    assert done.flags["unparseable_t"].to_list() == [False, True]
    offset = to_utc(pl.Series("t", ["01.07.2024 10:00 -0500"]), "Europe/Berlin", "%d.%m.%Y %H:%M %z")
    assert offset.values.to_list() == [datetime(2024, 7, 1, 15, tzinfo=UTC)]


def test_bounds_enclose_the_calendar_day() -> None:
    day = date(2024, 3, 31)
    assert day_start(day, "Europe/Berlin", "Europe/Berlin", -1) == datetime(2024, 3, 31)
    low, high = (day_start(day, "Europe/Berlin", "America/New_York", s) for s in (-1, 1))
    assert low < datetime(2024, 3, 30, 19) < high
    assert day_start_utc(day, "Europe/Berlin") == datetime(2024, 3, 30, 23, tzinfo=UTC)


@given(
    zone=st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Monrovia"]),
    start=st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2037, 12, 1)),
    minutes=st.lists(st.integers(0, 3 * 24 * 60), min_size=1, max_size=40),
)
def test_local_times_of_few_days_convert_as_the_zone_says(zone: str, start: datetime, minutes: list[int]) -> None:
    naive = [start + timedelta(minutes=step) for step in minutes]
    done = to_utc(pl.Series("t", naive, dtype=pl.Datetime("us")), zone)
    tz = ZoneInfo(zone)
    # PEP 495: fold=0 is the first of a repeated hour, and in a gap the offset before it
    expected = [time.replace(tzinfo=tz).astimezone(UTC) for time in naive]
    assert done.values.to_list() == expected
