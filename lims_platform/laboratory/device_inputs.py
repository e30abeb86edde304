"""The signals of analysers per device and day, as known at the end of each day.

Here: counts, rates' parts, control statistics, last services and failure episodes, each on its own calendar window.
Not here: the feature row made of them (``device_health``).
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import reduce

import numpy as np
import polars as pl

from lims_platform.laboratory.asof import (
    FIXED_POINT,
    Frame,
    days_between,
    decayed_sums,
    known_days,
    latest_known,
    local_date,
    windowed_arrays,
    windowed_sums,
)
from lims_platform.laboratory.device_logs import EPISODE_GAP

DEVICE = ["device_id"]
DAY = ["device_id", "as_of_date"]
HALF_LIVES = (3, 10)
QC_WINDOWS = (3, 7, 14)
#: z of a control is winsorised here: a control put into the wrong position says nothing about bias.
Z_LIMIT = 8.0
#: Results since maintenance are counted at most this far back.
USAGE_DAYS = 120
#: Days of history a row can depend on, its own included: what lies further back is forgotten, so that a day built with the
#: shortest sufficient history equals the same day built within a long range.
LOOKBACK_DAYS = 400
_DAYS_APART = 1_000_000
#: Cells (device, analyte, level) × days of control statistics held at once.
_CELLS_AT_ONCE = 6_000_000
_CELL = ["device_id", "loinc_code", "qc_level"]


def known_results(results: Frame, calendar: str) -> pl.DataFrame:
    """Daily counts per device and spell of knowledge: results, timed, hours (fixed point), newest."""
    hours = pl.col("turnaround_time_hours")
    usable = hours.is_finite() & (hours >= 0)
    return (
        known_days(results, calendar)
        .filter(pl.col("device_id").is_not_null())
        .group_by("device_id", "event_date", "first_day", "last_day")
        .agg(
            pl.len().cast(pl.Int64).alias("results"),
            usable.sum().cast(pl.Int64).alias("timed"),
            (pl.when(usable).then(hours) * FIXED_POINT).round().cast(pl.Int64).sum().alias("hours"),
            pl.col("resulted_at").max().alias("newest"),
        )
        .collect(engine="streaming")
    )


def known_logs(logs: Frame, calendar: str) -> pl.DataFrame:
    """Usable log events of a normalised history, with first_day and last_day."""
    return known_days(logs, calendar).filter(pl.col("reason").is_null()).collect()


def log_counts(logs: pl.DataFrame, first: date, last: date) -> list[pl.DataFrame]:
    """errors_<n>d, warnings_<n>d on calendar windows and error_ewma_<h>, warning_ewma_<h> (events a day) per
    half-life."""
    kinds = {"error": pl.col("event_type") == "ERROR", "warning": pl.col("event_type") == "WARNING"}
    rows = logs.filter(pl.col("event_type").is_in(["ERROR", "WARNING"]))
    frames = [
        windowed_sums(rows, DEVICE, {f"{k}s_{days}d": is_kind for k, is_kind in kinds.items()}, days, first, last)
        for days in (1, 3, 7, 30)
    ]
    for half_life in HALF_LIVES:
        rates = {f"{k}_ewma_{half_life}d": is_kind for k, is_kind in kinds.items()}
        frames.append(decayed_sums(rows, DEVICE, rates, half_life, first, last))
    return frames


def worst_day(logs: pl.DataFrame, first: date, last: date, window_days: int = 7) -> pl.DataFrame:
    """errors_worst_day: most errors on one of the window's days."""
    rows = logs.filter(pl.col("event_type") == "ERROR")
    days = [windowed_sums(rows, DEVICE, {"n": pl.lit(1)}, 1, first, last, lag_days=lag) for lag in range(window_days)]
    return pl.concat(days).group_by(DAY).agg(pl.col("n").max().alias("errors_worst_day"))


