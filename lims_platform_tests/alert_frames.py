"""Small frames for the alert tests. Here: rows of a contract with only the columns a test speaks of. Not here: tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl

from lims_platform.alerting.conditions import evaluate
from lims_platform.alerting.rules import FINDING_SCHEMA, Evaluation, Rule, Situation, read_rules
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[1] / "data" / "reference")
RULES: dict[str, Rule] = {rule.name: rule for rule in read_rules(REFERENCE.alert_rules)}
BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 20, 12, 0, tzinfo=BERLIN)
TODAY = NOW.date()


def ago(**parts: float) -> datetime:
    """A UTC time before NOW."""
    return (NOW - timedelta(**parts)).astimezone(UTC)


def rows(table: str, *given: dict[str, Any]) -> pl.LazyFrame:
    """Rows of a lake table; columns not given are null."""
    return pl.DataFrame(list(given), schema=TABLES[table].dtypes).lazy()


def found(*subjects: str, at: datetime = NOW, **more: Any) -> Evaluation:
    """An evaluation that found these subjects."""
    values = [{"subject": s, "message": f"{s} is wrong", "evidence_at": at.astimezone(UTC), **more} for s in subjects]
    return Evaluation(pl.DataFrame(values, schema=FINDING_SCHEMA))


def rule(name: str = "r", **changes: Any) -> Rule:
    """A rule of no cool-down that closes when gone, unless said otherwise."""
    usual: dict[str, Any] = {
        "condition": "device_risk", "severity": "HIGH", "channels": ("email",), "cooldown": timedelta(0),
        "waits_for_person": False, "title": "Something", "action": "Look",
    }  # fmt: skip
    return Rule(name=name, **{**usual, **changes})


def evaluated(name: str, open_subjects: tuple[str, ...] = (), **tables: pl.LazyFrame) -> Evaluation:
    """The verdict of one shipped rule on these tables; ``open_subjects``: those of its unresolved alerts."""
    live = pl.DataFrame(
        {"rule": [name] * len(open_subjects), "subject": list(open_subjects)},
        schema={"rule": pl.String, "subject": pl.String},
    )
    given = Situation(tables, REFERENCE, NOW, live)
    result = evaluate([RULES[name]], given)[name]
    assert not result.broken, result.not_evaluable
    assert dict(result.findings.schema) == FINDING_SCHEMA
    return result


def subjects(name: str, **tables: pl.LazyFrame) -> list[str]:
    """What a shipped rule finds."""
    result = evaluated(name, **tables)
    assert result.not_evaluable is None
    return result.findings["subject"].to_list()
