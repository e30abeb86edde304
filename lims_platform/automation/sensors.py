"""Sensors: what a change at the source starts (docs/adr/0004).

Here: late, amended and moved rows lead to runs over just the days they touch. Not here: how a source is asked
(``sources.changes``), gold, which follows its inputs by itself (``plan``).
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from lims_platform.assets.door import Door
from lims_platform.automation.clocks import SENSOR_STATUS
from lims_platform.automation.jobs import ingest_hourly
from lims_platform.automation.plan import data_starts
from lims_platform.automation.windows import now
from lims_platform.automation.written import last_written, span_request
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.extract import DayWindow, SourceError
from lims_platform.contracts.source import SOURCE_TABLES, SourceTable
from lims_platform.partitions import days_of_text, partition_bounds, run_days, spans
from lims_platform.settings import settings
from lims_platform.sources.changes import Marks
from lims_platform.sources.reader import Sources

#: Materialisations of one table read at one look; the rest waits for the next.
EVENTS_A_LOOK = 1_000

#: Key of a look's state that is no table: the day of each table's last look far back.
FAR_LOOKS = "looked far on"

#: Source tables that have days.
WATCHED = [table for table in SOURCE_TABLES.values() if table.event_time is not None]


def bronze_key(table: SourceTable) -> dg.AssetKey:
    """The asset that keeps the table's history."""
    return dg.AssetKey(["bronze", BRONZE_TABLES[table.name].name])


def with_silver(graph: BaseAssetGraph, keys: set[dg.AssetKey]) -> list[dg.AssetKey]:
    """The bronze assets and every silver asset made of them."""
    found, new = set(keys), set(keys)
    while new:
        new = {child for key in new for child in graph.get(key).child_keys if child.path[0] == "silver"} - found
        found |= new
    return sorted(found)


def requests_for(graph: BaseAssetGraph, touched: Mapping[dg.AssetKey, set[date]], reason: str) -> list[dg.RunRequest]:
    """One run per span of days, over the bronze tables touched on all of its days and their silver.

    ``reason`` tells this request from an earlier one for the same days: the same reason never starts a second run.
    """
    tables_of: dict[tuple[date, date], set[dg.AssetKey]] = defaultdict(set)
    for key, days in touched.items():
        for span in spans(days):
            tables_of[span].add(key)
    requests = []
    for (first, last), keys in sorted(tables_of.items()):
        names = ",".join(sorted(key.path[-1] for key in keys))
        digest = hashlib.sha256(reason.encode()).hexdigest()[:16]
        requests.append(span_request(first, last, f"{first} {last} {names} {digest}", with_silver(graph, keys)))
    return requests


def look_at_sources(
    sources: Sources, today: date, cursor: str | None
) -> tuple[dict[dg.AssetKey, set[date]], str, list[str]]:
    """Days before ``today`` that changed since the cursor's look, by bronze asset; the new cursor; sources that are away.

    Each table's first look of a day goes further back than the others: a deleted row leaves no trace in a change cursor.
    A source that is away for now keeps its marks, so nothing it changes meanwhile is lost. Raises SourceError where
    trying again cannot help.
    """
    state: dict[str, dict[str, Any]] = json.loads(cursor) if cursor else {}
    touched: dict[dg.AssetKey, set[date]] = {}
    away: list[str] = []
    lowest, highest = partition_bounds()
    near, far = (max(lowest, today - timedelta(days=days)) for days in (settings().watch_days, settings().watch_far_days))
    far = min(near, far)
    for table in WATCHED:
        if not sources.names(table):
            continue
        looked_far = state.setdefault(FAR_LOOKS, {})
        before = {name: Marks.from_dict(marks) for name, marks in state.get(table.name, {}).items()}
        # a source that is new has nothing to compare with so far back
        goes_far = before.keys() >= set(sources.names(table)) and looked_far.get(table.name) != today.isoformat()
        window = DayWindow(far if goes_far else near, today, lowest, highest)
        try:
            after, days = sources.look(table, window, before)
        except SourceError as error:
            if not error.transient:
                raise
            away.append(str(error))
            continue
        state[table.name] = {name: marks.from_day(far).as_dict() for name, marks in after.items()}
        if goes_far:
            looked_far[table.name] = today.isoformat()
        # today is read hourly; its marks are kept so that tomorrow can tell what changed after the last reading
        past = {day for day in days if day < today}
        if past:
            touched[bronze_key(table)] = past
    return touched, json.dumps(state, sort_keys=True), away


