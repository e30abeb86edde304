"""Whether the platform starts by itself, and schedules that are one cron line and one job.

Here: the default state of every schedule and sensor. Not here: what asks first what there is to do (``schedules``).
"""

from typing import Any

import dagster as dg

from lims_platform.settings import settings

#: In production automation runs once the daemon does; in the demo a person switches it on: a clone must not start
#: reading somebody's LIMS by itself. What a person switched in the UI stays as it was left.
IN_PRODUCTION = settings().environment == "production"
SENSOR_STATUS = dg.DefaultSensorStatus.RUNNING if IN_PRODUCTION else dg.DefaultSensorStatus.STOPPED
SCHEDULE_STATUS = dg.DefaultScheduleStatus.RUNNING if IN_PRODUCTION else dg.DefaultScheduleStatus.STOPPED

#: Tags of a job that may run long and can wait: dagster.yaml lets one of them run at a time, so that a place stays free.
CAN_WAIT = {"lims/can_wait": "true"}


def by_the_clock(job: Any, cron: str, description: str, name: str | None = None) -> dg.ScheduleDefinition:
    """Start ``job`` at every tick of ``cron`` in the laboratory's zone. ``name``: the job's with ``_schedule`` behind,
    unless given.
    """
    return dg.ScheduleDefinition(
        name=name or f"{job.name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=settings().timezone,
        default_status=SCHEDULE_STATUS,
        description=description,
    )
