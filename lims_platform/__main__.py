"""Commands of the platform: ``python -m lims_platform demo | run | summary | leak-scan | …`` (``--help`` lists them).

Here: arguments and exit codes. Not here: what the commands do (each calls one room).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

from lims_platform.commands import keeping, services
from lims_platform.settings import Settings, SettingsError, load_settings, remember_first_day


def demo(settings: Settings) -> int:
    """Build the embedded demo laboratory unless a source is configured or it exists."""
    if settings.sources is not None:
        print(f"sources from {settings.sources}; the demo laboratory is not needed")
        return 0
    from lims_platform.simulator.config import LabConfig
    from lims_platform.simulator.generate import simulate
    from lims_platform.simulator.writer import write

    path = settings.data_dir / "demo" / "lims.db"
    if path.exists():
        print(f"the demo laboratory is there already: {path}")
        return 0
    end = settings.today - timedelta(days=1)
    first = settings.start_date or end - timedelta(days=419)
    config = LabConfig(
        seed=settings.demo_seed,
        devices=settings.demo_devices,
        days=(end - first).days + 1,
        end=end,
        results_per_day=settings.demo_results_per_day,
        timezone=settings.timezone,
    )
    print(f"building a demo laboratory of {config.devices} analysers over {config.days} days: {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    laboratory = simulate(config)
    write(laboratory, f"sqlite:///{path}", settings.data_dir / "demo" / "truth")
    remember_first_day(settings, first)
    return 0


def _prepare_dagster(settings: Settings) -> None:
    """Create Dagster's storage, one process at a time: two that migrate a new SQLite storage at once leave it unusable."""
    from dagster import DagsterInstance

    lock = settings.data_dir / "dagster" / ".lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with DagsterInstance.get() as instance:
            instance.get_runs_count()


def run(settings: Settings, first: date | None, last: date | None, job: str, confirm_vanished: bool) -> int:
    """Materialise a range of days through the dagster command line."""
    from lims_platform.lakehouse.history import CONFIRM_TAG
    from lims_platform.partitions import partition_bounds

    _prepare_dagster(settings)
    lowest, highest = partition_bounds()
    tags = {
        "dagster/asset_partition_range_start": (first or lowest).isoformat(),
        "dagster/asset_partition_range_end": (last or highest).isoformat(),
    }
    if confirm_vanished:
        tags[CONFIRM_TAG] = "true"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "run.yaml"
        config.write_text("loggers: {console: {config: {}}}\n")
        command = [
            str(Path(sys.executable).with_name("dagster")),
            "job",
            "execute",
            "-m",
            "lims_platform.definitions",
            "-j",
            job,
        ]
        command += ["--tags", json.dumps(tags), "-c", str(config)]
        return subprocess.run(command, check=False).returncode


def summary(settings: Settings) -> int:
    """Print what the last run left."""
    from lims_platform.reporting.summary import summary as text

    print(text(settings))
    return 0


def leak_scan(settings: Settings) -> int:
    """Look for every raw identifier of the sources in every byte the platform wrote; exit 1 if one is found, or if anything
    could not be read: it might hold one.
    """
    from lims_platform.assets.door import Door
    from lims_platform.contracts.source import SOURCE_TABLES
    from lims_platform.lakehouse.lake import Lake
    from lims_platform.privacy.leakscan import scan
    from lims_platform.privacy.server_tables import copy_tables

    sources = Door(settings, Lake(settings.lake_dir)).sources
    wanted: dict[str, set[str]] = {}
    for table in SOURCE_TABLES.values():
        if sources.names(table):
            for domain, values in sources.identifiers(table).items():
                wanted.setdefault(domain, set()).update(values)
    report = scan(settings.data_dir, wanted, exclude=[settings.data_dir / "demo", settings.reference_dir])
    hits, unread = list(report.hits.iter_rows(named=True)), list(report.unreadable)
    print(f"identifiers looked for: {report.identifiers:,}; files: {report.files:,}; bytes read: {report.bytes_read:,}")
    on_servers = {
        "LIMS_DAGSTER_DATABASE": settings.dagster_database,
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_backend_store_uri,
    }
    for name, secret in on_servers.items():
        if secret is not None:
            with tempfile.TemporaryDirectory() as folder:
                tables = copy_tables(secret.get_secret_value(), Path(folder))
                found = scan(Path(folder), wanted)
            print(f"{name}: {len(tables)} tables; bytes read: {found.bytes_read:,}")
            hits += [{**row, "path": f"{name} {row['path']}"} for row in found.hits.iter_rows(named=True)]
            unread += [f"{name} {words}" for words in found.unreadable]
    print(f"hits: {sum(row['count'] for row in hits)}")
    for row in hits:
        print(f"  {row['path']} {row['where']}: {row['count']} of domain {row['domain']}")
    print(f"could not be read: {len(unread)}")
    for words in unread:
        print(f"  {words}")
    return 1 if hits or unread else 0


