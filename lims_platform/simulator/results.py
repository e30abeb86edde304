"""Results: what was measured for each order, and how the LIMS shows it at a given moment.

A draft row knows when it became visible, was verified, amended or deleted, and its first value; the LIMS of any moment
follows. Dirt is planted by ``dirt`` on the draft; which rows a moment shows is decided in ``lifecycle``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.simulator import catalogue
from lims_platform.simulator.clock import NEVER
from lims_platform.simulator.orders import Orders
from lims_platform.simulator.pool import TextColumn, choices, numbered
from lims_platform.simulator.randomness import normals
from lims_platform.simulator.world import World

#: The LIMS's own columns of lab_results: the contract's, without those this LIMS does not keep.
RESULT_COLUMNS = [c.name for c in LAB_RESULTS.columns if c.name not in ("loinc_code", "test_name")]
_GLU, _GLU_MMOL = catalogue.CODES.index("GLU"), catalogue.CODES.index("GLU_MMOL")
#: Spread of a visit by location class: outpatient, inpatient, emergency, intensive care.
_ACUITY = np.array([1.0, 1.5, 1.5, 2.4], dtype=np.float32)
_DECIMALS = np.array([a.decimals for a in catalogue.NUMERIC])
#: Largest value times 10**decimals that the text table holds, per number of decimals.
_TABLE_SIZE = {d: max(int(a.high * 10**d) for a in catalogue.NUMERIC if a.decimals == d) + 1 for d in (0, 1, 2)}
_TABLE_START = {0: 1, 1: 1 + _TABLE_SIZE[0], 2: 1 + _TABLE_SIZE[0] + _TABLE_SIZE[1]}


@dataclass
class Draft:
    """Results before they become text. Arrays with one entry per result; times are UTC microseconds, NEVER for none."""

    order: NDArray[np.int64]  # position in ``orders``
    orders: Orders
    specimen: NDArray[np.int64]  # per order: the number of its first result
    number: NDArray[np.int64]  # yymmdd and the number within the day
    code: NDArray[np.int64]
    device: NDArray[np.int64]
    amount: NDArray[np.float64]  # NaN for pathogens
    positive: NDArray[np.bool_]
    value: TextColumn
    unit: TextColumn
    test: TextColumn
    collected: NDArray[np.int64]
    received: NDArray[np.int64]
    resulted: NDArray[np.int64]
    verified: NDArray[np.int64]
    visible: NDArray[np.int64]
    amended: NDArray[np.int64]
    deleted: NDArray[np.int64]
    cancelled: NDArray[np.bool_]
    first_value: TextColumn

    @property
    def count(self) -> int:
        """Number of results."""
        return len(self.code)

    def enter_again(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Append copies of these rows; returns where they are now."""
        before = self.count
        for field in fields(self):
            column = getattr(self, field.name)
            if isinstance(column, TextColumn):
                column.index = np.concatenate([column.index, column.index[rows]])
            elif field.name not in ("orders", "specimen"):
                setattr(self, field.name, np.concatenate([column, column[rows]]))
        return np.arange(before, self.count)


@lru_cache(maxsize=1)
def _value_pool() -> pl.Series:
    """Null, then i / 10**d for every number of decimals, then POSITIVE and NEGATIVE."""
    texts: list[str | None] = [None]
    for d in (0, 1, 2):
        texts.extend(f"{i / 10**d:.{d}f}" for i in range(_TABLE_SIZE[d]))
    return pl.Series([*texts, catalogue.POSITIVE, catalogue.NEGATIVE], dtype=pl.String)


@lru_cache(maxsize=1)
def _unit_pool() -> tuple[pl.Series, NDArray[np.int64]]:
    """The units, and the position of each code's own unit; 0 (null) for pathogens, which have none."""
    units = list(dict.fromkeys(a.unit for a in catalogue.NUMERIC))
    own = [1 + units.index(a.unit) for a in catalogue.NUMERIC] + [0] * len(catalogue.PATHOGENS)
    return choices(units), np.array(own)


