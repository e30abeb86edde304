"""Reconciliation behind the door: compare days with their sources, repair by the normal merge, compare again.

Here: the order of these steps and what the report says. Not here: fingerprints and their comparison
(``lakehouse.reconciliation``), versions (``lakehouse.history``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import polars as pl

from lims_platform.assets.door import Door
from lims_platform.contracts.operations import RECONCILIATION_REPORT
from lims_platform.contracts.source import SourceTable
from lims_platform.lakehouse import reconciliation as compare
from lims_platform.lakehouse.history import MAX_ASKED_KEYS, Reading, VanishedRowsError
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import REGISTER_DAY
from lims_platform.settings import settings


@dataclass(frozen=True)
class Reconciled:
    """``report``: rows of the reconciliation report. ``touched``: days of bronze a repair changed, any day."""

    report: pl.DataFrame
    touched: frozenset[date]


def reconcile(
    door: Door,
    lake: Lake,
    table: SourceTable,
    first: date,
    last: date,
    run_id: str,
    log: Callable[[str], None],
    *,
    repair: bool = True,
) -> Reconciled:
    """Compare one table's days with every source that has it; differing days go through the merge and are compared again.

    One row of the report per source and day. A repair the vanished-rows guard refuses is reported with its reason, not
    raised. Raises SourceError where a source cannot deliver.
    """
    rows = [_compared(door, lake, table, part, run_id) for part in door.readings(table, first, last)]
    report = pl.concat(rows) if rows else RECONCILIATION_REPORT.empty()
    differing = report.filter(~pl.col("digest_match"))
    if differing.is_empty() or not repair:
        return Reconciled(report, frozenset())
    stretches = _stretches(differing["day"], table, first, last)
    outcomes = [_repaired(door, lake, table, *days, run_id, log) for days in stretches]
    mended = report.drop("repaired", "detail").join(
        pl.concat([after for after, _ in outcomes]), on=["source", "day"], how="left"
    )
    is_wrong = ~pl.col("digest_match")
    told = mended.with_columns(repaired=pl.when(is_wrong).then("repaired"), detail=pl.when(is_wrong).then("detail"))
    touched = set(told.filter(pl.col("repaired"))["day"]).union(*(days for _, days in outcomes))
    return Reconciled(told.select(list(RECONCILIATION_REPORT.dtypes)), frozenset(touched))


def days_to_compare(days: int) -> tuple[date, date]:
    """The last ``days`` days before today: today still grows, its differences would be news, not losses."""
    last = settings().today - timedelta(days=1)
    return max(settings().first_day, last - timedelta(days=days - 1)), last


def counts(report: pl.DataFrame) -> dict[str, int]:
    """Scalars for the run's metadata."""
    sums = report.select(pl.col("inserted", "updated", "deleted", "moved").sum()).row(0, named=True)
    differing = report.filter(~pl.col("digest_match")).height
    return {"dagster/row_count": report.height, "days_differing": differing, **{k: int(v) for k, v in sums.items()}}


def unrepaired(report: pl.DataFrame) -> list[str]:
    """One line per source and day that still differs, with the reason."""
    left = report.filter(~pl.col("digest_match") & ~pl.col("repaired").fill_null(False))
    named = left.select("table_name", "source", "day", pl.col("detail").fill_null("compared only"))
    return [f"{table} from {source}, {day}: {why}" for table, source, day, why in named.iter_rows()]


def repaired_days(told: Iterable[Reconciled]) -> list[str]:
    """ISO days of bronze any repair changed, in order."""
    return sorted({day.isoformat() for one in told for day in one.touched if day != REGISTER_DAY})


def _compared(door: Door, lake: Lake, table: SourceTable, part: Reading, run_id: str) -> pl.DataFrame:
    bounds = (part.window.first, part.window.last) if part.window else (None, None)
    source = compare.source_fingerprints(part.rows(), table, part.source, *bounds)
    live = compare.live_fingerprints(lake, table, part.source, *bounds)
    kept_from = door.first_kept_day(door.sources.settings(table, part.source))
    if kept_from is not None:  # what the source itself has let go of by age is no difference
        live = live.filter((pl.col("event_date") >= kept_from) | pl.col("base_key").is_in(source["base_key"].implode()))
    elsewhere = compare.live_elsewhere(lake, table, part.source, compare.missing(source, live))
    found = compare.differences(source, live, elsewhere, _source_elsewhere(lake, table, part, compare.missing(live, source)))
    days = pl.date_range(*bounds, eager=True) if part.window else pl.Series([REGISTER_DAY])
    return compare.report(
        days, source, live, found, table=table, source_name=part.source, run_id=run_id, checked_at=datetime.now(UTC)
    )


def _source_elsewhere(lake: Lake, table: SourceTable, part: Reading, surplus: pl.DataFrame) -> pl.DataFrame:
    """base_key of those surplus rows the source has on another day; more than it may be asked for count as deleted."""
    none = surplus.select("base_key").clear()
    keys = compare.stored_keys(lake, table, part.source, surplus) if not surplus.is_empty() else pl.DataFrame()
    if keys.is_empty() or keys.height > MAX_ASKED_KEYS:
        return none
    frame = part.rows_of(keys)
    return compare.source_fingerprints(frame, table, part.source).select("base_key") if frame.height else none


def _repaired(
    door: Door, lake: Lake, table: SourceTable, first: date, last: date, run_id: str, log: Callable[[str], None]
) -> tuple[pl.DataFrame, set[date]]:
    """Columns source, day, repaired, detail of one stretch of days after its merge; other days the merge changed."""
    reason, others = None, set[date]()
    try:
        others = door.ingest(table, first, last, run_id, False, log).other_days
    except VanishedRowsError as error:
        reason = str(error)
    after = [_compared(door, lake, table, part, run_id) for part in door.readings(table, first, last)]
    detail = pl.lit(reason or "the source changed again while it was repaired", dtype=pl.String)
    told = pl.concat(after).select(
        "source", "day", repaired="digest_match", detail=pl.when(~pl.col("digest_match")).then(detail)
    )
    return told, others


def _stretches(days: pl.Series, table: SourceTable, first: date, last: date) -> Iterator[tuple[date, date]]:
    """First and last of every run of neighbouring days: each is one merge. A register is one stretch."""
    if table.event_time is None:
        yield first, last
        return
    ordered = days.unique().sort().to_frame("day")
    begins = (pl.col("day").diff() != timedelta(days=1)).fill_null(True)
    yield from (
        ordered.group_by(begins.cum_sum().alias("run"), maintain_order=True)
        .agg(a=pl.col("day").min(), b=pl.col("day").max())
        .select("a", "b")
        .iter_rows()
    )
