"""Alert assets: what is wrong now, and what was sent to whom. Here: inputs and metadata. Not here: rules (``alerting``)."""

from datetime import datetime, timedelta
from typing import Any

import dagster as dg

from lims_platform.alerting.conditions import CONDITIONS
from lims_platform.alerting.delivery import deliver
from lims_platform.alerting.desk import Report, evaluate_alerts
from lims_platform.alerting.incidents import follow
from lims_platform.alerting.rules import read_rules
from lims_platform.alerting.targets import load_targets
from lims_platform.assets.common import CODE_VERSION, ONE_RUN, OWNERS, asset_key, column_schema
from lims_platform.assets.run_facts import finished_runs, readings
from lims_platform.contracts.reference import Reference
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import settings

RULES_CHECK = "every_rule_tested"


def evaluate_now(
    instance: dg.DagsterInstance, lake: Lake, reference: Reference, run_id: str | None, only: str | None = None
) -> Report:
    """Test the rules at this moment, with what ``instance`` knows of runs and readings."""
    now, rules = datetime.now(settings().zone), read_rules(reference.alert_rules)
    runs_back = max((r.window for r in rules if r.condition == "pipeline_failure"), default=timedelta(0))
    tolerance = max((timedelta(hours=r.number("limit")) for r in rules if r.condition == "freshness"), default=timedelta(0))
    facts = {"runs": finished_runs(instance, now - runs_back), "readings": readings(instance, now, tolerance)}
    return evaluate_alerts(lake, rules, reference, facts, now, run_id, settings().critical_notifications, only)


def deliver_now(lake: Lake, reference: Reference) -> dict[str, int]:
    """Send what is pending, then acknowledge and resolve what was sent; messages and incidents by outcome."""
    targets = load_targets(settings().alert_targets)
    messages = deliver(lake, read_rules(reference.alert_rules), targets, settings().dagster_url)
    told = {f"incidents_{state}": count for state, count in follow(lake, targets).items()}
    return {f"messages_{outcome}": count for outcome, count in messages.items()} | told


def _alert_asset(name: str, **extra: Any) -> dict[str, Any]:
    table = TABLES[name]
    return {
        "key": asset_key(name),
        "group_name": "alerts",
        "description": table.description,
        "kinds": {"polars", "deltalake"},
        "owners": [OWNERS["gold"]],
        "tags": {"layer": table.layer},
        "code_version": CODE_VERSION,
        "backfill_policy": ONE_RUN,
        "metadata": {"dagster/column_schema": column_schema(table), "dagster/table_name": f"{table.layer}.{table.name}"},
        **extra,
    }


_READ = sorted({name for condition in CONDITIONS.values() for name in condition.tables if name in TABLES})


@dg.asset(
    **_alert_asset(
        "alerts",
        deps=[asset_key(name) for name in _READ],
        check_specs=[
            dg.AssetCheckSpec(RULES_CHECK, asset=asset_key("alerts"), description="No alert rule failed to be tested.")
        ],
    )
)
def alerts(
    context: dg.AssetExecutionContext, lake: dg.ResourceParam[Lake], reference: dg.ResourceParam[Reference]
) -> dg.MaterializeResult:
    report = evaluate_now(context.instance, lake, reference, context.run_id)
    verdicts = "\n".join(f"- **{name}**: {verdict}" for name, verdict in report.verdicts.items())
    counts = {"opened": report.opened, "resolved": report.resolved, "unresolved": report.unresolved}
    check = dg.AssetCheckResult(
        check_name=RULES_CHECK,
        passed=not report.broken,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"broken_rules": ", ".join(report.broken) or "none"},
    )
    return dg.MaterializeResult(metadata={**counts, "rules": dg.MetadataValue.md(verdicts)}, check_results=[check])


@dg.asset(**_alert_asset("alert_deliveries", deps=[asset_key("alerts")]))
def alert_deliveries(lake: dg.ResourceParam[Lake], reference: dg.ResourceParam[Reference]) -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata=deliver_now(lake, reference))


ALERT_ASSETS = [alerts, alert_deliveries]
