"""Delivery with a log: every message goes out, and whoever looks can prove it.

Here: what is due, claims, outcomes, what the alert rows then say. Not here: the wire (``sending``), words (``messages``).

Guarantee: at least once per alert and target, and exactly once unless the process dies between the receiver's
acceptance and the log. Before a message is sent its alerts are claimed in gold/alert_deliveries ("sending"), after it
the outcome is written. A claim without an outcome older than CLAIM is a crash: the same message, with the same number,
goes out again and says that it may be a repeat. Claims are Delta commits that carry one app transaction: of two
processes only one wins, so the schedule and the failure sensor never send the same alert both.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from lims_platform.alerting.messages import compose
from lims_platform.alerting.rules import Rule
from lims_platform.alerting.sending import Sender, SendError, send_with_retry
from lims_platform.alerting.store import append, read, update
from lims_platform.alerting.targets import Target
from lims_platform.contracts.alerts import ALERT_DELIVERIES, ALERTS, MESSAGE_EVENTS
from lims_platform.lakehouse.digest import row_digests
from lims_platform.lakehouse.lake import Lake

LOG = logging.getLogger(__name__)
#: A claim without outcome is taken for a crash after this; longer than all tries of one message together.
CLAIM = timedelta(minutes=10)
#: A message its target has not accepted within this time has failed for good.
GIVE_UP = timedelta(hours=24)
UTC_TIME = pl.Datetime("us", "UTC")
#: What a row of the log is about.
LOGGED = ["alert_id", "rule", "target", "notification_id"]

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Claim:
    """Alerts of one rule that this process, and no other, now sends to one target."""

    rule: Rule
    target: Target
    alerts: pl.DataFrame
    log_rows: pl.DataFrame
    repeat: bool
    first_tried: datetime

    @property
    def notification_id(self) -> str:
        """The message's number."""
        return str(self.log_rows["notification_id"][0])


def standings(log: pl.DataFrame) -> pl.DataFrame:
    """Per alert and target how its message stands: alert_id, target, notification_id, event, at, reason, first_tried."""
    return (
        log.filter(pl.col("event").is_in(MESSAGE_EVENTS))
        .sort("at", pl.col("event") != "sending", maintain_order=True)
        .group_by("alert_id", "target", maintain_order=True)
        .agg(pl.col("notification_id", "event", "at", "reason").last(), first_tried=pl.col("at").first())
    )


def due(alerts: pl.DataFrame, log: pl.DataFrame, receivers: pl.DataFrame, now: datetime, started: datetime) -> pl.DataFrame:
    """Pending alerts by target that must be sent now: alert_id, rule, target, notification_id (null: new), repeat, …

    receivers: rule, target. What was deferred since ``started`` waits for the next evaluation; what another process
    claimed less than CLAIM ago is its business.
    """
    wanted = alerts.filter(pl.col("delivery") == "pending").select("alert_id", "rule", "opened_at")
    state = wanted.join(receivers, on="rule").join(standings(log), on=["alert_id", "target"], how="left")
    crashed = (pl.col("event") == "sending") & (pl.col("at") <= pl.lit(now - CLAIM).cast(UTC_TIME))
    deferred = (pl.col("event") == "deferred") & (pl.col("at") < pl.lit(started).cast(UTC_TIME))
    return (
        state.filter(pl.col("event").is_null() | crashed | deferred)
        .with_columns(repeat=crashed.fill_null(False), first_tried=pl.coalesce("first_tried", pl.lit(now).cast(UTC_TIME)))
        .sort("opened_at", "rule", "target", "notification_id", "alert_id", nulls_last=True)
    )


def _receivers(rules: Sequence[Rule], targets: Mapping[str, list[Target]]) -> pl.DataFrame:
    rows = [(r.name, t.name) for r in rules for channel in r.channels for t in targets.get(channel, [])]
    return pl.DataFrame(rows, schema={"rule": pl.String, "target": pl.String}, orient="row").unique(maintain_order=True)


def log_events(rows: pl.DataFrame, at: datetime, event: str, reason: str | None = None) -> pl.DataFrame:
    """Log rows of alerts (alert_id, rule, target, notification_id)."""
    full = rows.with_columns(at=pl.lit(at).cast(UTC_TIME), event=pl.lit(event), reason=pl.lit(reason, pl.String))
    identity = row_digests(full, ["alert_id", "target", "notification_id", "event", "at"])
    return full.with_columns(event_id=identity).select(list(ALERT_DELIVERIES.dtypes))


def deliver(
    lake: Lake,
    rules: Sequence[Rule],
    targets: Mapping[str, list[Target]],
    dagster_url: str,
    clock: Clock = utc_now,
    sender: Sender = send_with_retry,
) -> dict[str, int]:
    """Send every pending alert to every target of its rule's channels; returns messages by outcome.

    ``sender`` raises SendError for what was not accepted. Whatever dies in here, the next call goes on where it stopped.
    """
    receivers = _receivers(rules, targets)
    _say_once(lake, receivers)
    started, outcomes = clock(), {"sent": 0, "deferred": 0, "failed": 0}
    while (claim := _claim(lake, rules, targets, receivers, clock(), started)) is not None:
        event, reason = _sent(claim, dagster_url, sender, clock)
        write_log(lake, log_events(claim.log_rows, clock(), event, reason))
        outcomes[event] += 1
    update(lake, ALERTS, lambda alerts: reported(alerts, read(lake, ALERT_DELIVERIES), rules, receivers))
    return outcomes


