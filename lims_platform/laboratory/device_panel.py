"""Daily values of every device and analyte as arrays: patients' locations and control material side by side.

Here: results and controls to arrays of shape (series, days), allowable error, what sisters did. Not here: whether
anything moved (``change_points``), what that means (``device_verdict``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.change_points import Floats, Ints, quartiles
from lims_platform.laboratory.daily_location import ratio_scale

KEY = ["loinc_code", "device_id"]
#: A sister's movement counts up to this many of its SD: one that drifted must not look like all of them (Huber 1964).
_SISTER_WINSOR_SD = 1.5


@dataclass(frozen=True)
class Panel:
    """Arrays of shape (series, days) for the sorted ``keys`` (loinc_code, device_id); NaN where a day has no value.

    ``first`` is the date of column 0. ``location``, ``sampling`` (its variance) and ``scale`` are on the log scale
    where ``is_ratio``; ``results``, ``censored`` and ``left_out`` are counts. ``control`` is the day's mean bias of
    controls in allowable errors, ``control_sampling`` its variance, ``controls`` their number. ``group`` numbers the
    analytes, ``members`` (analytes, most devices) lists their series, -1 where there are fewer.
    """

    keys: pl.DataFrame
    first: date
    location: Floats
    sampling: Floats
    results: Floats
    scale: Floats
    censored: Floats
    left_out: Floats
    control: Floats
    control_sampling: Floats
    controls: Floats
    group: Ints
    members: Ints
    is_ratio: NDArray[np.bool_]
    tea_percent: Floats
    tea_absolute: Floats
    totals: dict[str, Floats]

    def counted(self, start: int, stop: int) -> dict[str, Floats]:
        """Results, censored and left out in the columns ``start`` to ``stop`` − 1, one per series."""
        return {name: total[:, stop] - total[:, start] for name, total in self.totals.items()}

    def allowable(self, level: Floats) -> Floats:
        """The allowable error at ``level`` (in the analyte's unit, one per series); NaN where none is known."""
        return np.fmax(self.tea_percent / 100 * np.abs(level), self.tea_absolute)

    def in_unit(self, centre: Floats, bias: Floats) -> Floats:
        """A bias of location about ``centre`` in the analyte's unit."""
        with np.errstate(over="ignore"):
            level = np.exp(np.where(self.is_ratio, centre, 0.0))
            return np.where(self.is_ratio, level * np.expm1(np.where(self.is_ratio, bias, 0.0)), bias)

    def level(self, centre: Floats) -> Floats:
        """A location in the analyte's unit."""
        return np.where(self.is_ratio, np.exp(np.where(self.is_ratio, centre, 0.0)), centre)


def panel(daily: pl.DataFrame, controls: pl.DataFrame, analytes: pl.DataFrame, first: date, days: int) -> Panel:
    """Arrays over ``days`` days from ``first``.

    daily: ``daily_location.daily_locations``; controls: ``daily_controls``; analytes: loinc_code, plausible_low,
    tea_percent, tea_absolute.
    """
    rows = daily.with_columns(day=(pl.col("event_date") - first).dt.total_days()).filter(
        pl.col("day").is_between(0, days - 1)
    )
    keys = rows.select(KEY).unique().sort(KEY).with_row_index("series")
    codes = keys.select("loinc_code").unique(maintain_order=True).with_row_index("group")
    of_analyte = ratio_scale(analytes).join(
        analytes.unique("loinc_code").select("loinc_code", pl.col("tea_percent", "tea_absolute").cast(pl.Float64)),
        on="loinc_code",
    )
    known = keys.join(codes, on="loinc_code", how="left", maintain_order="left").join(
        of_analyte, on="loinc_code", how="left", maintain_order="left"
    )
    group = known["group"].to_numpy().astype(np.int64)
    values = _laid_out(rows, keys, days, ("location", "variance", "results", "scale", "censored", "left_out"))
    checks = controls.with_columns(day=(pl.col("event_date") - first).dt.total_days()).filter(
        pl.col("day").is_between(0, days - 1)
    )
    control = _laid_out(checks, keys, days, ("control", "control_variance", "controls"))
    return Panel(
        keys=keys.select(KEY),
        first=first,
        location=values["location"],
        sampling=values["variance"] / np.where(values["results"] > 0, values["results"], np.nan),
        results=values["results"],
        scale=values["scale"],
        censored=values["censored"],
        left_out=values["left_out"],
        control=control["control"],
        control_sampling=control["control_variance"] / control["controls"],
        controls=control["controls"],
        group=group,
        members=_members(group),
        is_ratio=known["is_ratio"].fill_null(False).to_numpy(),
        tea_percent=known["tea_percent"].fill_null(np.nan).to_numpy(),
        tea_absolute=known["tea_absolute"].fill_null(np.nan).to_numpy(),
        totals={name: _running(values[name]) for name in ("results", "censored", "left_out")},
    )


def _laid_out(rows: pl.DataFrame, keys: pl.DataFrame, days: int, names: tuple[str, ...]) -> dict[str, Floats]:
    placed = rows.join(keys, on=KEY, how="inner")
    series, day = placed["series"].to_numpy(), placed["day"].to_numpy()
    arrays = {}
    for name in names:
        arrays[name] = np.full((keys.height, days), np.nan)
        arrays[name][series, day] = placed[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
    return arrays


def _running(counts: Floats) -> Floats:
    """Sums of the columns before each, NaN as 0; exact, as counts are whole."""
    return np.concatenate([np.zeros((len(counts), 1)), np.cumsum(np.nan_to_num(counts), axis=1)], axis=1)


def _members(group: Ints) -> Ints:
    """Series of each group, padded with -1."""
    if not len(group):
        return np.zeros((0, 1), dtype=np.int64)
    size = np.bincount(group)
    place = np.arange(len(group)) - np.repeat(np.cumsum(size) - size, size)
    out = np.full((len(size), int(size.max())), -1, dtype=np.int64)
    out[group, place] = np.arange(len(group))
    return out


def daily_controls(controls: Frame, analytes: pl.DataFrame) -> pl.DataFrame:
    """loinc_code, device_id, event_date, control, control_variance, controls: a day's mean bias of its controls.

    controls: quality_control_standardized (device_id, loinc_code, event_date, measured_value, expected_value, reason,
    is_repeat). In allowable errors at the assigned value; repeats, unusable rows and analytes without an allowable
    error are left out. ``control_variance`` is that of one control, from controls of one device and day.
    """
    of_analyte = analytes.lazy().unique("loinc_code").select("loinc_code", pl.col("tea_percent", "tea_absolute").cast(float))
    tea = pl.max_horizontal(pl.col("tea_percent") / 100 * pl.col("expected_value").abs(), "tea_absolute")
    bias = (
        controls.lazy()
        .filter(pl.col("reason").is_null(), ~pl.col("is_repeat").fill_null(False), pl.col("device_id").is_not_null())
        .join(of_analyte, on="loinc_code", how="inner")
        .with_columns(bias=(pl.col("measured_value") - pl.col("expected_value")) / tea)
        .filter(pl.col("bias").is_finite())
        .select(*KEY, "event_date", "bias")
        .sort(*KEY, "event_date", "bias")
        .collect()
    )
    day = ["loinc_code", "event_date"]
    cells = bias.group_by(*KEY, "event_date", maintain_order=True).agg(
        control=pl.col("bias").mean(),
        controls=pl.len().cast(pl.Float64),
        squares=((pl.col("bias") - pl.col("bias").mean()) ** 2).sum(),
    )
    free = (pl.col("controls") - 1).sum().over(day)
    variance = pl.when(free > 0).then(pl.col("squares").sum().over(day) / free).otherwise(0.0)
    return cells.with_columns(control_variance=variance).drop("squares")


def sister_movement(residual: Floats, variance: Floats, members: Ints) -> tuple[Floats, Floats]:
    """What the other devices of the analyte did each day, and how many they were; shape (series, days).

    residual: daily values minus each device's own baseline. The mean of the others, weighted by precision, each
    counting up to 1.5 of its SD about the median of all; NaN where there is no other.
    """
    movement, count = np.full(residual.shape, np.nan), np.zeros(residual.shape)
    if not len(members):
        return movement, count
    there = members >= 0
    here = there[:, :, None] & np.isfinite(residual)[members] & np.isfinite(variance)[members]
    value = np.where(here, residual[members], np.nan)
    days = value.shape[2]
    stacked = np.moveaxis(value, 1, 2).reshape(-1, members.shape[1])
    middle = quartiles(stacked)[1].reshape(-1, 1, days)
    weight = np.where(here, 1 / np.where(here, variance[members], 1.0), 0.0)
    reach = _SISTER_WINSOR_SD / np.sqrt(np.where(here, weight, 1.0))
    about = np.where(here, np.clip(np.nan_to_num(value - middle), -reach, reach), 0.0)
    total, mass, number = (_sum_members(part) for part in (weight * about, weight, here.astype(float)))
    others = mass[:, None] - weight
    alone = (number[:, None] - here) < 1
    mean = middle + (total[:, None] - weight * about) / np.where(alone | (others <= 0), np.nan, others)
    movement[members[there]] = mean[there]
    count[members[there]] = (number[:, None] - here)[there]
    return movement, count


def _sum_members(values: Floats) -> Floats:
    """Sum over axis 1, one device after the other: devices without a value leave every bit as it is."""
    total = np.zeros((values.shape[0], values.shape[2]))
    for member in range(values.shape[1]):
        total += values[:, member]
    return total
