"""What people read: one message for all alerts of a rule that go to one target at a time.

Here: words and links. Not here: when (``lifecycle``), how it travels (``delivery``).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from lims_platform.alerting.conditions import CONDITIONS
from lims_platform.alerting.rules import Rule
from lims_platform.contracts.tables import TABLES

#: Alerts a message spells out; the rest is counted.
SPELLED_OUT = 20


@dataclass(frozen=True)
class Message:
    """One message: its number (repeated with the message), how grave, subject line and text."""

    notification_id: str
    severity: str
    title: str
    body: str


def compose(rule: Rule, alerts: pl.DataFrame, notification_id: str, dagster_url: str, repeat: bool = False) -> Message:
    """One digest of the rule's ``alerts`` (contract Alerts, at least one), furthest from its limit first."""
    beyond = pl.coalesce((pl.col("value") - pl.col("limit")).abs() / pl.col("limit").abs(), pl.col("value").abs())
    ordered = alerts.sort(beyond, "subject", descending=[True, False], nulls_last=True)
    count = "" if alerts.height == 1 else f" ({alerts.height})"
    lines = ["(This may be a repeat: the platform stopped while it was sending.)", ""] if repeat else []
    lines += _alert_lines(ordered.head(SPELLED_OUT))
    if alerts.height > SPELLED_OUT:
        lines.append(f"• and {alerts.height - SPELLED_OUT} more in the table gold/alerts")
    lines += ["", f"What to do: {rule.action}.", *_links(rule, ordered, dagster_url)]
    which = ordered["alert_id"][0][:8] if alerts.height == 1 else rule.name
    lines += [f"When somebody has taken care: python -m lims_platform alerts ack {which}"]
    lines += ["", f"Rule {rule.name}; message {notification_id[:12]}"]
    return Message(notification_id, rule.severity, f"{rule.severity}: {rule.title}{count}", "\n".join(lines))


def _alert_lines(alerts: pl.DataFrame) -> list[str]:
    ended = pl.when(pl.col("state") == "resolved").then(pl.lit(" (already over)")).otherwise(pl.lit(""))
    unnamed = pl.col("row_keys").is_not_null() & ~pl.col("message").str.contains(pl.col("row_keys"), literal=True)
    rows = pl.when(unnamed).then(pl.lit("\n   rows: ") + pl.col("row_keys")).otherwise(pl.lit(""))
    return (
        alerts.select(pl.format("• [{}] {}{}{}", pl.col("alert_id").str.head(8), "message", ended, rows))
        .to_series()
        .to_list()
    )


def _links(rule: Rule, alerts: pl.DataFrame, dagster_url: str) -> list[str]:
    table = CONDITIONS[rule.condition].tables[0]
    base = dagster_url.rstrip("/")
    runs = alerts["dagster_run_id"].drop_nulls().unique(maintain_order=True).head(3)
    links = [f"Run: {base}/runs/{run}" for run in runs]
    if table in TABLES:
        links.append(f"Table: {base}/assets/{TABLES[table].path}")
    return links
