"""Environmental and batch samples: normal operation, sample faults, and contamination by a known law.

In normal operation pH ~ N(7.2, 0.15), storage ~ N(4, 0.3) °C, dissolved oxygen ~ N(8.5, 0.5) ppm,
turbidity ~ Gamma(2, 0.5) NTU.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.simulator import catalogue
from lims_platform.simulator.clock import HOUR
from lims_platform.simulator.pool import choices, numbered
from lims_platform.simulator.randomness import generator, normals, uniforms
from lims_platform.simulator.results import wall_series
from lims_platform.simulator.world import World

#: Fault episodes of a facility: warm storage, pH shift, turbidity burst. Single samples also meet a dead sensor (-999).
FAULTS = ("warm_storage", "ph_shift", "turbidity_burst")
_EPISODE_START = 0.015
_EPISODE_DAYS = 3
_SENSORS = ("ph_level", "storage_temp_c", "dissolved_oxygen_ppm", "turbidity_ntu")
_BATCH_SIZE = 8
_UNCONFIRMED = 0.1


def make_samples(world: World, first: int, stop: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """batch_results of days ``first`` to ``stop``, truth ``sample_faults`` and ``contamination``, with ``_visible``."""
    config, clock = world.config, world.clock
    days = np.arange(first, stop)
    counts = np.array(
        [generator(config.seed, "sample-count", d).poisson(config.samples_per_day) for d in days.tolist()],
        dtype=np.int64,
    )
    u = uniforms(config.seed, "samples", days.tolist(), counts, 9)
    z = normals(config.seed, "sample-values", days.tolist(), counts, 4).astype(np.float64)
    day = np.repeat(days, counts)
    within = np.arange(len(day)) - np.repeat(np.cumsum(counts) - counts, counts)
    facility = (u[0] * config.facilities).astype(np.int64)
    fault = _episodes(world, first, stop)[day - first, facility]
    instant = (clock.day_start(day) + (6.0 + 13.0 * u[1]) * HOUR).astype(np.int64) // 1_000_000 * 1_000_000
    ph = 7.2 + 0.15 * z[0] + np.where(fault == 2, np.where(u[2] < 0.5, -1.0, 1.0) * (0.5 + 0.6 * u[3]), 0.0)
    storage = 4.0 + 0.3 * z[1] + np.where(fault == 1, 4.5 + 7.0 * u[3], 0.0)
    oxygen = 8.5 + 0.5 * z[2] - np.where(fault == 3, 1.0 * u[2], 0.0)
    # Gamma(2, 0.5) is the sum of two exponentials
    turbidity = -0.5 * (np.log1p(-u[4]) + np.log1p(-u[5])) + np.where(fault == 3, 3.0 + 7.0 * u[3], 0.0)
    hours = 2.0 * np.exp(0.6 * z[3])
    logit = -5.0 + 1.6 * np.abs(ph - 7.2) / 0.3 + 0.45 * np.maximum(0, storage - 6) + 0.4 * turbidity + 0.18 * hours
    probability = 1.0 / (1.0 + np.exp(-logit))
    contaminated = u[6] < probability
    values = {name: v.round(3) for name, v in zip(_SENSORS, (ph, storage, oxygen, turbidity), strict=True)}
    dead = np.where(u[7] < config.sample_fault_share, (u[7] / max(config.sample_fault_share, 1e-12) * 4).astype(int), -1)
    for i, name in enumerate(_SENSORS):
        values[name] = np.where(dead == i, -999.0, values[name])
    number = clock.yymmdd[clock.position(day)] * 10_000_000 + within + 1
    batch = (
        clock.yymmdd[clock.position(day)] * 1_000_000
        + facility * 1000
        + (within // (_BATCH_SIZE * config.facilities)) % 1000
    )
    frame = pl.DataFrame(
        {
            "sample_id": numbered("B", number, 13),
            "facility_id": choices([catalogue.facility_id(i) for i in range(config.facilities)]).gather(facility + 1),
            "batch_id": numbered("BATCH", batch, 12),
            "timestamp": wall_series(clock.to_wall(instant)),
            **values,
            "processing_time_hours": hours.round(3),
            "is_contaminated": pl.Series(contaminated).set(pl.Series(u[8] < _UNCONFIRMED), None),
            "_visible": instant,
        }
    )
    kinds = pl.Series([None, *FAULTS], dtype=pl.String)
    key = frame.select("sample_id", "facility_id", "timestamp", "_visible")
    planted = key.with_columns(fault=kinds.gather(fault)).filter(pl.col("fault").is_not_null())
    broken = key.with_columns(fault=pl.Series([None, *(f"dead_sensor:{s}" for s in _SENSORS)]).gather(dead + 1)).filter(
        pl.col("fault").is_not_null()
    )
    contamination = key.with_columns(probability=pl.Series(probability), contaminated=pl.Series(contaminated))
    order = np.argsort(instant, kind="stable")
    return frame[order], pl.concat([planted, broken]), contamination[order]


def _episodes(world: World, first: int, stop: int) -> NDArray[np.int64]:
    """The fault that holds, 0 for none, 1 + its place in ``FAULTS`` else; shape (days, facilities)."""
    held = np.zeros((stop - first, world.config.facilities), dtype=np.int64)
    for day in range(first - _EPISODE_DAYS, stop):
        u = generator(world.config.seed, "sample-faults", day).random((3, world.config.facilities))
        length = 1 + (u[1] * _EPISODE_DAYS).astype(np.int64)
        for later in range(_EPISODE_DAYS):
            if first <= day + later < stop:
                row = held[day + later - first]
                starts = (u[0] < _EPISODE_START) & (later < length) & (row == 0)
                row[starts] = 1 + (u[2] * len(FAULTS)).astype(np.int64)[starts]
    return held
