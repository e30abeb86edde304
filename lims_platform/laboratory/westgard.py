"""Westgard multirules over control measurements.

Here: which control violates which rule (Westgard, Barry, Hunt, Groth, Clin Chem 1981;27:493-501), strict inequality
throughout. Not here: targets and SDs (silver gives z), alerts. Rules across runs follow one level of one device and
analyte and start anew where the lot changes; whoever wants them to stop at reagent and calibrator lots joins those
into ``lot`` (``qc_runs`` does).
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame, local_date

#: Rule → severity.
RULES: dict[str, str] = {
    "1-2s": "warning",
    "1-3s": "rejection",
    "2-2s": "rejection",
    "R-4s": "rejection",
    "4-1s": "rejection",
    "10x": "rejection",
}
#: Controls of one device and analyte without a run_id, closer than this to the one before, are one run.
RUN_GAP = timedelta(minutes=30)

_LEVEL = ["device_id", "loinc_code", "qc_level"]


def qc_runs(controls: Frame) -> pl.DataFrame:
    """Rows of quality_control_standardized as ``violations`` wants them; unusable rows and those without z are left out.

    ``lot`` joins control, reagent and calibrator lot: a change of any is a break point.
    """
    lot = pl.concat_str(
        [pl.col(f"{kind}_lot").fill_null("") for kind in ("control", "reagent", "calibrator")], separator="/"
    )
    return (
        controls.lazy()
        .filter(pl.col("reason").is_null(), pl.col("z").is_finite())
        .select(*_LEVEL, "analyte", lot.alias("lot"), "run_id", "run_at", "z", "event_date")
        .collect()
    )


def violations(runs: pl.DataFrame, run_gap: timedelta = RUN_GAP, calendar: str = "UTC") -> pl.DataFrame:
    """One row per control measurement and rule it violates, contract WestgardViolations.

    runs: device_id, loinc_code, lot (may be null), qc_level, run_id (may be null), run_at (UTC), z; optional analyte,
    and event_date (else the day of run_at in ``calendar``). Rows whose z is null or not finite, or that lack device,
    analyte, level or time, cannot be judged and are left out. A run is run_id within device and analyte, else
    controls of the device and analyte at most ``run_gap`` apart.

    1-2s: |z| > 2. 1-3s: |z| > 3. 2-2s: two on one side beyond 2, any two controls of one run or consecutive
    measurements of one level. R-4s: within one run one above +2 and one below −2. 4-1s: four on one side beyond 1, in
    one run or consecutive of one level. 10x: ten consecutive of one level on one side of the mean. A run of controls
    that goes on violating a rule across runs gives a row for each further measurement. ``first_run_at`` is the
    earliest measurement involved. Cost: a sort and a few passes, O(n log n).
    """
    empty = TABLES["westgard_violations"].empty()
    rows = _ordered(runs, run_gap, calendar)
    if rows.is_empty():
        return empty
    z = rows["z"].to_numpy()
    at = rows["run_at"].to_physical().to_numpy()
    series = rows["_series"].to_numpy().astype(np.int64)
    run = rows["_run"].to_numpy().astype(np.int64)
    found = [
        _frame(rows, "1-2s", np.abs(z) > 2, at),
        _frame(rows, "1-3s", np.abs(z) > 3, at),
        _frame(rows, "2-2s", *_count_rule(z, at, series, run, limit=2.0, count=2)),
        _frame(rows, "R-4s", *_range_rule(z, at, run)),
        _frame(rows, "4-1s", *_count_rule(z, at, series, run, limit=1.0, count=4)),
        _frame(rows, "10x", *_either_side(*[_streak_rule(s * z > 0, at, series, 10) for s in (1, -1)])),
    ]
    out = pl.concat(found)
    # two measurements of one level at the same moment: the one further out speaks for both
    out = out.sort(pl.col("z").abs(), descending=True).unique([*_LEVEL, "rule", "run_at"], keep="first")
    return out.select(empty.columns).cast(empty.schema).sort("run_at", *_LEVEL, "rule")


def _ordered(runs: pl.DataFrame, run_gap: timedelta, calendar: str) -> pl.DataFrame:
    """Usable rows by level and time, with the number of their series (level and lot unbroken) and of their run."""
    day = pl.col("event_date") if "event_date" in runs.columns else local_date(pl.col("run_at"), calendar)
    analyte = pl.col("analyte") if "analyte" in runs.columns else pl.lit(None, dtype=pl.String)
    rows = (
        runs.with_columns(pl.col("run_id").cast(pl.String), pl.col("lot").cast(pl.String), pl.col("z").cast(pl.Float64))
        .filter(pl.col("z").is_finite(), pl.all_horizontal(pl.col(*_LEVEL, "run_at").is_not_null()))
        .select(*_LEVEL, "lot", "run_id", "run_at", "z", day.alias("as_of_date"), analyte.alias("analyte"))
        .sort("device_id", "loinc_code", "run_at", "qc_level", "z")
    )
    same = pl.lit(True)
    for name in ("device_id", "loinc_code"):
        same = same & (pl.col(name) == pl.col(name).shift(1)).fill_null(False)
    # a chain over the rows without run_id only: a named run between them does not split one
    unnamed = rows.with_row_index("_row").filter(pl.col("run_id").is_null())
    chained = (same & (pl.col("run_at") - pl.col("run_at").shift(1) <= run_gap)).fill_null(False)
    unnamed = unnamed.select("_row", (~chained).cum_sum().alias("_chain"))
    rows = (
        rows.with_row_index("_row")
        .join(unnamed, on="_row", how="left", maintain_order="left")
        .with_columns(pl.struct("device_id", "loinc_code", "run_id", "_chain").rank("dense").alias("_run"))
        .sort(*_LEVEL, "run_at", "_row")
    )
    return rows.with_columns(pl.struct(*_LEVEL, "lot").rle_id().alias("_series"))


def _either_side(
    *sides: tuple[NDArray[np.bool_], NDArray[np.int64]],
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Violated on any of the ways given; the earliest start of those that hold."""
    far = np.iinfo(np.int64).max
    starts = np.min([np.where(hit, first, far) for hit, first in sides], axis=0)
    return np.any([hit for hit, _ in sides], axis=0), starts


