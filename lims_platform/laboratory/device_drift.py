"""Device drift: a device's results of an analyte against its own past, its sisters and its controls.

Here: three daily statistics per device and analyte, and the verdict they add up to. Not here: the detection
(``change_points``), the daily values (``daily_location``, ``device_panel``), whole distributions (``drift``), rules on
single controls (``westgard``).

The baseline is fixed from Monday to Sunday and ends ``window_days`` before that week, so that a drift that has begun is
not its own baseline. Sisters cancel what the patients do to all devices: a device that leaves its sisters has moved,
devices that leave their past together have other patients or a shared reagent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.change_points import (
    Baseline,
    Floats,
    Ints,
    Shift,
    baseline,
    day_means,
    largest_shift,
)
from lims_platform.laboratory.daily_location import daily_locations
from lims_platform.laboratory.device_panel import Panel, daily_controls, panel, sister_movement
from lims_platform.laboratory.device_verdict import NO_VERDICTS, verdicts
from lims_platform.laboratory.drift_limits import DriftLimits

Flags = NDArray[np.bool_]
Values = Floats | Ints | Flags
NO_CONTROLS = pl.DataFrame(
    schema={
        "device_id": pl.String,
        "loinc_code": pl.String,
        "event_date": pl.Date,
        "measured_value": pl.Float64,
        "expected_value": pl.Float64,
        "reason": pl.String,
        "is_repeat": pl.Boolean,
    }
)


def device_drift(
    results: Frame,
    analytes: pl.DataFrame,
    days: Sequence[date],
    limits: DriftLimits | None = None,
    controls: Frame = NO_CONTROLS,
) -> pl.DataFrame:
    """Rows of kind 'device' of the contract DriftReport without q_value: one per day, device and analyte.

    results, analytes: as ``daily_locations`` (analytes with tea_percent, tea_absolute too); controls: as
    ``daily_controls``. See ``device_verdicts``.
    """
    return device_verdicts(daily_locations(results, analytes), daily_controls(controls, analytes), analytes, days, limits)


def device_verdicts(
    daily: pl.DataFrame,
    controls: pl.DataFrame,
    analytes: pl.DataFrame,
    days: Sequence[date],
    limits: DriftLimits | None = None,
) -> pl.DataFrame:
    """The verdict on every device and analyte with results in the span a day looks at.

    daily, controls: the daily values of ``daily_locations`` and ``daily_controls``, from ``limits.history_days``
    before the first of ``days``; what is later than a day does not enter it.

    z_own: the device against its past; z_sisters: the same of its difference from the sisters; z_qc: its controls.
    Each is the largest shift over the last L days, 1 to window_days, in standard errors of daily values. What they
    add up to is said by ``device_verdict.verdicts``.
    """
    limits = limits or DriftLimits()
    wanted = sorted(set(days))
    if not wanted:
        return NO_VERDICTS
    weeks = sorted({day - timedelta(days=day.weekday()) for day in wanted})
    lead = limits.baseline_days + limits.window_days
    first = weeks[0] - timedelta(days=lead)
    data = panel(daily, controls, analytes, first, (weeks[-1] - first).days + 7)
    if data.keys.is_empty():
        return NO_VERDICTS
    out = []
    for week in weeks:
        start = (week - timedelta(days=lead) - first).days
        series = _Series.of(data, slice(start, start + lead + 7), limits)
        ends = [lead + (day - week).days for day in wanted if timedelta(0) <= day - week < timedelta(days=7)]
        out += [_evidence(data, series, start, end, limits) for end in ends]
    columns = {name: np.concatenate([part[name] for part in out]) for name in out[0]}
    keys = data.keys[np.tile(np.arange(data.keys.height), len(out))]
    evidence = keys.with_columns(
        pl.Series("as_of_date", np.repeat(np.array(wanted, dtype="datetime64[D]"), data.keys.height)).cast(pl.Date),
        *[pl.Series(name, values) for name, values in columns.items()],
    )
    # a device or analyte that is seen on later days only does not exist yet
    return verdicts(evidence.filter(pl.col("rows_seen") > 0), analytes, limits)


@dataclass(frozen=True)
class _Series:
    """The series of one week: baselines, how many sisters there were each day, and who stands for the patients.

    ``patients`` is the contrast with the sisters where a device has one, else its own past; ``both`` is the mean of
    patients and controls by precision. ``level`` is the baseline location in the analyte's unit, ``allowable`` the
    allowable error there, ``robust_sd`` the results' own spread.
    """

    own: Baseline
    contrast: Baseline
    control: Baseline
    both: Baseline
    sisters: Floats
    by_sisters: Flags
    level: Floats
    allowable: Floats
    robust_sd: Floats

    @classmethod
    def of(cls, data: Panel, span: slice, limits: DriftLimits) -> _Series:
        """Baselines of the panel's columns ``span``."""
        fixed = (data.group, limits.baseline_days, limits.min_baseline_days)
        sampling = data.sampling[:, span]
        own = baseline(data.location[:, span], sampling, *fixed)
        moved, sisters = sister_movement(own.residual, own.variance, data.members)
        contrast = baseline(own.residual - moved, sampling, *fixed)
        level = data.level(own.centre)
        allowable = data.allowable(level)
        step = np.where(data.is_ratio, allowable / level, allowable)[:, None]
        control = baseline(data.control[:, span] * step, data.control_sampling[:, span] * step**2, *fixed)
        by_sisters = np.isfinite(contrast.centre)
        patients = _where(by_sisters, contrast, own)
        both = _both(patients, control, fixed)
        spread = day_means(data.scale[:, span][:, : limits.baseline_days])
        robust_sd = data.in_unit(own.centre, spread)
        return cls(own, contrast, control, both, sisters, by_sisters, level, allowable, robust_sd)


