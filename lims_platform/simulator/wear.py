"""How analysers wear out and fail: a Markov chain per device, and the oracle that knows its state.

The latent state at the end of a day is (wear level 0..10, days since calibration, days since maintenance, days of run-in
left after a failure) plus the device's proneness (age, load, frailty). Next day's transition needs nothing else, so
P(FAILURE in the next seven days | state) follows exactly from backward induction over the chain (Puterman 1994, section 4.2,
finite horizon): no realised future enters it. Not here: what the wear does to logs, controls and results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.devices import Devices, make_devices
from lims_platform.simulator.randomness import generator

LEVELS = 10
HORIZON = 7
#: Days simulated before the first one, so that the laboratory does not start with new machines.
BURN_IN = 150

_LEVEL = np.arange(LEVELS + 1)
#: Chance of a wear-out failure per day at each level, before the calibration factor.
_WEAR_HAZARD = 0.55 * (_LEVEL / LEVELS) ** 4.0
_STEP_UP = np.where(_LEVEL == LEVELS, 0.0, 0.42)
_STEP_DOWN = np.where(_LEVEL == 0, 0.0, 0.05)
#: Shares of the tuned rate: onset of wear, and failures of pure chance.
_ONSET = 0.0100
_CHANCE = 0.0026

_CALIBRATION_CAP, _MAINTENANCE_CAP = 60, 150
_C, _M = np.arange(_CALIBRATION_CAP + 1), np.arange(_MAINTENANCE_CAP + 1)
#: Chance that the service is done today, given the days since the last one: mostly on time, at the cap surely.
_CALIBRATED = np.select([_C < 25, _C < 30, _C < _CALIBRATION_CAP], [0.0, 0.28, 0.14], 1.0)
_MAINTAINED = np.select([_M < 80, _M < 90, _M < _MAINTENANCE_CAP], [0.0, 0.14, 0.05], 1.0)
#: Overdue calibration raises the hazard of a worn device, overdue maintenance the onset of wear.
_CALIBRATION_FACTOR = 1.0 + 0.03 * np.maximum(0, _C - 30)
_MAINTENANCE_FACTOR = 1.0 + 0.05 * np.maximum(0, _M - 90)
_KEPT_AFTER_MAINTENANCE = _LEVEL // 3
_LONG_OUTAGE = 0.3
_GRID_STEP = 0.12
_TUNING_DEVICES, _TUNING_DAYS, _TUNING_ROUNDS = 1500, 240, 5


def _onset(days_since_maintenance: NDArray[np.int64], proneness: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    return np.minimum(0.5, _ONSET * scale * proneness * _MAINTENANCE_FACTOR[days_since_maintenance])


def _hazard(
    level: NDArray[np.int64], days_since_calibration: NDArray[np.int64], proneness: NDArray[np.float64], scale: float
) -> NDArray[np.float64]:
    worn = _WEAR_HAZARD[level] * _CALIBRATION_FACTOR[days_since_calibration]
    return np.minimum(0.95, worn + _CHANCE * scale * proneness)


@dataclass
class WearPath:
    """The simulated path; arrays of shape (days, devices), day 0 being the laboratory's first.

    ``felt`` is the wear level a day's signals show (before a repair), ``level`` the one at its end. ``run_in`` counts the
    hazard-free days left after a failure. Times of events are fractions of the day; NaN where there was none.
    """

    felt: NDArray[np.int8]
    level: NDArray[np.int8]
    since_calibration: NDArray[np.int16]
    since_maintenance: NDArray[np.int16]
    run_in: NDArray[np.int8]
    hazard: NDArray[np.float32]
    proneness: NDArray[np.float32]
    calibrated_at: NDArray[np.float32]
    maintained_at: NDArray[np.float32]
    failed_at: NDArray[np.float32]
    outage_hours: NDArray[np.float32]
    from_wear: NDArray[np.bool_]
    scale: float


def simulate_wear(config: LabConfig, devices: Devices | None = None, extra_days: int = 0) -> WearPath:
    """Run the chain from before the first day to ``extra_days`` past the last. Cost: one vectorised step per day."""
    register = make_devices(config) if devices is None else devices
    return _run(config.seed, register, config.days + extra_days, BURN_IN, tuned_scale(config.failures_per_device_year))


def _run(seed: int, devices: Devices, days: int, burn_in: int, scale: float) -> WearPath:
    count = devices.count
    rng = generator(seed, "wear-start")
    level = np.zeros(count, dtype=np.int64)
    since_c = rng.integers(0, 28, count)
    since_m = rng.integers(0, 85, count)
    run_in = np.zeros(count, dtype=np.int64)
    shape = (days, count)
    path = WearPath(
        felt=np.empty(shape, np.int8),
        level=np.empty(shape, np.int8),
        since_calibration=np.empty(shape, np.int16),
        since_maintenance=np.empty(shape, np.int16),
        run_in=np.empty(shape, np.int8),
        hazard=np.empty(shape, np.float32),
        proneness=np.empty(shape, np.float32),
        calibrated_at=np.empty(shape, np.float32),
        maintained_at=np.empty(shape, np.float32),
        failed_at=np.empty(shape, np.float32),
        outage_hours=np.empty(shape, np.float32),
        from_wear=np.empty(shape, np.bool_),
        scale=scale,
    )
    for day in range(-burn_in, days):
        u = generator(seed, "wear", day).random((9, count))
        proneness = devices.proneness(day)
        resting = run_in > 0
        calibrate = ~resting & (u[0] < _CALIBRATED[since_c])
        maintain = ~resting & (u[1] < _MAINTAINED[since_m])
        since_c = np.where(calibrate, 0, np.minimum(since_c + 1, _CALIBRATION_CAP))
        since_m = np.where(maintain, 0, np.minimum(since_m + 1, _MAINTENANCE_CAP))
        start = np.where(maintain, _KEPT_AFTER_MAINTENANCE[level], level)
        up = np.where(start == 0, _onset(since_m, proneness, scale), _STEP_UP[start])
        step = np.where(u[2] < up, 1, np.where(u[2] > 1.0 - _STEP_DOWN[start], -1, 0))
        felt = np.where(resting, level, start + step)
        hazard = np.where(resting, 0.0, _hazard(felt, since_c, proneness, scale))
        failed = u[3] < hazard
        long = u[4] < _LONG_OUTAGE
        run_in = np.where(failed, np.where(long, 2, 1), np.maximum(run_in - 1, 0))
        # a repair takes the wear away, but not always all of it, and ends with a calibration
        level = np.where(failed, np.where(u[5] < 0.75, 0, felt // 4), felt)
        since_c = np.where(failed, 0, since_c)
        if day < 0:
            continue
        path.felt[day], path.level[day], path.run_in[day] = felt, level, run_in
        path.since_calibration[day], path.since_maintenance[day] = since_c, since_m
        path.hazard[day], path.proneness[day] = hazard, proneness
        path.calibrated_at[day] = np.where(calibrate, 0.22 + 0.10 * u[6], np.nan)
        path.maintained_at[day] = np.where(maintain, 0.33 + 0.25 * u[6], np.nan)
        path.failed_at[day] = np.where(failed, 0.02 + 0.95 * u[7], np.nan)
        path.outage_hours[day] = np.where(failed, np.where(long, 14 + 33 * u[8], 2 + 12 * u[8] ** 2), np.nan)
        # which of the two causes it was, for the truth only
        path.from_wear[day] = failed & (u[3] < hazard - _CHANCE * scale * proneness)
    return path


@lru_cache(maxsize=64)
def tuned_scale(failures_per_device_year: float) -> float:
    """The factor on onset and chance that gives the wanted failures per device-year, on a reference fleet."""
    reference = Devices.reference(_TUNING_DEVICES, seed=20_240_101)
    scale = failures_per_device_year / 4.0
    for _ in range(_TUNING_ROUNDS):
        path = _run(20_240_101, reference, _TUNING_DAYS, 90, scale)
        rate = max(1, np.isfinite(path.failed_at).sum()) / (_TUNING_DEVICES * _TUNING_DAYS / 365.25)
        # failures follow the scale nearly in proportion, less so when they are many
        scale *= float(failures_per_device_year / rate) ** 1.15
    return scale


def oracle_probability(path: WearPath) -> NDArray[np.float32]:
    """P(FAILURE in (D, D+7] | latent state at the end of D), shape (days, devices).

    Backward induction over (level, calibration, maintenance) on a grid of log proneness (steps of 0.12, linear
    between); the device ages by seven days within the horizon, which is neglected (below 0.1 % of its proneness).
    """
    log_proneness = np.log(path.proneness.astype(np.float64))
    # anchored at zero, so that a longer path gives the same days the same numbers
    grid = _GRID_STEP * np.arange(np.floor(log_proneness.min() / _GRID_STEP), np.ceil(log_proneness.max() / _GRID_STEP) + 2)
    values = _value_tables(np.exp(grid), path.scale)
    position = (log_proneness - grid[0]) / _GRID_STEP
    lower = np.clip(position.astype(np.int64), 0, len(grid) - 2)
    weight = position - lower
    run_in = path.run_in.astype(np.int64)
    level = path.level.astype(np.int64)
    # while running in, only the clocks move; then the chain has HORIZON - run_in days left
    c = np.minimum(path.since_calibration + run_in, _CALIBRATION_CAP)
    m = np.minimum(path.since_maintenance + run_in, _MAINTENANCE_CAP)
    left = values[run_in, lower, level, c, m]
    right = values[run_in, lower + 1, level, c, m]
    return (left * (1 - weight) + right * weight).astype(np.float32)


def _value_tables(proneness: NDArray[np.float64], scale: float) -> NDArray[np.float32]:
    """V[r, g, k, c, m]: chance of a failure within HORIZON - r active days from state (k, c, m), for r = 0, 1, 2."""
    g = proneness[:, None, None, None]
    k, c, m = _LEVEL[None, :, None, None], _C[None, None, :, None], _M[None, None, None, :]
    hazard = _hazard(k, c, g, scale)
    onset = _onset(m, g, scale)
    up = np.where(k == 0, onset, _STEP_UP[k]).astype(np.float32)
    down = _STEP_DOWN[k]
    value: NDArray[np.float32] = np.zeros(np.broadcast_shapes(hazard.shape, onset.shape), dtype=np.float32)
    kept: list[NDArray[np.float32]] = []
    next_c, next_m = np.minimum(_C + 1, _CALIBRATION_CAP), np.minimum(_M + 1, _MAINTENANCE_CAP)
    p_c = _CALIBRATED[None, None, :, None].astype(np.float32)
    p_m = _MAINTAINED[None, None, None, :].astype(np.float32)
    for horizon in range(1, HORIZON + 1):
        after = (hazard + (1 - hazard) * value).astype(np.float32)
        higher = np.concatenate([after[:, 1:], after[:, -1:]], axis=1)
        lower = np.concatenate([after[:, :1], after[:, :-1]], axis=1)
        moved = after + up * (higher - after) + down.astype(np.float32) * (lower - after)
        by_c = p_c * moved[:, :, :1, :] + (1 - p_c) * moved[:, :, next_c, :]
        value = (p_m * by_c[:, _KEPT_AFTER_MAINTENANCE][..., :1] + (1 - p_m) * by_c[..., next_m]).astype(np.float32)
        if horizon >= HORIZON - 2:
            kept.append(value)
    return np.stack(kept[::-1])
