"""The front door: every asset, check, job, schedule and resource, nothing else. The only module that knows all others."""

import logging
from collections.abc import Iterator
from typing import Any

import dagster as dg

from lims_platform.assets.alerts import ALERT_ASSETS
from lims_platform.assets.bronze import BRONZE_ASSETS
from lims_platform.assets.common import LAKE_IO
from lims_platform.assets.door import Door
from lims_platform.assets.gold import GOLD_ASSETS
from lims_platform.assets.models import MODEL_ASSETS
from lims_platform.assets.monitoring import MONITORING_ASSETS
from lims_platform.assets.operations import OPERATIONS_ASSETS
from lims_platform.assets.patient_qc import PATIENT_QC_ASSETS
from lims_platform.assets.reports import REPORT_ASSETS
from lims_platform.assets.samples import SAMPLE_ASSETS
from lims_platform.assets.scores import SCORE_ASSETS
from lims_platform.assets.silver import SILVER_ASSETS
from lims_platform.automation.alerts import ALERT_JOBS, ALERT_SCHEDULES, ALERT_SENSORS
from lims_platform.automation.checks import CHECKS
from lims_platform.automation.demo import DEMO_JOBS
from lims_platform.automation.freshness import freshness, freshness_job
from lims_platform.automation.health import health_job, health_schedule, pipeline_health_asset, watched
from lims_platform.automation.jobs import JOBS
from lims_platform.automation.late_knowledge import LATE_SENSORS
from lims_platform.automation.operations import OPERATIONS_JOBS, OPERATIONS_SCHEDULES, OPERATIONS_SENSORS
from lims_platform.automation.plan import with_conditions
from lims_platform.automation.progress import progress_logger
from lims_platform.automation.reference_changes import REFERENCE_SENSORS
from lims_platform.automation.schedules import SCHEDULES
from lims_platform.automation.scorecard_checks import data_quality_shares
from lims_platform.automation.sensors import SENSORS
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.io_manager import DeltaIOManager
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference_states import ReferenceStates
from lims_platform.settings import settings


@dg.resource(description="The lake below the data directory")
def lake_resource(_: dg.InitResourceContext) -> Lake:
    return Lake(settings().lake_dir)


@dg.resource(description="The laboratory's reference tables, read when a step starts and kept")
def reference_resource(_: dg.InitResourceContext) -> object:
    return ReferenceStates(settings().reference_dir, settings().reference_states).current()


@dg.resource(description="The sources and the pseudonyms at the door")
def door_resource(_: dg.InitResourceContext) -> Door:
    return Door(settings(), Lake(settings().lake_dir))


@dg.resource(description="dagster-mlflow: one MLflow run per Dagster run, tagged with its id, ended with it")
def mlflow_resource(context: dg.InitResourceContext) -> Iterator[object]:
    # imported when a run needs it: 2.4 s that loading the definitions does not
    from dagster_mlflow import mlflow_tracking

    from lims_platform.learning.tracking import EXPERIMENT, close_run, make_store

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # its migrations are no news on the console
    make_store(settings().tracking_uri)
    config = {"experiment_name": EXPERIMENT, "mlflow_tracking_uri": settings().tracking_uri}
    try:
        yield from mlflow_tracking.resource_fn(context.replace_config(config))  # type: ignore[call-arg]
    finally:
        close_run()


def build_defs(**overrides: Any) -> dg.Definitions:
    """The platform's definitions; ``overrides`` replace resources by name, e.g. ``lake=Lake(tmp_path)`` in a test."""
    resources: dict[str, Any] = {
        "lake": lake_resource,
        "reference": reference_resource,
        "door": door_resource,
        "mlflow": mlflow_resource,
        LAKE_IO: DeltaIOManager(Lake(settings().lake_dir), TABLES),
    }
    assets = with_conditions(
        [
            *BRONZE_ASSETS,
            *SILVER_ASSETS,
            *GOLD_ASSETS,
            *SAMPLE_ASSETS,
            *MODEL_ASSETS,
            *SCORE_ASSETS,
            *MONITORING_ASSETS,
            *PATIENT_QC_ASSETS,
            *REPORT_ASSETS,
            *ALERT_ASSETS,
            *OPERATIONS_ASSETS,
        ]
    )
    checks = [*CHECKS, data_quality_shares, freshness]
    jobs = [*JOBS, freshness_job, *DEMO_JOBS, *ALERT_JOBS, *OPERATIONS_JOBS, health_job]
    schedules = [*SCHEDULES, *ALERT_SCHEDULES, *OPERATIONS_SCHEDULES, health_schedule]
    sensors = [*SENSORS, *LATE_SENSORS, *REFERENCE_SENSORS, *ALERT_SENSORS, *OPERATIONS_SENSORS]
    health = pipeline_health_asset(watched(assets, checks, jobs, [*schedules, *sensors]))
    return dg.Definitions(
        assets=[*assets, health],
        asset_checks=checks,
        jobs=jobs,
        schedules=schedules,
        sensors=sensors,
        resources=resources | overrides,
        executor=dg.in_process_executor,
        loggers={"console": progress_logger},
    )


defs = build_defs()
