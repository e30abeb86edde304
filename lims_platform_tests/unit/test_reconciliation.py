"""Reconciliation tells what separates a source's days from bronze, whatever was inserted, changed, deleted or moved."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.contracts.operations import RECONCILIATION_REPORT
from lims_platform.contracts.source import BATCH_RESULTS
from lims_platform.lakehouse import reconciliation as compare

FIRST = date(2026, 3, 1)
SCHEMA = {"event_date": pl.Date, "base_key": pl.String, "row_digest": pl.String}
ROWS = st.dictionaries(st.sampled_from("ABCDE"), st.tuples(st.integers(0, 2), st.sampled_from("xy")))


def side(rows: dict[str, tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(FIRST + timedelta(days=day), key, digest) for key, (day, digest) in rows.items()], schema=SCHEMA, orient="row"
    )


def found(source: pl.DataFrame, live: pl.DataFrame, live_other: str = "", source_other: str = "") -> dict[str, int]:
    others = [pl.DataFrame({"base_key": list(keys)}, schema={"base_key": pl.String}) for keys in (live_other, source_other)]
    sums = compare.differences(source, live, *others).select(pl.exclude("event_date").sum())
    return {name: int(value) for name, value in sums.row(0, named=True).items()}


@settings(max_examples=15, deadline=None)
@given(source=ROWS, live=ROWS)
def test_every_difference_has_one_kind_and_digests_agree_exactly_when_there_is_none(
    source: dict[str, tuple[int, str]], live: dict[str, tuple[int, str]]
) -> None:
    common = source.keys() & live.keys()
    moved = [key for key in common if source[key][0] != live[key][0]]
    expected = {
        "inserted": len(source.keys() - live.keys()),
        "deleted": len(live.keys() - source.keys()),
        "moved": 2 * len(moved),
        "updated": sum(1 for key in common if source[key][0] == live[key][0] and source[key] != live[key]),
    }
    assert found(side(source), side(live)) == expected
    days = pl.Series([FIRST + timedelta(days=d) for d in range(3)])
    report = compare.report(
        days,
        side(source),
        side(live),
        compare.differences(side(source), side(live), side({}), side({})),
        table=BATCH_RESULTS,
        source_name="s",
        run_id="r",
        checked_at=datetime(2026, 3, 9, tzinfo=UTC),
    )
    assert report.schema == RECONCILIATION_REPORT.empty().schema and report.height == 3
    for row in report.iter_rows(named=True):
        day = (row["day"] - FIRST).days
        same = {k: v for k, v in source.items() if v[0] == day} == {k: v for k, v in live.items() if v[0] == day}
        assert row["digest_match"] is same
        assert row["source_rows"] == sum(v[0] == day for v in source.values())


def test_a_row_known_on_a_day_not_compared_moved() -> None:
    assert found(side({"A": (0, "x")}), side({}), live_other="A")["moved"] == 1
    assert found(side({}), side({"A": (0, "x")}), source_other="A") == {
        "inserted": 0,
        "updated": 0,
        "deleted": 0,
        "moved": 1,
    }