def result_sums(results: pl.DataFrame, first: date, last: date) -> list[pl.DataFrame]:
    """results_<n>d and turnaround_<n>d (mean hours, null without) on calendar windows."""
    frames = []
    for days in (1, 3, 7, 30):
        sums = windowed_sums(results, DEVICE, {c: pl.col(c) for c in ("results", "timed", "hours")}, days, first, last)
        mean = pl.when(pl.col("timed") > 0).then(pl.col("hours") / FIXED_POINT / pl.col("timed"))
        frames.append(sums.select(*DAY, pl.col("results").alias(f"results_{days}d"), mean.alias(f"turnaround_{days}d")))
    return frames


def last_events(logs: pl.DataFrame, results: pl.DataFrame, first: date, last: date, calendar: str) -> list[pl.DataFrame]:
    """Days last_calibration and last_maintenance, times last_failure_at and last_result_at, as known; null before any.

    A service is known from its own event, or from what the latest log row that says anything of it says; a date
    after the row's own day is a plan and counts for nothing. Rows older than LOOKBACK_DAYS are forgotten.
    """
    frames = []
    for kind, column in (("CALIBRATION", "calibration_date"), ("MAINTENANCE", "maintenance_date")):
        name = f"last_{kind.lower()}"
        events = latest_known(logs.filter(pl.col("event_type") == kind), DEVICE, pl.col("event_date"), "event", first, last)
        frames.append(
            _forget(events, pl.col("event"), "event")
            .join(_told(logs, column, first, last, calendar), on=DAY, how="full", coalesce=True)
            .select(*DAY, pl.max_horizontal("event", "told").alias(name))
        )
    failures = logs.filter(pl.col("event_type") == "FAILURE")
    for rows, column, name in ((failures, "logged_at", "last_failure_at"), (results, "newest", "last_result_at")):
        known = latest_known(rows, DEVICE, pl.col(column), name, first, last)
        frames.append(_forget(known, local_date(pl.col(name), calendar), name))
    return frames


