"""The alerts job and the failure sensor on an instance of their own: what Dagster knows becomes rows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from lims_platform.alerting.platform_health import READINGS_SCHEMA, RUNS_SCHEMA
from lims_platform.alerting.store import read
from lims_platform.assets.alerts import ALERT_ASSETS
from lims_platform.assets.run_facts import finished_runs, readings
from lims_platform.automation.alerts import alert_on_run_failure, alerts_job
from lims_platform.contracts.alerts import ALERTS
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import Settings
from lims_platform_tests.alert_frames import REFERENCE, RULES

ZONE = Settings().zone


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """An empty lake that the sensor, which reads the settings, finds too."""
    mine = Settings(data_dir=tmp_path, alert_targets=None, critical_notifications=None)
    for module in ("lims_platform.assets.alerts", "lims_platform.automation.alerts"):
        monkeypatch.setattr(f"{module}.settings", lambda: mine)
    return Lake(mine.lake_dir)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@dg.op
def breaks() -> None:
    raise ValueError("the LIMS hung up")


@dg.job
def ingest() -> None:
    breaks()


def test_the_job_writes_rows_says_what_it_could_not_test_and_keeps_the_contract(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    ingest.execute_in_process(instance=instance, raise_on_error=False)
    job = dg.Definitions(ALERT_ASSETS, jobs=[alerts_job], resources={"lake": lake, "reference": REFERENCE}).resolve_job_def(
        "alerts"
    )
    result = job.execute_in_process(instance=instance)
    assert result.success
    metadata = result.asset_materializations_for_node("gold__alerts")[0].metadata
    verdicts = str(metadata["rules"].value)
    assert all(f"**{name}**" in verdicts for name in RULES) and "not evaluable: no table drift_report yet" in verdicts
    alerts = read(lake, ALERTS)
    ALERTS.schema.validate(alerts)
    assert alerts.select("rule", "subject", "state", "delivery").rows() == [
        ("pipeline_failure", "ingest", "open", "not_configured")
    ]
    assert "in step breaks" in alerts["message"][0]
    [check] = result.get_asset_check_evaluations()
    assert check.passed and check.check_name == "every_rule_tested"


def test_the_failure_sensor_opens_the_alert_of_the_run_and_leaves_the_others(
    lake: Lake, instance: dg.DagsterInstance
) -> None:
    failed = ingest.execute_in_process(instance=instance, raise_on_error=False)
    event = next(e for e in failed.all_events if e.event_type is dg.DagsterEventType.RUN_FAILURE)
    for _ in range(2):
        context = dg.build_run_status_sensor_context(
            sensor_name="alert_on_run_failure",
            dagster_instance=instance,
            dagster_run=failed.dagster_run,
            dagster_event=event,
        ).for_run_failure()
        alert_on_run_failure(context)
    alerts = read(lake, ALERTS)
    assert alerts.select("rule", "subject", "dagster_run_id").rows() == [("pipeline_failure", "ingest", failed.run_id)]


def test_runs_carry_their_days(instance: dg.DagsterInstance) -> None:
    ingest.execute_in_process(instance=instance, raise_on_error=False, tags={"dagster/partition": "2026-03-01"})
    days = {"dagster/asset_partition_range_start": "2026-03-01", "dagster/asset_partition_range_end": "2026-03-05"}
    ingest.execute_in_process(instance=instance, raise_on_error=False, tags=days)
    runs = finished_runs(instance, datetime.now(ZONE) - timedelta(hours=1)).collect()
    assert dict(runs.schema) == RUNS_SCHEMA
    spans = runs.select(pl.col("first_day", "last_day").cast(pl.String)).sort("last_day").rows()
    assert spans == [("2026-03-01", "2026-03-01"), ("2026-03-01", "2026-03-05")]
    assert finished_runs(instance, datetime.now(ZONE) + timedelta(hours=1)).collect().is_empty()


def test_filling_an_old_day_again_makes_nothing_fresh(instance: dg.DagsterInstance) -> None:
    now = datetime.now(ZONE).replace(hour=12)
    tolerance = timedelta(hours=2)
    assert readings(instance, now, tolerance).collect().is_empty()

    def materialised(table: str, partition: str | None) -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey(["bronze", table]), partition=partition))

    materialised("lab_results_raw", (now - timedelta(days=9)).date().isoformat())
    materialised("devices_raw", None)
    seen = readings(instance, now, tolerance).collect()
    assert dict(seen.schema) == READINGS_SCHEMA
    assert dict(seen.select("table", pl.col("read_at").is_not_null()).iter_rows()) == {
        "bronze/lab_results_raw": False, "bronze/devices_raw": True,
    }  # fmt: skip
    materialised("lab_results_raw", now.date().isoformat())
    assert readings(instance, now, tolerance).collect()["read_at"].null_count() == 0


def test_loading_the_definitions_does_not_import_apprise() -> None:
    code = "import lims_platform.definitions, sys; print('apprise' in sys.modules, 'mlflow' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split()[-2:] == ["False", "False"]
