"""When alerts are evaluated: every ten minutes, and at once when a run fails. Here: the job, its schedule, the sensor."""

import dagster as dg

from lims_platform.assets.alerts import deliver_now, evaluate_now
from lims_platform.automation.clocks import by_the_clock
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference import load_reference
from lims_platform.settings import settings

alerts_job = dg.define_asset_job(
    "alerts",
    selection=dg.AssetSelection.groups("alerts"),
    tags={"dagster/priority": "10"},  # before whatever else waits for a place
    description="Test every alert rule, open and resolve alerts, send what is new.",
)

alerts_schedule = by_the_clock(alerts_job, "*/10 * * * *", "Alerts, every ten minutes.")


@dg.run_failure_sensor(
    name="alert_on_run_failure",
    description="Opens the alert of a failed run and sends it, without waiting for the next evaluation.",
    default_status=dg.DefaultSensorStatus.RUNNING,
)
def alert_on_run_failure(context: dg.RunFailureSensorContext) -> None:
    lake, reference = Lake(settings().lake_dir), load_reference(settings().reference_dir)
    evaluate_now(context.instance, lake, reference, context.dagster_run.run_id, only="pipeline_failure")
    deliver_now(lake, reference)


ALERT_JOBS = [alerts_job]
ALERT_SCHEDULES = [alerts_schedule]
ALERT_SENSORS = [alert_on_run_failure]
