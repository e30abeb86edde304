"""The laboratory of the simulated fortnight: a small SQLite LIMS that gets rows while time passes, and what happens to it.

Not here: automation, and the clock (``fortnight``).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

ZONE = ZoneInfo("Europe/Berlin")
FIRST_DAY = date(2026, 3, 1)
#: The fortnight holds two Sundays and the change to summer time on 29 March.
START, DAYS = datetime(2026, 3, 20, tzinfo=ZONE), 14
OUTAGE = (datetime(2026, 3, 25, 9, 30, tzinfo=ZONE), datetime(2026, 3, 26, 15, 30, tzinfo=ZONE))


@dataclass
class Plot:
    """What happens at the laboratory besides the ordinary, by the wall clock."""

    #: a late result: (when it is written, the day it belongs to)
    late: tuple[datetime, date] = (datetime(2026, 3, 22, 10, 20, tzinfo=ZONE), date(2026, 3, 19))
    #: an amended result: only its updated_at tells
    amended: tuple[datetime, date] = (datetime(2026, 3, 23, 14, 20, tzinfo=ZONE), date(2026, 3, 21))
    #: an amended result of a day older than the days watched
    amended_long_ago: tuple[datetime, date] = (datetime(2026, 3, 24, 11, 20, tzinfo=ZONE), date(2026, 3, 2))
    #: a control moves from one day to a later one
    moved: tuple[datetime, date, date] = (datetime(2026, 3, 31, 16, 20, tzinfo=ZONE), date(2026, 3, 28), date(2026, 3, 30))
    #: the features of this day break their contract; a person runs them again at the hour given
    broken_features: tuple[date, datetime] = (date(2026, 3, 22), datetime(2026, 3, 23, 11, 5, tzinfo=ZONE))
    #: the drift report of this day fails; a person runs it again
    failed_drift: tuple[date, datetime] = (date(2026, 3, 29), datetime(2026, 3, 30, 12, 5, tzinfo=ZONE))


def make_lims(path: Path) -> None:
    """A LIMS of two tables with three results and one control a day up to the start."""
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE lab_results (result_id TEXT, patient_id TEXT, test_code TEXT, result_value TEXT, "
            "result_unit TEXT, device_id TEXT, collected_timestamp TEXT, resulted_timestamp TEXT, technician_id TEXT, "
            "updated_at TEXT)"
        )
        db.execute(
            "CREATE TABLE quality_control (qc_id TEXT, device_id TEXT, test_code TEXT, qc_level TEXT, expected_value REAL, "
            "measured_value REAL, passed INTEGER, timestamp TEXT)"
        )
        moment = datetime.combine(FIRST_DAY, datetime.min.time()) + timedelta(hours=6)
        while moment < START.replace(tzinfo=None):
            add_result(db, moment, moment)
            if moment.hour == 6:
                add_control(db, moment)
            moment += timedelta(hours=8)


def add_result(db: sqlite3.Connection, resulted: datetime, updated: datetime) -> None:
    """One result of that wall time."""
    number = db.execute("SELECT COUNT(*) FROM lab_results").fetchone()[0]
    row = (f"R{number}", "P1", "GLU", "95", "mg/dL", "D1", f"{resulted}", f"{resulted}", "T1", f"{updated}")
    db.execute(f"INSERT INTO lab_results VALUES ({','.join('?' * 10)})", row)


def add_control(db: sqlite3.Connection, moment: datetime) -> None:
    """One control measurement."""
    number = db.execute("SELECT COUNT(*) FROM quality_control").fetchone()[0]
    db.execute(
        "INSERT INTO quality_control VALUES (?,?,?,?,?,?,?,?)", (f"Q{number}", "D1", "GLU", "1", 95, 95, 1, f"{moment}")
    )


def live(now: datetime, first_time: Callable[[str], bool], path: Path, plot: Plot) -> None:
    """What the laboratory wrote up to now: a result an hour, and the plot; ``first_time`` is true once per name."""
    wall = now.astimezone(ZONE).replace(tzinfo=None, minute=0)
    with sqlite3.connect(path) as db:
        if first_time(f"hour {wall}"):
            add_result(db, wall - timedelta(minutes=20), wall - timedelta(minutes=20))
            if wall.hour == 6:
                add_control(db, wall - timedelta(minutes=15))
        if now >= plot.late[0] and first_time("late"):
            add_result(db, datetime.combine(plot.late[1], datetime.min.time()) + timedelta(hours=11), wall)
        for name in ("amended", "amended_long_ago"):
            at, day = getattr(plot, name)
            if now >= at and first_time(name):
                stamp = f"{at.replace(tzinfo=None)}"
                one = f"SELECT min(result_id) FROM lab_results WHERE resulted_timestamp LIKE '{day}%'"
                db.execute(f"UPDATE lab_results SET result_value = '96', updated_at = ? WHERE result_id = ({one})", (stamp,))
        if now >= plot.moved[0] and first_time("moved"):
            db.execute(
                "UPDATE quality_control SET timestamp = replace(timestamp, ?, ?) WHERE timestamp LIKE ?",
                (str(plot.moved[1]), str(plot.moved[2]), f"{plot.moved[1]}%"),
            )


def prepare(folder: Path) -> None:
    """Environment and LIMS of the simulated laboratory; before the platform is imported."""
    lims = folder / "lims.db"
    make_lims(lims)
    sources = folder / "sources.yaml"
    sources.write_text(
        f"sources:\n  lims:\n    uri: sqlite:////{str(lims).lstrip('/')}\n    timezone: Europe/Berlin\n    tables:\n"
        "      lab_results: {table: lab_results, change_cursor: updated_at}\n"
        "      quality_control: {table: quality_control}\n"
    )
    settings = {"DATA_DIR": folder / "data", "SOURCES": sources, "START_DATE": FIRST_DAY, "TIMEZONE": ZONE.key}
    os.environ.update({f"LIMS_{name}": str(value) for name, value in settings.items()})
    os.environ.update(FORTNIGHT_LIMS=str(lims), DAGSTER_DISABLE_TELEMETRY="yes")
