"""Schedules: what the clock starts, in the laboratory's time zone. Here: cron lines and the day each run is for."""

from datetime import date, timedelta
from typing import Any

import dagster as dg

from lims_platform.automation import jobs
from lims_platform.settings import settings

#: job → (cron line, how many days before the tick its partition lies)
DAILY_TICKS: dict[str, tuple[str, int]] = {
    "ingest_hourly": ("0 * * * *", 0),
    "features_daily": ("0 1 * * *", 1),
    "scoring_daily": ("0 2 * * *", 1),
    "drift_daily": ("0 4 * * *", 1),
}


def partition_for(context: dg.ScheduleEvaluationContext, days_before: int) -> date:
    """The day a tick is for: the tick's own day in the laboratory's calendar, or so many before it.

    The first hourly tick after midnight still belongs to the day before: the last hour's results are read there.
    """
    tick = context.scheduled_execution_time.astimezone(settings().zone)
    if days_before == 0:
        tick -= timedelta(hours=1)
    return tick.date() - timedelta(days=days_before)


def day_schedule(job: Any, cron: str, days_before: int) -> dg.ScheduleDefinition:
    """A schedule that runs ``job`` for one day per tick; off until somebody starts it."""
    name = job.name

    @dg.schedule(
        name=f"{name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone=settings().timezone,
        description=f"{job.description} Cron {cron}.",
    )
    def tick(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        day = partition_for(context, days_before)
        if day < settings().first_day:
            return dg.SkipReason(f"{day} lies before the first partition {settings().first_day}")
        return dg.RunRequest(partition_key=day.isoformat(), run_key=context.scheduled_execution_time.isoformat())

    return tick


training_schedule = dg.ScheduleDefinition(
    name="training_weekly_schedule",
    job=jobs.training_weekly,
    cron_schedule="0 3 * * 0",
    execution_timezone=settings().timezone,
    description="A new challenger every Sunday.",
)

SCHEDULES = [
    *[day_schedule(getattr(jobs, name), cron, before) for name, (cron, before) in DAILY_TICKS.items()],
    training_schedule,
]