def _told(logs: pl.DataFrame, column: str, first: date, last: date, calendar: str) -> pl.DataFrame:
    """The day of a service as the latest log row that names one tells it, in ``told``."""
    day = local_date(pl.col(column), calendar)
    rows = logs.select(*DEVICE, "event_date", "first_day", "last_day", day.alias("day"))
    rows = rows.filter(pl.col("day") <= pl.col("event_date"))
    # one number that grows with the row's day first and with what it tells second
    both = pl.col("event_date").to_physical().cast(pl.Int64) * _DAYS_APART + pl.col("day").to_physical()
    known = latest_known(rows, DEVICE, both, "both", first, last)
    row_day = (pl.col("both") // _DAYS_APART).cast(pl.Int32).cast(pl.Date)
    told = (pl.col("both") % _DAYS_APART).cast(pl.Int32).cast(pl.Date)
    return _forget(known.with_columns(told.alias("told")), row_day, "told").drop("both")


def _forget(rows: pl.DataFrame, day: pl.Expr, name: str) -> pl.DataFrame:
    """``name`` null where ``day`` lies LOOKBACK_DAYS or more before as_of_date."""
    remembered = day > pl.col("as_of_date") - pl.duration(days=LOOKBACK_DAYS)
    return rows.with_columns(pl.when(remembered).then(name).alias(name))


def heard_of(logs: pl.DataFrame, results: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """Device and day wherever a row of the last LOOKBACK_DAYS, known by then, speaks of the device."""
    spells = [frame.select(*DEVICE, "event_date", "first_day", "last_day") for frame in (logs, results)]
    known = latest_known(pl.concat(spells), DEVICE, pl.col("event_date"), "heard", first, last)
    return _forget(known, pl.col("heard"), "heard").filter(pl.col("heard").is_not_null()).select(DAY)


def failure_counts(logs: pl.DataFrame, first: date, last: date, window_days: int = 90) -> pl.DataFrame:
    """failures_<n>d: FAILURE episodes that started in the window, as known at the end of the day (see
    failure_episodes).

    Failures are few: each is laid out over the days it counts, and the chain is cut anew for every day.
    """
    name = f"failures_{window_days}d"
    spells = (
        logs.filter(pl.col("event_type") == "FAILURE")
        # of one day and one spell of knowledge the first and the last suffice: a day is one episode anyway
        .group_by("device_id", "event_date", "first_day", "last_day")
        .agg(pl.col("logged_at").min().alias("from"), pl.col("logged_at").max().alias("to"))
        .with_columns(
            pl.max_horizontal("first_day", pl.lit(first)).alias("_start"),
            # one day more than the window: a failure before it may own the first one inside
            pl.min_horizontal(pl.col("event_date") + pl.duration(days=window_days + 1), "last_day", pl.lit(last)).alias(
                "_stop"
            ),
        )
        .filter(pl.col("_start") <= pl.col("_stop"))
    )
    if spells.is_empty():
        return pl.DataFrame(schema={"device_id": pl.String, "as_of_date": pl.Date, name: pl.Int64})
    laid_out = (
        spells.with_columns(pl.date_ranges("_start", "_stop").alias("as_of_date"))
        .explode("as_of_date")
        .sort("device_id", "as_of_date", "from")
    )
    previous = pl.col("to").cum_max().shift(1).over(DAY)
    starts = (pl.col("from") - previous > EPISODE_GAP).fill_null(True)
    inside = pl.col("event_date") > pl.col("as_of_date") - pl.duration(days=window_days)
    return laid_out.with_columns((starts & inside).alias(name)).group_by(DAY).agg(pl.col(name).sum().cast(pl.Int64))


def usage_since_maintenance(results: pl.DataFrame, maintained: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """usage_since_maintenance: results after the day of the last known maintenance, at most USAGE_DAYS back; null if
    none.

    Each day counts as it was known at its own end, so that this, too, is the same whenever it is rebuilt.
    """
    since = first - timedelta(days=USAGE_DAYS)
    total = pl.col("results").cum_sum().over("device_id")
    running = windowed_sums(results, DEVICE, {"results": pl.col("results")}, 1, since, last).with_columns(total.alias("run"))
    at = running.select("device_id", pl.col("as_of_date").alias("_from"), pl.col("run").alias("run_then"))
    floor = pl.max_horizontal("last_maintenance", pl.col("as_of_date") - pl.duration(days=USAGE_DAYS))
    return (
        maintained.filter(pl.col("last_maintenance").is_not_null())
        .with_columns(floor.alias("_from"))
        .join(running.select(*DAY, "run"), on=DAY, how="left")
        .join(at, on=["device_id", "_from"], how="left")
        .select(
            *DAY,
            (pl.col("run").fill_null(0) - pl.col("run_then").fill_null(0)).cast(pl.Float64).alias("usage_since_maintenance"),
        )
    )


def control_statistics(controls: Frame, first: date, last: date, calendar: str) -> pl.DataFrame:
    """qc_pass_rate_7d, and per window n: qc_bias_<n>d, qc_bias_max_<n>d, qc_imprecision_<n>d of z.

    A cell is a device, analyte and level. Bias is the mean over cells of |mean z|, its maximum the largest;
    imprecision the SD of z about its cell's mean, pooled. Null where no control (no cell of two controls) is in the
    window.
    """
    usable = pl.col("z").is_finite() & pl.col("loinc_code").is_not_null() & pl.col("qc_level").is_not_null()
    z = (pl.when(usable).then(pl.col("z").clip(-Z_LIMIT, Z_LIMIT)) * FIXED_POINT).round()
    daily = (
        known_days(controls, calendar)
        .filter(pl.col("device_id").is_not_null())
        .group_by(*_CELL, "event_date", "first_day", "last_day")
        .agg(
            pl.col("passed").sum().cast(pl.Int64).alias("passed"),
            pl.col("passed").count().cast(pl.Int64).alias("judged"),
            usable.fill_null(False).sum().cast(pl.Int64).alias("n"),
            z.cast(pl.Int64).sum().alias("z"),
            (z / FIXED_POINT * z).round().cast(pl.Int64).sum().alias("zz"),
        )
        .collect(engine="streaming")
    )
    judged = windowed_sums(daily, DEVICE, {"passed": pl.col("passed"), "judged": pl.col("judged")}, 7, first, last)
    rate = pl.when(pl.col("judged") > 0).then(pl.col("passed") / pl.col("judged")).alias("qc_pass_rate_7d")
    out = judged.select(*DAY, rate)
    measured = daily.filter(pl.col("n") > 0)
    # cells are numbered device by device, so that a device's cells are neighbours in every array
    cells = measured.select(_CELL).unique().sort(_CELL).with_row_index("cell")
    numbered = measured.join(cells, on=_CELL, how="left").select(
        "cell", "event_date", "first_day", "last_day", "n", "z", "zz"
    )
    step = max(1, _CELLS_AT_ONCE // len(days_between(first, last)))
    devices = cells.group_by("device_id", maintain_order=True).agg(
        pl.col("cell").min().alias("low"), pl.len().alias("cells")
    )
    parts = []
    for part in devices.with_columns((pl.col("low") // step).alias("_part")).partition_by("_part"):
        low, high = int(part["low"][0]), int(part["low"][-1] + part["cells"][-1])
        chunk = numbered.filter(pl.col("cell").is_between(low, high - 1))
        # the longest window first: whoever is in a shorter one is in it
        windows = [_cells(chunk, cells, days, first, last) for days in sorted(QC_WINDOWS, reverse=True)]
        parts.append(reduce(lambda left, right: left.join(right, on=DAY, how="left"), windows))
    statistics = pl.concat(parts) if parts else _no_cells()
    return out.join(statistics, on=DAY, how="left")


def _names(days: int) -> tuple[str, str, str]:
    return f"qc_bias_{days}d", f"qc_bias_max_{days}d", f"qc_imprecision_{days}d"


def _no_cells() -> pl.DataFrame:
    names = [name for days in QC_WINDOWS for name in _names(days)]
    return pl.DataFrame(schema={"device_id": pl.String, "as_of_date": pl.Date, **dict.fromkeys(names, pl.Float64)})


def _cells(chunk: pl.DataFrame, cells: pl.DataFrame, days: int, first: date, last: date) -> pl.DataFrame:
    """Bias, largest bias and imprecision over the cells of each device and day; sums over cells run in integers
    again."""
    values = {c: pl.col(c) for c in ("n", "z", "zz")}
    keys, sums = windowed_arrays(chunk, ["cell"], values, days, first, last)
    owner = keys.join(cells.select("cell", "device_id"), on="cell", how="left", maintain_order="left")["device_id"]
    calendar_days = days_between(first, last)
    if owner.is_empty():
        return _no_cells().select(*DAY, *_names(days))
    starts = np.flatnonzero(np.r_[True, (owner[1:] != owner[:-1]).to_numpy()])
    n = sums["n"]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(n > 0, sums["z"] / FIXED_POINT / np.maximum(n, 1), 0.0)
        bias = np.rint(np.abs(mean) * FIXED_POINT).astype(np.int64)
        squares = np.rint(np.maximum(sums["zz"] - n * mean**2 * FIXED_POINT, 0.0)).astype(np.int64)
        used = np.add.reduceat((n > 0).astype(np.int64), starts, axis=0)
        free = np.add.reduceat(np.maximum(n - 1, 0), starts, axis=0)
        mean_bias = np.where(used > 0, np.add.reduceat(bias, starts, axis=0) / FIXED_POINT / used, np.nan)
        most_bias = np.where(used > 0, np.maximum.reduceat(bias, starts, axis=0) / FIXED_POINT, np.nan)
        spread = np.where(free > 0, np.sqrt(np.add.reduceat(squares, starts, axis=0) / FIXED_POINT / free), np.nan)
    devices = owner.gather(starts)
    frame = devices.to_frame().join(calendar_days.to_frame(), how="cross", maintain_order="left_right")
    arrays = dict(zip(_names(days), (mean_bias, most_bias, spread), strict=True))
    return frame.with_columns(pl.Series(name, array.ravel(), nan_to_null=True) for name, array in arrays.items())
