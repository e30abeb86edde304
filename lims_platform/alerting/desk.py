"""The alert desk: evaluate, deliver, list, acknowledge, over the lake.

Here: which tables rules see and the order of steps. Not here: any step's content, Dagster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl

from lims_platform.alerting.conditions import CONDITIONS, evaluate
from lims_platform.alerting.lifecycle import acknowledge, named, transition
from lims_platform.alerting.rules import Evaluation, Rule, Situation, Tables
from lims_platform.alerting.store import read, update
from lims_platform.contracts.alerts import ALERTS
from lims_platform.contracts.reference import Reference
from lims_platform.contracts.source import UTC
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake

_UNRESOLVED = pl.col("state") != "resolved"


class NotificationsError(ValueError):
    """The list of calls cannot be used; the message names file, line and column."""


@dataclass(frozen=True)
class Report:
    """What an evaluation did: alerts opened and resolved, alerts now unresolved, and each rule's verdict in words."""

    opened: int
    resolved: int
    unresolved: int
    verdicts: dict[str, str]
    broken: list[str]


def lake_tables(lake: Lake) -> Tables:
    """The lake tables any condition reads, those that were ever written."""
    names = {name for condition in CONDITIONS.values() for name in condition.tables if name in TABLES}
    return {table.name: lake.scan(table) for table in lake.existing(TABLES[name] for name in sorted(names))}


def critical_notifications(path: Path) -> pl.LazyFrame:
    """The laboratory's list of calls made: result_id, notified_at (UTC). NotificationsError names the first bad cell."""
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise NotificationsError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    absent = [name for name in ("result_id", "notified_at") if name not in frame.columns]
    if absent:
        raise NotificationsError(f"{path}, line 1: column {', '.join(absent)} is missing")
    at = pl.col("notified_at").str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    frame = frame.with_row_index("line", offset=2).with_columns(at=at.cast(UTC))
    bad = frame.filter(pl.col("at").is_null() | pl.col("result_id").is_null())
    if bad.height:
        column = "result_id" if bad["result_id"][0] is None else "notified_at"
        raise NotificationsError(
            f"{path}, line {bad['line'][0]}, column {column}: must be a result and an ISO 8601 time with offset, "
            "e.g. 2026-03-01T10:15:00+01:00"
        )
    return frame.lazy().select("result_id", notified_at="at")


def evaluate_alerts(
    lake: Lake,
    rules: list[Rule],
    reference: Reference,
    facts: Mapping[str, pl.LazyFrame],
    now: datetime,
    run_id: str | None = None,
    notifications: Path | None = None,
    only: str | None = None,
) -> Report:
    """Test ``rules`` on the lake and on ``facts`` (frames that are no lake tables: runs, readings), commit what changed.

    ``now`` is in the laboratory's zone. Alerts of rules that are not among ``rules`` are resolved. ``only`` tests the
    rules of one condition and leaves all other alerts as they are. A list of calls that cannot be read counts as empty, and
    its rule as broken: better one call too many.
    """
    tables = {**lake_tables(lake), **facts}
    unusable = None
    if notifications is not None:
        try:
            tables["critical_notifications"] = critical_notifications(notifications)
        except NotificationsError as error:
            unusable = str(error)
    before = read(lake, ALERTS)
    open_subjects = before.filter(_UNRESOLVED).select("rule", "subject")
    evaluations = evaluate(rules, Situation(tables, reference, now, open_subjects), only)
    opened = resolved = 0

    def change(alerts: pl.DataFrame) -> pl.DataFrame:
        nonlocal opened, resolved
        after = transition(alerts, rules, evaluations, now, run_id)
        opened = after.height - alerts.height
        resolved = alerts.filter(_UNRESOLVED).height + opened - after.filter(_UNRESOLVED).height
        return after

    after = update(lake, ALERTS, change)
    verdicts = {name: _verdict(found) for name, found in evaluations.items()}
    broken = [name for name, found in evaluations.items() if found.broken]
    for rule in rules:
        if unusable is not None and rule.condition == "critical_result":
            verdicts[rule.name] += f", as if nobody had been called: {unusable}"
            broken.append(rule.name)
    return Report(opened, resolved, after.filter(_UNRESOLVED).height, verdicts, broken)


def _verdict(evaluation: Evaluation) -> str:
    if evaluation.not_evaluable is not None:
        return f"not evaluable: {evaluation.not_evaluable}"
    return f"{evaluation.findings.height} found"


def listing(lake: Lake, everything: bool = False) -> pl.DataFrame:
    """Unresolved alerts, the gravest and newest first; with ``everything`` the resolved ones too."""
    rank = pl.col("severity").replace_strict(["CRITICAL", "HIGH", "MEDIUM", "LOW"], [0, 1, 2, 3], return_dtype=pl.Int8)
    alerts = read(lake, ALERTS)
    shown = alerts if everything else alerts.filter(_UNRESOLVED)
    return shown.sort(
        _UNRESOLVED.not_(), rank, pl.col("opened_at"), "rule", "subject", descending=[False, False, True, False, False]
    )


def acknowledge_alerts(lake: Lake, name: str, note: str | None, now: datetime) -> pl.DataFrame:
    """Acknowledge the unresolved alert whose id begins with ``name``, or all of the rule ``name``; their rows afterwards.

    AlertError says why it cannot be.
    """
    chosen = pl.DataFrame()

    def change(alerts: pl.DataFrame) -> pl.DataFrame:
        nonlocal chosen
        chosen = named(alerts, name).select("alert_id")
        return acknowledge(alerts, name, note, now)

    after = update(lake, ALERTS, change)
    return after.join(chosen, on="alert_id", how="semi", maintain_order="left")


def alert_lines(alerts: pl.DataFrame, zone: ZoneInfo) -> str:
    """Alerts for a terminal, two lines each; times in the laboratory's zone."""
    lines = []
    for row in alerts.iter_rows(named=True):
        since = row["opened_at"].astimezone(zone)
        ended = f", {row['resolution']}" if row["resolution"] else ""
        told = f"{row['delivery']} ({row['delivery_note']})" if row["delivery_note"] else row["delivery"]
        lines.append(
            f"{row['alert_id'][:8]}  {row['severity']:<8} {row['state']:<12} since {since:%Y-%m-%d %H:%M}  {row['rule']}"
        )
        lines.append(f"          {row['message']}  [message: {told}{ended}]")
    return "\n".join(lines) or "no alerts"
