"""The laboratory before anything is measured: devices and their wear, outages, episodes, patients, the clock.

A world is cheap (days × devices), is a function of the config alone, and its first days do not depend on how long it lasts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lims_platform.simulator import catalogue
from lims_platform.simulator.clock import DAY, HOUR, NEVER, Clock
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.devices import Devices, make_devices
from lims_platform.simulator.episodes import MARGIN, DriftEpisodes, OutbreakEpisodes, draw_drift, draw_outbreaks
from lims_platform.simulator.randomness import generator
from lims_platform.simulator.wear import LEVELS, WearPath, simulate_wear

_FACTORS = 10


@dataclass(frozen=True)
class Patients:
    """The people of the region. ``factors`` (people, 10) are their lasting deviations, shared between analytes."""

    age_at_start: NDArray[np.float32]
    male: NDArray[np.bool_]
    factors: NDArray[np.float32]
    loadings: NDArray[np.float32]  # (numeric analytes, 10), rows of unit length
    per_facility: int

    @staticmethod
    def number(index: NDArray[np.int64]) -> NDArray[np.int64]:
        """The seven digits of a patient's id; one to one below ten million people."""
        return (index * 7_654_321 + 1_234_567) % 10_000_000


@dataclass(frozen=True)
class World:
    """What the generators read; see the modules of its parts. Times are UTC microseconds, arrays are (days, devices)."""

    config: LabConfig
    clock: Clock
    devices: Devices
    device_ids: list[str]
    path: WearPath
    failed: NDArray[np.int64]  # NEVER where the device did not fail that day
    back: NDArray[np.int64]  # when it was back in service; 0 where it did not fail
    drift: DriftEpisodes
    outbreaks: OutbreakEpisodes
    patients: Patients
    bias_direction: NDArray[np.float32]  # (devices, analytes): how wear shows in each analyte

    def row(self, day: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of a day into the (days, devices) arrays; days beyond the margin take the last one known."""
        return np.clip(day, 0, len(self.failed) - 1)

    def down_until(self, device: NDArray[np.int64], instant: NDArray[np.int64]) -> NDArray[np.int64]:
        """When the outage that holds at that instant ends; 0 where the device is up."""
        day = self.clock.day_of(instant)
        until = np.zeros(np.broadcast(device, instant).shape, dtype=np.int64)
        for lag in range(3):
            at = np.where(day - lag >= 0, self.row(day - lag), 0)
            hit = (day >= lag) & (self.failed[at, device] <= instant) & (instant < self.back[at, device])
            until = np.where(hit, self.back[at, device], until)
        return until

    def wear(self, day: NDArray[np.int64], device: NDArray[np.int64]) -> NDArray[np.float32]:
        """Wear from 0 to 1 as the day's signals show it."""
        return self.path.felt[self.row(day), device].astype(np.float32) / np.float32(LEVELS)


def make_world(config: LabConfig) -> World:
    """The world of a config, with a margin after its last day for orders that finish later."""
    clock = Clock(config.start, config.days, config.timezone)
    devices = make_devices(config)
    path = simulate_wear(config, devices, extra_days=MARGIN)
    starts = clock.day_start(np.arange(len(path.failed_at)))[:, None]
    fails = np.isfinite(path.failed_at)
    begins = starts + (np.nan_to_num(path.failed_at.astype(np.float64)) * DAY).astype(np.int64)
    ends = begins + (np.nan_to_num(path.outage_hours.astype(np.float64)) * HOUR).astype(np.int64)
    failed = np.where(fails, begins // 1_000_000 * 1_000_000, NEVER)
    back = np.where(fails, ends // 1_000_000 * 1_000_000, 0)
    rng = generator(config.seed, "bias-direction")
    return World(
        config=config,
        clock=clock,
        devices=devices,
        device_ids=devices.ids(),
        path=path,
        failed=failed,
        back=back,
        drift=draw_drift(config, devices),
        outbreaks=draw_outbreaks(config),
        patients=_make_patients(config),
        bias_direction=rng.standard_normal((devices.count, len(catalogue.CODES)), dtype=np.float32),
    )


def _make_patients(config: LabConfig) -> Patients:
    per_facility = min(max(50, config.results_per_day * 20 // config.facilities), 9_000_000 // config.facilities)
    count = per_facility * config.facilities
    rng = generator(config.seed, "patients")
    factors = rng.standard_normal((count, _FACTORS), dtype=np.float32)
    # one person in eleven is diabetic
    factors[:, 0] += np.where(rng.random(count) < 0.09, 2.4, 0.0).astype(np.float32)
    loadings = generator(config.seed, "loadings").standard_normal((catalogue.N_NUMERIC, _FACTORS))
    loadings[:, : len(catalogue.PATIENT_FACTORS)] = 0.0
    loadings *= 0.8 / np.linalg.norm(loadings, axis=1, keepdims=True)
    for i, analyte in enumerate(catalogue.NUMERIC):
        loadings[i, catalogue.PATIENT_FACTORS.index(analyte.factor_name)] = analyte.factor
    loadings /= np.linalg.norm(loadings, axis=1, keepdims=True)
    # two humps: adults around 35 and the old, who need more tests
    age = np.where(rng.random(count) < 0.45, rng.normal(70, 12, count), np.abs(rng.normal(36, 19, count)))
    return Patients(
        age_at_start=np.clip(age, 0.1, 100).astype(np.float32),
        male=rng.random(count) < 0.48,
        factors=factors,
        loadings=loadings.astype(np.float32),
        per_facility=per_facility,
    )
