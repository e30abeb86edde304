"""Asset checks: the contract of every table, conservation between layers, and the share of valid results.

Here: one factory that turns a contract into a blocking check, and the checks between tables. Not here: the contracts.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any

import dagster as dg
import pandera.errors
import pandera.polars as pa
import polars as pl

from lims_platform.assets.common import asset_key
from lims_platform.contracts.base import Table
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import live_rows, suspected
from lims_platform.partitions import run_days
from lims_platform.reporting.figures import markdown_table, quarantine_preview, quarantine_reasons

#: Failing rows shown in a check's metadata; identifiers are pseudonyms by then.
SHOWN_FAILURES = 10

#: Rows a check holds in memory at a time.
CHECK_ROWS = 2_000_000

VALID_SHARE_GOAL = 0.99


def day_chunks(lake: Lake, table: Table, first: date, last: date) -> Iterator[pl.LazyFrame]:
    """The table's days in slices of about CHECK_ROWS rows."""
    scan = lake.scan(table, first, last)
    if table.partition is None:
        yield scan
        return
    counts = scan.group_by(table.partition).agg(rows=pl.len()).sort(table.partition).collect()
    chunk = (counts["rows"].cum_sum() - 1) // CHECK_ROWS
    for days in counts.with_columns(chunk=chunk).partition_by("chunk", maintain_order=True):
        bounds = days[table.partition]
        yield scan.filter(pl.col(table.partition).is_between(bounds.min(), bounds.max()))


def judged_columns(table: Table) -> list[str]:
    """Columns whose values can break the contract; of the others only the dtype can, which needs no reading."""
    columns = table.schema.columns
    if table.schema.checks:  # of whole rows: which columns they read is theirs to know
        return list(columns)
    keys = (*table.key, table.partition)
    return [name for name, c in columns.items() if c.checks or c.unique or not c.nullable or name in keys]


def contract_failures(frame: pl.DataFrame, schema: pa.DataFrameSchema) -> pl.DataFrame:
    """Pandera's failure cases of a frame: column, check, failure_case, count; no rows where the contract holds.

    The frame must be collected: on a LazyFrame pandera looks at the schema only.
    """
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases.select(
            pl.col("column").cast(pl.String), pl.col("check").cast(pl.String), pl.col("failure_case").cast(pl.String)
        )
        return cases.group_by("column", "check").agg(pl.len().alias("count"), pl.col("failure_case").unique().head(3))
    return pl.DataFrame(
        schema={"column": pl.String, "check": pl.String, "count": pl.UInt32, "failure_case": pl.List(pl.String)}
    )


def key_failures(frame: pl.DataFrame, table: Table) -> pl.DataFrame:
    """Key values that occur more than once (within their day, where the table has days)."""
    keys = frame.select(list(dict.fromkeys([*([table.partition] if table.partition else []), *table.key])))
    suspects = keys.filter(suspected(keys.hash_rows()))
    return suspects.group_by(keys.columns).agg(rows=pl.len()).filter(pl.col("rows") > 1).head(SHOWN_FAILURES)