def _streak_rule(
    holds: NDArray[np.bool_], at: NDArray[np.int64], series: NDArray[np.int64], count: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Where the last ``count`` measurements of the series all hold; and when the first of them ran."""
    index = np.arange(len(holds))
    new_series = np.r_[True, series[1:] != series[:-1]]
    last_break = np.maximum.accumulate(np.where(~holds, index, np.where(new_series, index - 1, -1)))
    hit = index - last_break >= count
    return hit, at[np.maximum(index - count + 1, 0)]


def _run_rule(
    holds: NDArray[np.bool_], at: NDArray[np.int64], run: NDArray[np.int64], count: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Measurements that hold in a run where at least ``count`` do; and when the run's first of them ran."""
    size = int(run.max()) + 1
    hit = holds & (np.bincount(run[holds], minlength=size)[run] >= count)
    first = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(first, run[holds], at[holds])
    return hit, first[run]


def _count_rule(
    z: NDArray[np.float64],
    at: NDArray[np.int64],
    series: NDArray[np.int64],
    run: NDArray[np.int64],
    limit: float,
    count: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """``count`` beyond ``limit`` on one side: in one run, or consecutive of one series."""
    ways = []
    for side in (1, -1):
        holds = side * z > limit
        ways += [_run_rule(holds, at, run, count), _streak_rule(holds, at, series, count)]
    return _either_side(*ways)


def _range_rule(
    z: NDArray[np.float64], at: NDArray[np.int64], run: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Measurements beyond 2 in a run that has one above +2 and one below −2."""
    size = int(run.max()) + 1
    both = (np.bincount(run[z > 2], minlength=size) > 0) & (np.bincount(run[z < -2], minlength=size) > 0)
    beyond = np.abs(z) > 2
    _, first = _run_rule(beyond, at, run, 2)
    return beyond & both[run], first


def _frame(rows: pl.DataFrame, rule: str, hit: NDArray[np.bool_], first: NDArray[np.int64]) -> pl.DataFrame:
    dtype = rows.schema["run_at"]
    return rows.with_columns(
        pl.lit(rule).alias("rule"),
        pl.lit(RULES[rule]).alias("severity"),
        pl.Series("first_run_at", first).cast(dtype),
    ).filter(pl.Series(hit))
