"""What holds for every definition: metadata a person needs, what exists (a snapshot), and what loading must not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.definitions import defs
from lims_platform_tests.assets.snapshot import SNAPSHOT, lines

GRAPH = defs.resolve_asset_graph()
KEYS = sorted(GRAPH.get_all_asset_keys())
LAKE_LAYERS = ("bronze", "silver", "gold", "models")

#: Each costs a second or more, and the UI, the daemon and every run wait for the code location.
HEAVY = ("mlflow", "sklearn", "dagster_mlflow", "matplotlib", "altair", "skl2onnx", "scipy.stats")


def test_loading_the_definitions_imports_nothing_heavy() -> None:
    program = f"import sys, lims_platform.definitions; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_in_production_everything_starts_by_itself(tmp_path: Path) -> None:
    program = (
        "from lims_platform.definitions import defs; print(*[f'{one.name} {one.default_status.value}' "
        "for one in (*defs.schedules, *defs.sensors)], sep='\\n')"
    )
    production = {
        "LIMS_ENVIRONMENT": "production",
        "LIMS_SOURCES": str(tmp_path / "sources.yaml"),
        "LIMS_START_DATE": "2026-01-01",
        "LIMS_PSEUDONYM_KEY_FILE": str(tmp_path / "pseudonym.key"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
    }
    environment = os.environ | production
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    states = dict(line.split() for line in done.stdout.splitlines())
    demo_only = {"demo_lab_lives_on"}
    assert states.keys() == {one.name for one in (*(defs.schedules or []), *(defs.sensors or []))} - demo_only
    assert set(states.values()) == {"RUNNING"}, states


def test_the_definitions_are_those_reviewed() -> None:
    assert lines(defs) == SNAPSHOT.read_text().splitlines(), "python -m lims_platform_tests.assets.snapshot, then review"


@pytest.mark.parametrize("key", KEYS, ids=dg.AssetKey.to_user_string)
def test_an_asset_says_what_it_is_and_whose(key: dg.AssetKey) -> None:
    node = GRAPH.get(key)
    assert node.is_materializable, "something depends on an asset that nothing makes"
    assert node.group_name != "default"
    assert node.description and node.description.endswith("."), "a description is a sentence"
    assert node.owners and all(owner.startswith("team:") for owner in node.owners)
    assert node.kinds
    assert node.tags["layer"] == key.path[0]
    assert node.code_version
    assert node.backfill_policy == dg.BackfillPolicy.single_run(), "a range of days is one run"


@pytest.mark.parametrize("key", [k for k in KEYS if k.path[0] in LAKE_LAYERS], ids=dg.AssetKey.to_user_string)
def test_a_lake_table_describes_every_column(key: dg.AssetKey) -> None:
    columns = GRAPH.get(key).metadata["dagster/column_schema"].columns
    assert columns
    assert [column.name for column in columns if not column.description] == []
    if key.path[1] in TABLES:
        assert [column.name for column in columns] == list(TABLES[key.path[1]].dtypes)


@pytest.mark.parametrize("name", [n for n, table in TABLES.items() if table.layer in LAKE_LAYERS[:3]])
def test_every_table_has_an_asset_a_blocking_contract_and_a_partition_column(name: str) -> None:
    table = TABLES[name]
    key = dg.AssetKey([table.layer, name])
    node = GRAPH.get(key)
    assert GRAPH.get(dg.AssetCheckKey(key, "contract")).blocking
    assert node.metadata.get("partition_expr") == table.partition


def test_jobs_and_schedules_are_described_and_off_until_started() -> None:
    assert all(job.description for job in defs.jobs or [])
    assert all(schedule.description for schedule in defs.schedules or [])
    started = [s.name for s in defs.schedules or [] if s.default_status is dg.DefaultScheduleStatus.RUNNING]
    assert started == [], "a clone must not start reading somebody's LIMS by itself"
