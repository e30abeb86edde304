"""Orders: which patient, which panel, where, when, on which analyser, and how long it took.

One order is one specimen on one device. Orders belong to the day they were taken, or, for a follow-up of a respiratory test,
to the day of the first test. Not here: what the results were (``results``).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from lims_platform.simulator import catalogue
from lims_platform.simulator.clock import DAY, HOUR
from lims_platform.simulator.episodes import prevalence
from lims_platform.simulator.randomness import generator, normals, uniforms
from lims_platform.simulator.world import World

#: A follow-up is taken this many days after the first test.
FOLLOW_UP_DAYS = (2, 10)
_FOLLOW_UP_SHARE = 0.08
_WEEKDAY = np.array([1.25, 1.20, 1.15, 1.15, 1.10, 0.60, 0.55])
_HOURLY = np.array([1, 1, 1, 1, 1.5, 3, 7, 11, 12, 11, 9, 8, 7, 7, 6, 5, 4, 3, 2.5, 2, 2, 1.5, 1.5, 1.0])
_HOUR_CDF = np.concatenate([[0.0], np.cumsum(_HOURLY) / _HOURLY.sum()])
_LOCATION_CDF = np.array([0.56, 0.84, 0.96])
_STAT = np.array([0.03, 0.12, 0.85, 0.60])
_HOME_ADVANTAGE = 5.0


@dataclass
class Orders:
    """Arrays with one entry per order, sorted by ``day``. Times are UTC microseconds."""

    day: NDArray[np.int64]
    patient: NDArray[np.int64]
    facility: NDArray[np.int64]
    panel: NDArray[np.int64]
    location: NDArray[np.int64]
    stat: NDArray[np.bool_]
    device: NDArray[np.int64]
    technician: NDArray[np.int64]
    collected: NDArray[np.int64]
    received: NDArray[np.int64]
    resulted: NDArray[np.int64]
    verified: NDArray[np.int64]
    visit: NDArray[np.float32]  # how this visit deviates, shared by its analytes
    infected: NDArray[np.bool_]  # (orders, pathogens)

    @property
    def count(self) -> int:
        """Number of orders."""
        return len(self.day)

    def take(self, index: NDArray[np.int64]) -> Orders:
        """The orders at these positions."""
        return Orders(*(getattr(self, f.name)[index] for f in fields(self)))


def make_orders(world: World, first: int, stop: int) -> Orders:
    """The orders of days ``first`` to ``stop`` (exclusive)."""
    config, clock = world.config, world.clock
    days = np.arange(first, stop)
    at = clock.position(days)
    mean_size = float((catalogue.PANEL_SIZE * [p.share for p in catalogue.PANELS]).sum())
    expected = config.results_per_day / mean_size * _WEEKDAY[clock.weekday[at]]
    counts = np.array(
        [generator(config.seed, "order-count", d).poisson(e) for d, e in zip(days.tolist(), expected, strict=True)],
        dtype=np.int64,
    )
    u = uniforms(config.seed, "orders", days.tolist(), counts, 13)
    z = normals(config.seed, "delays", days.tolist(), counts, 5)
    day = np.repeat(days, counts)
    facility_share = 1.0 / (1.0 + 0.35 * np.arange(config.facilities))
    facility = np.searchsorted(np.cumsum(facility_share / facility_share.sum())[:-1], u[0], side="right")
    patient = facility * world.patients.per_facility + (u[1] ** 1.8 * world.patients.per_facility).astype(np.int64)
    infected_chance = prevalence(clock.day_of_year[at], world.outbreaks, first, config.facilities)[day - first, facility]
    panel = _panels(world, first, day, facility, infected_chance, u)
    hour = np.interp(u[4], _HOUR_CDF, np.arange(25))
    location = np.searchsorted(_LOCATION_CDF, u[5], side="right")
    odd_hours = (hour < 6.5) | (hour > 18.5) | (clock.weekday[clock.position(day)] >= 5)
    location = np.where(odd_hours & (location == 0) & (u[6] < 0.75), 2, location)
    draws = uniforms(config.seed, "infection", days.tolist(), counts, len(catalogue.PATHOGENS))
    infected = infected_chance > draws.T
    seconds = (hour * 3600).astype(np.int64)
    orders = Orders(
        day=day,
        patient=patient,
        facility=facility,
        panel=panel,
        location=location,
        stat=u[7] < _STAT[location],
        device=np.zeros_like(day),
        technician=1 + (u[8] * max(12, config.devices)).astype(np.int64),
        collected=clock.day_start(day) + seconds * 1_000_000,
        received=np.zeros_like(day),
        resulted=np.zeros_like(day),
        verified=np.zeros_like(day),
        visit=z[0],
        infected=infected,
    )
    first_tests = np.flatnonzero((panel == catalogue.RESPIRATORY) & (u[9] < _FOLLOW_UP_SHARE))
    index = np.concatenate([np.arange(orders.count), first_tests])
    low, high = FOLLOW_UP_DAYS
    delay = np.zeros(len(index), dtype=np.int64)
    delay[orders.count :] = DAY * (low + (u[10, first_tests] * (high - low)).astype(np.int64))
    order = np.argsort(orders.day[index], kind="stable")
    index, delay = index[order], delay[order]
    orders = orders.take(index)
    orders.collected += delay
    # a follow-up goes to another device, at another pace
    again = delay > 0
    _process(
        world, orders, np.where(again, 1.0 - u[11:13, index], u[11:13, index]), np.where(again, -z[1:, index], z[1:, index])
    )
    return orders


def _panels(
    world: World,
    first: int,
    day: NDArray[np.int64],
    facility: NDArray[np.int64],
    infected_chance: NDArray[np.float64],
    u: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Panels by share, of those the laboratory has a device for; outbreaks and season turn some into respiratory tests."""
    present = np.isin(catalogue.TYPE_OF_PANEL, world.devices.type_index)
    share = np.where(present, [p.share for p in catalogue.PANELS], 0.0)
    panel = np.searchsorted(np.cumsum(share / share.sum())[:-1], u[2], side="right")
    if not present[catalogue.RESPIRATORY]:
        return panel
    log_odds = world.outbreaks.intensity(first, int(day[-1]) + 1 if len(day) else first, world.config.facilities)
    peak = np.log(world.config.outbreaks.odds)
    outbreak = log_odds.max(axis=2)[day - first, facility] / peak if peak > 0 else 0.0
    season = infected_chance[:, :4].max(axis=1)
    extra = share[catalogue.RESPIRATORY] * (world.config.outbreaks.extra_tests * outbreak + season)
    return np.where(u[3] < extra, catalogue.RESPIRATORY, panel)


