"""Quality control: two runs a day of two or three levels per device and analyte, with lots, wear, drift and repeats.

What a control shows is bias (wear in the device's own direction, drift episodes, reagent lots, time since calibration) and
imprecision (wear). Not here: the rules that judge it (the platform's business); ``passed`` is this LIMS's own 1-3s verdict.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.simulator import catalogue
from lims_platform.simulator.clock import HOUR
from lims_platform.simulator.pool import choices, numbered
from lims_platform.simulator.randomness import generator, normals
from lims_platform.simulator.results import wall_series
from lims_platform.simulator.world import World

SHIFTS = 2
_REAGENT_LOT_DAYS, _CONTROL_LOT_DAYS, _CALIBRATOR_LOT_DAYS = 45, 91, 180
#: The SD the laboratory assigned is a little wider than a healthy device's own.
_ASSIGNED_WIDENING = 1.1
_REPEAT_MINUTES = 14


@lru_cache(maxsize=4)
def _lot_shifts(seed: int) -> NDArray[np.float32]:
    """Shift of each reagent lot in SDs, shape (analytes, lots)."""
    return 0.3 * generator(seed, "reagent-lots").standard_normal((len(catalogue.CODES), 1000), dtype=np.float32)


def _plan(world: World) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Device, analyte and level of every control of one shift."""
    rows = [
        (device, catalogue.CODES.index(code), level)
        for device, kind in enumerate(world.devices.type_index.tolist())
        for code in catalogue.DEVICE_TYPES[kind].qc_codes
        for level in range(catalogue.DEVICE_TYPES[kind].qc_levels)
    ]
    device, code, level = np.array(rows, dtype=np.int64).T
    return device, code, level


def make_qc(world: World, first: int, stop: int) -> pl.DataFrame:
    """quality_control of days ``first`` to ``stop`` with hidden ``_visible`` (UTC microseconds), in order of time."""
    device, code, level = _plan(world)
    controls, days = len(device), np.arange(first, stop)
    z = normals(world.config.seed, "qc", days.tolist(), np.full(len(days), SHIFTS * controls), 4)
    shape = (len(days), SHIFTS, controls)
    own, repeat, minutes, shared = (row.reshape(shape) for row in z)
    # controls of one run (device, analyte, shift) share a part of their noise: the draw of the run's first control
    head = np.arange(controls) - level
    day = np.broadcast_to(days[:, None, None], shape)
    at_device, at_code = np.broadcast_to(device, shape), np.broadcast_to(code, shape)
    instant = (
        (
            world.clock.day_start(days)[:, None, None]
            + np.array([6.4, 18.4])[None, :, None] * HOUR
            + np.clip(minutes[..., head], -2.5, 2.5) * 12 * 60e6
            + np.broadcast_to(level, shape) * 90e6
        ).astype(np.int64)
        // 1_000_000
        * 1_000_000
    )
    row = world.row(day)
    wear = world.wear(day, at_device)
    since = world.path.since_calibration[row, at_device]
    drift = world.drift.bias(first, stop, world.devices.count, qc_only=True)[day - first, at_device, at_code]
    lot = (day + 1000) // _REAGENT_LOT_DAYS
    direction = world.bias_direction[at_device, at_code]
    sd_ratio = (catalogue.TEA / catalogue.ANALYTICAL_SD)[at_code]
    bias = (
        direction * (1.7 * wear**1.3 + 0.2 * since / 30.0) + drift * sd_ratio + _lot_shifts(world.config.seed)[at_code, lot]
    )
    spread = 1.0 + 0.9 * wear
    deviation = bias + spread * (0.45 * shared[..., head] + 0.89 * own)
    second = bias + spread * (0.45 * shared[..., head] + 0.89 * repeat)
    up = world.down_until(at_device, instant) == 0
    rejected = up & (np.abs(deviation) > 3.0 * _ASSIGNED_WIDENING)
    again = rejected & (world.down_until(at_device, instant + _REPEAT_MINUTES * 60_000_000) == 0)
    number = np.arange(SHIFTS * controls).reshape(shape[1:])[None] + np.zeros(shape, dtype=np.int64)
    parts = [
        _frame(world, up, day, instant, at_device, at_code, np.broadcast_to(level, shape), deviation, number, False),
        _frame(
            world,
            again,
            day,
            instant + _REPEAT_MINUTES * 60_000_000,
            at_device,
            at_code,
            np.broadcast_to(level, shape),
            second,
            number + SHIFTS * controls,
            True,
        ),
    ]
    return pl.concat(parts).sort("_visible", "qc_id")


