"""What a laboratory chooses about drift alarms (data/reference/drift_limits.csv), checked.

Here: the names, their ranges and the defaults that are shipped. Not here: what is done with them (``drift``,
``device_drift``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import polars as pl

#: Days before a day that its drift report may look at.
MAX_HISTORY_DAYS = 126


class DriftLimitError(ValueError):
    """A drift limit is missing, unknown or out of its range; the message names the row and the column."""


@dataclass(frozen=True)
class DriftLimits:
    """The rows of drift_limits.csv by name; their meaning stands in that file. Counts of days and results are whole.

    Raises DriftLimitError for a value out of range.
    """

    weekly_false_alarms: float = 0.01
    warning_false_alarms: float = 0.05
    controls_share: float = 0.3
    critical_effect: float = 0.25
    warning_effect: float = 0.10
    baseline_days: int = 56
    window_days: int = 28
    min_baseline_days: int = 14
    min_results: int = 20
    trusted_sisters: int = 5
    false_discovery_rate: float = 0.05
    ks_floor: float = 0.1
    ks_high: float = 0.2
    wasserstein_floor: float = 0.2
    wasserstein_high: float = 0.5
    psi_floor: float = 0.1
    psi_high: float = 0.2
    min_values: int = 50
    min_psi_values: int = 500

    def __post_init__(self) -> None:
        for name in ("weekly_false_alarms", "warning_false_alarms", "controls_share", "false_discovery_rate"):
            self._within(name, 1e-4, 0.5)
        for name in ("baseline_days", "window_days"):
            self._within(name, 7, 366)
        self._within("baseline_days", 7, MAX_HISTORY_DAYS - 6 - self.window_days)
        self._within("min_baseline_days", 3, self.baseline_days)
        self._within("min_results", 1, 100_000)
        self._within("trusted_sisters", 1, 1_000)
        self._within("min_values", 10, 1e9)
        self._within("min_psi_values", 50, 1e9)
        for low, high in (
            ("warning_effect", "critical_effect"),
            ("ks_floor", "ks_high"),
            ("wasserstein_floor", "wasserstein_high"),
            ("psi_floor", "psi_high"),
        ):
            self._within(high, 1e-6, 1e6)
            self._within(low, 1e-6, getattr(self, high))

    def _within(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise DriftLimitError(f"drift_limits, row {name}, column value: {value} does not lie in [{low:g}, {high:g}]")

    @property
    def history_days(self) -> int:
        """Days of results before the first day asked for that a device's statistic may look at."""
        return self.baseline_days + self.window_days + 6

    @classmethod
    def from_rows(cls, rows: pl.DataFrame) -> DriftLimits:
        """From the reference table (name, value). Raises DriftLimitError for an absent, unknown or fractional row."""
        given = dict(rows.select("name", "value").iter_rows())
        known = {field.name: field.type for field in fields(cls)}
        for name in known.keys() - given.keys():
            raise DriftLimitError(f"drift_limits: the row {name} is missing")
        for name in given.keys() - known.keys():
            raise DriftLimitError(f"drift_limits, column name: {name!r} is not known")
        for name, value in given.items():
            if known[name] == "int" and value != int(value):
                raise DriftLimitError(f"drift_limits, row {name}, column value: {value} is not a whole number")
        return cls(**{name: int(value) if known[name] == "int" else value for name, value in given.items()})
