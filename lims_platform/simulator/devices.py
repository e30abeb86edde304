"""The analysers and where they stand: the register, and what makes one device more prone to wear than another.

Not here: how wear moves from day to day (``wear``).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.simulator import catalogue
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.randomness import generator


@dataclass(frozen=True)
class Devices:
    """The fleet, one entry per device in every array. ``type_index`` points into ``catalogue.DEVICE_TYPES``."""

    type_index: NDArray[np.int64]
    model_index: NDArray[np.int64]
    facility: NDArray[np.int64]
    age_days: NDArray[np.int64]  # on the laboratory's first day
    load: NDArray[np.float64]  # share of the work, relative to a sister
    frailty: NDArray[np.float64]

    @property
    def count(self) -> int:
        """Number of devices."""
        return len(self.type_index)

    def ids(self) -> list[str]:
        """Device ids, e.g. 'CHEM-003', numbered within their type."""
        seen = [0] * len(catalogue.DEVICE_TYPES)
        names = []
        for kind in self.type_index.tolist():
            seen[kind] += 1
            names.append(f"{catalogue.DEVICE_TYPES[kind].prefix}-{seen[kind]:03d}")
        return names

    def proneness(self, day: int) -> NDArray[np.float64]:
        """Factor on onset and chance: frailty, load and age (7 % a year), about 1 on average."""
        age_years = np.maximum(0.0, self.age_days + day) / 365.25
        return self.frailty * np.sqrt(self.load) * (0.7 + 0.07 * age_years)

    @classmethod
    def reference(cls, count: int, seed: int) -> Devices:
        """A fleet drawn from the same distributions, with facilities left out: for tuning."""
        return _draw(count, 1, seed)

    def table(self, config: LabConfig) -> pl.DataFrame:
        """The LIMS's register ``devices``."""
        first = datetime.combine(config.start, time(8))
        kinds = [catalogue.DEVICE_TYPES[i] for i in self.type_index.tolist()]
        installed = [first - timedelta(days=days) for days in self.age_days.tolist()]
        return pl.DataFrame(
            {
                "device_id": self.ids(),
                "device_type": [kind.name for kind in kinds],
                "model": [kind.models[i] for kind, i in zip(kinds, self.model_index.tolist(), strict=True)],
                "facility_id": [catalogue.facility_id(i) for i in self.facility.tolist()],
                "installed_date": installed,
                "updated_at": installed,
            },
            schema_overrides={"installed_date": pl.Datetime("us"), "updated_at": pl.Datetime("us")},
        )


def make_devices(config: LabConfig) -> Devices:
    """The configured laboratory's fleet."""
    return _draw(config.devices, config.facilities, config.seed)


def _draw(count: int, facilities: int, seed: int) -> Devices:
    rng = generator(seed, "devices")
    shares = np.cumsum([kind.share for kind in catalogue.DEVICE_TYPES])
    # one of each type while they last (the most used first), the rest evenly by share
    one_each = np.arange(min(count, len(shares)))
    rest = count - len(one_each)
    type_index = np.sort(
        np.concatenate([one_each, np.searchsorted(shares, (np.arange(rest) + 0.5) / max(rest, 1) * shares[-1])])
    )
    return Devices(
        type_index=type_index,
        model_index=rng.integers(0, 2, count),
        facility=np.arange(count) % facilities,
        age_days=(rng.beta(1.2, 1.6, count) * 3650 + 20).astype(np.int64),
        load=rng.lognormal(-0.045, 0.3, count),
        frailty=rng.lognormal(-0.06, 0.35, count),
    )
