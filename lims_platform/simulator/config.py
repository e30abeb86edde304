"""The laboratory's settings: its size, its span, its wear and how much dirt is planted.

Here: what a person may choose, checked. Not here: the analytes and device types (``catalogue``) or the dynamics (``wear``).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Dirt:
    """Share of rows that get each kind of dirt; every planted row is in the truth table ``dirt``.

    Value, unit, code and time kinds exclude each other on a row; shares are of all results unless noted.
    """

    censored: float = 0.004  # '<0.5': of numeric results
    whitespace: float = 0.003  # ' 95 '
    exponent: float = 0.001  # '1.2E2'
    coded_spelling: float = 0.15  # 'Pos', 'NEG.', 'NOT DETECTED': of coded results
    unit_spelling: float = 0.012  # 'MG/DL', 'K/uL'
    other_unit: float = 0.004  # correctly given in the other unit kind: 5.3 mmol/L under GLU
    not_done: float = 0.0012  # 'HEMOLYZED', 'QNS', 'HOLD'
    cancelled: float = 0.001  # result_status X
    instrument_code: float = 0.0004  # '-999'
    ambiguous_number: float = 0.0002  # '4,123'
    wrong_unit: float = 0.0004  # the mmol/L number under mg/dL
    unmapped_code: float = 0.0008
    null_unit: float = 0.0004  # of numeric results
    null_value: float = 0.0003
    null_resulted: float = 0.0006
    no_time: float = 0.00005
    absurd_time: float = 0.00002  # resulted in 1970
    clock_error: float = 0.0002  # collected after resulted
    identifier_in_comment: float = 0.0001  # 'sample of patient P1234567 clotted'
    duplicate: float = 0.002  # identical copy of the row
    conflicting_duplicate: float = 0.0002  # same result_id: first a wrong value, a minute later the right one
    amended: float = 0.004  # status C, updated_at hours to days later
    late: float = 0.004  # reaches the LIMS days after it was resulted
    deleted: float = 0.001  # entered, later removed
    identifier_in_message: float = 0.002  # of device_logs ERROR and WARNING rows


@dataclass(frozen=True)
class Outbreaks:
    """Planted outbreaks: per facility and pathogen."""

    per_facility_year: float = 1.5
    min_days: int = 14
    max_days: int = 42
    odds: float = 6.0  # odds ratio of a positive result at the peak
    extra_tests: float = 0.8  # share of respiratory orders added at the peak


@dataclass(frozen=True)
class Drift:
    """Planted calibration drift: one analyte of one device shifts for a while."""

    per_device_year: float = 0.5
    min_days: int = 4
    max_days: int = 24
    min_shift: float = 0.4  # in units of the analyte's allowable error
    max_shift: float = 1.5
    seen_by_qc: float = 0.8  # share of episodes that control material shows too


@dataclass(frozen=True)
class LabConfig:
    """A laboratory that does not exist. Two laboratories of equal config are identical, row by row.

    ``end`` is the last simulated day, in ``timezone``. Continuing a laboratory keeps its first day and seed: see
    :meth:`extended_to`. Raises ValueError naming the field for an impossible value.
    """

    seed: int
    end: date
    days: int = 420
    devices: int = 40
    facilities: int = 4
    results_per_day: int = 1600
    samples_per_day: int = 40
    failures_per_device_year: float = 4.0
    timezone: str = "Europe/Berlin"
    dirt: Dirt = field(default_factory=Dirt)
    outbreaks: Outbreaks = field(default_factory=Outbreaks)
    drift: Drift = field(default_factory=Drift)
    sample_fault_share: float = 0.01

    def __post_init__(self) -> None:
        for name, low, high in (
            ("seed", 0, 2**63),
            ("days", 1, 36_500),
            ("devices", 1, 99_999),
            ("facilities", 1, 999),
            ("results_per_day", 1, 50_000_000),
            ("samples_per_day", 0, 9_000_000),
            ("failures_per_device_year", 0.1, 20.0),
            ("sample_fault_share", 0.0, 1.0),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"LabConfig.{name} is {getattr(self, name)}; it must lie in [{low}, {high}]")
        for share in dataclasses.fields(Dirt):
            if not 0.0 <= getattr(self.dirt, share.name) <= 0.5:
                raise ValueError(f"Dirt.{share.name} is {getattr(self.dirt, share.name)}; a share lies in [0, 0.5]")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"LabConfig.timezone is {self.timezone!r}: no such time zone") from error

    @property
    def start(self) -> date:
        """The first simulated day."""
        return self.end - timedelta(days=self.days - 1)

    def extended_to(self, end: date) -> LabConfig:
        """The same laboratory with a later last day."""
        if end < self.end:
            raise ValueError(f"a laboratory that ends on {self.end} cannot be continued to {end}")
        return dataclasses.replace(self, end=end, days=self.days + (end - self.end).days)

    def to_json(self) -> str:
        """As JSON; :meth:`from_json` reads it back."""
        return json.dumps(dataclasses.asdict(self), default=str, indent=2)

    @classmethod
    def from_json(cls, text: str) -> LabConfig:
        """The config :meth:`to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["end"] = date.fromisoformat(values["end"])
        for name, kind in (("dirt", Dirt), ("outbreaks", Outbreaks), ("drift", Drift)):
            values[name] = kind(**values[name])
        return cls(**values)
