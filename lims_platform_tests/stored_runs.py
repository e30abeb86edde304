"""Runs a sensor asked for, as Dagster's run store keeps them, without running anything."""

from __future__ import annotations

from datetime import datetime

import dagster as dg
from dagster._core.test_utils import create_run_for_test, freeze_time


def store(
    instance: dg.DagsterInstance,
    request: dg.RunRequest,
    sensor: str,
    job: str,
    at: datetime,
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.FAILURE,
) -> None:
    """A run of the request that gave its last sign of life at ``at``, failed or still started."""
    days = {"dagster/partition": request.partition_key} if request.partition_key else {}
    with freeze_time(at):
        run = create_run_for_test(
            instance,
            job_name=job,
            tags={**request.tags, **days, "dagster/sensor_name": sensor},
            asset_selection=frozenset(request.asset_selection or []),
            status=dg.DagsterRunStatus.STARTED,
        )
        instance.report_engine_event("at work", run)
        if status is dg.DagsterRunStatus.FAILURE:
            instance.report_run_failed(run)
