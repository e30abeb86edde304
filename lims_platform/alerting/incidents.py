"""Incidents follow their alerts: what a message opened at a receiver is acknowledged and resolved there too.

Here: which incidents are behind their alerts, and the log of what their receiver was told. Not here: the wire
(``sending``), messages (``delivery``).

A message is one incident, known by the message's number. It is resolved once all of its alerts are, and acknowledged
once none of them is open any more. Telling a receiver twice changes nothing there, so nothing is claimed before: a crash
between its acceptance and the log is followed by the same word again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta

import polars as pl

from lims_platform.alerting.delivery import LOGGED, UTC_TIME, Clock, log_events, utc_now, write_log
from lims_platform.alerting.sending import SendError, tell_with_retry
from lims_platform.alerting.store import read
from lims_platform.alerting.targets import Target
from lims_platform.contracts.alerts import ALERT_DELIVERIES, ALERTS
from lims_platform.lakehouse.lake import Lake

LOG = logging.getLogger(__name__)
#: A receiver that cannot be reached is told at every evaluation for so long after the alerts changed.
FOLLOWED = timedelta(days=7)
#: What the receiver is told, by the state of the incident's alerts.
ACTIONS = {"acknowledged": "acknowledge", "resolved": "resolve"}

Teller = Callable[[Target, str, str], None]


def behind(alerts: pl.DataFrame, log: pl.DataFrame, targets: list[str]) -> pl.DataFrame:
    """Incidents whose receiver knows less than gold/alerts: target, notification_id, state, changed_at, oldest first.

    alerts, log: contracts Alerts and AlertDeliveries; ``targets``: names of those that keep incidents. An incident with
    an alert that is still open, or that is no longer in the table, is left as it is.
    """
    of_target = log.filter(pl.col("target").is_in(targets))
    sent = of_target.filter(pl.col("event") == "sent").select("target", "notification_id", "alert_id").unique()
    told = of_target.filter(pl.col("event").is_in(list(ACTIONS))).group_by("target", "notification_id").agg(told="event")
    state = sent.join(alerts.select("alert_id", "state", "acknowledged_at", "resolved_at"), on="alert_id", how="left")
    resolved = pl.col("state") == "resolved"
    return (
        state.group_by("target", "notification_id")
        .agg(
            state=pl.when(resolved.all()).then(pl.lit("resolved")).otherwise(pl.lit("acknowledged")),
            closed=pl.col("state").is_in(["acknowledged", "resolved"]).fill_null(False).all(),
            changed_at=pl.max_horizontal("acknowledged_at", "resolved_at").max(),
        )
        .join(told, on=["target", "notification_id"], how="left")
        .filter("closed", ~pl.col("told").list.contains(pl.col("state")).fill_null(False))
        .select("target", "notification_id", "state", "changed_at")
        .sort("changed_at", "target", "notification_id")
    )


def follow(
    lake: Lake, targets: Mapping[str, list[Target]], clock: Clock = utc_now, teller: Teller = tell_with_retry
) -> dict[str, int]:
    """Acknowledge and resolve the incidents that are behind; returns the number of incidents by state told.

    ``teller`` raises SendError for what was not accepted: for good stands in the log, for now is tried at the next
    evaluation.
    """
    keepers = {t.name: t for group in targets.values() for t in group if t.keeps_incidents}
    counts = dict.fromkeys(ACTIONS, 0)
    if not keepers:
        return counts
    log = read(lake, ALERT_DELIVERIES)
    since = pl.lit(clock() - FOLLOWED).cast(UTC_TIME)
    due = behind(read(lake, ALERTS), log, list(keepers)).filter(pl.col("changed_at") >= since)
    away: set[str] = set()
    for target, number, state, _ in due.iter_rows():
        if target in away:
            continue  # a receiver that cannot be reached is not waited for once per incident
        try:
            teller(keepers[target], number, ACTIONS[state])
        except SendError as error:
            LOG.warning("%s: incident %s was not %s: %s", target, number[:12], state, error)
            if error.transient:
                away.add(target)
                continue
            reason: str | None = str(error)
        else:
            reason = None
            counts[state] += 1
        mine = (pl.col("target") == target) & (pl.col("notification_id") == number) & (pl.col("event") == "sent")
        write_log(lake, log_events(log.filter(mine).select(LOGGED), clock(), state, reason))
    return counts
