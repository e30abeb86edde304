"""A fortnight of automation in fast time: Dagster's own scheduler, sensor and backfill ticks under a moved clock.

Real: the definitions, every schedule, condition and sensor, the source, Dagster's instance. Stubbed: what a run computes. A
run takes its time, then reports what it would have written: one materialisation per asset and day, one evaluation per check.
Not here: the laboratory (``fortnight_lims``), what must hold (``system.test_fortnight``).
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lims_platform_tests.fortnight_lims import DAYS, FIRST_DAY, OUTAGE, START, Plot, live

#: Minutes a run takes, by the kind of work that gives it its name.
MINUTES = {"ingest": 4, "gold": 8, "marts": 4, "scoring": 3, "drift": 5, "training": 25, "reports": 1, "freshness": 1}


#: What is switched on; maintenance, reconciliation and alerts have clocks and tests of their own.
SWITCHED_ON = {"ingest_hourly_schedule", "freshness_schedule", "data_starts", "source_changes", "moved_rows"}


@dataclass
class World:
    """The simulated two weeks: what was started, when, and why nothing was."""

    now: datetime
    runs: list[dict[str, Any]] = field(default_factory=list)
    ticks: list[dict[str, Any]] = field(default_factory=list)
    unfinished: list[tuple[datetime, Any]] = field(default_factory=list)
    once: set[str] = field(default_factory=set)

    def first_time(self, name: str) -> bool:
        """True once per name."""
        fresh = name not in self.once
        self.once.add(name)
        return fresh


#: The asset that stands for a kind of work.
KINDS = {
    "bronze/quality_control_raw": "ingest",
    "bronze/lab_results_raw": "ingest",
    "gold/device_failure_features": "gold",
    "gold/turnaround_kpis": "marts",
    "gold/westgard_violations": "marts",
    "gold/device_risk_scores": "scoring",
    "gold/drift_report": "drift",
    "models/device_failure_model": "training",
}


def kinds_of(run: Any, assets: set[str]) -> list[str]:
    """Short names for what a run does; steps of the plan that are due together share a run."""
    if "lims/person" in run.tags:
        return ["person"]
    found = sorted({kind for asset, kind in KINDS.items() if asset in assets})
    return found or ["reports" if assets else "freshness"]


class Launcher:
    """Mixed into Dagster's launcher: starts a run and leaves it to ``finish``."""

    def __init__(self, world: World, definitions: Any) -> None:
        self.world, self.definitions = world, definitions

    def launch(self, instance: Any, run: Any) -> None:
        """Mark as started; note who asked for it."""
        import dagster as dg

        tags = run.tags
        sensor, schedule = tags.get("dagster/sensor_name"), tags.get("dagster/schedule_name")
        assets, checks = targets(instance, run)
        kinds = kinds_of(run, assets)
        first = tags.get("dagster/partition") or tags.get("dagster/asset_partition_range_start")
        last = tags.get("dagster/partition") or tags.get("dagster/asset_partition_range_end")
        by = sensor or schedule or tags.get("dagster/from_automation_condition") or "a person"
        entry = {
            "run_id": run.run_id,
            "kinds": kinds,
            "by": by,
            "at": self.world.now.isoformat(),
            "first": first,
            "last": last,
        }
        entry |= {"assets": sorted(assets), "checks": len(checks), "outcome": "running"}
        self.world.runs.append(entry)
        instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", run.job_name), run.run_id)
        takes = timedelta(minutes=max(MINUTES.get(kind, 5) for kind in kinds))
        self.world.unfinished.append((self.world.now + takes, (run, entry, checks)))


def targets(instance: Any, run: Any) -> tuple[set[str], list[Any]]:
    """Assets and checks of a run, from the plan Dagster stored with it."""
    plan = instance.get_execution_plan_snapshot(run.execution_plan_snapshot_id)
    outputs = [output.properties for step in plan.steps for output in step.outputs if output.properties]
    assets = {"/".join(properties.asset_key.path) for properties in outputs if properties.asset_key}
    return assets, sorted({properties.asset_check_key for properties in outputs if properties.asset_check_key})


def finish(world: World, instance: Any, plot: Plot) -> None:
    """Complete the runs whose time is over."""
    due = [item for item in world.unfinished if item[0] <= world.now]
    world.unfinished = [item for item in world.unfinished if item[0] > world.now]
    for _, (run, entry, checks) in due:
        report(world, instance, plot, run, entry, checks)


