"""Alert rules as typed rows, and what testing one gives.

Here: Rule, Evaluation, the frame of findings, reading rules. Not here: the tests themselves (``results``, ``devices``,
``platform_health``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC as UTC_ZONE
from datetime import date, datetime, timedelta

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.contracts.source import UTC

#: Tables a condition reads, by name; a table that was never written is not in it.
Tables = Mapping[str, pl.LazyFrame]

FINDING_SCHEMA: dict[str, pl.DataType] = {
    "subject": pl.String(),
    "message": pl.String(),
    "device_id": pl.String(),
    "row_keys": pl.String(),
    "value": pl.Float64(),
    "limit": pl.Float64(),
    "evidence_at": UTC,
    "dagster_run_id": pl.String(),
}
#: Keys of rows an alert names; the rest is counted.
NAMED_ROWS = 10


class AlertRuleError(ValueError):
    """A row of alert_rules.csv cannot be evaluated; the message names rule and column."""


@dataclass(frozen=True)
class Rule:
    """One row of alert_rules.csv; what the numbers mean is the condition's business."""

    name: str
    condition: str
    severity: str
    channels: tuple[str, ...]
    cooldown: timedelta
    waits_for_person: bool
    title: str
    action: str
    limit: float | None = None
    below: float | None = None
    least: float | None = None
    among: tuple[str, ...] = ()
    window_hours: float | None = None

    def number(self, column: str) -> float:
        """A number the condition cannot do without; AlertRuleError names the empty cell."""
        value: float | None = getattr(self, column)
        if value is None:
            raise AlertRuleError(f"alert_rules.csv, rule {self.name}, column {column}: is empty, {self.condition} needs it")
        return value

    @property
    def window(self) -> timedelta:
        """How far back evidence counts."""
        return timedelta(hours=self.number("window_hours"))


@dataclass(frozen=True)
class Evaluation:
    """What testing a rule gave.

    ``findings`` (FINDING_SCHEMA) hold now, one per subject. ``settled`` are subjects that are positively over (a call
    recorded, a job that succeeded again). ``not_evaluable`` says why there is no verdict: alerts stay as they are;
    ``broken`` that the test itself failed.
    """

    findings: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=FINDING_SCHEMA))
    settled: pl.Series = field(default_factory=lambda: pl.Series("subject", [], dtype=pl.String))
    not_evaluable: str | None = None
    broken: bool = False


@dataclass(frozen=True)
class Situation:
    """What rules are tested on: the tables, the laboratory's limits, the moment (in the laboratory's ZoneInfo).

    ``open_subjects`` (rule, subject) are the alerts not yet resolved.
    """

    tables: Tables
    reference: Reference
    now: datetime
    open_subjects: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(schema={"rule": pl.String, "subject": pl.String})
    )

    @property
    def now_utc(self) -> pl.Expr:
        """The moment as a literal comparable with UTC columns."""
        return pl.lit(self.now.astimezone(UTC_ZONE)).cast(UTC)

    def clock(self, time: pl.Expr) -> pl.Expr:
        """A UTC time as people of the laboratory write it."""
        return time.dt.convert_time_zone(str(self.now.tzinfo)).dt.strftime("%Y-%m-%d %H:%M")


#: Tests a rule.
Condition = Callable[[Rule, Situation], Evaluation]


def _split(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(";") if part.strip())


def read_rules(table: pl.DataFrame) -> list[Rule]:
    """The enabled rows of alert_rules.csv, in file order. AlertRuleError for a negative time or a rule without channel."""
    rules = []
    for row in table.filter(pl.col("enabled")).iter_rows(named=True):
        for column in ("cooldown_hours", "window_hours"):
            if (row[column] or 0) < 0:
                raise AlertRuleError(f"alert_rules.csv, rule {row['rule']}, column {column}: {row[column]} is negative")
        rules.append(
            Rule(
                name=row["rule"],
                channels=_split(row["channels"]),
                cooldown=timedelta(hours=row["cooldown_hours"]),
                waits_for_person=row["closes"] == "when_acknowledged",
                among=_split(row["among"]),
                **{
                    c: row[c]
                    for c in ("condition", "severity", "title", "action", "limit", "below", "least", "window_hours")
                },
            )
        )
    return rules


def findings(frame: pl.DataFrame, **columns: pl.Expr) -> pl.DataFrame:
    """``frame`` as findings: ``columns`` are expressions of FINDING_SCHEMA, absent ones null; one row per subject."""
    given = {name: columns.get(name, pl.lit(None)).cast(dtype) for name, dtype in FINDING_SCHEMA.items()}
    return frame.select(**given).unique("subject", keep="last", maintain_order=True)


def joined_keys(keys: pl.Expr) -> pl.Expr:
    """Aggregation: the first NAMED_ROWS keys as one text, and how many more there are."""
    more = keys.len().cast(pl.Int64) - NAMED_ROWS
    rest = pl.when(more > 0).then(pl.lit(" and ") + more.cast(pl.String) + " more").otherwise(pl.lit(""))
    return keys.head(NAMED_ROWS).str.join(", ") + rest


def shown(value: pl.Expr, decimals: int = 1) -> pl.Expr:
    """A number as text for people."""
    return value.round(decimals).cast(pl.String)


def newest_rows(
    frame: pl.LazyFrame, by: list[str], rule: Rule, now: datetime, usable: pl.Expr | None = None
) -> pl.DataFrame | str:
    """Per ``by`` the newest usable row of a daily table within the rule's window; or why it says nothing about now."""
    first: date = (now - rule.window).date()
    recent = frame.filter(pl.col("as_of_date").is_between(first, now.date())).collect()
    if recent.is_empty():
        return f"the table has no row of {first} or later"
    chosen = recent if usable is None else recent.filter(usable)
    return chosen.sort("as_of_date").unique(by, keep="last", maintain_order=True)


def day_time(day: pl.Expr) -> pl.Expr:
    """The evidence time of a daily row: its date, midnight UTC."""
    return day.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
