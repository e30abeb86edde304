"""From a config to a laboratory's tables and its truth: whole, by chunks of days, or what came since the last look.

Tables are the LIMS's current state as of the end of the last day. Memory follows the chunk, not the span.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from lims_platform.simulator import catalogue, lifecycle
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.dirt import LOOK_BACK_DAYS, plant
from lims_platform.simulator.logs import make_logs
from lims_platform.simulator.orders import make_orders
from lims_platform.simulator.qc import make_qc
from lims_platform.simulator.results import Draft, make_draft, wall_series
from lims_platform.simulator.samples import make_samples
from lims_platform.simulator.wear import LEVELS, oracle_probability
from lims_platform.simulator.world import World, make_world

#: Truth that grows row by row with the tables; the rest is a function of the config and the moment.
ROW_TRUTH = ("dirt", "sample_faults", "contamination")
_TARGET_CHUNK_ROWS = 300_000


@dataclass(frozen=True)
class Laboratory:
    """``tables`` by the LIMS contract's names, times naive in ``config.timezone``; ``truth`` as in :func:`simulate`."""

    config: LabConfig
    tables: dict[str, pl.DataFrame]
    truth: dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Advance:
    """What a LIMS gains between two moments: new rows per table, changed and deleted rows of lab_results, new row truth."""

    inserted: dict[str, pl.DataFrame]
    updated: pl.DataFrame
    deleted: pl.Series
    truth: dict[str, pl.DataFrame]


def simulate(config: LabConfig) -> Laboratory:
    """The whole laboratory in memory.

    Truth: ``device_hazard`` (device_id, date, wear 0-1 at the end of the day, days since service, proneness, hazard of
    the day, oracle_probability, in_outage), ``failures``, ``drift_episodes``, ``outbreaks``, ``dirt`` (one row a defect),
    ``sample_faults``, ``contamination``.
    """
    chunks = list(simulate_days(config))
    once = {name for name in chunks[0].truth if name not in ROW_TRUTH}
    tables = {name: pl.concat([c.tables[name] for c in chunks]) for name in chunks[0].tables if name != "devices"}
    truth = {name: pl.concat([c.truth[name] for c in chunks]) for name in ROW_TRUTH}
    tables["devices"] = chunks[0].tables["devices"]
    return Laboratory(config, tables, {**truth, **{name: chunks[0].truth[name] for name in once}})


