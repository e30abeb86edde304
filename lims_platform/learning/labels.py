"""What the model learns to foresee: does the device fail within the seven days after the feature day?

Here: failure episodes, the label of a device-day, and why a device-day has none. Not here: features, splits.

A row dated D is labelled 1 if a failure episode starts in (D, D + horizon], in calendar days of the laboratory's zone,
else 0. It has no label (null: never trained on, never evaluated) while D + horizon lies after the last day of data
(immature: also if a failure is already known, else young rows would all be positive), while the device is in outage,
and where a service prompted by a score may have prevented the failure (censored).
"""

from __future__ import annotations

from datetime import date, timedelta

import polars as pl

#: A FAILURE closer than this to the one before it on the same device belongs to the same episode.
EPISODE_GAP = timedelta(hours=24)

LABEL_SCHEMA: dict[str, pl.DataType] = {
    "device_id": pl.String(),
    "as_of_date": pl.Date(),
    "label": pl.Int8(),
    "failure_date": pl.Date(),
    "label_state": pl.String(),
}


class LabelError(ValueError):
    """The input cannot be labelled; the message names table and column."""


def failure_events(logs: pl.LazyFrame) -> pl.DataFrame:
    """The FAILURE events of silver/device_metrics_normalized as device_id, failed_at (UTC); quarantined ones left out."""
    failed = logs.filter((pl.col("event_type") == "FAILURE") & pl.col("reason").is_null())
    return failed.select("device_id", failed_at="logged_at").collect()


def last_day_of_logs(logs: pl.LazyFrame, today: date) -> date:
    """Last day the device log knows whole: its newest day, at most the day before ``today``."""
    newest = logs.select(pl.col("event_date").max()).collect().item()
    return min(newest or today, today - timedelta(days=1))


def _local_days(events: pl.DataFrame, table: str, time: str, name: str, calendar: str) -> pl.DataFrame:
    """Device and local day of each event, sorted; LabelError for a missing column, null or a time without a zone."""
    for column in ("device_id", time):
        if column not in events.columns:
            raise LabelError(f"{table} has no column {column}; it has {events.columns}")
        if events[column].null_count():
            raise LabelError(f"{table}.{column} is null in {events[column].null_count()} of {events.height} rows")
    dtype = events.schema[time]
    if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
        raise LabelError(f"{table}.{time} is {dtype}; a time with a zone (UTC) is needed")
    return (
        events.select(pl.col("device_id").cast(pl.String), pl.col(time).alias("_at"))
        .sort("device_id", "_at")
        .with_columns(pl.col("_at").dt.convert_time_zone(calendar).dt.date().alias(name))
    )


def failure_days(failures: pl.DataFrame, calendar: str) -> pl.DataFrame:
    """Device and local day on which each failure episode starts, (device_id, failure_date), sorted and unique.

    ``failures``: device_id, failed_at (with time zone). An event within 24 h of the event before it starts no new
    episode.
    """
    days = _local_days(failures, "failures", "failed_at", "failure_date", calendar)
    gap = pl.col("_at") - pl.col("_at").shift(1).over("device_id")
    starts = days.filter((gap > EPISODE_GAP).fill_null(True))
    return starts.select("device_id", "failure_date").unique().sort("device_id", "failure_date")


def _next_day(rows: pl.DataFrame, events: pl.DataFrame, name: str) -> pl.DataFrame:
    """Add the first event day after each row's as_of_date, null if there is none."""
    return (
        rows.with_columns(pl.col("as_of_date").dt.offset_by("1d").alias("_after"))
        .sort("_after")
        .join_asof(
            events.sort(name),
            left_on="_after",
            right_on=name,
            by="device_id",
            strategy="forward",
            check_sortedness=False,
        )
        .drop("_after")
    )


def failure_labels(
    features: pl.DataFrame,
    failures: pl.DataFrame,
    data_end: date,
    calendar: str,
    horizon_days: int = 7,
    interventions: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Label every device-day of ``features``; one row for one row, sorted by device and day.

    Parameters
    ----------
    features : device_id, as_of_date and, where known, in_outage.
    failures : device_id, failed_at (UTC): every FAILURE event known, single events or starts of episodes.
    data_end : the last complete day of data; a row is mature if as_of_date + horizon_days ≤ data_end.
    calendar : IANA zone in which days are cut.
    interventions : device_id, at (UTC): services prompted by a score. A row whose window holds one and no failure is
        censored:
        nobody knows whether the service prevented the failure.

    Returns
    -------
    device_id, as_of_date, label (1, 0 or null), failure_date (first episode's day within the window of a labelled row)
    and label_state (labelled, immature, outage, censored).
    """
    if horizon_days < 1:
        raise LabelError(f"horizon_days is {horizon_days}; it must be at least 1")
    for column in ("device_id", "as_of_date"):
        if column not in features.columns:
            raise LabelError(f"features have no column {column}")
    doubled = features.select("device_id", "as_of_date").is_duplicated()
    if doubled.any():
        row = features.filter(doubled).row(0, named=True)
        raise LabelError(f"features hold device {row['device_id']}, day {row['as_of_date']} more than once")
    outage = pl.col("in_outage").fill_null(False) if "in_outage" in features.columns else pl.lit(False)
    rows = features.select("device_id", "as_of_date", outage.alias("_outage"))
    rows = _next_day(rows, failure_days(failures, calendar), "failure_date")
    if interventions is None:
        rows = rows.with_columns(pl.lit(None, dtype=pl.Date).alias("_service"))
    else:
        services = _local_days(interventions, "interventions", "at", "_service", calendar).select("device_id", "_service")
        rows = _next_day(rows, services.unique(), "_service")
    end = pl.col("as_of_date") + pl.duration(days=horizon_days)
    fails = (pl.col("failure_date") <= end).fill_null(False)
    state = (
        pl.when(end > data_end)
        .then(pl.lit("immature"))
        .when(pl.col("_outage"))
        .then(pl.lit("outage"))
        .when(~fails & (pl.col("_service") <= end).fill_null(False))
        .then(pl.lit("censored"))
        .otherwise(pl.lit("labelled"))
    )
    labelled = pl.col("label_state") == "labelled"
    return (
        rows.with_columns(state.alias("label_state"))
        .select(
            "device_id",
            "as_of_date",
            pl.when(labelled).then(fails.cast(pl.Int8)).alias("label"),
            pl.when(labelled & fails).then(pl.col("failure_date")).alias("failure_date"),
            "label_state",
        )
        .sort("device_id", "as_of_date")
    )
