"""The platform at work in one process: its own sensors asked by hand, the runs they ask for executed, nothing stubbed.

Here: ticks and runs on a Dagster instance in memory. The environment (LIMS_…) must be set before this is imported. Not here:
the laboratory (``audited_lims``, ``laboratories``), what must hold (tests, benchmarks).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import dagster as dg

from lims_platform.assets.door import Door
from lims_platform.automation.sensors import FAR_LOOKS
from lims_platform.automation.written import span_request
from lims_platform.definitions import defs
from lims_platform.lakehouse.lake import Lake
from lims_platform.partitions import run_days
from lims_platform.settings import settings


@dataclass
class LivePlatform:
    """Definitions, an instance, and the sensors' cursors."""

    instance: dg.DagsterInstance
    cursors: dict[str, str | None] = field(default_factory=dict)
    conditions: Any = None

    def tick(self, name: str) -> list[dg.RunRequest]:
        """What a sensor asks for now; its cursor moves on."""
        sensor = defs.get_repository_def().get_sensor_def(name)
        lake = Lake(settings().lake_dir)
        resources = {"lake": lake, "door": Door(settings(), lake)}
        context = dg.build_sensor_context(
            self.instance,
            cursor=self.cursors.get(name),
            repository_def=defs.get_repository_def(),
            sensor_name=name,
            resources={key: resources[key] for key in sensor.required_resource_keys},
        )
        result = sensor.evaluate_tick(context)
        self.cursors[name] = result.cursor
        return list(result.run_requests or [])

    def next_day(self) -> None:
        """The next look at the sources goes far back, as the first one of every day does."""
        state = json.loads(self.cursors["source_changes"] or "{}")
        state.pop(FAR_LOOKS, None)
        self.cursors["source_changes"] = json.dumps(state)

    def run(self, job: str, request: dg.RunRequest) -> set[date]:
        """Execute what was asked for; the days it covered."""
        tags = dict(request.tags) | ({"dagster/partition": request.partition_key} if request.partition_key else {})
        result = defs.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            partition_key=request.partition_key,
            tags=request.tags,
            asset_selection=request.asset_selection,
        )
        assert result.success
        return days_of(tags)

    def load(self, job: str, first: date, last: date) -> None:
        """A job over a range of days, as a person starts it."""
        self.run(job, span_request(first, last, "by hand"))

    def due(self) -> dict[dg.AssetKey, set[str]]:
        """What the conditions of the whole plan ask for now, by asset: partition keys, or none for an asset without."""
        result = dg.evaluate_automation_conditions(defs, self.instance, cursor=self.conditions)
        self.conditions = result.cursor
        asked = [asset for asset in defs.resolve_asset_graph().materializable_asset_keys if result.get_num_requested(asset)]
        return {key: {part for part in result.get_requested_partitions(key) if part} for key in asked}

    def materialised(self, key: dg.AssetKey) -> dict[date, int]:
        """Newest materialisation of each day of an asset, as the event log counts them."""
        kind = dg.DagsterEventType.ASSET_MATERIALIZATION
        ids = self.instance.get_latest_storage_id_by_partition(key, kind)
        return {date.fromisoformat(part): number for part, number in ids.items()}


def days_of(tags: dict[str, str]) -> set[date]:
    """Days of a run by its tags."""
    first, last = run_days(tags)
    return {first + timedelta(days=offset) for offset in range((last - first).days + 1)}
