"""The demo laboratory lives on: new rows, verifications, amendments and deletions up to a moment.

Deterministic in the config: advancing hour by hour gives the rows that one long simulation gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from lims_platform.simulator.clock import Clock
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import ROW_TRUTH, advance_world, world_truth
from lims_platform.simulator.world import make_world
from lims_platform.simulator.writer import CONFIG_FILE, STATE_TABLE, connect, write_parquet, write_text

_UPDATED = ("result_value", "result_status", "verified_timestamp", "updated_at")


@dataclass(frozen=True)
class Advanced:
    """Rows inserted per table, and rows of lab_results updated and deleted."""

    inserted: dict[str, int]
    updated: int
    deleted: int


def advance(uri: str, truth_dir: Path, until: datetime) -> Advanced:
    """Continue the laboratory that :func:`~.writer.write` put at ``uri`` up to ``until`` (naive: the lab's wall time).

    One transaction; nothing happens when the laboratory has lived longer already. The LIMS must be one this simulator
    wrote and ``truth_dir`` its own: FileNotFoundError otherwise.
    """
    config_file = truth_dir / CONFIG_FILE
    if not config_file.exists():
        raise FileNotFoundError(f"{config_file}: no simulated laboratory here; write one first")
    config = LabConfig.from_json(config_file.read_text(encoding="utf-8"))
    moment = Clock(config.start, config.days, config.timezone).instant(until)
    day = until.astimezone(Clock(config.start, 1, config.timezone).zone).date() if until.tzinfo else until.date()
    config = config.extended_to(max(day, config.end))
    with connect(uri) as database:
        # an update first: it locks, so that two advances cannot both see the same last moment
        database.run(f"UPDATE {STATE_TABLE} SET known_until = known_until")
        since = int(database.read(f"SELECT known_until FROM {STATE_TABLE}")["known_until"].item())
        if moment <= since:
            return Advanced({}, 0, 0)
        world = make_world(config)
        news = advance_world(world, since, moment)
        for table, frame in news.inserted.items():
            database.append(table, frame)
        changes = ", ".join(f"{column} = ${i}" for i, column in enumerate(_UPDATED, 1))
        database.run_many(
            f"UPDATE lab_results SET {changes} WHERE result_id = ${len(_UPDATED) + 1}",
            news.updated.select(*_UPDATED, "result_id"),
        )
        database.run_many("DELETE FROM lab_results WHERE result_id = $1", news.deleted.to_frame("result_id"))
        database.run(f"UPDATE {STATE_TABLE} SET known_until = {moment}")
        # before the commit and idempotent: should it fail, the next advance repeats it
        for name in ROW_TRUTH:
            path = truth_dir / f"{name}.parquet"
            write_parquet(pl.concat([pl.read_parquet(path), news.truth[name]]).unique(maintain_order=True), path)
        for name, frame in world_truth(world, moment).items():
            write_parquet(frame, truth_dir / f"{name}.parquet")
        write_text(config.to_json(), config_file)
    return Advanced({t: len(f) for t, f in news.inserted.items()}, len(news.updated), len(news.deleted))
