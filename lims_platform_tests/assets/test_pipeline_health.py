"""The health page from an instance's own records: deadlines of the real plan, typed failures, checks that did not end."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.test_utils import create_run_for_test, freeze_time
from dagster._utils.error import SerializableErrorInfo

from lims_platform.assets.health_facts import check_states, clock_states, failures, run_history
from lims_platform.automation import deadlines, freshness, health
from lims_platform.automation.health import health_job, pipeline_health_asset, watched
from lims_platform.contracts.tables import TABLES
from lims_platform.definitions import defs
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import Settings

PLATFORM = [asset for asset in defs.assets or [] if isinstance(asset, dg.AssetsDefinition) and asset.key != health.KEY]
BY_KEY = deadlines.deadlines(PLATFORM)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    mine = Settings(data_dir=tmp_path, start_date=date(2026, 3, 1), timezone="Europe/Berlin")
    for module in (deadlines, freshness, health):
        monkeypatch.setattr(module, "settings", lambda: mine)
    return mine


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as made:
        yield made


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=Settings(timezone="Europe/Berlin").zone).astimezone(UTC)


def write(instance: dg.DagsterInstance, key: str, when: str, day: str | None = None) -> None:
    with freeze_time(at(when)):
        instance.report_runless_asset_event(dg.AssetMaterialization(key.split("/"), partition=day))


def late(instance: dg.DagsterInstance, key: str, when: str) -> str | None:
    name = dg.AssetKey(key.split("/"))
    return BY_KEY[name].late(instance, name, at(when))


def test_every_asset_but_the_page_has_a_deadline() -> None:
    assert {spec.key for asset in PLATFORM for spec in asset.specs} == BY_KEY.keys()


def test_bronze_and_silver_are_asked_for_hourly(instance: dg.DagsterInstance, given: Settings) -> None:
    for table in ("bronze/lab_results_raw", "silver/lab_results_history"):
        write(instance, table, "2026-03-20T08:00", "2026-03-20")
        assert late(instance, table, "2026-03-20T09:59") is None
        assert "2.1 h ago" in str(late(instance, table, "2026-03-20T10:05"))
        write(instance, table, "2026-03-20T10:01", "2026-03-10")
        assert late(instance, table, "2026-03-20T10:05") is not None, "filling an old day makes nothing fresh"
    write(instance, "bronze/devices_raw", "2026-03-20T08:00")
    assert late(instance, "bronze/devices_raw", "2026-03-20T09:59") is None
    assert late(instance, "bronze/devices_raw", "2026-03-20T10:01") is not None


def test_a_mart_owes_yesterday_once_its_window_and_the_grace_are_over(instance: dg.DagsterInstance, given: Settings) -> None:
    write(instance, "gold/qc_performance", "2026-03-19T01:05", "2026-03-18")
    assert late(instance, "gold/qc_performance", "2026-03-20T02:59") is None
    assert "2026-03-19 was due" in str(late(instance, "gold/qc_performance", "2026-03-20T03:01"))
    write(instance, "gold/qc_performance", "2026-03-20T04:00", "2026-03-19")
    assert late(instance, "gold/qc_performance", "2026-03-20T04:01") is None


def test_a_model_owes_last_sunday_and_the_reconciliation_last_night(instance: dg.DagsterInstance, given: Settings) -> None:
    write(instance, "models/device_failure_model", "2026-03-15T03:30")  # a Sunday
    assert late(instance, "models/device_failure_model", "2026-03-22T04:59") is None
    assert "2026-03-22 03:00" in str(late(instance, "models/device_failure_model", "2026-03-22T05:01"))
    write(instance, "gold/reconciliation_report", "2026-03-20T00:21")
    assert late(instance, "gold/reconciliation_report", "2026-03-21T02:19") is None
    assert "2026-03-21 00:20" in str(late(instance, "gold/reconciliation_report", "2026-03-21T02:21"))


def test_a_report_owes_what_its_inputs_held_two_hours_ago(instance: dg.DagsterInstance, given: Settings) -> None:
    page, mart, silver = "reports/qc_page", "gold/qc_performance", "silver/quality_control_standardized"
    write(instance, mart, "2026-03-20T01:05", "2026-03-19")
    write(instance, page, "2026-03-20T01:10")
    write(instance, silver, "2026-03-20T02:00", "2026-03-20")
    assert late(instance, page, "2026-03-20T09:00") is None, "silver is written too often to be followed"
    write(instance, mart, "2026-03-20T10:00", "2026-03-18")
    assert late(instance, page, "2026-03-20T11:59") is None
    assert mart in str(late(instance, page, "2026-03-20T12:01"))


@dg.op
def permanent() -> None:
    raise dg.Failure("lab_results: column result_unit is gone", metadata={"kind": "permanent"}, allow_retries=False)


@dg.op
def defect() -> None:
    raise ZeroDivisionError("division by zero")


@dg.job
def ingest() -> None:
    permanent()


@dg.job
def features() -> None:
    defect()


def test_failures_have_their_type(instance: dg.DagsterInstance) -> None:
    runs = [job.execute_in_process(instance=instance, raise_on_error=False).run_id for job in (ingest, features)]
    chosen = frozenset([dg.AssetKey("a"), dg.AssetKey("b")])
    killed = create_run_for_test(
        instance, "__ASSET_JOB", asset_selection=chosen, tags={"dagster/sensor_name": "data_starts"}
    )
    instance.report_run_failed(killed, "the process was killed")
    found = failures(instance, [*runs, killed.run_id])
    assert found["kind"].to_list() == ["permanent", "defect", "lost"]
    for words, part in zip(found["words"], ("result_unit is gone", "division by zero", "was killed"), strict=True):
        assert part in words
    groups = {dg.AssetKey("a"): "features", dg.AssetKey("b"): "operations"}
    history = run_history(instance, datetime.now(UTC) - timedelta(days=1), groups)
    assert history.filter(pl.col("run_id") == killed.run_id).select("job", "status").rows() == [
        ("data_starts: features, operations", "FAILURE")
    ]
    assert run_history(instance, datetime.now(UTC) + timedelta(hours=1), groups).is_empty()


CHECK = dg.AssetCheckSpec("c", asset=["bronze", "lab_results_raw"])


@dg.asset(key=["bronze", "lab_results_raw"], group_name="bronze", check_specs=[CHECK])
def checked(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    if "dies" in context.run.tags:
        raise ZeroDivisionError("before its check")
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed="fails" not in context.run.tags, check_name="c")])


def test_a_run_that_died_before_a_check_does_not_hide_what_the_check_said(instance: dg.DagsterInstance) -> None:
    def states(tag: str, unfinished: set[str] | None = None) -> list[tuple[str, bool]]:
        made = dg.materialize([checked], instance=instance, raise_on_error=False, tags={tag: "yes"})
        found = check_states(instance, [CHECK.key], unfinished or set())
        return [(outcome, missed == made.run_id) for outcome, missed in found.select("outcome", "missed_run").iter_rows()]

    assert states("dies") == [("never", True)]
    assert states("fails") == [("failed", False)]
    assert states("dies") == [("failed", True)]
    last = instance.get_runs(limit=1)[0].run_id
    assert check_states(instance, [CHECK.key], {last})["missed_run"].to_list() == [None], "it may still come to it"
    assert states("passes") == [("passed", False)]


def test_a_clock_shows_its_last_tick_and_its_error(instance: dg.DagsterInstance) -> None:
    def clock(location: str, status: InstigatorStatus, ticks: dict[float, TickStatus]) -> None:
        place = GrpcServerCodeLocationOrigin(host="localhost", port=1, location_name=location)
        origin = RemoteRepositoryOrigin(place, "repository").get_instigator_origin("looks")
        state = InstigatorState(origin, InstigatorType.SENSOR, status, SensorInstigatorData())
        instance.add_instigator_state(state)
        for moment, outcome in ticks.items():
            error = SerializableErrorInfo("the LIMS does not answer", [], None) if outcome is TickStatus.FAILURE else None
            names = (origin.get_id(), "looks", InstigatorType.SENSOR)
            instance.create_tick(TickData(*names, outcome, moment, run_ids=[], selector_id=state.selector_id, error=error))

    clock("moved away", InstigatorStatus.STOPPED, {100.0: TickStatus.SUCCESS})
    clock("here", InstigatorStatus.RUNNING, {200.0: TickStatus.SUCCESS, 300.0: TickStatus.FAILURE})
    clocks = clock_states(instance, {"looks": False, "other": False, "alert": True})
    assert clocks.select("name", "status", "tick", "error").rows() == [
        ("looks", "running", "FAILURE", "the LIMS does not answer"),
        ("other", "never started", None, None),
        ("alert", "waits for the daemon", None, None),
    ]
    assert clocks["tick_at"][0] == datetime.fromtimestamp(300, UTC)


def test_the_job_draws_the_page_when_every_other_run_failed(instance: dg.DagsterInstance, given: Settings) -> None:
    ingest.execute_in_process(instance=instance, raise_on_error=False)
    dg.materialize([checked], instance=instance, raise_on_error=False, tags={"dies": "yes"})
    old = (datetime.now(UTC) - timedelta(days=9)).date().isoformat()
    instance.report_runless_asset_event(dg.AssetMaterialization(["bronze", "device_logs_raw"], partition=old))
    lake, table = Lake(given.lake_dir), TABLES["batch_results_raw"]
    lake.create_if_absent(table)

    page = pipeline_health_asset(watched([*PLATFORM[:6], checked], [], [ingest, features], defs.schedules or []))
    job = dg.Definitions([page], jobs=[health_job], resources={"lake": lake}).resolve_job_def("pipeline_health")
    result = job.execute_in_process(instance=instance)
    metadata = result.asset_materializations_for_node("reports__pipeline_health")[0].metadata
    assert metadata["tables_late"].value == 1 and metadata["jobs_failing"].value == 2
    assert metadata["tables_never_written"].value == len({*[a.key for a in PLATFORM[:6]], checked.key}) - 1
    assert metadata["checks_failing"].value == 0 and metadata["checks_missed"].value == 1
    html = Path(str(metadata["page"].value)).read_text()
    wrong = html.split("<h2>Rows a day</h2>")[0]
    assert "result_unit is gone" in wrong and "bronze/device_logs_raw" in wrong and "was never read" in wrong
    assert "pipeline_health" not in wrong.split("<h2>")[2], "the run that draws the page is not part of what it shows"
    assert "data:image/png" in str(metadata["plots"].value)
