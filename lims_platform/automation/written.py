"""When each day of a table was last written and by which run, as Dagster's event log knows it.

Here: questions to the event log that schedules, conditions, sensors and freshness checks share. Not here: decisions.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal
from weakref import WeakKeyDictionary

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
)

from lims_platform.partitions import spans

#: Runs that hold or will hold their days: a second run over them would do the same work again.
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


_Kind = Literal[dg.DagsterEventType.ASSET_MATERIALIZATION, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED]
_MADE: Literal[dg.DagsterEventType.ASSET_MATERIALIZATION] = dg.DagsterEventType.ASSET_MATERIALIZATION
_PLANNED: Literal[dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED] = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED

#: Versions that materialisations told, by asset and storage id: an event never changes, and a condition asks every minute.
_TOLD: WeakKeyDictionary[dg.DagsterInstance, dict[tuple[dg.AssetKey, int], dict[str, int]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Written:
    """The last materialisation of an asset, or of one of its days."""

    at: datetime
    run_id: str


def _last_ids(instance: dg.DagsterInstance, key: dg.AssetKey, days: Collection[date], kind: _Kind = _MADE) -> dict[str, int]:
    """Storage id of the last materialisation (or plan of one) of each of ``days``, by partition key."""
    partitions = {day.isoformat() for day in days}
    return dict(instance.get_latest_storage_id_by_partition(key, kind, partitions)) if partitions else {}


def last_written(instance: dg.DagsterInstance, key: dg.AssetKey, days: Collection[date]) -> dict[date, Written]:
    """The last materialisation of each of ``days`` of a daily asset; a day never written is absent."""
    ids = _last_ids(instance, key, days)
    if not ids:
        return {}
    records = instance.get_asset_event_summary_records(_MADE, asset_key=key, storage_ids=list(ids.values()), limit=len(ids))
    by_id = {
        record.storage_id: Written(datetime.fromtimestamp(record.timestamp, UTC), record.run_id or "") for record in records
    }
    return {date.fromisoformat(partition): by_id[i] for partition, i in ids.items() if i in by_id}


def last_versions(instance: dg.DagsterInstance, key: dg.AssetKey, days: Collection[date]) -> dict[date, dict[str, int]]:
    """Of each of ``days`` ever written, the table versions its last materialisation tells: its own and its inputs'."""
    ids = _last_ids(instance, key, days)
    known = _TOLD.setdefault(instance, {})
    fresh = [number for number in ids.values() if (key, number) not in known]
    if fresh:
        wanted = dg.EventRecordsFilter(_MADE, asset_key=key, storage_ids=fresh)
        for record in instance.event_log_storage.get_event_records(wanted, limit=len(fresh)):
            made = record.asset_materialization
            values = {name: entry.value for name, entry in made.metadata.items()} if made is not None else {}
            known[key, record.storage_id] = {n: v for n, v in values.items() if isinstance(v, int)}
    return {date.fromisoformat(day): known[key, number] for day, number in ids.items() if (key, number) in known}


def rewritten(
    instance: dg.DagsterInstance, asset: dg.AssetKey, given: dg.AssetKey, days: Collection[date], days_back: int = 0
) -> set[date]:
    """Those of ``days`` of an asset for which an input was written again since, on the day itself or ``days_back`` before.

    Since a run of the asset was last planned for the day: whoever plans a run later than that, even one that fails, had the
    newest input before it. And since the asset was made: told by the table versions both sides name, whichever event came
    first; by the order of the events where they name none.
    """
    planned, made = _last_ids(instance, asset, days, _PLANNED), _last_ids(instance, asset, days)
    events = instance.get_latest_storage_id_by_partition(given, _MADE)
    written = sorted((date.fromisoformat(day), number) for day, number in events.items())
    calendar, numbers = [day for day, _ in written], [number for _, number in written]
    holds, has = last_versions(instance, given, calendar), last_versions(instance, asset, days)
    versions = [holds.get(day, {}).get("delta_version", math.inf) for day in calendar]
    behind = set()
    for day in days:
        window = slice(bisect_left(calendar, day - timedelta(days=days_back)), bisect_right(calendar, day))
        plan = planned.get(day.isoformat(), 0)
        version = has.get(day, {}).get(f"input_version/{given.path[-1]}", -1)
        if day.isoformat() not in made or max(numbers[window], default=0) <= plan or max(versions[window]) <= version:
            continue
        for number, holding in zip(numbers[window], versions[window], strict=True):
            told = version >= 0 and holding < math.inf
            if number > plan and (holding > version if told else number > made[day.isoformat()]):
                behind.add(day)
    return behind


def last_written_whole(instance: dg.DagsterInstance, key: dg.AssetKey) -> Written | None:
    """The last materialisation of an asset without days."""
    event = instance.get_latest_materialization_event(key)
    return None if event is None else Written(datetime.fromtimestamp(event.timestamp, UTC), event.run_id)


def checks_passed(instance: dg.DagsterInstance, run_id: str, wanted: Iterable[dg.AssetCheckKey]) -> bool:
    """Whether the run evaluated every check of ``wanted`` and each passed (the last evaluation counts)."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    passed: dict[dg.AssetCheckKey, bool] = {}
    for record in instance.get_records_for_run(run_id, of_type=kind).records:
        event = record.event_log_entry.dagster_event
        if event is not None:
            evaluation = event.asset_check_evaluation_data
            passed[dg.AssetCheckKey(evaluation.asset_key, evaluation.check_name)] = evaluation.passed
    return all(passed.get(key, False) for key in wanted)


def unfinished_runs(instance: dg.DagsterInstance, job_name: str, silent_since: datetime) -> list[str]:
    """Ids of a job's runs that are waiting or working.

    A started run without any event after ``silent_since`` lost its process (kill -9, power cut): it holds nothing.
    """
    found = []
    for run in instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=UNFINISHED)):
        events = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
        waits = run.status in (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED)
        if waits or (events and datetime.fromtimestamp(events[0].timestamp, UTC) > silent_since):
            found.append(run.run_id)
    return found


def span_request(first: date, last: date, run_key: str, assets: list[dg.AssetKey] | None = None) -> dg.RunRequest:
    """One run over the days ``first`` to ``last``, of a job's whole selection or of ``assets`` only."""
    if first == last:
        return dg.RunRequest(run_key=run_key, partition_key=first.isoformat(), asset_selection=assets)
    tags = {ASSET_PARTITION_RANGE_START_TAG: first.isoformat(), ASSET_PARTITION_RANGE_END_TAG: last.isoformat()}
    return dg.RunRequest(run_key=run_key, tags=tags, asset_selection=assets)


def span_requests(days_of: Mapping[dg.AssetKey, Collection[date]], reason: str) -> list[dg.RunRequest]:
    """One run per span of days and set of assets; the same reason never starts a second one."""
    of_span: dict[tuple[date, date], list[dg.AssetKey]] = defaultdict(list)
    for key, days in sorted(days_of.items()):
        for span in spans(days):
            of_span[span].append(key)
    return [
        span_request(first, last, f"{first} {last} {','.join(k.path[-1] for k in keys)} {reason}", keys)
        for (first, last), keys in sorted(of_span.items())
    ]
