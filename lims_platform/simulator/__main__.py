"""``python -m lims_platform.simulator``: write a laboratory, let it live on (``live``), or change its rows (``changes``)."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from lims_platform.simulator.changes import apply_changes, flip_back
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import simulate_days
from lims_platform.simulator.live import advance
from lims_platform.simulator.writer import is_there, write


def _parser() -> argparse.ArgumentParser:
    defaults = {f: LabConfig.__dataclass_fields__[f].default for f in ("days", "devices", "facilities", "results_per_day")}
    parser = argparse.ArgumentParser(prog="python -m lims_platform.simulator", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("write", help="write a new laboratory (the default command)")
    new.add_argument("--to", required=True, help="sqlite:///path or postgresql://user@host/database")
    new.add_argument("--truth", required=True, type=Path, help="folder for the truth, which no pipeline reads")
    for name, value in defaults.items():
        new.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    new.add_argument("--failures-per-device-year", type=float, default=4.0)
    new.add_argument("--timezone", default="Europe/Berlin")
    new.add_argument("--seed", type=int, default=7)
    new.add_argument("--end", type=date.fromisoformat, help="last simulated day; default: yesterday in --timezone")
    new.add_argument("--if-absent", action="store_true", help="do nothing where there is a LIMS already")
    live = commands.add_parser("live", help="let a written laboratory live on")
    live.add_argument("--to", required=True)
    live.add_argument("--truth", required=True, type=Path)
    live.add_argument("--until", type=datetime.fromisoformat, help="wall time of the laboratory; default: now")
    change = commands.add_parser("changes", help="change random results and print what was changed as CSV")
    change.add_argument("--to", required=True)
    change.add_argument("--count", type=int, default=1000)
    change.add_argument("--seed", type=int, default=7)
    change.add_argument("--flip-back", action="store_true", help="end with the second step of A→B→A")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. A wrong value is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] not in ("write", "live", "changes", "-h", "--help"):
        given.insert(0, "write")
    options = _parser().parse_args(given)
    try:
        {"write": _write, "live": _live, "changes": _changes}[options.command](options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _write(options: argparse.Namespace) -> None:
    if options.if_absent and is_there(options.to):
        print(f"{options.to}: there already")
        return
    end = options.end or datetime.now(ZoneInfo(options.timezone)).date() - timedelta(days=1)
    config = LabConfig(
        seed=options.seed,
        end=end,
        days=options.days,
        devices=options.devices,
        facilities=options.facilities,
        results_per_day=options.results_per_day,
        failures_per_device_year=options.failures_per_device_year,
        timezone=options.timezone,
    )
    begin = time.perf_counter()
    tables = write(simulate_days(config), options.to, options.truth)
    total = time.perf_counter() - begin
    for table in tables:
        print(f"{table.table:<16} {table.rows:>12,} rows  written at {table.rows / max(table.seconds, 1e-9):>12,.0f} rows/s")
    rows = sum(table.rows for table in tables)
    print(f"{'all':<16} {rows:>12,} rows  generated and written at {rows / total:,.0f} rows/s in {total:.1f} s")


def _live(options: argparse.Namespace) -> None:
    done = advance(options.to, options.truth, options.until or datetime.now().astimezone())
    for table, rows in done.inserted.items():
        print(f"{table:<16} {rows:>12,} rows inserted")
    print(f"{'lab_results':<16} {done.updated:>12,} rows updated, {done.deleted:,} deleted")


def _changes(options: argparse.Namespace) -> None:
    log = apply_changes(options.to, options.count, options.seed)
    if options.flip_back:
        flip_back(options.to, log)
    log.write_csv(sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