def report(world: World, instance: Any, plot: Plot, run: Any, entry: dict[str, Any], checks: list[Any]) -> None:
    """The events a finished run leaves: materialisations, check evaluations, success or failure."""
    import dagster as dg
    from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
    from dagster._core.events import StepMaterializationData

    from lims_platform.definitions import defs

    days = days_of(entry)
    broken = False
    if "drift" in entry["kinds"] and days == [plot.failed_drift[0]] and world.first_time("failed drift"):
        entry["outcome"] = "failed"
        instance.report_run_failed(run)
        return
    # inputs before what is made of them, as a run does it
    ordered = [key for key in defs.resolve_asset_graph().toposorted_asset_keys if "/".join(key.path) in entry["assets"]]
    for key in ordered:
        name = "/".join(key.path)
        moved = name == "bronze/quality_control_raw" and plot.moved[1] in days and "moved" in world.once
        metadata = {"other_days_touched": str(plot.moved[2])} if moved and world.first_time("moved told") else {}
        partitioned = name.startswith(("bronze/", "silver/", "gold/")) and name != "bronze/devices_raw"
        for day in days if partitioned else [None]:
            made = dg.AssetMaterialization(key, partition=day and day.isoformat(), metadata=metadata)
            event = dg.DagsterEvent(
                "ASSET_MATERIALIZATION", run.job_name, event_specific_data=StepMaterializationData(made, [])
            )
            instance.report_dagster_event(event, run.run_id)
    for check in checks:
        bad = check.name == "contract" and check.asset_key.path[-1] == "device_failure_features"
        bad = bad and "gold" in entry["kinds"] and plot.broken_features[0] in days and world.first_time("broken")
        broken = broken or bad
        data = AssetCheckEvaluation(check.asset_key, check.name, not bad, {})
        event = dg.DagsterEvent("ASSET_CHECK_EVALUATION", run.job_name, event_specific_data=data)
        instance.report_dagster_event(event, run.run_id)
    entry["outcome"] = "check failed" if broken else "success"
    if broken:
        instance.report_run_failed(run)
    else:
        instance.report_dagster_event(dg.DagsterEvent("PIPELINE_SUCCESS", run.job_name), run.run_id)


def days_of(entry: dict[str, Any]) -> list[date]:
    """The days of a run."""
    if entry["first"] is None:
        return []
    first, last = date.fromisoformat(entry["first"]), date.fromisoformat(entry["last"])
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def person(world: World, instance: Any, launcher: Launcher, assets: list[str], day: date) -> None:
    """Somebody runs assets of a day by hand."""
    import dagster as dg

    job = launcher.definitions.get_implicit_global_asset_job_def()
    keys = [dg.AssetKey(name.split("/")) for name in assets]
    run = instance.create_run_for_job(
        job.get_subset(asset_selection=set(keys)),
        tags={"dagster/partition": day.isoformat(), "lims/person": "yes"},
        asset_selection=frozenset(keys),
    )
    launcher.launch(instance, run)


def steps() -> Iterator[datetime]:
    """Every hour: on it and half past for the schedules; six minutes past, the reading has ended, for the sensors."""
    moment = START.astimezone(UTC)
    while moment < (START + timedelta(days=DAYS)).astimezone(UTC):
        for minutes in (0, 6, 31):
            yield moment + timedelta(minutes=minutes)
        moment += timedelta(hours=1)