def make_draft(world: World, orders: Orders, first: int, stop: int) -> Draft:
    """One row per analyte of each order, clean. ``orders`` are those of days ``first`` to ``stop``."""
    size = catalogue.PANEL_SIZE[orders.panel]
    order = np.repeat(np.arange(orders.count), size)
    ends = np.cumsum(size)
    within = np.arange(len(order)) - np.repeat(ends - size, size)
    code = catalogue.PANEL_CODES[orders.panel[order], within]
    if world.config.facilities > 1:
        # one site reports glucose in mmol/L under a code of its own
        last_site = orders.facility[order] == world.config.facilities - 1
        code = np.where((code == _GLU) & last_site, _GLU_MMOL, code)
    day = orders.day[order]
    counts = np.bincount(day - first, minlength=stop - first)
    starts = np.cumsum(counts) - counts
    sequence = np.arange(len(order)) - starts[day - first] + 1
    number = world.clock.yymmdd[world.clock.position(day)] * 100_000_000 + sequence
    positive = orders.infected[order, np.maximum(code - catalogue.N_NUMERIC, 0)] & (code >= catalogue.N_NUMERIC)
    amount = _amounts(world, orders, order, code, counts, first)
    numeric = code < catalogue.N_NUMERIC
    decimals = _DECIMALS[np.where(numeric, code, 0)]
    scaled = np.rint(np.where(numeric, amount, 0.0) * 10.0**decimals).astype(np.int64)
    pool, (units, own_unit) = _value_pool(), _unit_pool()
    table_start = np.array([_TABLE_START[d] for d in (0, 1, 2)])
    text = np.where(numeric, table_start[decimals] + scaled, np.where(positive, len(pool) - 2, len(pool) - 1))
    never = np.full(len(order), NEVER)
    return Draft(
        order=order,
        orders=orders,
        specimen=number[ends - size],
        number=number,
        code=code,
        device=orders.device[order],
        amount=np.where(numeric, scaled / 10.0**decimals, np.nan),
        positive=positive,
        value=TextColumn(pool, text),
        unit=TextColumn(units, own_unit[code]),
        test=TextColumn(choices(catalogue.CODES), code + 1),
        collected=orders.collected[order],
        received=orders.received[order],
        resulted=orders.resulted[order],
        verified=orders.verified[order],
        visible=orders.resulted[order],
        amended=never.copy(),
        deleted=never.copy(),
        cancelled=np.zeros(len(order), dtype=np.bool_),
        first_value=TextColumn(choices([]), np.zeros(len(order), dtype=np.int64)),
    )


def _amounts(
    world: World,
    orders: Orders,
    order: NDArray[np.int64],
    code: NDArray[np.int64],
    counts: NDArray[np.int64],
    first: int,
) -> NDArray[np.float64]:
    """Values in the analyte's unit: person, visit, acuity, analytical noise, wear, drift. Pathogens get an idle number."""
    analytes = catalogue.NUMERIC
    k = np.minimum(code, catalogue.N_NUMERIC - 1)
    median = np.array([a.median for a in analytes])[k]
    log = np.array([a.log for a in analytes])[k]
    between = np.array([a.between for a in analytes], dtype=np.float32)[k]
    within = np.array([a.within for a in analytes], dtype=np.float32)[k]
    person = orders.patient[order]
    days = np.arange(first, first + len(counts)).tolist()
    z = normals(world.config.seed, "values", days, counts, 2)
    people = world.patients
    lasting = np.einsum("ij,ij->i", people.factors[person], people.loadings[k])
    visit = 0.5 * orders.visit[order] + 0.87 * z[0]
    # one visit in fifty is a decompensation
    acuity = _ACUITY[orders.location[order]] * np.where(np.abs(orders.visit[order]) > 2.33, 2.5, 1.0)
    deviation = lasting * between + visit * within * acuity
    male = np.where(people.male[person], np.array([a.male for a in analytes])[k], 1.0)
    value = male * np.where(log, median * np.exp(deviation), median + deviation)
    device, day = orders.device[order], world.row(world.clock.day_of(orders.resulted)[order])
    wear = world.wear(day, device)
    last = int(day.max()) + 1 if len(day) else first
    drift = world.drift.bias(first, max(last, first + 1), world.devices.count, qc_only=False)
    shift = drift[np.maximum(day - first, 0), device, k]
    shift += 0.25 * world.bias_direction[device, k] * wear**1.5
    noise = catalogue.ANALYTICAL_SD[k] * z[1] * (1.0 + 0.6 * wear)
    error = catalogue.TEA[k] * shift + noise
    value = value + error * np.where(log, value / median, 1.0)
    return np.clip(value, np.array([a.low for a in analytes])[k], np.array([a.high for a in analytes])[k])


