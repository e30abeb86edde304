"""Alerts: what is wrong now, what was, and what was sent to whom.

Here: the contracts of gold/alerts and its delivery log. Not here: when a row opens or closes (``alerting.lifecycle``).
"""

from __future__ import annotations

import pandera.polars as pa

from lims_platform.contracts.base import Table, UtcTime, column, table
from lims_platform.contracts.gold import RISK_LEVELS

STATES = ["open", "acknowledged", "resolved"]
DELIVERIES = ["pending", "held", "sent", "partly_sent", "failed", "not_configured"]
MESSAGE_EVENTS = ["sending", "sent", "deferred", "failed"]
#: What a receiver that keeps incidents was told of one it had opened.
INCIDENT_EVENTS = ["acknowledged", "resolved"]


class Alerts(pa.DataFrameModel):
    """One row per alert: a rule and a subject, from the moment it fired to its end. At most one unresolved row of a key."""

    alert_id: str = column("SHA-256 of rule, subject and opening time, 32 hex digits")
    rule: str = column("Rule of alert_rules.csv")
    subject: str = column("What it is about: a device, a device and analyte, a result's row_key, a job, a table")
    severity: str = column("LOW, MEDIUM, HIGH or CRITICAL", isin=RISK_LEVELS)
    state: str = column("open, acknowledged or resolved", isin=STATES)
    message: str = column("What is wrong, in words, with the value against its limit")
    device_id: str = column("The analyser, where there is one", nullable=True)
    row_keys: str = column("Rows it rests on, joined by ', '; pseudonymised keys only", nullable=True)
    value: float = column("The value that fired, in the rule's unit", nullable=True)
    limit: float = column("The limit it is held against", nullable=True)
    evidence_at: UtcTime = column("Time of the newest evidence")
    opened_at: UtcTime = column("First seen by the platform")
    acknowledged_at: UtcTime = column("When a person acknowledged it", nullable=True)
    note: str = column("That person's note, identifiers redacted", nullable=True)
    resolved_at: UtcTime = column("When it ended", nullable=True)
    resolution: str = column("Why it ended", nullable=True)
    delivery: str = column(
        "pending; held (re-opened within the cool-down); sent; partly_sent; failed; not_configured", isin=DELIVERIES
    )
    notified_at: UtcTime = column("When the first message about it was accepted by its receiver", nullable=True)
    delivery_note: str = column("Which target failed and why; never an address", nullable=True)
    dagster_run_id: str = column("Run to look at: the failed one, else the one that opened the alert", nullable=True)

    class Config:
        name = "alerts"
        strict = True


class AlertDeliveries(pa.DataFrameModel):
    """Append-only log of deliveries: one row per alert, target and event. sending without an end means a crash."""

    event_id: str = column("Identity of the event, 32 hex digits")
    at: UtcTime = column("When")
    notification_id: str = column("The message; the same number twice is the same message repeated")
    rule: str = column("Rule of alert_rules.csv")
    target: str = column("Channel and number of the target within it, e.g. email/1; never the address")
    alert_id: str = column("Alert the message speaks of")
    event: str = column(
        "sending, sent, deferred (to the next evaluation), failed (for good); acknowledged, resolved: the target was told",
        isin=[*MESSAGE_EVENTS, *INCIDENT_EVENTS],
    )
    reason: str = column("Why it was deferred or failed, or why the target could not be told", nullable=True)

    class Config:
        name = "alert_deliveries"
        strict = True


ALERTS: Table = table("gold", ("alert_id",), None, Alerts)
ALERT_DELIVERIES: Table = table("gold", ("event_id",), None, AlertDeliveries)
ALERT_TABLES: dict[str, Table] = {t.name: t for t in (ALERTS, ALERT_DELIVERIES)}
