"""Point-in-time arithmetic: what was known at the end of a day.

Here: when a version of a row was the one known, and exact sums and maxima over "rows of a window, as known at the end
of D". Not here: what is summed (``device_health``, ``outbreaks``), how versions are stored (``lakehouse.history``).

A row dated D uses, per key, the latest version known before the end of D in the laboratory's calendar. A history
frame has ``event_date``, ``known_from`` (UTC), ``known_to`` (UTC or null), ``change`` (insert, update, delete) and
``is_conflict``.

All sums run in 64-bit integers (floats in steps of 2**-20), so they do not depend on the order of rows, on ``first``
or on what became known later: rebuilding an old day gives the identical row, bit for bit. Whoever computes on with
them: polars 2.1 divides a column by a constant as a product with its reciprocal, but not a column of one row, so such
a quotient can differ in its last bit between a day built alone and a range. Multiply by the reciprocal, or divide
columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

#: Floats are summed in steps of 1 / FIXED_POINT: about 1e-6 of a unit, sums up to 8e12.
FIXED_POINT = 2**20

Frame = pl.DataFrame | pl.LazyFrame

_NEVER = np.iinfo(np.int64).min


def local_date(time: pl.Expr, calendar: str) -> pl.Expr:
    """The day of a UTC time in ``calendar``, an IANA zone name."""
    return time.dt.convert_time_zone(calendar).dt.date()


def validity(bronze: pl.LazyFrame, per: Sequence[str] = ("event_date", "row_key")) -> pl.LazyFrame:
    """Add ``known_to`` and ``is_current`` to every version.

    ``known_to`` is when the next version of the same key became known (null: none yet); where a later version claims
    an earlier time than its predecessor, the earliest time of any later version, so that the highest version known
    always wins. ``is_current`` is true of a key's last version, a delete too. A key is (event_date, row_key): a row
    that moved to another day has a delete on the old one, so days can be computed apart; for a register without days
    pass ``per=("row_key",)``.
    """
    keys = list(per)
    # Nearly every key has one version; only the others pay for a sort and a window, the rest streams. The others are
    # collected, because a join or a union of two plans that read the long side may hold it in memory.
    amended = bronze.filter(pl.col("row_version") > 1).select(keys).unique().collect(engine="streaming")
    alone = {"known_to": pl.lit(None, dtype=pl.Datetime("us", "UTC")), "is_current": pl.lit(True)}
    if amended.is_empty():
        return bronze.with_columns(**alone)
    single = bronze.join(amended.lazy(), on=keys, how="anti", nulls_equal=True).with_columns(**alone)
    several = (
        bronze.join(amended.lazy(), on=keys, how="semi", nulls_equal=True)
        .sort([*keys, "row_version"])
        .with_columns(
            pl.col("known_from").cum_min(reverse=True).shift(-1).over(keys).alias("known_to"),
            (pl.col("row_version") == pl.col("row_version").max().over(keys)).alias("is_current"),
        )
        .collect(engine="streaming")
    )
    return pl.concat([single, several.lazy()])


def known_days(history: Frame, calendar: str) -> pl.LazyFrame:
    """Add ``first_day`` and ``last_day``: the days at whose end this version is the latest known (null: still is).

    first_day = max(event_date, day of known_from); last_day = the day before the day of known_to. Versions superseded
    on the day they became known, deletes and the losers of conflicting duplicates never contribute and are dropped.
    """
    return (
        history.lazy()
        .filter(pl.col("change") != "delete", ~pl.col("is_conflict"))
        .with_columns(
            pl.max_horizontal("event_date", local_date(pl.col("known_from"), calendar)).alias("first_day"),
            (local_date(pl.col("known_to"), calendar) - pl.duration(days=1)).alias("last_day"),
        )
        .filter(pl.col("last_day").is_null() | (pl.col("last_day") >= pl.col("first_day")))
    )


def days_between(first: date, last: date) -> pl.Series:
    """The days ``first`` to ``last``, both included, as ``as_of_date``; ValueError if there are none."""
    if last < first:
        raise ValueError(f"last day {last} is before first day {first}")
    return pl.date_range(first, last, "1d", eager=True).alias("as_of_date")


def windowed_sums(
    rows: Frame,
    by: list[str],
    values: dict[str, pl.Expr],
    window_days: int,
    first: date,
    last: date,
    lag_days: int = 0,
) -> pl.DataFrame:
    """For each D in [first, last]: sums over rows with event_date in (D − lag − window, D − lag] that are known as of
    D.

    ``rows`` come from ``known_days``. Each row adds its value on the day it enters and takes it away after the day it
    leaves; a cumulative sum over the complete calendar does the rest: O(rows + keys × days), no loop over days.
    Returns ``by`` + as_of_date + one column per value for every key with a contribution and every day, sorted;
    integers and flags come back as Int64, floats as Float64; a null value counts as zero.
    """
    keys, arrays = windowed_arrays(rows, by, values, window_days, first, last, lag_days)
    return _grid(keys, days_between(first, last)).with_columns(pl.Series(n, array.ravel()) for n, array in arrays.items())


def windowed_arrays(
    rows: Frame,
    by: list[str],
    values: dict[str, pl.Expr],
    window_days: int,
    first: date,
    last: date,
    lag_days: int = 0,
) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """``windowed_sums`` as the sorted keys and one array of shape (keys, days) per value."""
    days = days_between(first, last)
    spans = _spans(rows, by, values, window_days, first, last, lag_days)
    keys, codes = _codes(spans, by)
    start = _offsets(spans["_start"], first)
    stop = _offsets(spans["_stop"], first) + 1
    arrays = {}
    for name in values:
        is_float = spans.schema[name].is_float()
        exact = (spans[name] * FIXED_POINT).round() if is_float else spans[name]
        amount = exact.cast(pl.Int64).fill_null(0).to_numpy()
        change = np.zeros((keys.height, len(days) + 1), dtype=np.int64)
        np.add.at(change, (codes, start), amount)
        np.subtract.at(change, (codes, stop), amount)
        total = np.cumsum(change, axis=1)[:, :-1]
        arrays[name] = total / FIXED_POINT if is_float else total
    return keys, arrays


def decayed_sums(
    rows: Frame, by: list[str], values: dict[str, pl.Expr], half_life_days: float, first: date, last: date
) -> pl.DataFrame:
    """As ``windowed_sums``, each row weighted 2 ** (−age / half-life), age = D − event_date, over five half-lives.

    The weights sum to 1: of one row a day the result is 1.

    ``values`` are integers or flags. Rows known on their own day for good are convolved as daily sums; the few that
    were late, amended or deleted are spread over the days they were known. Returns Float64 columns.
    """
    days = days_between(first, last)
    span = int(np.ceil(5 * half_life_days))
    decay = 0.5 ** (np.arange(span) / half_life_days)
    weights = np.rint(FIXED_POINT * decay / decay.sum()).astype(np.int64)
    spans = _spans(rows, by, values, span, first, last, 0, keep_event=True)
    spans = spans.group_by([*by, "_event", "_start", "_stop"]).agg(pl.col(list(values)).cast(pl.Int64).sum())
    keys, codes = _codes(spans, by)
    event = _offsets(spans["_event"], first)
    start = _offsets(spans["_start"], first)
    stop = _offsets(spans["_stop"], first)
    n = len(days)
    whole = (start == np.maximum(event, 0)) & (stop == np.minimum(event + span - 1, n - 1))
    part = np.flatnonzero(~whole)
    row, day = _laid_out(part, start, stop)
    grid = _grid(keys, days)
    for name in values:
        amount = spans[name].to_numpy()
        daily = np.zeros((keys.height, n + span - 1), dtype=np.int64)
        np.add.at(daily, (codes[whole], event[whole] + span - 1), amount[whole])
        total = np.zeros((keys.height, n), dtype=np.int64)
        for age in range(span):
            total += weights[age] * daily[:, span - 1 - age : span - 1 - age + n]
        np.add.at(total, (codes[row], day), amount[row] * weights[day - event[row]])
        grid = grid.with_columns(pl.Series(name, total.ravel()) / FIXED_POINT)
    return grid


def latest_known(rows: Frame, by: list[str], value: pl.Expr, name: str, first: date, last: date) -> pl.DataFrame:
    """For each D in [first, last]: the largest ``value`` among the rows known as of D, however old; null before any.

    ``value`` is a date, a time or an integer, and keeps its dtype. Returns ``by`` + as_of_date + ``name`` for every
    key and day.
    """
    days = days_between(first, last)
    spans = (
        rows.lazy()
        .select(*by, value.alias(name), pl.max_horizontal("first_day", pl.lit(first)).alias("_start"), "last_day")
        .filter(pl.col(name).is_not_null(), pl.col("_start") <= last)
        .filter(pl.col("last_day").is_null() | (pl.col("last_day") >= pl.col("_start")))
        # known to the end is as good as known for ever, and cheaper
        .with_columns(pl.when(pl.col("last_day") < last).then("last_day").alias("last_day"))
        .group_by([*by, "_start", "last_day"])
        .agg(pl.col(name).max())
        .collect()
    )
    dtype = spans.schema[name]
    keys, codes = _codes(spans, by)
    start = _offsets(spans["_start"], first)
    amount = spans[name].to_physical().cast(pl.Int64).to_numpy()
    open_ended = spans["last_day"].is_null().to_numpy()
    best = np.full((keys.height, len(days)), _NEVER, dtype=np.int64)
    np.maximum.at(best, (codes[open_ended], start[open_ended]), amount[open_ended])
    best = np.maximum.accumulate(best, axis=1)
    ended = np.flatnonzero(~open_ended)
    stop = np.minimum(_offsets(spans["last_day"].fill_null(last), first), len(days) - 1)
    row, day = _laid_out(ended, start, stop)
    np.maximum.at(best, (codes[row], day), amount[row])
    flat = best.ravel()
    column = pl.DataFrame({name: flat}).select(pl.when(pl.col(name) != _NEVER).then(pl.col(name)))[name]
    physical = pl.Int32() if dtype == pl.Date else pl.Int64()
    return _grid(keys, days).with_columns(column.cast(physical).cast(dtype).alias(name))


def _spans(
    rows: Frame,
    by: list[str],
    values: dict[str, pl.Expr],
    window_days: int,
    first: date,
    last: date,
    lag_days: int,
    keep_event: bool = False,
) -> pl.DataFrame:
    """The rows that contribute on any day of [first, last], with the first and last day they do."""
    if window_days < 1 or lag_days < 0:
        raise ValueError(f"a window of {window_days} days with a lag of {lag_days} is empty")
    enters = pl.col("event_date") + pl.duration(days=lag_days)
    leaves = pl.col("event_date") + pl.duration(days=lag_days + window_days - 1)
    return (
        rows.lazy()
        .select(
            *by,
            *([pl.col("event_date").alias("_event")] if keep_event else []),
            pl.max_horizontal("first_day", enters, pl.lit(first)).alias("_start"),
            pl.min_horizontal(leaves, "last_day", pl.lit(last)).alias("_stop"),
            *[expr.alias(name) for name, expr in values.items()],
        )
        .filter(pl.col("_start") <= pl.col("_stop"))
        .collect()
    )


def _codes(spans: pl.DataFrame, by: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
    """The distinct keys, sorted, and each row's position among them."""
    keys = spans.select(by).unique().sort(by)
    if len(by) == 1 and spans.schema[by[0]].is_integer():
        return keys, np.searchsorted(keys[by[0]].to_numpy(), spans[by[0]].to_numpy())
    codes = spans.select(by).join(keys.with_row_index("_code"), on=by, how="left", nulls_equal=True, maintain_order="left")[
        "_code"
    ]
    return keys, codes.to_numpy().astype(np.int64)


def _laid_out(which: np.ndarray, start: np.ndarray, stop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows ``which``, each repeated for its days start to stop, and those days."""
    known_for = stop[which] - start[which] + 1
    before = np.cumsum(known_for) - known_for
    row = np.repeat(which, known_for)
    return row, start[row] + np.arange(len(row)) - np.repeat(before, known_for)


def _offsets(days: pl.Series, first: date) -> np.ndarray:
    """Days since ``first``."""
    return (days - first).dt.total_days().to_numpy().astype(np.int64)


def _grid(keys: pl.DataFrame, days: pl.Series) -> pl.DataFrame:
    """Every key on every day, in that order."""
    n = len(days)
    repeated = keys.select(pl.all().repeat_by(n).explode()) if keys.height else keys.clear()
    return repeated.with_columns(pl.Series("as_of_date", np.tile(days.to_numpy(), keys.height)).cast(pl.Date))
