"""device_logs: daily self-tests, errors and warnings that thicken with wear, service, failures and repairs.

Precursors are noisy on purpose: counts are over-dispersed, devices differ, and nuisance bursts come without any wear.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.simulator.clock import DAY, HOUR, NEVER
from lims_platform.simulator.dirt import DIRT_SCHEMA
from lims_platform.simulator.pool import numbered
from lims_platform.simulator.randomness import generator
from lims_platform.simulator.results import wall_series
from lims_platform.simulator.world import World

_WORN = (
    "Aspiration pressure out of range",
    "Lamp intensity low",
    "Probe position deviation",
    "Incubator temperature deviation",
    "Wash station vacuum low",
)
_BENIGN = (
    "Barcode unreadable",
    "Sample volume insufficient",
    "Reagent low",
    "Rack not seated",
    "Host connection lost, retrying",
)
_NUISANCE_START = 0.010
_NUISANCE_DAYS = 4
_SEVERITY = {"ERROR": ("MEDIUM", "HIGH"), "WARNING": ("LOW", "MEDIUM")}
_WITH_IDENTIFIER = "Sample query mismatch: patient {}, operator {}"
_COLUMNS = [
    "device_id",
    "log_timestamp",
    "event_type",
    "severity",
    "message",
    "calibration_date",
    "maintenance_date",
    "_visible",
]


def make_logs(world: World, first: int, stop: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """device_logs of days ``first`` to ``stop`` with hidden ``_visible``, and the truth of identifiers in messages."""
    chatter, truth = _chatter(world, first, stop)
    frame = pl.concat([chatter, _service(world, first, stop), _self_tests(world, first, stop)]).sort(
        "_visible", "device_id", "event_type", "message"
    )
    # a device that says the same twice in a second said it once
    return frame.unique(maintain_order=True), truth


def service_times(world: World) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """When each device was last calibrated and maintained, by the end of each day; UTC microseconds, (days, devices).

    A repair ends with a calibration, which counts from the day of the failure on.
    """
    path, starts = world.path, world.clock.day_start(np.arange(len(world.failed)))[:, None]

    def instants(fraction: NDArray[np.float32]) -> NDArray[np.int64]:
        at = starts + (np.nan_to_num(fraction.astype(np.float64)) * DAY).astype(np.int64) // 1_000_000 * 1_000_000
        return np.where(np.isfinite(fraction), at, 0)

    calibrated = np.maximum(instants(path.calibrated_at), world.back)
    maintained = instants(path.maintained_at)
    for events, since in ((calibrated, path.since_calibration), (maintained, path.since_maintenance)):
        before = starts[0] - since[0].astype(np.int64) * DAY + 7 * HOUR
        events[0] = np.where(events[0] > 0, events[0], before)
    return np.maximum.accumulate(calibrated, axis=0), np.maximum.accumulate(maintained, axis=0)


def _chatter(world: World, first: int, stop: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """ERROR and WARNING rows."""
    config, clock, devices = world.config, world.clock, world.devices.count
    rng = generator(config.seed, "log-habits")
    base = {"ERROR": 0.55 * rng.lognormal(0, 0.35, devices), "WARNING": 1.3 * rng.lognormal(0, 0.35, devices)}
    slope = {"ERROR": 7.0, "WARNING": 3.5}
    noise = {kind: rng.lognormal(0, 0.35, devices) for kind in base}
    nuisance = _nuisance(world, first, stop)
    parts = []
    for day in range(first, stop):
        draw = generator(config.seed, "logs", day)
        wear = world.path.felt[day].astype(np.float64) / 10.0
        for kind, rate in base.items():
            expected = rate * draw.gamma(2.0, 0.5, devices) * nuisance[day - first]
            # how much a device complains when worn is its own habit too
            expected = expected * (1.0 + slope[kind] * noise[kind] * wear**1.4)
            count = draw.poisson(expected)
            device = np.repeat(np.arange(devices), count)
            u = draw.random((6, len(device)))
            from_wear = u[0] < wear[device] * 0.7
            parts.append((np.full(len(device), day), device, np.full(len(device), kind == "ERROR"), from_wear, u))
    day_of, device, is_error, from_wear = (np.concatenate([p[i] for p in parts]) for i in range(4))
    u = np.concatenate([p[4] for p in parts], axis=1)
    # more by day than by night
    instant = clock.day_start(day_of) + _seconds((0.06 + 0.9 * (0.6 * u[1] + 0.4 * u[2])) * DAY)
    keep = world.down_until(device, instant) == 0
    day_of, device, is_error, from_wear, instant, u = (
        day_of[keep],
        device[keep],
        is_error[keep],
        from_wear[keep],
        instant[keep],
        u[:, keep],
    )
    message = pl.Series(_WORN + _BENIGN).gather(np.where(from_wear, 0, 5) + (u[3] * 5).astype(np.int64))
    high = (u[4] < 0.3) | from_wear
    severity = pl.Series([*_SEVERITY["WARNING"], *_SEVERITY["ERROR"]]).gather(is_error * 2 + high)
    marked = np.flatnonzero(u[5] < config.dirt.identifier_in_message)
    person = (u[4, marked] * world.patients.per_facility * config.facilities).astype(np.int64)
    people = numbered("P", world.patients.number(person), 7)
    operators = numbered("T", 1 + (u[3, marked] * max(12, config.devices)).astype(np.int64), 4)
    texts = pl.Series([_WITH_IDENTIFIER.format(p, t) for p, t in zip(people, operators, strict=True)], dtype=pl.String)
    message = message.scatter(pl.Series(marked, dtype=pl.UInt32), texts) if len(marked) else message
    frame = _frame(
        world, device, instant, pl.Series(["WARNING", "ERROR"]).gather(is_error.astype(np.int64)), severity, message
    )
    noted = frame[marked]
    truth = noted.select(
        table=pl.lit("device_logs"),
        row_key=pl.format("{}|{}", "device_id", pl.col("log_timestamp").dt.to_string("%Y-%m-%dT%H:%M:%S")),
        kind=pl.lit("identifier_in_message"),
        planted="message",
        true_value=pl.lit(None, pl.String),
        true_unit=pl.lit(None, pl.String),
        true_code=pl.lit(None, pl.String),
        recoverable=pl.lit(True),
        happens_at=pl.lit(None, pl.Datetime("us")),
        _visible="_visible",
    )
    return frame, truth.select(list(DIRT_SCHEMA))


def _nuisance(world: World, first: int, stop: int) -> NDArray[np.float64]:
    """Factor of bursts without wear, shape (days, devices)."""
    factor = np.ones((stop - first, world.devices.count))
    for day in range(first - _NUISANCE_DAYS, stop):
        u = generator(world.config.seed, "nuisance", day).random((3, world.devices.count))
        starts = u[0] < _NUISANCE_START
        length = 1 + (u[1] * _NUISANCE_DAYS).astype(np.int64)
        for later in range(_NUISANCE_DAYS):
            if first <= day + later < stop:
                factor[day + later - first] *= np.where(starts & (later < length), 2.0 + 5.0 * u[2], 1.0)
    return factor


def _service(world: World, first: int, stop: int) -> pl.DataFrame:
    """CALIBRATION, MAINTENANCE, FAILURE and return to service."""
    path, rows = world.path, np.arange(first, stop)
    starts = world.clock.day_start(rows)[:, None]
    parts = []
    for fractions, kind, text in (
        (path.calibrated_at, "CALIBRATION", "Calibration done"),
        (path.maintained_at, "MAINTENANCE", "Preventive maintenance done"),
    ):
        day, device = np.nonzero(np.isfinite(fractions[rows]))
        instant = (starts + _seconds(np.nan_to_num(fractions[rows].astype(np.float64)) * DAY))[day, device]
        parts.append(_constant(world, device, instant, kind, "LOW", text))
    day, device = np.nonzero(world.failed[rows] != NEVER)
    failed, back = world.failed[rows][day, device], world.back[rows][day, device]
    parts.append(_constant(world, device, failed, "FAILURE", "CRITICAL", "Analyser stopped: hardware failure"))
    parts.append(_constant(world, device, back, "INFO", "LOW", "Back in service after repair"))
    parts.append(_constant(world, device, back, "CALIBRATION", "LOW", "Calibration done after repair"))
    return pl.concat(parts)


def _self_tests(world: World, first: int, stop: int) -> pl.DataFrame:
    """One INFO row per device and day in service, with the service dates the device knows."""
    days = np.arange(first, stop)
    devices = np.tile(np.arange(world.devices.count), len(days))
    day = np.repeat(days, world.devices.count)
    instant = world.clock.day_start(day) + 5 * HOUR + (devices * 37 % 900) * 1_000_000
    keep = world.down_until(devices, instant) == 0
    devices, day, instant = devices[keep], day[keep], instant[keep]
    calibrated, maintained = service_times(world)
    frame = _constant(world, devices, instant, "INFO", "LOW", "Daily self-test done")
    starts = world.clock.day_start(0)

    def known(times: NDArray[np.int64]) -> pl.Series:
        # the first morning knows what was done before the laboratory's first day
        yesterday = np.where(day > 0, times[np.maximum(day - 1, 0), devices], times[0, devices])
        return wall_series(world.clock.to_wall(np.where((day == 0) & (yesterday >= starts), NEVER, yesterday)))

    return frame.with_columns(calibration_date=known(calibrated), maintenance_date=known(maintained)).select(_COLUMNS)


def _constant(
    world: World, device: NDArray[np.int64], instant: NDArray[np.int64], kind: str, severity: str, message: str
) -> pl.DataFrame:
    texts = (pl.Series([text], dtype=pl.String).new_from_index(0, len(device)) for text in (kind, severity, message))
    return _frame(world, device, instant, *texts)


def _frame(
    world: World,
    device: NDArray[np.int64],
    instant: NDArray[np.int64],
    kind: pl.Series,
    severity: pl.Series,
    message: pl.Series,
) -> pl.DataFrame:
    wall = wall_series(world.clock.to_wall(instant))
    return (
        pl.DataFrame(
            {
                "device_id": pl.Series(world.device_ids).gather(device),
                "log_timestamp": wall,
                "event_type": kind,
                "severity": severity,
                "message": message,
                "_visible": instant,
            }
        )
        .with_columns(
            calibration_date=pl.when(pl.col("event_type") == "CALIBRATION").then("log_timestamp"),
            maintenance_date=pl.when(pl.col("event_type") == "MAINTENANCE").then("log_timestamp"),
        )
        .select(_COLUMNS)
    )


def _seconds(duration: NDArray[np.float64]) -> NDArray[np.int64]:
    return duration.astype(np.int64) // 1_000_000 * 1_000_000
