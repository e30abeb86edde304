"""The frames behind charts and summaries, and charts as Markdown. Not here: what the charts look like (docs/images)."""

from __future__ import annotations

import base64
import re
from datetime import date

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.reporting import charts
from lims_platform.reporting.figures import newest_days, quarantine_reasons, results_per_day

TODAY = date(2026, 3, 10)


def days(*numbers: int) -> pl.LazyFrame:
    """A frame with these days of March 2026 as as_of_date."""
    return pl.LazyFrame({"as_of_date": [date(2026, 3, n) for n in numbers]})


def test_newest_days_leave_out_the_unfinished_today_and_count_back_from_the_newest_with_rows() -> None:
    assert newest_days(days(3, 7, 7, 10), TODAY)["as_of_date"].to_list() == [date(2026, 3, 7)] * 2
    assert newest_days(days(3, 4, 5, 7, 10), TODAY, 3)["as_of_date"].to_list() == [date(2026, 3, 5), date(2026, 3, 7)]


def test_a_table_with_nothing_but_today_or_nothing_at_all_has_no_newest_days() -> None:
    assert newest_days(days(10), TODAY).is_empty()
    assert newest_days(TABLES["drift_report"].empty().lazy(), TODAY).is_empty()


def test_results_are_counted_by_day_and_state_and_reasons_by_frequency() -> None:
    first, second = date(2026, 3, 1), date(2026, 3, 2)
    valid = pl.LazyFrame({"event_date": [first, first, second]})
    held = pl.LazyFrame({"event_date": [second, second, second], "reason": ["unit_missing", "not_done", "not_done"]})
    counts = results_per_day(valid, held).rows()
    assert counts == [(first, "standardised", 2), (second, "quarantined", 3), (second, "standardised", 1)]
    assert quarantine_reasons(held).rows() == [("not_done", 2), ("unit_missing", 1)]


def test_charts_become_png_images_inside_the_markdown() -> None:
    why = charts.reasons(pl.DataFrame({"reason": ["not_done"], "rows": [2]}))
    text = charts.markdown(why, why)
    images = re.findall(r"!\[Why results are in quarantine\]\(data:image/png;base64,([^)]+)\)", text)
    assert len(images) == 2
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)
