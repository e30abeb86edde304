"""What goes wrong for a while: calibration drift of a device's analyte, and outbreaks of a pathogen at a facility.

Episodes are drawn by their starting day, so a longer laboratory has the same episodes as a shorter one, and more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lims_platform.simulator import catalogue
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.devices import Devices
from lims_platform.simulator.randomness import generator

#: Days past the last one that the world knows, for orders that finish later.
MARGIN = 20


@dataclass(frozen=True)
class DriftEpisodes:
    """Arrays with one entry per episode; ``last_day`` is included, ``shift`` is in units of the allowable error."""

    first_day: NDArray[np.int64]
    last_day: NDArray[np.int64]
    device: NDArray[np.int64]
    code: NDArray[np.int64]
    shift: NDArray[np.float64]
    seen_by_qc: NDArray[np.bool_]

    def bias(self, first: int, stop: int, devices: int, qc_only: bool) -> NDArray[np.float32]:
        """Shift in units of the allowable error, shape (stop - first, devices, analytes)."""
        out = np.zeros((stop - first, devices, len(catalogue.CODES)), dtype=np.float32)
        hits = (self.last_day >= first) & (self.first_day < stop)
        if qc_only:
            hits &= self.seen_by_qc
        for i in np.flatnonzero(hits).tolist():
            days = slice(max(int(self.first_day[i]) - first, 0), int(self.last_day[i]) + 1 - first)
            out[days, self.device[i], self.code[i]] += self.shift[i]
        return out


def draw_drift(config: LabConfig, devices: Devices) -> DriftEpisodes:
    """All episodes that start before the last day plus a margin."""
    settings = config.drift
    of_type = [
        np.unique([catalogue.CODES.index(c) for p in catalogue.PANELS if p.device_type == t.name for c in p.codes])
        for t in catalogue.DEVICE_TYPES
    ]
    of_type = [codes[codes < catalogue.N_NUMERIC] for codes in of_type]
    choices = np.array([len(codes) for codes in of_type])
    rows: list[tuple[float, ...]] = []
    for day in range(-settings.max_days, config.days + MARGIN):
        u = generator(config.seed, "drift", day).random((6, devices.count))
        # pathogen analysers report presence only: they have nothing to drift in
        for d in np.flatnonzero((u[0] < settings.per_device_year / 365.25) & (choices[devices.type_index] > 0)).tolist():
            codes = of_type[devices.type_index[d]]
            length = settings.min_days + int(u[1, d] * (settings.max_days - settings.min_days + 1))
            size = settings.min_shift + u[2, d] * (settings.max_shift - settings.min_shift)
            code = int(codes[int(u[4, d] * len(codes))])
            sign = 1.0 if u[3, d] < 0.5 else -1.0
            rows.append((day, day + length - 1, d, code, sign * size, u[5, d] < settings.seen_by_qc))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    return DriftEpisodes(*(np.array(c, dtype=t) for c, t in zip(columns, (int, int, int, int, float, bool), strict=True)))


@dataclass(frozen=True)
class OutbreakEpisodes:
    """Arrays with one entry per outbreak; ``pathogen`` indexes ``catalogue.PATHOGENS``; ``odds`` the ratio at the peak."""

    first_day: NDArray[np.int64]
    last_day: NDArray[np.int64]
    peak_day: NDArray[np.int64]
    facility: NDArray[np.int64]
    pathogen: NDArray[np.int64]
    odds: NDArray[np.float64]

    def intensity(self, first: int, stop: int, facilities: int) -> NDArray[np.float64]:
        """Log odds ratio of a positive, shape (stop - first, facilities, pathogens): a triangle up to the peak and down."""
        out = np.zeros((stop - first, facilities, len(catalogue.PATHOGENS)))
        for i in np.flatnonzero((self.last_day >= first) & (self.first_day < stop)).tolist():
            days = np.arange(max(int(self.first_day[i]), first), min(int(self.last_day[i]) + 1, stop))
            rise = (days - self.first_day[i] + 1) / (self.peak_day[i] - self.first_day[i] + 1)
            fall = (self.last_day[i] - days + 1) / (self.last_day[i] - self.peak_day[i] + 1)
            out[days - first, self.facility[i], self.pathogen[i]] += np.log(self.odds[i]) * np.minimum(rise, fall)
        return out


def draw_outbreaks(config: LabConfig) -> OutbreakEpisodes:
    """All outbreaks that start before the last day plus a margin."""
    settings = config.outbreaks
    infectious = [i for i, p in enumerate(catalogue.PATHOGENS) if p.infectious]
    rows: list[tuple[float, ...]] = []
    for day in range(-settings.max_days, config.days + MARGIN):
        u = generator(config.seed, "outbreaks", day).random((5, config.facilities))
        for f in np.flatnonzero(u[0] < settings.per_facility_year / 365.25).tolist():
            length = settings.min_days + int(u[1, f] * (settings.max_days - settings.min_days + 1))
            peak = day + int(length * (0.3 + 0.3 * u[2, f]))
            pathogen = infectious[int(u[3, f] * len(infectious))]
            rows.append((day, day + length - 1, peak, f, pathogen, settings.odds * (0.6 + 0.8 * u[4, f])))
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    return OutbreakEpisodes(*(np.array(c, dtype=t) for c, t in zip(columns, (int, int, int, int, int, float), strict=True)))


def prevalence(
    day_of_year: NDArray[np.int64], outbreaks: OutbreakEpisodes, first: int, facilities: int
) -> NDArray[np.float64]:
    """Chance of a positive among those tested, shape (days, facilities, pathogens): season and outbreaks."""
    base = np.array([p.base for p in catalogue.PATHOGENS])
    peak = np.array([p.peak for p in catalogue.PATHOGENS])
    centre = np.array([p.peak_day for p in catalogue.PATHOGENS])
    width = np.array([p.wave_days for p in catalogue.PATHOGENS])
    away = np.abs((day_of_year[:, None] - centre + 182.625) % 365.25 - 182.625)
    season = base + peak * np.exp(-0.5 * (away / width) ** 2)
    odds = (season / (1 - season))[:, None, :] * np.exp(outbreaks.intensity(first, first + len(day_of_year), facilities))
    return odds / (1 + odds)
