"""The life of an alert: opened, kept, acknowledged, resolved; notified once, held back within the cool-down.

Here: pure functions from the table as it was and what rules found to the table as it is. Not here: tests of rules,
storage, sending. Invariants (property-tested): a key (rule, subject) has at most one unresolved row; a resolved row
never changes; a row becomes pending at most once; of one key no two rows become pending within the cool-down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl

from lims_platform.alerting.rules import FINDING_SCHEMA, Evaluation, Rule
from lims_platform.contracts.alerts import ALERTS
from lims_platform.lakehouse.digest import row_digests

_KEY = ["rule", "subject"]
_EVIDENCE = ["message", "device_id", "row_keys", "value", "limit", "evidence_at"]
_RUN = "dagster_run_id"
_UNRESOLVED = pl.col("state") != "resolved"

GONE = "the condition no longer holds"
SETTLED = "settled by later evidence"
SEEN = "acknowledged, and no longer current"
SWITCHED_OFF = "the rule was switched off or removed"


class AlertError(ValueError):
    """An acknowledgement that cannot be made; the message says why."""


def transition(
    alerts: pl.DataFrame,
    rules: Sequence[Rule],
    evaluations: Mapping[str, Evaluation],
    now: datetime,
    run_id: str | None = None,
) -> pl.DataFrame:
    """gold/alerts after an evaluation at ``now``; the same frame, row for row, where nothing changed.

    Unresolved alerts of a rule that was not evaluable stay as they are. A rule that waits for a person resolves an alert
    once it is acknowledged and gone, or settled by evidence; any other resolves it as soon as it is gone.
    """
    at = pl.lit(now.astimezone(UTC)).cast(pl.Datetime("us", "UTC"))
    found = _findings(evaluations)
    rule_table = _rule_table(rules, evaluations)
    joined = alerts.join(rule_table, on="rule", how="left", maintain_order="left").join(
        found.select(*_KEY, *[pl.col(c).alias(f"new_{c}") for c in (*_EVIDENCE, _RUN)], here=pl.lit(True)),
        on=_KEY, how="left", maintain_order="left",
    ).join(_settled(evaluations), on=_KEY, how="left", maintain_order="left")  # fmt: skip
    here, settled = pl.col("here").fill_null(False), pl.col("settled").fill_null(False)
    seen = pl.col("state") == "acknowledged"
    ended = (
        pl.when(~_UNRESOLVED).then(pl.lit(None, pl.String))
        .when(pl.col("evaluated").is_null()).then(pl.lit(SWITCHED_OFF))
        .when(~pl.col("evaluated") | here).then(pl.lit(None, pl.String))
        .when(settled).then(pl.lit(SETTLED))
        .when(~pl.col("waits")).then(pl.lit(GONE))
        .when(seen).then(pl.lit(SEEN))
    )  # fmt: skip
    keeps = _UNRESOLVED & here & pl.col("evaluated").fill_null(False)
    kept = joined.with_columns(ended=ended).with_columns(
        *[pl.when(keeps).then(f"new_{c}").otherwise(c).alias(c) for c in _EVIDENCE],
        # a finding names its own run only where the run is what it is about: the newest failed one
        dagster_run_id=pl.when(keeps).then(pl.coalesce(f"new_{_RUN}", _RUN)).otherwise(_RUN),
        state=pl.when(pl.col("ended").is_not_null()).then(pl.lit("resolved")).otherwise("state"),
        resolved_at=pl.when(pl.col("ended").is_not_null()).then(at).otherwise("resolved_at"),
        resolution=pl.coalesce("resolution", "ended"),
    )
    kept = kept.select(list(ALERTS.dtypes))
    fresh = found.join(kept.filter(_UNRESOLVED), on=_KEY, how="anti")
    both = pl.concat([kept, _opened(fresh, rules, at, run_id)])
    return _released(both, rule_table, at)


def _rule_table(rules: Sequence[Rule], evaluations: Mapping[str, Evaluation]) -> pl.DataFrame:
    rows = [(r.name, r.waits_for_person, r.cooldown, evaluations[r.name].not_evaluable is None) for r in rules]
    schema = {"rule": pl.String(), "waits": pl.Boolean(), "cooldown": pl.Duration("us"), "evaluated": pl.Boolean()}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _findings(evaluations: Mapping[str, Evaluation]) -> pl.DataFrame:
    frames = [e.findings.with_columns(rule=pl.lit(name)) for name, e in evaluations.items()]
    return pl.concat(frames) if frames else pl.DataFrame(schema={**FINDING_SCHEMA, "rule": pl.String()})


def _settled(evaluations: Mapping[str, Evaluation]) -> pl.DataFrame:
    empty = pl.DataFrame(schema={"rule": pl.String, "subject": pl.String, "settled": pl.Boolean})
    named = [
        e.settled.unique().to_frame("subject").select(rule=pl.lit(name), subject="subject", settled=pl.lit(True))
        for name, e in evaluations.items()
    ]
    return pl.concat([empty, *named])


def _opened(fresh: pl.DataFrame, rules: Sequence[Rule], at: pl.Expr, run_id: str | None) -> pl.DataFrame:
    """Rows of findings without an unresolved alert; held until ``_released`` looks at the cool-down."""
    severity = {rule.name: rule.severity for rule in rules}
    rows = fresh.with_columns(
        opened_at=at,
        severity=pl.col("rule").replace_strict(severity, default=None, return_dtype=pl.String),
        state=pl.lit("open"),
        delivery=pl.lit("held"),
        dagster_run_id=pl.coalesce("dagster_run_id", pl.lit(run_id, pl.String)),
    )
    rows = rows.with_columns(alert_id=row_digests(rows, ["rule", "subject", "opened_at"]))
    rest = [pl.lit(None, dtype=t).alias(n) for n, t in ALERTS.dtypes.items() if n not in rows.columns]
    return rows.with_columns(rest).select(list(ALERTS.dtypes))


def _released(alerts: pl.DataFrame, rule_table: pl.DataFrame, at: pl.Expr) -> pl.DataFrame:
    """Held rows of open alerts become pending unless another row of the key was, or is to be, sent within the cool-down."""
    told = pl.col("notified_at").fill_null(pl.when(pl.col("delivery") == "pending").then(at))
    last = alerts.group_by(_KEY).agg(told=told.max())
    joined = alerts.join(last, on=_KEY, how="left", maintain_order="left").join(
        rule_table.select("rule", "cooldown"), on="rule", how="left", maintain_order="left"
    )
    cooled = (pl.col("told").is_null() | (pl.col("told") + pl.col("cooldown") <= at)).fill_null(False)
    due = (pl.col("state") == "open") & (pl.col("delivery") == "held") & cooled
    return joined.with_columns(delivery=pl.when(due).then(pl.lit("pending")).otherwise("delivery")).select(
        list(ALERTS.dtypes)
    )


def named(alerts: pl.DataFrame, name: str) -> pl.DataFrame:
    """The unresolved alert whose id begins with ``name``, or all unresolved alerts of the rule ``name``.

    AlertError if there is none, if several ids begin so, or if the only one is resolved.
    """
    of_rule = alerts.filter(_UNRESOLVED, pl.col("rule") == name)
    if of_rule.height:
        return of_rule
    rows = alerts.filter(pl.col("alert_id").str.starts_with(name)) if name else alerts.clear()
    if rows.height != 1:
        raise AlertError(f"{name!r}: {rows.height or 'no'} alerts begin so, and no rule of that name has an unresolved one")
    if rows["state"][0] == "resolved":
        raise AlertError(f"alert {name} is resolved since {rows['resolved_at'][0]:%Y-%m-%d %H:%M} UTC")
    return rows


def acknowledge(alerts: pl.DataFrame, name: str, note: str | None, now: datetime) -> pl.DataFrame:
    """The table with the alerts of ``name`` (see ``named``) acknowledged; acknowledging again adds a note."""
    mine = pl.col("alert_id").is_in(named(alerts, name)["alert_id"].implode())
    at = pl.lit(now.astimezone(UTC)).cast(pl.Datetime("us", "UTC"))
    added = pl.concat_str([pl.col("note"), pl.lit(note, pl.String)], separator="; ", ignore_nulls=True)
    return alerts.with_columns(
        state=pl.when(mine).then(pl.lit("acknowledged")).otherwise("state"),
        acknowledged_at=pl.when(mine).then(pl.coalesce("acknowledged_at", at)).otherwise("acknowledged_at"),
        note=pl.when(mine & pl.lit(note is not None)).then(added).otherwise("note"),
    )
