"""Bronze history against a plain model: whatever the source does and however it is chunked, versions tell it truly."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lims_platform.contracts.extract import EXTRACT_COLUMNS, DayWindow
from lims_platform.contracts.source import BATCH_RESULTS, SourceTable
from lims_platform.lakehouse.data_files import DataFile
from lims_platform.lakehouse.history import History, HistoryPolicy, MergeResult, Reading, VanishedRowsError
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import live_rows

FIRST = date(2026, 3, 1)
DAYS = 3
LAST = FIRST + timedelta(days=DAYS - 1)
NOW = datetime(2026, 3, 20, 12, tzinfo=UTC)
Row = tuple[str, int | None, float, int]  # sample_id, day (None: no usable time), ph, minutes of updated_at


class Source:
    """A list of rows that answers like a source reader."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def frame(self, rows: list[Row], stray_day: date | None = None) -> pl.DataFrame:
        table: SourceTable = BATCH_RESULTS
        records = []
        for sample, day, ph, updated in rows:
            at = None if day is None else datetime(2026, 3, 1, 10, tzinfo=UTC) + timedelta(days=day)
            records.append(
                {
                    "sample_id": sample,
                    "facility_id": "F1",
                    "timestamp": at,
                    "ph_level": ph,
                    "updated_at": NOW - timedelta(days=1) + timedelta(minutes=updated),
                    "source": "s",
                    "event_date": at.date() if at else stray_day,
                    "date_source": "event" if at else "no_time",
                }
            )
        return pl.DataFrame(records, schema={**table.stored_schema, **EXTRACT_COLUMNS})

    def window(self, first: date, last: date, strays: bool) -> tuple[DayWindow, pl.DataFrame]:
        window = DayWindow(first, last, FIRST, LAST, strays, LAST)
        low, high = (first - FIRST).days, (last - FIRST).days
        wanted = [r for r in self.rows if (r[1] is None and strays) or (r[1] is not None and low <= r[1] <= high)]
        return window, self.frame(wanted, LAST)

    def fetch_keys(self, keys: pl.DataFrame) -> pl.DataFrame:
        wanted = set(keys["sample_id"].to_list())
        return self.frame([r for r in self.rows if r[0] in wanted], LAST)


def load(history: History, source: Source, chunk: int, step: int = 0, days: range = range(DAYS)) -> list[MergeResult]:
    results = []
    for low in range(days.start, days.stop, chunk):
        high = min(low + chunk, days.stop) - 1
        strays = high == days.stop - 1
        window, frame = source.window(FIRST + timedelta(days=low), FIRST + timedelta(days=high), strays)
        now = NOW + timedelta(hours=step)
        results.append(history.merge(Reading("s", window, lambda f=frame: f, source.fetch_keys), now, f"run{step}"))
    return results


def bronze(history: History) -> pl.DataFrame:
    return history.lake.scan(history.table).collect()


def live(history: History) -> pl.DataFrame:
    return live_rows(bronze(history).lazy()).collect()


def new_history(path: Path, **policy: object) -> History:
    return History(Lake(path), BATCH_RESULTS, HistoryPolicy(**{"confirm_vanished": True, **policy}))  # type: ignore[arg-type]