def _say_once(lake: Lake, receivers: pl.DataFrame) -> None:
    pending = read(lake, ALERTS).filter(pl.col("delivery") == "pending")
    silent = pending.join(receivers, on="rule", how="anti").height
    if silent:
        LOG.warning(
            "%d new alerts are rows of gold/alerts only, nobody is told: LIMS_ALERT_TARGETS has no target of their channels",
            silent,
        )


def _claim(
    lake: Lake,
    rules: Sequence[Rule],
    targets: Mapping[str, list[Target]],
    receivers: pl.DataFrame,
    now: datetime,
    started: datetime,
) -> Claim | None:
    """The next message, claimed in the log; None where nothing is due."""
    batch = pl.DataFrame()

    def build(log: pl.DataFrame) -> pl.DataFrame:
        nonlocal batch
        waiting = due(read(lake, ALERTS), log, receivers, now, started)
        if waiting.is_empty():
            batch = waiting
            return log.clear()
        first = waiting.head(1).select("rule", "target", "notification_id")
        batch = waiting.join(first, on=["rule", "target", "notification_id"], how="semi", nulls_equal=True)
        number = batch.group_by("rule", "target").agg(ids=pl.col("alert_id").sort().str.join(","))
        new = row_digests(number, ["rule", "target", "ids"])[0]
        batch = batch.with_columns(pl.col("notification_id").fill_null(new))
        return log_events(batch.select(LOGGED), now, "sending")

    append(lake, ALERT_DELIVERIES, build)
    if batch.is_empty():
        return None
    alerts = read(lake, ALERTS).join(batch.select("alert_id"), on="alert_id", how="semi", maintain_order="left")
    rule = next(r for r in rules if r.name == batch["rule"][0])
    target = next(t for group in targets.values() for t in group if t.name == batch["target"][0])
    first_tried = batch.select(pl.col("first_tried").min()).item()
    return Claim(rule, target, alerts, batch.select(LOGGED), bool(batch["repeat"].any()), first_tried)


def write_log(lake: Lake, rows: pl.DataFrame) -> None:
    """Add finished rows to gold/alert_deliveries."""
    append(lake, ALERT_DELIVERIES, lambda _: rows)


def _sent(claim: Claim, dagster_url: str, sender: Sender, clock: Clock) -> tuple[str, str | None]:
    """Send one claimed message: its log event and reason."""
    message = compose(claim.rule, claim.alerts, claim.notification_id, dagster_url, claim.repeat)
    try:
        sender(claim.target, message)
    except SendError as error:
        late = clock() - claim.first_tried >= GIVE_UP
        event = "deferred" if error.transient and not late else "failed"
        reason = f"given up after {GIVE_UP.total_seconds() / 3600:g} h: {error}" if error.transient and late else str(error)
        LOG.warning("%s: message %s was %s: %s", claim.target.name, claim.notification_id[:12], event, reason)
        return event, reason
    return "sent", None


def reported(alerts: pl.DataFrame, log: pl.DataFrame, rules: Sequence[Rule], receivers: pl.DataFrame) -> pl.DataFrame:
    """gold/alerts with what the log says of its pending rows; derived, so that a crash before it changes nothing."""
    state = standings(log)
    wanted = alerts.select("alert_id", "rule").join(receivers, on="rule").join(state, on=["alert_id", "target"], how="left")
    failed = pl.col("event") == "failed"
    per_alert = wanted.group_by("alert_id").agg(
        unfinished=(~pl.col("event").is_in(["sent", "failed"]).fill_null(False)).any(),
        some_sent=(pl.col("event") == "sent").any(),
        some_failed=failed.any(),
        trouble=pl.format("{}: {}", "target", "reason").filter(failed).sort().str.join("; "),
    )
    told = log.filter(pl.col("event") == "sent").group_by("alert_id").agg(told=pl.col("at").min())
    silent = _silent_channels(rules, receivers)
    joined = (
        alerts.join(per_alert, on="alert_id", how="left", maintain_order="left")
        .join(told, on="alert_id", how="left", maintain_order="left")
        .join(silent, on="rule", how="left", maintain_order="left")
    )
    outcome = (
        pl.when(pl.col("delivery") != "pending").then("delivery")
        .when(pl.col("unfinished").is_null()).then(pl.lit("not_configured"))
        .when(pl.col("unfinished")).then(pl.lit("pending"))
        .when(~pl.col("some_failed")).then(pl.lit("sent"))
        .when(pl.col("some_sent")).then(pl.lit("partly_sent"))
        .otherwise(pl.lit("failed"))
    )  # fmt: skip
    note = pl.concat_str(pl.when(pl.col("trouble") != "").then("trouble"), "silent", separator="; ", ignore_nulls=True)
    pending = pl.col("delivery") == "pending"
    return joined.with_columns(
        notified_at=pl.coalesce("notified_at", "told"),
        delivery_note=pl.when(pending).then(pl.when(note != "").then(note)).otherwise("delivery_note"),
        delivery=outcome,
    ).select(list(ALERTS.dtypes))


def _silent_channels(rules: Sequence[Rule], receivers: pl.DataFrame) -> pl.DataFrame:
    """rule, silent: the channels of the rule no target is configured for."""
    pairs = pl.DataFrame(
        [(r.name, c) for r in rules for c in r.channels], schema={"rule": pl.String, "channel": pl.String}, orient="row"
    )
    known = receivers.select("rule", channel=pl.col("target").str.replace(r"/[0-9]+$", ""))
    absent = pairs.join(known, on=["rule", "channel"], how="anti", maintain_order="left")
    return absent.group_by("rule", maintain_order=True).agg(
        silent=pl.lit("no target for ") + pl.col("channel").str.join(", ")
    )
