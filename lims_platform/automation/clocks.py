"""Schedules that are one cron line and one job. Not here: what asks first what there is to do (``schedules``)."""

from typing import Any

import dagster as dg

from lims_platform.settings import settings

_OFF = dg.DefaultScheduleStatus.STOPPED


def by_the_clock(
    job: Any, cron: str, description: str, status: dg.DefaultScheduleStatus = _OFF, name: str | None = None
) -> dg.ScheduleDefinition:
    """Start ``job`` at every tick of ``cron`` in the laboratory's zone; off until somebody starts it, unless ``status``
    says otherwise. ``name``: the job's with ``_schedule`` behind, unless given.
    """
    return dg.ScheduleDefinition(
        name=name or f"{job.name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=settings().timezone,
        default_status=status,
        description=description,
    )