@dg.sensor(
    name="source_changes",
    job=ingest_hourly,
    minimum_interval_seconds=settings().watch_minutes * 60,
    default_status=SENSOR_STATUS,
    description="Looks at row counts and change cursors of past days; reads again just the days that changed.",
)
def source_changes(context: dg.SensorEvaluationContext, door: dg.ResourceParam[Door]) -> dg.SensorResult | dg.SkipReason:
    """At most two statements per table and look, within the source's own time limit."""
    today = now().astimezone(settings().zone).date()
    touched, cursor, away = look_at_sources(door.sources, today, context.cursor)
    assert context.repository_def is not None
    requests = requests_for(context.repository_def.asset_graph, touched, cursor)
    said = f"away for now, asked again at the next look: {'; '.join(away)}" if away else "no past day changed"
    return dg.SensorResult(requests, skip_reason=None if requests else said, cursor=cursor)


@dg.sensor(
    name="moved_rows",
    job=ingest_hourly,
    default_status=SENSOR_STATUS,
    minimum_interval_seconds=60,
    description="A row that moved to another day was written to both; the day a run did not cover is made again too.",
)
def moved_rows(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Reads ``other_days_touched`` of bronze materialisations newer than the cursor; the first look only sets it."""
    keys = [bronze_key(table) for table in WATCHED]
    seen: dict[str, int] = json.loads(context.cursor) if context.cursor else {}
    touched: dict[dg.AssetKey, set[date]] = defaultdict(set)
    runs: set[str] = set()
    assert context.repository_def is not None
    graph = context.repository_def.asset_graph
    for key in keys:
        name = key.to_user_string()
        if name not in seen:
            newest = context.instance.fetch_materializations(key, limit=1).records
            seen[name] = newest[0].storage_id if newest else 0
            continue
        after = dg.AssetRecordsFilter(asset_key=key, after_storage_id=seen[name])
        records = context.instance.fetch_materializations(after, limit=EVENTS_A_LOOK, ascending=True).records
        for record in records:
            seen[name] = record.storage_id
            others = _days_elsewhere(context.instance, record)
            others -= _made_since(context.instance, with_silver(graph, {key}), others, record.timestamp)
            if others:
                touched[key] |= others
                runs.add(record.run_id)
    requests = requests_for(graph, touched, " ".join(sorted(runs)))
    skipped = None if requests else "no row moved to a day its run did not cover"
    return dg.SensorResult(requests, skip_reason=skipped, cursor=json.dumps(seen, sort_keys=True))


def _days_elsewhere(instance: dg.DagsterInstance, record: dg.EventLogRecord) -> set[date]:
    """Days a bronze materialisation wrote to that its run did not cover."""
    materialisation = record.asset_materialization
    said = materialisation.metadata.get("other_days_touched") if materialisation else None
    run = instance.get_run_by_id(record.run_id) if said is not None else None
    if said is None or run is None:
        return set()
    first, last = run_days(dict(run.tags))
    return {day for day in days_of_text(str(said.value)) if not first <= day <= last}


def _made_since(instance: dg.DagsterInstance, keys: list[dg.AssetKey], days: set[date], moment: float) -> set[date]:
    """Those of ``days`` on which every one of the assets was written after ``moment``, for another reason."""
    made = [last_written(instance, key, days) for key in keys]
    return {day for day in days if all(day in one and one[day].at.timestamp() > moment for one in made)}


SENSORS = [data_starts, source_changes, moved_rows]
