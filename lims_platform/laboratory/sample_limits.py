"""What a measurement of a batch sample may be: the rows of sample_limits.csv, read once, and the tests they stand for.

Here: limits as typed values and as polars conditions. Not here: columns of the CSV (``contracts.reference``), what more
than chance is (``sample_watch``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

#: Columns of batch_results that are measurements; sample_limits.csv has a row for each.
MEASUREMENTS = ("ph_level", "storage_temp_c", "dissolved_oxygen_ppm", "turbidity_ntu", "processing_time_hours")


class SampleLimitError(ValueError):
    """A row of sample_limits.csv contradicts itself; the message names measurement and column."""


@dataclass(frozen=True)
class Limit:
    """One measurement's limits, in its own unit; None where there is none. ``watched`` needs an expected range."""

    measurement: str
    label: str
    unit: str
    physical_low: float
    physical_high: float
    expected_low: float | None
    expected_high: float | None
    critical_low: float | None
    critical_high: float | None
    resolution: float
    scale: str
    fault_codes: tuple[float, ...]

    @property
    def watched(self) -> bool:
        """Whether the laboratory says what it expects of the measurement."""
        return self.expected_low is not None and self.expected_high is not None

    def fault(self, value: pl.Expr) -> pl.Expr:
        """True for a fault code, a number that is not finite, or one beyond the physical limits; null for null."""
        code = pl.any_horizontal(*(value == c for c in self.fault_codes)) if self.fault_codes else pl.lit(False)
        return code | ~value.is_finite() | ~value.is_between(self.physical_low, self.physical_high)

    def outside(self, value: pl.Expr) -> pl.Expr:
        """True outside the expected range, whose ends belong to it; null for null."""
        return ~value.is_between(self.expected_low, self.expected_high)

    def critical(self, value: pl.Expr) -> pl.Expr:
        """True strictly beyond a critical limit; null for null."""
        low = value < self.critical_low if self.critical_low is not None else pl.lit(False)
        high = value > self.critical_high if self.critical_high is not None else pl.lit(False)
        return low | high

    def transform(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values on the scale on which normal operation is about normally distributed."""
        return np.cbrt(values) if self.scale == "cube_root" else values


def read_limits(frame: pl.DataFrame) -> dict[str, Limit]:
    """The rows of sample_limits.csv by measurement, in file order. SampleLimitError for limits out of order."""
    limits = {}
    for row in frame.iter_rows(named=True):
        codes = row["fault_codes"] or ""
        try:
            numbers = tuple(float(code) for code in codes.split(";") if code.strip())
        except ValueError as error:
            raise SampleLimitError(f"sample_limits.csv, {row['measurement']}, column fault_codes: {error}") from None
        limit = Limit(**(row | {"unit": row["unit"] or "", "fault_codes": numbers}))
        _in_order(limit)
        limits[limit.measurement] = limit
    for name in MEASUREMENTS:
        if name not in limits:
            raise SampleLimitError(f"sample_limits.csv: no row for {name}; its faults could not be told from measurements")
    return limits


def _in_order(limit: Limit) -> None:
    ladder = ("physical_low", "critical_low", "expected_low", "expected_high", "critical_high", "physical_high")
    given = [(name, getattr(limit, name)) for name in ladder if getattr(limit, name) is not None]
    for (lower, low), (upper, high) in pairwise(given):
        if low > high:
            raise SampleLimitError(f"sample_limits.csv, {limit.measurement}: {lower} {low:g} lies above {upper} {high:g}")
    if (limit.expected_low is None) != (limit.expected_high is None):
        raise SampleLimitError(f"sample_limits.csv, {limit.measurement}: expected_low and expected_high go together")
    if limit.resolution <= 0:
        raise SampleLimitError(f"sample_limits.csv, {limit.measurement}, column resolution: {limit.resolution:g} is not > 0")


def limits_digest(limits: Mapping[str, Limit]) -> str:
    """SHA-256 of what decides how samples are standardised: fault codes, physical limits, expected ranges."""
    parts = ("physical_low", "physical_high", "expected_low", "expected_high", "fault_codes")
    content = {name: {part: asdict(limit)[part] for part in parts} for name, limit in limits.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def names_where(conditions: Mapping[str, pl.Expr]) -> pl.Expr:
    """The names whose condition holds, joined by ';'; null if none."""
    joined = pl.concat_str(
        [pl.when(condition).then(pl.lit(name)) for name, condition in conditions.items()], separator=";", ignore_nulls=True
    )
    return pl.when(joined != "").then(joined)