def _where(first: Flags, a: Baseline, b: Baseline) -> Baseline:
    """The series of ``a`` where ``first``, else of ``b``."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Baseline)]
    return Baseline(*[np.where(first if x.ndim == 1 else first[:, None], x, y) for x, y in pairs])


def _both(patients: Baseline, controls: Baseline, fixed: tuple[Ints, int, int]) -> Baseline:
    """Patients and controls of a day, weighted by precision; a device's own day moves both, so the noise is found anew.

    A series without a baseline of either is none.
    """
    total, sums = np.zeros(patients.residual.shape), np.zeros(patients.residual.shape)
    for part in (patients, controls):
        weight = np.nan_to_num(1 / part.variance)
        total, sums = total + weight, sums + weight * np.nan_to_num(part.residual)
    known = (np.isfinite(patients.centre) & np.isfinite(controls.centre))[:, None] & (total > 0)
    total = np.where(known, total, np.nan)
    return baseline(sums / total, 1 / total, *fixed)


def _evidence(data: Panel, series: _Series, start: int, end: int, limits: DriftLimits) -> dict[str, Values]:
    """What ``device_verdict.verdicts`` needs of one day, an array per column with an entry per series.

    ``start`` is the panel's column where the week's baseline begins, ``end`` the day's, counted from there. Biases and
    errors are in the analyte's unit.
    """
    now, seen = slice(start, start + end + 1), data.counted(start, start + end + 1)
    sizes, window = data.results[:, now], limits.window_days
    shifts = {
        "own": largest_shift(series.own, sizes, end, window, limits.min_results),
        "sisters": largest_shift(series.contrast, sizes, end, window, limits.min_results),
        "qc": largest_shift(series.control, data.controls[:, now], end, window, 1),
        "both": largest_shift(series.both, data.controls[:, now], end, window, 1),
    }
    centre = series.own.centre
    columns: dict[str, Values] = {}
    for name, shift in shifts.items():
        columns |= _columns(name, shift, data, centre)
        # the same series over the days since patients and controls moved
        spell = shifts["both"].length[:, None] - 1
        bias, variance = (np.take_along_axis(v, spell, 1)[:, 0] for v in (shift.bias_by_length, shift.variance_by_length))
        columns |= {
            f"bias_{name}_then": data.in_unit(centre, bias),
            f"error_{name}_then": data.in_unit(centre, np.sqrt(variance)),
        }
    columns |= {
        "by_sisters": series.by_sisters & np.isfinite(shifts["sisters"].z),
        "sisters": series.sisters[:, end],
        "reference_mean": series.level,
        "allowable_error": series.allowable,
        "robust_sd": series.robust_sd,
        "baseline_days": series.own.days,
        "reference_rows": data.counted(start, start + limits.baseline_days)["results"],
        "rows_today": np.nan_to_num(data.results[:, start + end]),
        "rows_seen": seen["results"] + seen["left_out"],
        "censored": seen["censored"],
        "left_out": seen["left_out"],
        "varies": np.logical_or.reduce(np.isfinite(series.own.variance[:, : end + 1]), axis=1),
    }
    return columns


def _columns(name: str, shift: Shift, data: Panel, centre: Floats) -> dict[str, Values]:
    return {
        f"z_{name}": shift.z,
        f"bias_{name}": data.in_unit(centre, shift.bias),
        f"error_{name}": data.in_unit(centre, shift.error),
        f"days_{name}": shift.length,
        f"size_{name}": shift.size,
        f"returned_{name}": shift.returned,
    }
