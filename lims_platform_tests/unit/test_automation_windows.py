"""The laboratory's clock: day ends and window openings, over both clock changes."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.automation.windows import Window, day_end, last_days
from lims_platform.partitions import days_of_text, spans, spans_text

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "UTC"]).map(ZoneInfo)
DAYS = st.dates(date(2024, 1, 1), date(2027, 12, 31))
TIMES = st.times().map(lambda t: t.replace(second=0, microsecond=0))


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 28), 24), (date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 12, 31), 24)]
)
def test_a_day_of_the_clock_change_has_its_own_length(day: date, hours: int) -> None:
    assert day_end(day, BERLIN) - day_end(day - timedelta(days=1), BERLIN) == timedelta(hours=hours)


def test_a_window_at_an_hour_the_spring_change_skips_still_opens_once() -> None:
    window = Window(time(2, 30), BERLIN)
    assert window.opens_for(date(2026, 3, 28)) == datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert window.opens_for(date(2026, 3, 29)) == datetime(2026, 3, 30, 0, 30, tzinfo=UTC)


def test_a_window_in_the_hour_shown_twice_opens_the_first_time() -> None:
    assert Window(time(2, 30), BERLIN).opens_for(date(2026, 10, 24)) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)


def test_the_weekly_window_opens_on_its_weekday() -> None:
    window = Window(time(3), BERLIN, 6)
    assert window.opens_for(date(2026, 3, 21)) == datetime(2026, 3, 22, 2, tzinfo=UTC)
    assert window.opens_for(date(2026, 3, 22)) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert str(window) == "Sundays 03:00 Europe/Berlin"


@settings(deadline=None)
@given(zone=ZONES, at=TIMES, day=DAYS, weekday=st.none() | st.integers(0, 6), hours=st.integers(0, 400))
def test_the_last_opening_is_an_opening_and_none_lies_between(
    zone: ZoneInfo, at: time, day: date, weekday: int | None, hours: int
) -> None:
    window = Window(at, zone, weekday)
    moment = day_end(day, zone) + timedelta(hours=hours)
    opening = window.last_opening(moment)
    assert opening <= moment
    openings = {window.opens_for(day + timedelta(days=offset)) for offset in range(-10, 25)}
    assert opening in openings
    assert not [other for other in openings if opening < other <= moment]
    assert window.opens_for(day) >= day_end(day, zone)


@given(st.sets(DAYS, max_size=30))
def test_spans_cover_exactly_their_days_and_survive_as_text(days: set[date]) -> None:
    found = spans(days)
    assert all(b[0] - a[1] > timedelta(days=1) for a, b in pairwise(found))
    assert days_of_text(spans_text(days)) == sorted(days)


def test_no_day_before_the_first_is_caught_up() -> None:
    assert last_days(date(2026, 3, 5), 7, date(2026, 3, 3)) == [date(2026, 3, 3), date(2026, 3, 4)]
