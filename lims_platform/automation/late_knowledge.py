"""What became known late: feature rows are made again from the day on at whose end it counts as known, and none earlier.

A feature row of day D is what was known at the end of D. A row that arrives, or is amended, counts as known from the
source's own time for it, where it has one that can be believed (docs/adr/0001): that may be days ago, and features of those
days may be made already. Which commits of a history brought such rows stands in the commits themselves, so that a run that
died after them loses nothing.

Here: which feature days are behind a history, and the sensor that asks for them. Not here: days not made yet and tables of
current truth (``plan``), reading the source again (``sensors``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from lims_platform.automation.again import MOST_RUNS, Earlier
from lims_platform.automation.clocks import SENSOR_STATUS
from lims_platform.automation.jobs import features_daily
from lims_platform.automation.sensors import WATCHED
from lims_platform.automation.windows import now
from lims_platform.automation.written import last_versions, span_requests
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.snapshot import news_since
from lims_platform.partitions import spans_text
from lims_platform.settings import settings

#: Features are made again at most this often: rows that trickle in late share a run.
INTERVAL_SECONDS = 3_600


@dataclass(frozen=True)
class Late:
    """News of one history: ``since`` is the earliest day at whose end any of it counts as known."""

    table: str
    version: int
    since: date
    days: tuple[date, ...]

    def as_list(self) -> list[Any]:
        """For a cursor kept as JSON."""
        return [self.table, self.version, self.since.isoformat(), [day.isoformat() for day in self.days]]

    @classmethod
    def from_list(cls, given: list[Any]) -> Late:
        """What ``as_list`` gave."""
        table, version, since, days = given
        return cls(table, version, date.fromisoformat(since), tuple(map(date.fromisoformat, days)))


def features_behind(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, late: Late, last: date
) -> dict[dg.AssetKey, set[date]] | None:
    """Feature days from ``late.since`` to ``last`` that were made without the news; None while silver lacks it.

    Told by table versions, not by times: a materialisation says which versions of its inputs it was made from. A day that
    was never made is left to the plan.
    """
    bronze = dg.AssetKey(["bronze", late.table])
    features = sorted(key for key in graph.materializable_asset_keys if graph.get(key).group_name == "features")
    taken_in = {bronze: late.version}
    for key in sorted(graph.get(bronze).child_keys):
        if key.path[0] != "silver" or not any(key in graph.get(feature).parent_keys for feature in features):
            continue
        made = last_versions(instance, key, late.days)
        if any(made.get(day, {}).get(f"input_version/{late.table}", -1) < late.version for day in late.days):
            return None
        taken_in[key] = max(versions["delta_version"] for versions in made.values())
    days = [late.since + timedelta(days=offset) for offset in range((last - late.since).days + 1)]
    found: dict[dg.AssetKey, set[date]] = {}
    for feature in features:
        needed = {f"input_version/{k.path[-1]}": v for k, v in taken_in.items() if k in graph.get(feature).parent_keys}
        made = last_versions(instance, feature, days) if needed else {}
        behind = {day for day, has in made.items() if any(has.get(name, -1) < v for name, v in needed.items())}
        if behind:
            found[feature] = behind
    return found


def together(behind: Iterable[dict[dg.AssetKey, set[date]]]) -> dict[dg.AssetKey, set[date]]:
    """The feature days that any of the news left behind."""
    days_of: dict[dg.AssetKey, set[date]] = defaultdict(set)
    for found in behind:
        for key, days in found.items():
            days_of[key] |= days
    return days_of


def _read(lake: Lake, seen: dict[str, int]) -> list[Late]:
    """News since the versions ``seen``, which move on; of a table never looked at, none."""
    found: list[Late] = []
    for source in WATCHED:
        table = BRONZE_TABLES[source.name]
        if table.name not in seen:
            seen[table.name] = lake.version(table) or 0
            continue
        for news in news_since(lake, table, seen[table.name]):
            seen[table.name] = news.version
            since = min(max(day, _day(moment)) for day, moment in news.known_from.items())
            found.append(Late(table.name, news.version, since, tuple(sorted(news.known_from))))
    return found


def _day(moment: datetime) -> date:
    return moment.astimezone(settings().zone).date()


@dg.sensor(
    name="late_knowledge",
    job=features_daily,
    default_status=SENSOR_STATUS,
    minimum_interval_seconds=INTERVAL_SECONDS,
    description="Makes features again from the day on at whose end late or amended rows count as known; none earlier.",
)
def late_knowledge(context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake]) -> dg.SensorResult:
    """Reads the histories' commits after the cursor; news waits in the cursor until the features hold it."""
    state: dict[str, Any] = json.loads(context.cursor) if context.cursor else {"seen": {}, "waiting": []}
    at = now()
    fresh = _read(lake, state["seen"])
    assert context.repository_def is not None
    graph, last = context.repository_def.asset_graph, _day(at) - timedelta(days=1)
    news = [*map(Late.from_list, state["waiting"]), *fresh]
    looked = [(late, features_behind(context.instance, graph, late, last)) for late in news]
    behind = together(found for _, found in looked if found)
    reasons = sorted(f"{late.table}@{late.version}" for late, found in looked if found)
    # news that leaves features behind is a new reason: what was given up before is asked for with it
    same = set(reasons) <= set(state.get("reasons", []))
    since = datetime.fromisoformat(state["since"]) if same and "since" in state else at
    earlier = Earlier.of(context.instance, "late_knowledge", since, at)
    asked = {key: {day for day in days if earlier.may_ask(key, day, at)} for key, days in behind.items()}
    requests = span_requests(asked, f"{since.isoformat()} {len(earlier.runs)}")
    waiting = [late.as_list() for late, found in looked if found is None or found]
    cursor = json.dumps({"seen": state["seen"], "waiting": waiting, "reasons": reasons, "since": since.isoformat()})
    return dg.SensorResult(requests, skip_reason=None if requests else _said(looked, behind, earlier), cursor=cursor)


def _said(
    looked: list[tuple[Late, dict[dg.AssetKey, set[date]] | None]], behind: dict[dg.AssetKey, set[date]], earlier: Earlier
) -> str:
    """Why no run is asked for."""
    lost = {day for key, days in behind.items() for day in days if earlier.gave_up(key, day)}
    if lost:
        return f"{MOST_RUNS} runs over features of {spans_text(lost)} failed: mend the cause, then materialise them by hand"
    if behind:
        return "runs were asked for; what they did not mend is asked for again after a pause"
    for_silver = sum(found is None for _, found in looked)
    return f"{for_silver} changes wait for silver" if for_silver else "no feature row is behind what is known"


LATE_SENSORS = [late_knowledge]
