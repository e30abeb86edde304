"""An edit of the reference tables makes silver again, on just the days whose rows it changes (docs/adr/0014).

Here: the sensor. Not here: which days those are (``reference_days``), when a failed run is asked for again (``again``);
operational marts, which follow their silver (``plan``); features, which stay as they were made.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from datetime import date, datetime, timedelta
from itertools import islice

import dagster as dg

from lims_platform.assets.common import asset_key
from lims_platform.assets.door import Door
from lims_platform.automation.again import MOST_RUNS, Earlier
from lims_platform.automation.clocks import SENSOR_STATUS
from lims_platform.automation.operations import rebuild_days
from lims_platform.automation.reference_days import READERS, Comparison, Look, Reader
from lims_platform.automation.windows import now
from lims_platform.automation.written import span_requests
from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.reference_states import ReferenceStates
from lims_platform.partitions import spans, spans_text
from lims_platform.settings import settings

#: A look compares for about so long, then the rest waits for the next: Dagster ends a tick after a minute.
LOOK_SECONDS = 20.0
#: Days of one run, and runs at a time: they queue for the same tables.
RUN_DAYS = 31
RUNS_AT_ONCE = 5


def _pieces(days: set[date]) -> list[tuple[date, date]]:
    """Spans of days, none longer than RUN_DAYS, newest first."""
    cut = []
    for first, last in spans(days):
        while (last - first).days >= RUN_DAYS:
            cut.append((last - timedelta(days=RUN_DAYS - 1), last))
            last -= timedelta(days=RUN_DAYS)
        cut.append((first, last))
    return sorted(cut, reverse=True)


def requests_for_days(earlier: Earlier, looks: dict[Reader, Look], since: datetime) -> list[dg.RunRequest]:
    """Runs over affected days that may be asked for now: the newest, no more than RUNS_AT_ONCE with those at work."""
    at = now()
    by_tables: dict[tuple[Reader, ...], set[date]] = defaultdict(set)
    for day in sorted({day for look in looks.values() for day in look.affected}):
        askable = [r for r, look in looks.items() if day in look.affected and earlier.may_ask(_key(r), day, at)]
        if askable:
            by_tables[tuple(askable)].add(day)
    pieces = [(piece, readers) for readers, days in by_tables.items() for piece in _pieces(days)]
    pieces.sort(key=lambda found: found[0], reverse=True)
    requests = []
    for (first, last), readers in islice(pieces, max(0, RUNS_AT_ONCE - earlier.working)):
        days = {first + timedelta(days=offset) for offset in range((last - first).days + 1)}
        keys = [asset_key(table.name) for reader in readers for table in (reader.table, *reader.cut)]
        requests += span_requests(dict.fromkeys(keys, days), f"{since.isoformat()} {len(earlier.runs)}")
    return requests


def _key(reader: Reader) -> dg.AssetKey:
    return asset_key(reader.table.name)


@dg.sensor(
    name="reference_changes",
    job=rebuild_days,
    default_status=SENSOR_STATUS,
    minimum_interval_seconds=60,
    description="Makes silver again where an edit of the reference tables changes its rows: just those tables, those days.",
)
def reference_changes(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[Lake], door: dg.ResourceParam[Door]
) -> dg.SensorResult | dg.SkipReason:
    """A table that cannot be read fails the tick, naming file, line and column; nothing is forgotten meanwhile."""
    states = ReferenceStates(settings().reference_dir, settings().reference_states)
    if states.is_being_edited():
        return dg.SkipReason("the reference tables were saved moments ago; the next look compares them")
    reference = states.current()
    before = json.loads(context.cursor) if context.cursor else {}
    seen = before.get("tables", {})
    until = time.monotonic() + LOOK_SECONDS
    looks: dict[Reader, Look] = {}
    for reader in READERS:
        name = reader.table.name
        comparison = Comparison(lake, reader, states, reference)
        look = comparison.resumed(Look.from_dict(seen[name]) if name in seen else None)
        looks[reader] = comparison.continued(look, lambda: door.locales(LAB_RESULTS), until) if look.left else look
        for line in _told(look, looks[reader], name):
            context.log.info(line)
    state = hashlib.sha256("".join(look.digest for look in looks.values()).encode()).hexdigest()[:16]
    # a state that comes back (an edit undone) is a reason of its own
    since = datetime.fromisoformat(before["since"]) if before.get("state") == state else now()
    earlier = Earlier.of(context.instance, "reference_changes", since, now())
    requests = requests_for_days(earlier, looks, since)
    tables = {reader.table.name: look.as_dict() for reader, look in looks.items()}
    cursor = json.dumps({"state": state, "since": since.isoformat(), "tables": tables}, sort_keys=True)
    return dg.SensorResult(requests, skip_reason=None if requests else _skipped(looks, earlier), cursor=cursor)


def _told(before: Look, after: Look, name: str) -> list[str]:
    """What a look found, in words."""
    lines = []
    if new := after.unknown - before.unknown:
        lines.append(f"{name}: made by reference tables that were not kept, so every day of them counts: {spans_text(new)}")
    if new := after.affected - before.affected - after.unknown:
        lines.append(f"{name}: days with rows that the reference tables now read otherwise: {spans_text(new)}")
    return lines


def _skipped(looks: dict[Reader, Look], earlier: Earlier) -> str:
    left = sum(len(look.left) for look in looks.values())
    if left:
        return f"{left} days are still to be compared with the reference tables"
    waiting = [(reader, day) for reader, look in looks.items() for day in look.affected]
    lost = {day for reader, day in waiting if earlier.gave_up(_key(reader), day)}
    if lost:
        return (
            f"{MOST_RUNS} runs failed over {spans_text(lost)}: mend the cause and materialise silver of these days by hand"
        )
    if waiting:
        return (
            f"{len({day for _, day in waiting})} days wait for runs asked for already, or for the pause after a failed one"
        )
    return "no day's rows are read otherwise"


REFERENCE_SENSORS = [reference_changes]
