"""Named conditions: what the data starts, once the clock has opened a window (docs/adr/0004).

Here: when an asset's day is due and when its inputs are complete and checked, across runs. Not here: which clock time opens
which window (``plan``), what the clock starts by itself (``schedules``), what a change at the source starts (``sensors``).

Every condition is named by a label that the Dagster UI shows on the asset's automation page:

- ``due``: the asset's day is over, its window has opened, and nothing was written since the day ended.
- ``inputs_complete``: no day of an input that the day looks back over is missing, and the newest of them were written
  after they ended by a run in which every blocking check of the input passed.
- ``once_due``: due with complete inputs, asked for once; a failed run is asked for again only when an input is rewritten.
- ``late_changes``: an input of a finished day was written again (late, amended, moved, otherwise read rows), so the day is
  done again.
- ``follows_inputs``: an unpartitioned report is redrawn when what it shows was written.

``due``, ``inputs_complete`` and ``late_changes`` look at the event log, not at their own past: an outage loses no trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.asset_graph_view.entity_subset import EntitySubset
from dagster._core.definitions.declarative_automation.operands.subset_automation_condition import SubsetAutomationCondition
from dagster._record import record

from lims_platform.automation.windows import Window, day_end
from lims_platform.automation.written import checks_passed, last_written, last_written_whole, rewritten

Condition = dg.AutomationCondition


def _closed_days(keys: Sequence[str], at: datetime, zone: ZoneInfo) -> list[date]:
    """Days of partition keys that were over at ``at``, oldest first."""
    return [day for day in sorted(map(date.fromisoformat, keys)) if day_end(day, zone) <= at]


@record
class Due(SubsetAutomationCondition[dg.AssetKey]):
    """True for those of the last ``days_back`` days whose window has opened and that were not written since they ended.

    An asset without days is due when it was not written since the window's last opening.
    """

    window: Window
    days_back: int

    @property
    def name(self) -> str:
        """Part of the cursor's key: stable while the window and the reach stay the same."""
        return f"due({self.window}, last {self.days_back} days)"

    @property
    def description(self) -> str:
        """What the UI shows."""
        return f"its day is over, the window ({self.window}) has opened, and it was not written since"

    def compute_subset(self, context: dg.AutomationContext) -> EntitySubset:
        view, key, at = context.asset_graph_view, context.key, context.evaluation_time
        if context.partitions_def is None:
            written = last_written_whole(view.instance, key)
            due = written is None or written.at < self.window.last_opening(at)
            return context.candidate_subset if due else context.get_empty_subset()
        zone = self.window.zone
        oldest = at.astimezone(zone).date() - timedelta(days=self.days_back)
        days = map(date.fromisoformat, context.candidate_subset.expensively_compute_partition_keys())
        opened = [day for day in days if day >= oldest and self.window.opens_for(day) <= at]
        written_at = last_written(view.instance, key, opened)
        due_days = {d.isoformat() for d in opened if d not in written_at or written_at[d].at < day_end(d, zone)}
        return view.get_subset_from_partition_keys(key, context.partitions_def, due_days)


@record
class Incomplete(SubsetAutomationCondition[dg.AssetKey]):
    """Of an input: true for the days that are over and may not be read yet.

    Those never written; and of the newest ``days_back`` candidates those not written since they ended, or written by a run
    in which a blocking check of the input failed or was left out. A register (no days) is incomplete when it was never
    written, or by a run in which a blocking check of it failed.
    """

    zone: ZoneInfo
    days_back: int

    @property
    def name(self) -> str:
        """Part of the cursor's key."""
        return f"incomplete({self.zone.key}, newest {self.days_back} days)"

    @property
    def description(self) -> str:
        """What the UI shows."""
        return "a day that is over was never written, not since it ended, or without its blocking checks passing"

    async def compute_subset(self, context: dg.AutomationContext) -> EntitySubset:  # type: ignore[override]
        view, key = context.asset_graph_view, context.key
        blocking = [k for k in context.asset_graph.get(key).check_keys if context.asset_graph.get(k).blocking]
        if context.partitions_def is None:
            written = last_written_whole(view.instance, key)
            ready = written is not None and not _failed(view.instance, written.run_id, blocking)
            return context.get_empty_subset() if ready else context.candidate_subset
        closed = _closed_days(
            list(context.candidate_subset.expensively_compute_partition_keys()), context.evaluation_time, self.zone
        )
        keys = {day.isoformat() for day in closed}
        over = view.get_subset_from_partition_keys(key, context.partitions_def, keys)
        missing = await view.compute_missing_subset(key=key, from_subset=over)
        newest = closed[-self.days_back :]
        written_at = last_written(view.instance, key, newest)
        passed = {w.run_id: checks_passed(view.instance, w.run_id, blocking) for w in written_at.values()}
        stale = {d.isoformat() for d, w in written_at.items() if w.at < day_end(d, self.zone) or not passed[w.run_id]}
        return missing.compute_union(view.get_subset_from_partition_keys(key, context.partitions_def, stale))


