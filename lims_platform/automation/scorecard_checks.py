"""The checks of the data-quality scorecard: each of its shares against the goal, with its trend as a plot.

Here: one check per share. Not here: what the shares mean (``laboratory.scorecard``).
"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import dagster as dg
import polars as pl

from lims_platform.assets.common import asset_key
from lims_platform.assets.reports import plots
from lims_platform.automation.checks import VALID_SHARE_GOAL
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.scorecard import SHARES, shares_by
from lims_platform.lakehouse.lake import Lake
from lims_platform.partitions import run_days
from lims_platform.reporting import charts
from lims_platform.reporting.figures import markdown_table
from lims_platform.settings import settings

SCORECARD = TABLES["data_quality_scorecard"]
#: Days the trend looks back over.
TREND_DAYS = 90
#: Tests and devices named in a check's metadata.
WORST = 10


def worst_groups(rows: pl.DataFrame, share: str) -> pl.DataFrame:
    """Source, test and device that lose most rows to the goal: rows, rows missing it, share."""
    groups = shares_by(rows, "source", "test_code", "device_id")
    short = groups.select("source", "test_code", "device_id", "rows", share, missing=(1 - pl.col(share)) * pl.col("rows"))
    lost = short.filter(pl.col("missing") > 0.5).with_columns(pl.col("missing").round(0).cast(pl.Int64))
    return lost.sort("missing", "test_code", "device_id", descending=[True, False, False]).head(WORST)


def share_result(rows: pl.DataFrame, trend: pl.DataFrame, share: str) -> dg.AssetCheckResult:
    """The verdict on one share of the run's days, source by source; ``trend``: daily shares by source."""
    sources = shares_by(rows, "source")
    below = sources.filter(pl.col(share) < VALID_SHARE_GOAL)
    days = shares_by(rows, "as_of_date", "source").filter(pl.col(share) < VALID_SHARE_GOAL)
    metadata: dict[str, Any] = {"rows": int(sources["rows"].sum()), "days_below": days["as_of_date"].n_unique()}
    shares = {str(source): float(value) for source, value in sources.select("source", share).iter_rows()}
    metadata |= {f"share/{source}": value for source, value in shares.items()}
    if rows.is_empty():
        metadata["outcome"] = "not evaluable: no results on these days"
    if (worst := worst_groups(rows, share)).height:
        metadata["worst"] = dg.MetadataValue.md(markdown_table(worst))
    if trend.height:
        metadata["trend"] = plots(charts.share_trend(trend, share, VALID_SHARE_GOAL), scale=1)
    return dg.AssetCheckResult(
        asset_key=asset_key(SCORECARD.name),
        check_name=share,
        passed=below.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description=", ".join(f"{source}: {value:.2%}" for source, value in shares.items()) or None,
        metadata=metadata,
    )


def _trend(lake: Lake, last: date) -> pl.DataFrame:
    """Complete days only: the first hours of a day are no day."""
    last = min(last, settings().today - timedelta(days=1))
    return shares_by(lake.scan(SCORECARD, last - timedelta(days=TREND_DAYS - 1), last), "as_of_date", "source")


@dg.multi_asset_check(
    name="data_quality_shares",
    specs=[
        dg.AssetCheckSpec(
            share,
            asset=asset_key(SCORECARD.name),
            description=f"Every source's {share} on the run's days is at least {VALID_SHARE_GOAL:.0%}; below, a warning.",
        )
        for share in SHARES
    ],
    can_subset=True,
)
def data_quality_shares(
    context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[Lake]
) -> Iterator[dg.AssetCheckResult]:
    """Warnings, never a stop; the plot is drawn once per run: a partition's event would carry it for every day."""
    first, last = run_days(dict(context.run.tags))
    rows, trend = lake.scan(SCORECARD, first, last).collect(), _trend(lake, last)
    chosen = {key.name for key in context.selected_asset_check_keys}
    for share in (name for name in SHARES if name in chosen):
        yield share_result(rows, trend, share)