ROWS = st.lists(
    st.tuples(
        st.sampled_from([f"S{i}" for i in range(4)]),
        st.one_of(st.none(), st.integers(0, DAYS - 1)),
        st.sampled_from([7.0, 7.1, 7.2]),
        st.integers(0, 2),
    ),
    max_size=7,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(states=st.lists(ROWS, min_size=1, max_size=3), chunks=st.tuples(st.integers(1, DAYS), st.integers(1, DAYS)))
def test_live_rows_are_the_source_whatever_the_chunks(
    states: list[list[Row]], chunks: tuple[int, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = (new_history(tmp_path_factory.mktemp("lake")) for _ in range(2))
    for step, rows in enumerate(states):
        source = Source(rows)
        load(first, source, chunks[0], step)
        load(second, source, chunks[1], step)
        # Contradicting rows can settle over two passes where their winners changed; a second pass must then be quiet.
        for history, chunk in ((first, chunks[0]), (second, chunks[1])):
            again = load(history, source, chunk, step)
            assert all(r.counts[name] == 0 for r in again for name in ("inserts", "updates", "deletes")), (
                "a second run adds nothing"
            )
        distinct = {(r[0], r[1], r[2]) for r in rows}
        for history in (first, second):
            now_live = live(history)
            assert now_live.height == len(distinct)
            winners = now_live.filter(~pl.col("is_conflict"))
            assert winners["sample_id"].n_unique() == winners.height, "no key is live on two days"
            assert set(winners["sample_id"]) == {r[0] for r in rows}
    same = ["row_key", "event_date", "ph_level", "is_conflict"]
    assert live(first).select(same).sort(same).equals(live(second).select(same).sort(same))
    versions = bronze(first).group_by("row_key").agg(pl.col("row_version").sort())
    assert all(v == list(range(1, len(v) + 1)) for v in versions["row_version"].to_list()), (
        "versions have no gaps or doubles"
    )


def test_amend_back_and_forth_keeps_every_version(tmp_path: Path) -> None:
    history = new_history(tmp_path)
    for step, ph in enumerate([7.0, 7.1, 7.0]):
        load(history, Source([("S1", 1, ph, step)]), 4, step)
    rows = bronze(history).sort("row_version")
    assert rows["ph_level"].to_list() == [7.0, 7.1, 7.0]
    assert rows["change"].to_list() == ["insert", "update", "update"]
    assert rows["known_from"].is_sorted() and rows["known_from"].n_unique() == 3


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize(("old", "new"), [(0, 2), (2, 0)])
def test_a_moved_row_is_one_delete_and_one_insert(tmp_path: Path, chunk: int, old: int, new: int) -> None:
    history = new_history(tmp_path)
    load(history, Source([("S1", old, 7.0, 0), ("S2", 1, 7.0, 0)]), chunk)
    load(history, Source([("S1", new, 7.0, 1), ("S2", 1, 7.0, 0)]), chunk, 1)
    rows = bronze(history).filter(pl.col("sample_id") == "S1").sort("row_version")
    assert rows.select("row_version", "change").rows() == [(1, "insert"), (2, "delete"), (3, "insert")]
    assert [(d - FIRST).days for d in rows["event_date"]] == [old, old, new]
    assert rows["ingest_run_id"].n_unique() == 2


def test_a_row_moved_into_the_only_day_read_leaves_its_old_day(tmp_path: Path) -> None:
    history = new_history(tmp_path)
    load(history, Source([("S1", 0, 7.0, 0)]), 4)
    (result,) = load(history, Source([("S1", 2, 7.0, 1)]), 1, 1, range(2, 3))
    assert (result.counts["inserts"], result.counts["deletes"], result.other_days) == (1, 1, (FIRST,))
    assert live(history)["event_date"].to_list() == [FIRST + timedelta(days=2)]


def test_a_truncated_extract_writes_nothing(tmp_path: Path) -> None:
    history = new_history(tmp_path, confirm_vanished=False)
    rows: list[Row] = [(f"S{i}", 0, 7.0, 0) for i in range(200)]
    load(history, Source(rows), 4)
    before = history.lake.version(history.table)
    with pytest.raises(VanishedRowsError, match=r"2026-03-01: 100 of 200.*Nothing was written"):
        load(history, Source(rows[:100]), 4, 1)
    assert history.lake.version(history.table) == before
    load(history, Source(rows[:198]), 4, 2)
    assert live(history).height == 198


def test_first_load_believes_result_times_and_a_late_row_does_not(tmp_path: Path) -> None:
    history = new_history(tmp_path)
    source = Source([("S1", 0, 7.0, 0)])

    def without_version_time(rows: list[Row]) -> pl.DataFrame:
        window, frame = Source(rows).window(FIRST, FIRST + timedelta(days=2), True)
        frame = frame.with_columns(updated_at=pl.lit(None, dtype=frame.schema["updated_at"]))
        history.merge(Reading("s", window, lambda: frame, source.fetch_keys), NOW, "run")
        return bronze(history).sort("sample_id")

    first = without_version_time([("S1", 0, 7.0, 0)])
    assert first["knowledge_origin"].to_list() == ["result_time"]
    assert first["known_from"].to_list() == first["timestamp"].to_list()
    second = without_version_time([("S1", 0, 7.0, 0), ("S2", 0, 7.0, 0)])
    assert second["knowledge_origin"].to_list() == ["result_time", "ingestion"]
    assert second["known_from"].to_list()[1] == NOW


def test_the_loser_of_two_writers_reads_again_and_adds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lims_platform.lakehouse import snapshot as module

    first, second = new_history(tmp_path), new_history(tmp_path)
    source = Source([(f"S{i}", 0, 7.0, 0) for i in range(10)])
    real, raced = module.write_days, []

    def raced_write(*args: Any) -> list[DataFile]:
        if not raced:
            raced.append(True)
            load(second, source, 4, 1)
        return real(*args)

    monkeypatch.setattr(module, "write_days", raced_write)
    (result,) = load(first, source, 4, 0)
    assert result.counts["inserts"] == 0 and bronze(first).height == 10


def test_an_extract_older_than_another_runs_commit_is_read_again(tmp_path: Path) -> None:
    slow, fast = new_history(tmp_path), new_history(tmp_path)
    load(slow, Source([("S1", 0, 7.0, 0)]), 4)
    old, new = Source([("S1", 0, 7.1, 1)]), Source([("S1", 0, 7.2, 2)])
    window, stale = old.window(FIRST, LAST, True)
    reads: list[str] = []

    def rows() -> pl.DataFrame:
        if not reads:
            load(fast, new, 4, 1)
        reads.append("read")
        return stale if len(reads) == 1 else new.window(FIRST, LAST, True)[1]

    result = slow.merge(Reading("s", window, rows, new.fetch_keys), NOW + timedelta(hours=2), "slow")
    assert len(reads) == 2 and result.counts["updates"] == 0
    assert bronze(slow).sort("row_version")["ph_level"].to_list() == [7.0, 7.2]


def test_a_late_row_of_a_day_loaded_without_rows_became_known_when_it_was_read(tmp_path: Path) -> None:
    history = new_history(tmp_path)
    first = load(history, Source([("S1", 2, 7.0, 0)]), 4)
    assert first[0].version is not None
    load(history, Source([("S1", 2, 7.0, 0), ("S2", 0, 7.0, -60 * 24 * 30)]), 4, 1)
    late = bronze(history).filter(pl.col("sample_id") == "S2")
    assert late["knowledge_origin"].item() == "ingestion" and late["known_from"].item() == NOW + timedelta(hours=1)


def test_a_row_dated_in_the_future_moves_to_its_day_when_that_day_exists(tmp_path: Path) -> None:
    history, source = new_history(tmp_path), Source([("S1", DAYS, 7.0, 0)])
    for last, day, origin in ((LAST, LAST, "outside"), (LAST + timedelta(days=1), LAST + timedelta(days=1), "event")):
        window = DayWindow(FIRST, last, FIRST, last, True, last)
        for _ in range(2):
            history.merge(Reading("s", window, lambda: source.frame(source.rows), source.fetch_keys), NOW, "run")
        assert live(history).select("event_date", "date_source").rows() == [(day, origin)]
    assert bronze(history).sort("row_version")["change"].to_list() == ["insert", "delete", "insert"]
