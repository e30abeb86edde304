"""Westgard multirules over control measurements.

Here: which control violates which rule, strict inequality throughout. Not here: what the rules are
(``westgard_rules``), targets and SDs (``qc_targets``), alerts. Rules across runs follow one level of one device and
analyte and start anew where the lot changes, after a calibration and after a gap.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import local_date
from lims_platform.laboratory.westgard_rules import STANDARD, Rule, chosen

#: Controls of one device and analyte without a run_id, closer than this to the one before, are one run.
RUN_GAP = timedelta(minutes=30)
#: A level that was not measured for longer than this starts anew: what happened in between is not known.
SERIES_GAP = timedelta(days=7)

_LEVEL = ["device_id", "loinc_code", "qc_level"]
_OPTIONAL: dict[str, pl.DataType] = {
    "lot": pl.String(),
    "run_id": pl.String(),
    "analyte": pl.String(),
    "calibrated_at": pl.Datetime("us", "UTC"),
}

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
#: Controls that violate a rule, and for each the controls involved, as two parallel arrays of row numbers.
Pairs = tuple[Ints, Ints]


def violations(
    runs: pl.DataFrame,
    run_gap: timedelta = RUN_GAP,
    calendar: str = "UTC",
    *,
    rules: Iterable[str] = STANDARD,
    series_gap: timedelta = SERIES_GAP,
) -> pl.DataFrame:
    """One row per control measurement and rule it violates, contract WestgardViolations.

    runs: device_id, loinc_code, qc_level, run_at (UTC), z in SD; optional lot, run_id, analyte, calibrated_at (UTC, the
    device's last calibration before the run), and event_date (else the day of run_at in ``calendar``). Rows whose z is
    null or not finite, or that lack device, analyte, level or time, cannot be judged and are left out (``qc_targets``
    names them). A run is run_id within device and analyte, else controls of the device and analyte at most ``run_gap``
    apart. A series is one level of one lot between calibrations, without a gap longer than ``series_gap``.

    1-2s: |z| > 2. 1-3s: |z| > 3. 2-2s: two on one side beyond 2, any two controls of one run or consecutive
    measurements of one series. R-4s: within one run one above +2 and one below −2. 4-1s: four on one side beyond 1, in
    one run or consecutive of one series. 10x: ten consecutive of one series on one side of the mean. 7T: seven of one
    series, each higher (or each lower) than the one before. A run of controls that goes on violating a rule across
    runs gives a row for each further measurement. ``runs_involved``: the times of every measurement the rule counted,
    the first of them ``first_run_at``. Cost: a sort and a few passes, O(n log n). ValueError for an unknown rule, and
    naming the column that is missing or no datetime.
    """
    empty = TABLES["westgard_violations"].empty()
    wanted = chosen(rules)
    _check_columns(runs)
    if runs.is_empty():
        return empty
    rows = _ordered(runs, run_gap, series_gap, calendar)
    if rows.is_empty() or not wanted:
        return empty
    z = rows["z"].to_numpy()
    series = rows["_series"].to_numpy().astype(np.int64)
    run = rows["_run"].to_numpy().astype(np.int64)
    at = rows["run_at"]
    out = pl.concat([_frame(rows, at, name, rule, _pairs(rule, z, series, run)) for name, rule in wanted.items()])
    # two measurements of one level at the same moment: the one further out speaks for both
    out = out.sort(pl.col("z").abs(), descending=True).unique([*_LEVEL, "rule", "run_at"], keep="first")
    return out.select(empty.columns).cast(empty.schema).sort("run_at", *_LEVEL, "rule")


def _check_columns(runs: pl.DataFrame) -> None:
    absent = [name for name in (*_LEVEL, "run_at", "z") if name not in runs.columns]
    if absent:
        raise ValueError(f"control runs: column {absent[0]} is missing")
    dtype = runs.schema["run_at"]
    # a frame of no rows may not know that its times are times
    if dtype != pl.Datetime and not runs.is_empty():
        raise ValueError(f"control runs: column run_at is {dtype}, not a datetime")


def _ordered(runs: pl.DataFrame, run_gap: timedelta, series_gap: timedelta, calendar: str) -> pl.DataFrame:
    """Usable rows by level and time, with the number of their series and of their run."""
    day = pl.col("event_date") if "event_date" in runs.columns else local_date(pl.col("run_at"), calendar)
    optional = [(pl.col(n) if n in runs.columns else pl.lit(None)).cast(t).alias(n) for n, t in _OPTIONAL.items()]
    rows = (
        runs.with_columns(*optional, pl.col("qc_level").cast(pl.String), pl.col("z").cast(pl.Float64))
        .filter(pl.col("z").is_finite(), pl.all_horizontal(pl.col(*_LEVEL, "run_at").is_not_null()))
        .select(*_LEVEL, *_OPTIONAL, "run_at", "z", day.alias("as_of_date"))
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
    anew = pl.struct(*_LEVEL, "lot", "calibrated_at").rle_id().diff().fill_null(1) != 0
    late = pl.col("run_at").diff().fill_null(timedelta(0)) > series_gap
    return rows.with_columns((anew | late).cum_sum().alias("_series"))


def _pairs(rule: Rule, z: NDArray[np.float64], series: Ints, run: Ints) -> Pairs:
    """What a rule finds on rows in order of series and time."""
    if rule.within == "trend":
        up = _streaks(np.r_[False, np.diff(z) > 0], series, rule.count, first_counts=True)
        down = _streaks(np.r_[False, np.diff(z) < 0], series, rule.count, first_counts=True)
        return _join(up, down)
    if rule.within == "one":
        hits = np.flatnonzero(np.abs(z) > rule.limit)
        return hits, hits
    sides = [z > rule.limit, z < -rule.limit]
    if rule.within == "both sides":
        size = int(run.max()) + 1
        both = np.logical_and(*[np.bincount(run[side], minlength=size) > 0 for side in sides])
        return _of_runs((sides[0] | sides[1]) & both[run], run, rule.count)
    found: list[Pairs] = []
    for side in sides:
        if "run" in rule.within:
            found.append(_of_runs(side, run, rule.count))
        if "level" in rule.within:
            found.append(_streaks(side, series, rule.count))
    return _join(*found)


def _join(*found: Pairs) -> Pairs:
    return np.concatenate([hits for hits, _ in found]), np.concatenate([members for _, members in found])


def _streaks(holds: Bools, series: Ints, count: int, first_counts: bool = False) -> Pairs:
    """Rows that end ``count`` consecutive ones of a series that hold; ``first_counts``: the row before the first too."""
    index = np.arange(len(holds))
    starts = np.r_[True, series[1:] != series[:-1]]
    if first_counts:
        last_break = np.maximum.accumulate(np.where(~holds | starts, index, -1)) - 1
    else:
        last_break = np.maximum.accumulate(np.where(~holds, index, np.where(starts, index - 1, -1)))
    hits = np.flatnonzero(index - last_break >= count)
    members = hits[:, None] - np.arange(count)[None, :]
    return np.repeat(hits, count), members.ravel()


def _of_runs(holds: Bools, run: Ints, count: int) -> Pairs:
    """Rows that hold in a run where at least ``count`` do, each with all of them."""
    enough = holds & (np.bincount(run[holds], minlength=int(run.max()) + 1)[run] >= count)
    rows = pl.DataFrame({"run": run[enough], "row": np.flatnonzero(enough)})
    pairs = rows.join(rows, on="run", suffix="_member")
    return pairs["row"].to_numpy(), pairs["row_member"].to_numpy()


def _frame(rows: pl.DataFrame, at: pl.Series, name: str, rule: Rule, pairs: Pairs) -> pl.DataFrame:
    """The violations of one rule, the times of the controls involved sorted and each named once."""
    hits, members = pairs
    found = (
        pl.DataFrame({"_hit": hits, "_member": members}, schema={"_hit": pl.Int64, "_member": pl.Int64})
        .with_columns(at.gather(members).alias("runs_involved"))
        .group_by("_hit")
        .agg(pl.col("runs_involved").unique().sort())
        .sort("_hit")
    )
    return rows[found["_hit"].to_numpy()].with_columns(
        found["runs_involved"],
        found["runs_involved"].list.first().alias("first_run_at"),
        pl.lit(name).alias("rule"),
        pl.lit(rule.severity).alias("severity"),
    )
