"""The jobs that keep the house: repaired days are rebuilt, and pruning never makes a made day look unmade."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from lims_platform.assets.operations import REPAIRED_DAYS
from lims_platform.automation.clocks import CAN_WAIT
from lims_platform.automation.operations import OPERATIONS_JOBS, REPORT, UPKEEP_OPS, repaired_days_sensor
from lims_platform.automation.pruning import prune
from lims_platform.contracts.tables import TABLES
from lims_platform.definitions import defs

DAYS = dg.StaticPartitionsDefinition(["1", "2"])


def test_repaired_days_become_one_run_per_stretch() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        days = {REPAIRED_DAYS: "2026-11-03,2026-11-02,2026-11-07"}
        instance.report_runless_asset_event(dg.AssetMaterialization(REPORT, metadata=days))
        context = dg.build_sensor_context(instance, definitions=defs)
        asked = repaired_days_sensor.evaluate_tick(context).run_requests or []
        tags = [tuple(request.tags[f"dagster/asset_partition_range_{end}"] for end in ("start", "end")) for request in asked]
        assert tags == [("2026-11-02", "2026-11-03"), ("2026-11-07", "2026-11-07")]
        instance.report_runless_asset_event(dg.AssetMaterialization(REPORT, metadata={REPAIRED_DAYS: ""}))
        assert not repaired_days_sensor.evaluate_tick(dg.build_sensor_context(instance, definitions=defs)).run_requests


def test_long_work_that_can_wait_leaves_a_place_and_alerts_go_first() -> None:
    waiting = {job.name for job in defs.resolve_all_job_defs() if CAN_WAIT.items() <= job.tags.items()}
    assert waiting == {job.name for job in OPERATIONS_JOBS}
    assert int(defs.resolve_job_def("alerts").tags["dagster/priority"]) > 0


def test_compaction_and_every_write_of_a_table_share_its_pool() -> None:
    pools = {op.name.removeprefix("upkeep_"): op.pool for op in UPKEEP_OPS}
    assert pools.keys() == TABLES.keys()
    graph = defs.resolve_asset_graph()
    for layer in ("bronze", "silver"):
        for table in (t for t in TABLES.values() if t.layer == layer):
            key = dg.AssetKey([layer, table.name])
            assert graph.get(key).pools == {pools[table.name]}


@dg.asset(partitions_def=DAYS)
def made() -> None:
    """A partitioned asset."""


@dg.asset
def whole() -> None:
    """An unpartitioned one."""


def test_old_runs_go_but_the_newest_of_every_day_stays(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:

        def run(asset: dg.AssetsDefinition, day: str | None = None) -> str:
            return dg.materialize([asset], instance=instance, partition_key=day).run_id

        first, other_day, again = run(made, "1"), run(made, "2"), run(made, "1")
        plain, plain_again = run(whole), run(whole)
        later = datetime.now(UTC) + timedelta(hours=1)
        assert prune(instance, datetime.now(UTC) - timedelta(days=1), dry_run=False).runs == ()
        told = prune(instance, later, dry_run=True)
        assert set(told.runs) == {first, plain} and told.kept == 3 and told.bytes > 0
        assert instance.get_run_by_id(first) is not None
        before = instance.get_materialized_partitions(made.key)
        assert prune(instance, later, dry_run=False) == told
        assert {run.run_id for run in instance.get_runs()} == {other_day, again, plain_again}
        assert instance.get_materialized_partitions(made.key) == before == {"1", "2"}
        assert instance.get_latest_materialization_event(whole.key) is not None
        assert not [path for path in tmp_path.rglob("*") if first in path.name]
