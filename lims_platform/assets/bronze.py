"""Bronze assets: every source table's history, one asset each.

Here: one factory, because the tables differ only by contract. Not here: reading, pseudonyms, versions (``door``).
"""

from typing import Any

import dagster as dg

from lims_platform.assets.common import table_asset
from lims_platform.assets.door import Door, Intake
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.source import SOURCE_TABLES, SourceTable
from lims_platform.failures import typed_failures
from lims_platform.lakehouse.history import CONFIRM_TAG, COUNTS
from lims_platform.lakehouse.io_manager import ROWS_OF_RUN, count_rows_of_days
from lims_platform.partitions import run_days, spans_text


def conservation_check(table_name: str) -> dg.AssetCheckSpec:
    """source rows = live bronze + collapsed duplicates, evaluated by the step that still knows what the source said."""
    return dg.AssetCheckSpec(
        "source_rows_conserved",
        asset=dg.AssetKey(["bronze", table_name]),
        blocking=True,
        description="Rows of the source = live rows read back from bronze + identical duplicates collapsed, per day.",
    )


def conservation_result(intake: Intake) -> dg.AssetCheckResult:
    """Passed where every day's live rows, read back after the commit, equal the source's distinct rows."""
    days = intake.conservation()
    bad = days.filter(days["expected"] != days["live"])
    listing = [f"{day}: expected {expected}, live {live}" for day, expected, live in bad.head(20).iter_rows()]
    return dg.AssetCheckResult(
        passed=bad.is_empty(),
        check_name="source_rows_conserved",
        metadata={
            "source_rows": intake.count("source_rows"),
            "identical_duplicates_collapsed": intake.count("collapsed"),
            "expected_live": int(days["expected"].sum()),
            "actual_live": int(days["live"].sum()),
            "failing_days": "\n".join(listing) or "none",
        },
    )


def bronze_asset(source: SourceTable) -> dg.AssetsDefinition:
    """The asset that keeps one source table's history."""
    table = BRONZE_TABLES[source.name]
    arguments = table_asset(table.name, kinds={"deltalake", "polars"}, check_specs=[conservation_check(table.name)])

    @dg.asset(**{k: v for k, v in arguments.items() if k != "io_manager_key"})
    def ingest(context: dg.AssetExecutionContext, door: dg.ResourceParam[Door]) -> dg.MaterializeResult:
        first, last = run_days(dict(context.run.tags))
        confirmed = context.run.tags.get(CONFIRM_TAG) == "true"
        with typed_failures(f"bronze/{table.name}", context.retry_number, context.log.warning):
            intake = door.ingest(source, first, last, context.run_id, confirmed, context.log.info)
        metadata: dict[str, Any] = {name: intake.count(name) for name in COUNTS} | {"chunks": len(intake.results)}
        live = intake.conservation()
        if table.partition is None:
            metadata["dagster/row_count"] = int(live["live"].sum())
        else:
            counts = dict(live.select("event_date", "live").iter_rows())
            metadata[ROWS_OF_RUN] = count_rows_of_days(context, context.partition_keys, counts)
        metadata["delta_version"] = intake.version if intake.version is not None else "unchanged"
        if intake.other_days:
            metadata["other_days_touched"] = spans_text(intake.other_days)
        return dg.MaterializeResult(metadata=metadata, check_results=[conservation_result(intake)])

    return ingest


BRONZE_ASSETS = [bronze_asset(source) for source in SOURCE_TABLES.values()]