def simulate(folder: Path, plot: Plot, until: datetime | None = None) -> World:
    """Let two weeks pass (or up to ``until``); the environment must be set before the platform is imported."""
    from dagster import DagsterInstance
    from dagster._core.launcher.base import RunLauncher
    from dagster._core.remote_origin import InProcessCodeLocationOrigin
    from dagster._core.run_coordinator import DefaultRunCoordinator
    from dagster._core.storage.event_log import InMemoryEventLogStorage
    from dagster._core.storage.runs import InMemoryRunStorage
    from dagster._core.test_utils import (
        InProcessTestWorkspaceLoadTarget,
        create_test_daemon_workspace_context,
        freeze_time,
        instance_for_test,
    )
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
    from dagster._daemon.backfill import execute_backfill_iteration
    from dagster._daemon.sensor import execute_sensor_iteration
    from dagster._scheduler.scheduler import launch_scheduled_runs

    world = World(START.astimezone(UTC))
    logger = logging.getLogger("fortnight")
    logger.setLevel(logging.ERROR)

    class FastLauncher(RunLauncher):
        """Hands runs to the simulation."""

        def __init__(self) -> None:
            self._inst_data = None
            super().__init__()

        def launch_run(self, context: Any) -> None:
            launcher.launch(self._instance, context.dagster_run)

        def terminate(self, run_id: str) -> bool:
            return False

    with ExitStack() as stack:
        instance = stack.enter_context(instance_for_test(temp_dir=str(folder)))
        # in memory, and one instance for daemon and code location: a fortnight is ten thousand short transactions
        instance._run_storage, instance._event_storage = InMemoryRunStorage(), InMemoryEventLogStorage()
        instance._run_coordinator = DefaultRunCoordinator()
        for part in (instance._run_storage, instance._event_storage, instance._run_coordinator):
            part.register_instance(instance)
        stack.enter_context(patch.object(DagsterInstance, "from_ref", lambda _: nullcontext(instance)))
        stack.enter_context(freeze_time(world.now - timedelta(minutes=1)))
        from lims_platform.definitions import defs

        launcher = Launcher(world, defs)
        instance._run_launcher = FastLauncher()
        instance._run_launcher.register_instance(instance)
        origin = InProcessCodeLocationOrigin(
            LoadableTargetOrigin(executable_path=sys.executable, module_name="lims_platform.definitions"),
            location_name="lims_platform",
        )
        context = stack.enter_context(
            create_test_daemon_workspace_context(InProcessTestWorkspaceLoadTarget(origin), instance)
        )
        load_history(world, instance, launcher, plot)
        location = next(iter(context.create_request_context().get_code_location_entries().values())).code_location
        assert location is not None
        repository = next(iter(location.get_repositories().values()))
        for schedule in repository.get_schedules():
            if schedule.name in SWITCHED_ON:
                instance.start_schedule(schedule)
        for sensor in repository.get_sensors():
            if sensor.name in SWITCHED_ON:
                instance.start_sensor(sensor)
        for moment in steps():
            if until is not None and moment >= until:
                break
            world.now = moment
            with freeze_time(moment):
                finish(world, instance, plot)
                live(world.now, world.first_time, Path(os.environ["FORTNIGHT_LIMS"]), plot)
                if OUTAGE[0] <= moment < OUTAGE[1]:
                    continue
                for name, (day, at), assets in (
                    ("broken", plot.broken_features, ["gold/device_failure_features"]),
                    ("drift", plot.failed_drift, ["gold/drift_report"]),
                ):
                    if moment >= at and world.first_time(f"person {name}"):
                        person(world, instance, launcher, assets, day)
                list(launch_scheduled_runs(context, logger, moment, {}))
                if moment.minute == 6:
                    list(execute_sensor_iteration(context, logger, None, None))
                list(execute_backfill_iteration(context, logger))
        note_ticks(world, instance, repository)
    return world


def load_history(world: World, instance: Any, launcher: Launcher, plot: Plot) -> None:
    """Everything up to the day before the start was run once, as ``make run`` does."""
    job = launcher.definitions.resolve_job_def("everything")
    last = (START - timedelta(days=1)).date()
    run = instance.create_run_for_job(
        job,
        tags={
            "dagster/asset_partition_range_start": FIRST_DAY.isoformat(),
            "dagster/asset_partition_range_end": last.isoformat(),
        },
    )
    launcher.launch(instance, run)
    _, (made, entry, checks) = world.unfinished.pop()
    report(world, instance, plot, made, entry, checks)
    world.runs.clear()


def note_ticks(world: World, instance: Any, repository: Any) -> None:
    """Every tick Dagster kept, with its reason where nothing was started."""
    for thing in [t for t in (*repository.get_schedules(), *repository.get_sensors()) if t.name in SWITCHED_ON]:
        for tick in instance.get_ticks(thing.get_remote_origin_id(), thing.selector_id):
            at = datetime.fromtimestamp(tick.timestamp, UTC).isoformat()
            error = tick.error.message if tick.error else None
            words = {"name": thing.name, "at": at, "status": tick.status.value, "runs": len(tick.run_ids)}
            world.ticks.append(words | {"reason": tick.skip_reason, "error": error})