def to_frame(world: World, draft: Draft, rows: NDArray[np.int64], moment: int) -> pl.DataFrame:
    """These rows in the LIMS's columns, as the LIMS shows them at ``moment`` (UTC microseconds); times are wall time."""
    orders, clock = draft.orders, world.clock
    band = np.searchsorted(catalogue.AGE_EDGES, world.patients.age_at_start[orders.patient] + orders.day / 365.25, "right")
    specimen = np.array([catalogue.SPECIMENS.index(p.tube) for p in catalogue.PANELS])[orders.panel]
    sites = [catalogue.facility_id(i) for i in range(world.config.facilities)]
    per_order = pl.DataFrame(
        {
            "patient_id": numbered("P", world.patients.number(orders.patient), 7),
            "technician_id": numbered("T", orders.technician, 4),
            "specimen_id": numbered("S", draft.specimen, 14),
            "specimen_type": choices(catalogue.SPECIMENS).gather(specimen + 1),
            "priority": choices(catalogue.PRIORITIES).gather(orders.stat.astype(np.int64) + 1),
            "facility_id": choices(sites).gather(orders.facility + 1),
            "location_class": choices(catalogue.LOCATIONS).gather(orders.location + 1),
            "age_band": choices(catalogue.AGE_BANDS).gather(band + 1),
            "sex": choices(["F", "M"]).gather(world.patients.male[orders.patient].astype(np.int64) + 1),
        }
    )[draft.order[rows]]
    visible, verified, amended = draft.visible[rows], draft.verified[rows], draft.amended[rows]
    is_amended, is_verified = amended < moment, verified < moment
    # a row without a verification time was entered by hand and is final at once
    status = np.select([draft.cancelled[rows], is_amended, is_verified | (verified == NEVER)], [3, 2, 1], 0)
    updated_at = np.maximum.reduce([visible, np.where(is_verified, verified, 0), np.where(is_amended, amended, 0)])
    still_wrong = rows[~is_amended & (draft.first_value.index[rows] > 0)]
    value = draft.value.read(rows)
    if len(still_wrong):
        shown = draft.value.copy()
        shown.write(still_wrong, draft.first_value.read(still_wrong))
        value = shown.read(rows)
    columns = {
        "result_id": numbered("R", draft.number[rows], 14),
        "test_code": draft.test.read(rows),
        "result_value": value,
        "result_unit": draft.unit.read(rows),
        "device_id": choices(world.device_ids).gather(draft.device[rows] + 1),
        "collected_timestamp": wall_series(clock.to_wall(draft.collected[rows])),
        "resulted_timestamp": wall_series(clock.to_wall(draft.resulted[rows])),
        "received_timestamp": wall_series(clock.to_wall(draft.received[rows])),
        "verified_timestamp": wall_series(clock.to_wall(np.where(is_verified, verified, NEVER))),
        "result_status": choices(["P", "F", "C", "X"]).gather(status + 1),
        "updated_at": wall_series(clock.to_wall(updated_at)),
        **{c: per_order[c] for c in per_order.columns},
    }
    return pl.DataFrame({name: columns[name] for name in RESULT_COLUMNS})


def wall_series(wall: NDArray[np.int64]) -> pl.Series:
    """Naive datetimes; NEVER becomes null."""
    series = pl.Series(wall)
    if bool((wall == NEVER).any()):
        series = series.set(pl.Series(wall == NEVER), None)
    return series.cast(pl.Datetime("us"))