def _process(world: World, orders: Orders, u: NDArray[np.float64], z: NDArray[np.float32]) -> None:
    """Fill in device, received, resulted and verified: log-normal delays, couriers, outages, and slower worn devices."""
    kind = catalogue.TYPE_OF_PANEL[orders.panel]
    device, spare = (_pick_device(world, kind, orders.facility, draw) for draw in u)
    away = world.devices.facility[device] != orders.facility
    minutes = np.where(orders.stat, 16.0, 50.0) * np.exp(0.45 * z[0]) + away * np.where(orders.stat, 25.0, 70.0)
    orders.received = _whole_seconds(orders.collected + minutes * 60e6)
    device = np.where(world.down_until(device, orders.received) > 0, spare, device)
    begin = np.maximum(orders.received, world.down_until(device, orders.received))
    day = world.clock.day_of(begin)
    wear = world.wear(day, device).astype(np.float64)
    hours = np.array([t.in_lab_hours for t in catalogue.DEVICE_TYPES])[kind]
    hours = hours * np.where(orders.stat, 0.5, 1.0) * np.exp(0.35 * z[1]) * (1.0 + 0.6 * wear**1.5)
    orders.device = device
    orders.resulted = _whole_seconds(begin + hours * HOUR)
    # half are released by rule; the others wait for a person
    wait = np.where(z[2] < 0, 0.0, 9.0 * np.exp(0.8 * z[3])) * 60e6
    orders.verified = _whole_seconds(orders.resulted + wait)


def _whole_seconds(instant: NDArray[np.float64]) -> NDArray[np.int64]:
    return instant.astype(np.int64) // 1_000_000 * 1_000_000


def _pick_device(
    world: World, kind: NDArray[np.int64], facility: NDArray[np.int64], draw: NDArray[np.float64]
) -> NDArray[np.int64]:
    """A device of the right type, by load, preferring the order's own facility."""
    devices, facilities = world.devices, world.config.facilities
    members: list[NDArray[np.int64]] = []
    cumulative: list[NDArray[np.float64]] = []
    for place in range(len(catalogue.DEVICE_TYPES) * facilities):
        of_type = np.flatnonzero(devices.type_index == place // facilities)
        home = devices.facility[of_type] == place % facilities
        weight = np.cumsum(devices.load[of_type] * np.where(home, _HOME_ADVANTAGE, 1.0))
        members.append(of_type)
        if len(of_type):
            cumulative.append(place + weight / weight[-1] * (1 - 1e-12))
    group = kind * facilities + facility
    position = np.searchsorted(np.concatenate(cumulative), group + draw * (1 - 1e-9), side="right")
    return np.concatenate(members)[position]