def alerts(settings: Settings, action: str, name: str, note: str | None, everything: bool) -> int:
    """List alerts, or acknowledge one; exit 1 with one line where it cannot be."""
    from datetime import datetime

    import polars as pl

    from lims_platform.alerting.desk import acknowledge_alerts, alert_lines, listing
    from lims_platform.alerting.lifecycle import AlertError
    from lims_platform.lakehouse.lake import Lake
    from lims_platform.privacy.pseudonyms import KeyFileError, load_pseudonymiser
    from lims_platform.privacy.redaction import redact

    lake = Lake(settings.lake_dir)
    if action == "list":
        print(alert_lines(listing(lake, everything), settings.zone))
        return 0
    try:
        if note:
            key = load_pseudonymiser(settings.key_path, settings.environment)
            note = redact(pl.Series([note]), {}, {}, key.pseudonyms)[0]
        print(alert_lines(acknowledge_alerts(lake, name, note, datetime.now(settings.zone)), settings.zone))
    except (AlertError, KeyFileError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def hl7(settings: Settings, host: str, port: int) -> int:
    """Listen for HL7 v2 over MLLP until stopped; every acknowledged message is safe, sealed, in the spool."""
    import asyncio
    import logging

    from lims_platform.privacy.pseudonyms import KeyFileError, load_pseudonymiser
    from lims_platform.sources.hl7.mllp import Listener, MllpLimits, serve
    from lims_platform.sources.hl7.spool import SpoolWriter
    from lims_platform.sources.hl7.tls import TlsError, listener_security

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        sealer = load_pseudonymiser(settings.key_path, settings.environment).sealer()
        tls = listener_security(settings, host)
    except (KeyFileError, TlsError) as error:
        print(error, file=sys.stderr)
        return 2
    writer = SpoolWriter(settings.hl7_spool, sealer, settings.hl7_segment_bytes)
    limits = MllpLimits(
        settings.hl7_message_bytes, settings.hl7_message_seconds, settings.hl7_idle_seconds, settings.hl7_connections
    )
    listener = Listener(writer.store, limits)
    kind = "plain text" if tls is None else "TLS" if settings.hl7_tls_client_ca is None else "mutual TLS"

    def ready(at: str, number: int) -> None:
        print(f"HL7 listener on {at}:{number}, {kind}, spool {settings.hl7_spool}", flush=True)

    try:
        asyncio.run(serve(listener, host, port, ready, tls))
    except OSError as error:
        print(f"HL7 listener on {host}:{port}: {error.strerror}", file=sys.stderr)
        return 1
    writer.close()
    print(f"accepted {listener.accepted:,}, refused {listener.refused:,}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Parse and dispatch; a wrong setting is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m lims_platform", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="build the demo laboratory if no source is configured")
    runner = commands.add_parser("run", help="materialise a range of days")
    runner.add_argument("--from", dest="first", type=date.fromisoformat, help="first day, default the first partition")
    runner.add_argument("--to", dest="last", type=date.fromisoformat, help="last day, default today")
    runner.add_argument("--job", default="everything")
    runner.add_argument("--confirm-vanished", action="store_true", help="accept that rows vanished from the source")
    commands.add_parser("summary", help="print what the last run left")
    commands.add_parser("leak-scan", help="look for raw identifiers in everything the platform wrote")
    alerting = commands.add_parser("alerts", help="list alerts or acknowledge one")
    actions = alerting.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="unresolved alerts").add_argument("--all", action="store_true", help="resolved ones too")
    ack = actions.add_parser("ack", help="acknowledge an alert: somebody takes care")
    ack.add_argument("alert", help="the beginning of its id, or a rule's name: all of its unresolved alerts")
    ack.add_argument("--note", help="what was done; patient numbers are replaced by pseudonyms")
    door = commands.add_parser("hl7", help="listen for HL7 v2 results over MLLP")
    door.add_argument("--host", help="address to bind, default LIMS_HL7_HOST")
    door.add_argument("--port", type=int, help="default LIMS_HL7_PORT")
    keeping.add_commands(commands)
    services.add_commands(commands)
    given = parser.parse_args(arguments)
    try:
        settings = load_settings()
        os.environ.setdefault("LIMS_DATA_DIR", str(settings.data_dir))
        if given.command == "demo":
            return demo(settings)
        if given.command == "run":
            return run(settings, given.first, given.last, given.job, given.confirm_vanished)
        if given.command == "alerts":
            options = vars(given)
            return alerts(settings, given.action, options.get("alert", ""), options.get("note"), options.get("all", False))
        if given.command == "hl7":
            port = given.port if given.port is not None else settings.hl7_port
            return hl7(settings, given.host or settings.hl7_host, port)
        if given.command in keeping.COMMANDS:
            return keeping.run(settings, given)
        if given.command == "prepare":
            return services.run(settings, given)
        return summary(settings) if given.command == "summary" else leak_scan(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