def simulate_days(config: LabConfig, chunk_days: int | None = None) -> Iterator[Laboratory]:
    """The same in chunks of days; the rows do not depend on ``chunk_days`` (default: about 300,000 results each).

    The first chunk carries the devices and the truth that is not by row; later ones leave them out.
    """
    world = make_world(config)
    moment = int(world.clock.day_start(config.days))
    step = chunk_days or max(1, _TARGET_CHUNK_ROWS // max(config.results_per_day, config.devices * 40))
    for first in range(0, config.days, step):
        stop = min(first + step, config.days)
        draft, tables, truth = _chunk(world, first, stop)
        results = lifecycle.snapshot(world, draft, moment)
        shown = {name: _until(frame, moment) for name, frame in tables.items()}
        noted = {name: _until(frame, moment) for name, frame in truth.items()}
        if first == 0:
            shown["devices"] = world.devices.table(config)
            noted.update(world_truth(world, moment))
        yield Laboratory(config, {"lab_results": results, **shown}, noted)


def advance_world(world: World, since: int, moment: int) -> Advance:
    """What happened between two instants (UTC microseconds); regenerates the last weeks only, to amend their rows."""
    if not since <= moment <= int(world.clock.day_start(world.config.days)):
        raise ValueError("advance: the moment must lie between the last one and the end of the configured span")
    stop = min(int(world.clock.day_of(moment)) + 1, world.config.days)
    first = max(0, int(world.clock.day_of(since)) - LOOK_BACK_DAYS)
    draft, tables, truth = _chunk(world, first, stop)
    changed = lifecycle.changes(world, draft, since, moment)
    return Advance(
        inserted={"lab_results": changed.inserted, **{n: _until(f, moment, since) for n, f in tables.items()}},
        updated=changed.updated,
        deleted=changed.deleted,
        truth={n: _until(f, moment, since) for n, f in truth.items()},
    )


def _chunk(world: World, first: int, stop: int) -> tuple[Draft, dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """The results' draft, the other tables but devices, and the row truth, with their hidden ``_visible``."""
    orders = make_orders(world, first, stop)
    draft = make_draft(world, orders, first, stop)
    dirt = plant(world, draft, first, stop)
    logs, messages = make_logs(world, first, stop)
    samples, faults, contamination = make_samples(world, first, stop)
    tables = {"device_logs": logs, "quality_control": make_qc(world, first, stop), "batch_results": samples}
    return draft, tables, {"dirt": pl.concat([dirt, messages]), "sample_faults": faults, "contamination": contamination}


def _until(frame: pl.DataFrame, moment: int, since: int = 0) -> pl.DataFrame:
    return frame.filter((pl.col("_visible") >= since) & (pl.col("_visible") < moment)).drop("_visible")


def world_truth(world: World, moment: int) -> dict[str, pl.DataFrame]:
    """device_hazard of the days complete by that instant, and failures, drift episodes and outbreaks begun by then."""
    clock, path = world.clock, world.path
    ids = pl.Series(world.device_ids)
    whole = min(int(clock.day_of(moment)), len(path.felt))
    known = slice(0, whole)
    days = np.repeat(np.arange(whole), world.devices.count)
    devices = np.tile(np.arange(world.devices.count), whole)
    hazard = pl.DataFrame(
        {
            "device_id": ids.gather(devices),
            "date": _dates(world, days),
            "wear": path.level[known].ravel() / LEVELS,
            "wear_felt": path.felt[known].ravel() / LEVELS,
            "days_since_calibration": path.since_calibration[known].ravel().astype(np.int64),
            "days_since_maintenance": path.since_maintenance[known].ravel().astype(np.int64),
            "run_in_days": path.run_in[known].ravel().astype(np.int64),
            "proneness": path.proneness[known].ravel().astype(np.float64),
            "hazard": path.hazard[known].ravel().astype(np.float64),
            "oracle_probability": oracle_probability(path)[known].ravel().astype(np.float64),
            "in_outage": world.down_until(devices, clock.day_start(days + 1) - 1) > 0,
        }
    )
    day, device = np.nonzero(world.failed < moment)
    failures = pl.DataFrame(
        {
            "device_id": ids.gather(device),
            "failed_at": wall_series(clock.to_wall(world.failed[day, device])),
            "back_at": wall_series(clock.to_wall(world.back[day, device])),
            "cause": pl.Series(["chance", "wear"]).gather(path.from_wear[day, device].astype(np.int64)),
        }
    )
    drift, begun = world.drift, clock.day_start(world.drift.first_day) < moment
    episodes = pl.DataFrame(
        {
            "device_id": ids.gather(drift.device[begun]),
            "test_code": pl.Series(catalogue.CODES).gather(drift.code[begun]),
            "first_date": _dates(world, drift.first_day[begun]),
            "last_date": _dates(world, drift.last_day[begun]),
            "shift_in_tea": drift.shift[begun],
            "shift_at_median": drift.shift[begun] * catalogue.TEA[drift.code[begun]],
            "seen_by_qc": drift.seen_by_qc[begun],
        }
    )
    spread, started = world.outbreaks, clock.day_start(world.outbreaks.first_day) < moment
    outbreaks = pl.DataFrame(
        {
            "facility_id": pl.Series([catalogue.facility_id(i) for i in range(world.config.facilities)]).gather(
                spread.facility[started]
            ),
            "pathogen": pl.Series([p.code for p in catalogue.PATHOGENS]).gather(spread.pathogen[started]),
            "first_date": _dates(world, spread.first_day[started]),
            "peak_date": _dates(world, spread.peak_day[started]),
            "last_date": _dates(world, spread.last_day[started]),
            "peak_odds_ratio": spread.odds[started],
        }
    )
    return {"device_hazard": hazard, "failures": failures, "drift_episodes": episodes, "outbreaks": outbreaks}


def _dates(world: World, days: np.ndarray) -> pl.Series:
    return pl.Series(world.clock.date64[world.clock.position(days)]).cast(pl.Date)