def contract_check(table: Table) -> dg.AssetChecksDefinition:
    """The blocking check that a table keeps its contract: columns, dtypes, nulls, ranges, unique keys."""

    @dg.asset_check(
        asset=asset_key(table.name),
        name="contract",
        blocking=True,
        description=f"Columns, dtypes, nulls, ranges and unique keys of {table.path} are its contract's.",
    )
    def contract(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
        first, last = run_days(dict(context.run.tags))
        judged = judged_columns(table)
        values = pa.DataFrameSchema({name: table.schema.columns[name] for name in judged}, checks=table.schema.checks)
        rows, doubled = 0, []
        failures = [contract_failures(lake.scan(table).head(0).collect(), table.schema)]
        for part in day_chunks(lake, table, first, last):
            frame = part.select(judged).collect()
            rows += frame.height
            failures.append(contract_failures(frame, values))
            doubled.append(key_failures(frame, table))
        bad = pl.concat(failures)
        twice = pl.concat(doubled) if doubled else pl.DataFrame()
        metadata: dict[str, Any] = {"rows_checked": rows, "expected_columns": len(table.dtypes), "key": ", ".join(table.key)}
        if not bad.is_empty():
            lines = [
                f"- `{c}` breaks `{check}` in {n} rows, e.g. {cases}" for c, check, n, cases in bad.head(20).iter_rows()
            ]
            metadata["failures"] = dg.MetadataValue.md("\n".join(lines))
        if not twice.is_empty():
            metadata["repeated_keys"] = dg.MetadataValue.md("\n".join(f"- {row}" for row in twice.iter_rows()))
        return dg.AssetCheckResult(passed=bad.is_empty() and twice.is_empty(), metadata=metadata)

    return contract


def conservation_check(silver: str, bronze: str, parts: list[str]) -> dg.AssetChecksDefinition:
    """The blocking check live bronze = silver (+ quarantine), day by day."""

    @dg.asset_check(
        asset=asset_key(silver),
        name="bronze_rows_conserved",
        blocking=True,
        additional_deps=[asset_key(part) for part in parts if part != silver],
        description=f"Live rows of {bronze} = rows of " + " + ".join(parts) + ", per day.",
    )
    def bronze_rows_conserved(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
        first, last = run_days(dict(context.run.tags))
        counts = [
            lake.scan(TABLES[part], first, last).group_by("event_date").agg(kept=pl.len().cast(pl.Int64)) for part in parts
        ]
        kept = pl.concat(counts).group_by("event_date").agg(pl.col("kept").sum())
        live = live_rows(lake.scan(TABLES[bronze], first, last)).group_by("event_date")
        live_days = live.agg(live=pl.len().cast(pl.Int64))
        days = live_days.join(kept, on="event_date", how="full", coalesce=True).collect()
        days = days.with_columns(pl.col("live", "kept").fill_null(0)).sort("event_date")
        bad = days.filter(pl.col("live") != pl.col("kept"))
        lines = [f"{day}: {live} live, {kept_} kept" for day, live, kept_ in bad.head(20).iter_rows()]
        return dg.AssetCheckResult(
            passed=bad.is_empty(),
            metadata={
                "expected_rows": int(days["live"].sum()),
                "actual_rows": int(days["kept"].sum()),
                "days": days.height,
                "failing_days": "\n".join(lines) or "none",
            },
        )

    return bronze_rows_conserved


@dg.asset_check(
    asset=asset_key("lab_results_standardized"),
    name="valid_share",
    additional_deps=[asset_key("lab_results_quarantine")],
    description=f"At least {VALID_SHARE_GOAL:.0%} of live results could be standardised; below that the check warns.",
)
def valid_share(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
    """A warning, never a stop: a laboratory with 98 % valid results still needs its scores."""
    first, last = run_days(dict(context.run.tags))
    valid = lake.scan(TABLES["lab_results_standardized"], first, last).select(pl.len()).collect().item()
    quarantined = lake.scan(TABLES["lab_results_quarantine"], first, last)
    reasons = quarantine_reasons(quarantined)
    held = int(reasons["rows"].sum())
    share = valid / (valid + held) if valid + held else 1.0
    lines = [f"{reason}: {rows:,}" for reason, rows in reasons.iter_rows()]
    metadata: dict[str, Any] = {"valid": valid, "quarantined": held, "valid_share": share}
    metadata["reasons"] = "\n".join(lines) or "none"
    if held:
        metadata["quarantine"] = dg.MetadataValue.md(markdown_table(quarantine_preview(quarantined)))
    return dg.AssetCheckResult(passed=share >= VALID_SHARE_GOAL, severity=dg.AssetCheckSeverity.WARN, metadata=metadata)


def feature_calendar_check() -> dg.AssetChecksDefinition:
    """The blocking check that device features leave no day out between a device's first and last row."""

    @dg.asset_check(
        asset=asset_key("device_failure_features"),
        name="complete_calendar",
        blocking=True,
        description="Every device has a row for every day of the run since its first: a day without a log is a zero.",
    )
    def complete_calendar(context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]) -> dg.AssetCheckResult:
        first, last = run_days(dict(context.run.tags))
        rows = lake.scan(TABLES["device_failure_features"], first, last).group_by("device_id")
        spans = rows.agg(start=pl.col("as_of_date").min(), rows=pl.col("as_of_date").n_unique()).collect()
        due = (pl.lit(last) - pl.col("start")).dt.total_days() + 1
        gaps = spans.filter(due != pl.col("rows"))
        return dg.AssetCheckResult(
            passed=gaps.is_empty(),
            metadata={"devices": spans.height, "devices_with_gaps": ", ".join(gaps["device_id"].head(20)) or "none"},
        )

    return complete_calendar


CONTRACT_CHECKS = [contract_check(table) for table in TABLES.values() if table.layer in ("bronze", "silver", "gold")]

CHECKS = [
    *CONTRACT_CHECKS,
    conservation_check(
        "lab_results_standardized", "lab_results_raw", ["lab_results_standardized", "lab_results_quarantine"]
    ),
    conservation_check("device_metrics_normalized", "device_logs_raw", ["device_metrics_normalized"]),
    conservation_check("quality_control_standardized", "quality_control_raw", ["quality_control_standardized"]),
    conservation_check("sample_measurements", "batch_results_raw", ["sample_measurements"]),
    valid_share,
    feature_calendar_check(),
]