def _frame(
    world: World,
    mask: NDArray[np.bool_],
    day: NDArray[np.int64],
    instant: NDArray[np.int64],
    device: NDArray[np.int64],
    code: NDArray[np.int64],
    level: NDArray[np.int64],
    deviation: NDArray[np.float32],
    number: NDArray[np.int64],
    is_repeat: bool,
) -> pl.DataFrame:
    """The controls under the mask, as the LIMS writes them."""
    clock = world.clock
    shift = np.broadcast_to(np.arange(SHIFTS)[None, :, None], mask.shape)[mask]
    day, instant, device, code, level = (a[mask] for a in (day, instant, device, code, level))
    z, number = deviation[mask].astype(np.float64), number[mask]
    centre = np.array(
        [a.median for a in catalogue.NUMERIC] + [catalogue.QC_PATHOGEN_TARGET[p.code] for p in catalogue.PATHOGENS]
    )[code]
    sd_at_centre = np.where(
        code < catalogue.N_NUMERIC, catalogue.ANALYTICAL_SD[code], np.where(centre > 10, 0.5, 0.12 * centre)
    )
    multiple = np.where((code >= catalogue.N_NUMERIC) & (centre > 10), 1.0 + 0.12 * level, catalogue.QC_TARGETS[level])
    log = np.array([a.log for a in catalogue.NUMERIC] + [False] * len(catalogue.PATHOGENS))[code]
    # electrolytes and the like vary in units, and their controls lie closer to the normal range
    multiple = np.where(log | (code >= catalogue.N_NUMERIC), multiple, 1.0 + (multiple - 1.0) * 0.2)
    target = centre * multiple
    sd = sd_at_centre * np.where(log, multiple, 1.0)
    yymmdd = clock.yymmdd[clock.position(day)]
    ids = choices(world.device_ids).gather(device + 1)
    codes = choices(catalogue.CODES).gather(code + 1)
    ordinal = clock.ordinal[clock.position(day)]
    return pl.DataFrame(
        {
            "qc_id": numbered("Q", yymmdd * 10_000_000 + number, 13),
            "device_id": ids,
            "test_code": codes,
            "qc_level": choices(["L1", "L2", "L3"]).gather(level + 1),
            "expected_value": np.round(target, 4),
            "measured_value": np.round(target + z * sd, 4),
            "passed": np.abs(z) <= 3.0 * _ASSIGNED_WIDENING,
            "timestamp": wall_series(clock.to_wall(instant)),
            "run_id": ids + "-" + codes + "-" + pl.Series(yymmdd).cast(pl.String) + choices(["A", "B"]).gather(shift + 1),
            "expected_sd": np.round(sd * _ASSIGNED_WIDENING, 5),
            "control_lot": codes + "-C" + pl.Series(ordinal // _CONTROL_LOT_DAYS).cast(pl.String),
            "reagent_lot": codes + "-R" + pl.Series((day + 1000) // _REAGENT_LOT_DAYS).cast(pl.String),
            "calibrator_lot": codes + "-K" + pl.Series(ordinal // _CALIBRATOR_LOT_DAYS).cast(pl.String),
            "is_repeat": np.full(len(z), is_repeat),
            "_visible": instant,
        }
    )