@record
class Rewritten(SubsetAutomationCondition[dg.AssetKey]):
    """True for days that are over and were made before what an input holds now, on the day or one they look back over.

    Told by versions and events (``written.rewritten``), so nothing that happens between two evaluations is lost, in whatever
    order. A day whose run failed is true again when an input is written after that run was planned.
    """

    zone: ZoneInfo

    @property
    def name(self) -> str:
        """Part of the cursor's key."""
        return f"rewritten({self.zone.key})"

    @property
    def description(self) -> str:
        """What the UI shows."""
        return "its day is over, and an input was written again that no run of it was planned after"

    def compute_subset(self, context: dg.AutomationContext) -> EntitySubset:
        view, key = context.asset_graph_view, context.key
        if context.partitions_def is None:
            return context.get_empty_subset()
        keys = list(context.candidate_subset.expensively_compute_partition_keys())
        days = _closed_days(keys, context.evaluation_time, self.zone)
        node, found = context.asset_graph.get(key), set()
        for given in sorted(node.parent_keys):
            if context.asset_graph.get(given).partitions_def is not None:
                mapping = node.partition_mappings.get(given)
                back = -mapping.start_offset if isinstance(mapping, dg.TimeWindowPartitionMapping) else 0
                found |= rewritten(view.instance, key, given, days, back)
        return view.get_subset_from_partition_keys(key, context.partitions_def, {day.isoformat() for day in found})


def _failed(instance: dg.DagsterInstance, run_id: str, blocking: list[dg.AssetCheckKey]) -> bool:
    """Whether the run evaluated one of the checks and it failed."""
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    for entry in instance.get_records_for_run(run_id, of_type=kind).records:
        event = entry.event_log_entry.dagster_event
        if event is not None:
            found = event.asset_check_evaluation_data
            if dg.AssetCheckKey(found.asset_key, found.check_name) in blocking and not found.passed:
                return True
    return False


def inputs_complete(zone: ZoneInfo, days_back: int) -> Condition:
    """No input day the day looks back over is missing, unfinished or unchecked."""
    return (~Condition.any_deps_match(Incomplete(zone=zone, days_back=days_back))).with_label("inputs_complete")


def _not_running() -> Condition:
    return (~Condition.any_deps_in_progress() & ~Condition.in_progress()).with_label("nothing_running")


def once_due(window: Window, days_back: int) -> Condition:
    """In its window, when its inputs are complete: one request per day, none after a failure until an input is rewritten."""
    ready = Due(window=window, days_back=days_back).with_label("due") & inputs_complete(window.zone, days_back)
    handled = Condition.newly_requested() | Condition.newly_updated()
    return (ready.newly_true().since(handled) & _not_running()).with_label(f"once_due({window})")


def late_changes(zone: ZoneInfo, days_back: int) -> Condition:
    """A finished day whose input was written again is done again: for tables of current truth, not point-in-time ones."""
    changed = ~Condition.missing() & Rewritten(zone=zone).with_label("input_rewritten")
    waits = inputs_complete(zone, days_back) & _not_running()
    return (changed & waits).with_label("late_changes")


def follows_inputs(besides: dg.AssetSelection) -> Condition:
    """A report without days is redrawn after any of its inputs was written, once no run is writing them.

    ``besides``: inputs that are written too often to redraw a report for; what they hold is shown the next time.
    """
    updated = Condition.any_deps_updated().ignore(besides).since_last_handled()
    still = ~Condition.any_deps_in_progress().ignore(besides) & ~Condition.in_progress()
    return (updated & still).with_label("follows_inputs")
