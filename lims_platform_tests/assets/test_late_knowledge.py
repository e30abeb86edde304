"""Features follow what became known late: which days, and not before silver has taken it in."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.test_utils import freeze_time

from lims_platform.automation.again import FIRST_PAUSE, MOST_RUNS
from lims_platform.automation.late_knowledge import late_knowledge
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.snapshot import Snapshot, news_since
from lims_platform_tests.stored_runs import store

TABLE = BRONZE_TABLES["lab_results"]
DAILY = dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Berlin", end_offset=1)
NOW = datetime(2026, 3, 20, 11, tzinfo=UTC)
#: Metadata of what is made next; tests change it.
SAYS: dict[str, dict[str, int]] = {}


def _made(path: str, group: str | None = None, deps: tuple[str, ...] = ()) -> dg.AssetsDefinition:
    key = dg.AssetKey(path.split("/"))

    @dg.asset(
        key=key,
        partitions_def=DAILY,
        group_name=group,
        deps=[dg.AssetKey(dep.split("/")) for dep in deps],
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def made() -> dg.MaterializeResult:
        return dg.MaterializeResult(metadata=SAYS.get(path, {}))

    return made


BRONZE, SILVER, FEATURES = "bronze/lab_results_raw", "silver/lab_results_history", "gold/outbreak_risk_features"
ASSETS = {
    BRONZE: _made(BRONZE),
    SILVER: _made(SILVER, "silver", (BRONZE,)),
    "silver/lab_results_standardized": _made("silver/lab_results_standardized", "silver", (SILVER,)),
    FEATURES: _made(FEATURES, "features", (SILVER,)),
}
REPOSITORY = dg.Definitions(assets=list(ASSETS.values())).get_repository_def()


class Bench:
    """A lake with one history, an event log, the sensor's cursor."""

    def __init__(self, lake: Lake, instance: dg.DagsterInstance) -> None:
        self.lake, self.instance = lake, instance
        self.cursor: str | None = None
        self.at = NOW
        self.said: str | None = None

    def commit(self, *versions: tuple[str, str]) -> int:
        """Versions of rows (day, known from in UTC) in one commit; its number."""
        rows = [
            {"event_date": date.fromisoformat(d), "known_from": datetime.fromisoformat(k).replace(tzinfo=UTC)}
            for d, k in versions
        ]
        frame = pl.DataFrame(rows, schema_overrides={"known_from": pl.Datetime("us", "UTC")})
        blank = [pl.lit(None, dtype).alias(n) for n, dtype in TABLE.dtypes.items() if n not in frame.columns]
        frame = frame.with_columns(blank).select([pl.col(n).cast(t) for n, t in TABLE.dtypes.items()])
        return Snapshot(self.lake, TABLE, "lims").append(frame, set(frame["event_date"]), "run")

    def make(self, path: str, first: str, last: str | None = None, **versions: int) -> None:
        """Materialise days of an asset that says it was made from these versions."""
        SAYS[path] = {name.replace("__", "/"): version for name, version in versions.items()}
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        done = dg.materialize(list(ASSETS.values()), selection=[ASSETS[path]], instance=self.instance, tags=tags)
        assert done.success

    def asked(self, status: dg.DagsterRunStatus | None = dg.DagsterRunStatus.STARTED) -> list[tuple[str, str]]:
        """First and last day of each run the sensor asks for; the run store then knows them in this state, or not at all."""
        with freeze_time(self.at):
            context = dg.build_sensor_context(
                self.instance, cursor=self.cursor, repository_def=REPOSITORY, resources={"lake": self.lake}
            )
            result = late_knowledge(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        self.said = result.skip_reason.skip_message if result.skip_reason else None
        spans = []
        for request in result.run_requests or []:
            assert request.asset_selection == [dg.AssetKey(FEATURES.split("/"))]
            ends = [request.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end")]
            spans.append(tuple(end or str(request.partition_key) for end in ends))
            if status is not None:
                store(self.instance, request, "late_knowledge", "features_daily", self.at, status)
        return spans  # type: ignore[return-value]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Features of 1 to 19 March are made from history version 10, which holds bronze version 1; the sensor has looked."""
    made = Bench(Lake(tmp_path), dg.DagsterInstance.ephemeral())
    made.commit(("2026-03-01", "2026-03-01T10:00"))
    made.make(SILVER, "2026-01-10", "2026-03-20", delta_version=10, input_version__lab_results_raw=1)
    made.make(FEATURES, "2026-03-01", "2026-03-19", input_version__lab_results_history=10)
    assert made.asked() == [], "the first look takes notes"
    return made


def take_in(bench: Bench, day: str, version: int, silver: int) -> None:
    bench.make(SILVER, day, delta_version=silver, input_version__lab_results_raw=version)


def test_features_from_the_knowledge_day_on_once_silver_has_it(bench: Bench) -> None:
    version = bench.commit(("2026-02-08", "2026-03-17T10:00"), ("2026-02-10", "2026-03-18T10:00"))
    assert bench.asked() == [], "silver has not taken it in"
    take_in(bench, "2026-02-08", version, 11)
    assert bench.asked() == [], "nor all of it"
    take_in(bench, "2026-02-10", version, 12)
    assert bench.asked() == [("2026-03-17", "2026-03-19")]
    assert bench.asked() == [], "the run is at work"
    bench.at += timedelta(minutes=50)
    bench.make(FEATURES, "2026-03-17", "2026-03-19", input_version__lab_results_history=12)
    assert bench.asked() == [] and '"waiting": []' in str(bench.cursor)


def late_news(bench: Bench, silver: int) -> None:
    take_in(bench, "2026-02-08", bench.commit(("2026-02-08", "2026-03-18T10:00")), silver)


def test_a_failed_run_is_asked_for_again_after_growing_pauses_then_given_up(bench: Bench) -> None:
    late_news(bench, 11)
    failed = dg.DagsterRunStatus.FAILURE
    for number in range(MOST_RUNS):
        assert bench.asked(failed) == [("2026-03-18", "2026-03-19")]
        bench.at += FIRST_PAUSE * 2**number - timedelta(seconds=1)
        assert bench.asked() == []
        bench.at += timedelta(seconds=1)
    assert bench.asked() == [] and "by hand" in str(bench.said)
    bench.commit(("2026-03-20", "2026-03-20T10:00"))
    assert bench.asked() == [], "the hourly reading of today is no new reason"
    late_news(bench, 12)
    assert bench.asked() == [("2026-03-18", "2026-03-19")]


def test_a_tick_whose_runs_were_never_stored_asks_for_the_same_runs(bench: Bench) -> None:
    late_news(bench, 11)
    assert bench.asked(None) == bench.asked(None) == [("2026-03-18", "2026-03-19")]


def test_what_becomes_known_today_waits_for_tonight(bench: Bench) -> None:
    version = bench.commit(("2026-02-08", "2026-03-20T10:00"))
    take_in(bench, "2026-02-08", version, 11)
    assert bench.asked() == [] and '"waiting": []' in str(bench.cursor)


def test_no_row_is_known_before_its_own_day(bench: Bench) -> None:
    version = bench.commit(("2026-03-19", "1970-01-01T00:00"))
    take_in(bench, "2026-03-19", version, 11)
    assert bench.asked() == [("2026-03-19", "2026-03-19")]


def test_days_made_with_the_news_or_never_made_are_not_asked_for(bench: Bench) -> None:
    version = bench.commit(("2026-02-08", "2026-02-20T23:30"))
    take_in(bench, "2026-02-08", version, 11)
    bench.make(FEATURES, "2026-03-04", "2026-03-06", input_version__lab_results_history=11)
    assert bench.asked() == [("2026-03-01", "2026-03-03"), ("2026-03-07", "2026-03-19")]


def test_a_commit_says_from_when_its_versions_of_each_day_count_as_known(bench: Bench) -> None:
    version = bench.commit(
        ("2026-02-08", "2026-03-17T10:00"), ("2026-02-08", "2026-03-16T10:00:00.5"), ("2026-02-09", "2026-03-18T10:00")
    )
    (news,) = news_since(bench.lake, TABLE, version - 1)
    known = {
        date(2026, 2, 8): datetime(2026, 3, 16, 10, 0, 0, 500_000, UTC),
        date(2026, 2, 9): datetime(2026, 3, 18, 10, tzinfo=UTC),
    }
    assert (news.version, news.known_from) == (version, known)
    assert news_since(bench.lake, TABLE, version) == []
