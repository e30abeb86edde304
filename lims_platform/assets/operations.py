"""Assets of the platform's own housekeeping: the reconciliation report. Not here: how days are compared (``reconcile``)."""

from typing import Any

import dagster as dg
import polars as pl

from lims_platform.assets.common import CODE_VERSION, ONE_RUN, OWNERS, asset_key, column_schema
from lims_platform.assets.door import Door
from lims_platform.assets.reconcile import counts, days_to_compare, reconcile, repaired_days, unrepaired
from lims_platform.contracts.source import SOURCE_TABLES
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.settings import settings

#: Metadata of a run that changed bronze: the days whose silver and gold are to be made again, ISO, joined by a comma.
REPAIRED_DAYS = "repaired_days"

#: Unrepaired days named in the check's metadata.
SHOWN = 20


class ReconcileConfig(dg.Config):
    """How far back to compare, counted from yesterday, and whether to repair."""

    days: int = settings().reconcile_nightly_days
    repair: bool = True


@dg.asset(
    key=asset_key("reconciliation_report"),
    group_name="keeping",
    description="Every source table's last days against bronze, by counts and digests; differences repaired and told.",
    kinds={"deltalake", "polars"},
    owners=[OWNERS["bronze"]],
    tags={"layer": "gold"},
    code_version=CODE_VERSION,
    backfill_policy=ONE_RUN,
    metadata={"dagster/column_schema": column_schema(TABLES["reconciliation_report"])},
    check_specs=[
        dg.AssetCheckSpec(
            "reconciled",
            asset=asset_key("reconciliation_report"),
            description="Every difference found was repaired; a failure names table, source and day.",
        )
    ],
)
def reconciliation_report(
    context: dg.AssetExecutionContext, config: ReconcileConfig, door: dg.ResourceParam[Door], lake: dg.ResourceParam[Lake]
) -> dg.MaterializeResult:
    first, last = days_to_compare(config.days)
    told = [
        reconcile(door, lake, table, first, last, context.run_id, context.log.info, repair=config.repair)
        for table in SOURCE_TABLES.values()
    ]
    report = pl.concat([one.report for one in told])
    lake.append(TABLES["reconciliation_report"], report)
    left = unrepaired(report)
    metadata: dict[str, Any] = {"days": f"{first} to {last}", REPAIRED_DAYS: ",".join(repaired_days(told)), **counts(report)}
    check = dg.AssetCheckResult(
        passed=not left, check_name="reconciled", metadata={"not_repaired": "\n".join(left[:SHOWN]) or "none"}
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[check])


OPERATIONS_ASSETS = [reconciliation_report]
