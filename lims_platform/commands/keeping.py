"""Commands that keep the platform: maintain, backup, restore, migrate, rotate-key, reidentify, audit-verify.

Here: arguments, what is printed, exit codes, audit entries. Not here: how any of it is done.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lims_platform.privacy.audit import AuditTrail
from lims_platform.settings import Settings

if TYPE_CHECKING:
    import dagster as dg


class CommandError(RuntimeError):
    """A command cannot do what was asked; the message is one line."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the commands of this module."""
    maintain_ = commands.add_parser("maintain", help="compact, expire, vacuum tables; prune old runs, logs and reports")
    maintain_.add_argument("--dry-run", action="store_true", help="only say what would go")
    backup_ = commands.add_parser("backup", help="one consistent archive of everything the platform wrote")
    backup_.add_argument("archive", type=Path, help="a new folder, or a new file ending in .tar")
    backup_.add_argument("--with-key", action="store_true", help="put the pseudonym key into the archive too")
    restore_ = commands.add_parser("restore", help="put an archive back, checksums verified")
    restore_.add_argument("archive", type=Path)
    restore_.add_argument("--to", type=Path, help="an empty or new directory; default LIMS_DATA_DIR")
    migrate_ = commands.add_parser("migrate", help="bring stored tables to their contracts")
    migrate_.add_argument("--dry-run", action="store_true", help="only say what differs")
    rotate = commands.add_parser("rotate-key", help="a new pseudonym key; every stored pseudonym goes with it")
    rotate.add_argument("--reason", required=True, help="goes into the audit trail")
    rotate.add_argument("--runs-are-dead", action="store_true", help="runs recorded as unfinished were killed")
    look = commands.add_parser("reidentify", help="whose pseudonym is it; audited")
    look.add_argument("pseudonym")
    look.add_argument("--reason", required=True, help="goes into the audit trail")
    commands.add_parser("audit-verify", help="recompute the audit trail's hash chain; exit 1 if it is broken")


def open_instance() -> dg.DagsterInstance:
    """Dagster's instance as DAGSTER_HOME describes it."""
    import dagster as dg

    if not os.environ.get("DAGSTER_HOME"):
        raise CommandError('DAGSTER_HOME is not set; eval "$(make -s env)" sets what a hand-typed command needs')
    return dg.DagsterInstance.get()


def maintain(settings: Settings, given: argparse.Namespace) -> int:
    """The upkeep of every table, then runs and reports; the catalogue first, because its views name files."""
    import polars as pl

    from lims_platform.automation.keeping import BY_HAND, announce, keep_house
    from lims_platform.contracts.tables import TABLES
    from lims_platform.lakehouse.catalog import build_catalog
    from lims_platform.lakehouse.lake import Lake
    from lims_platform.lakehouse.maintenance import upkeep_frame

    lake, instance = Lake(settings.lake_dir), open_instance()
    done = keep_house(settings, instance, lake, dry_run=True)
    if not given.dry_run:
        announce(settings, done, BY_HAND)
        build_catalog(lake, TABLES.values(), settings.catalog_path)
        done = keep_house(settings, instance, lake, dry_run=False)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=140, tbl_hide_dataframe_shape=True):
        print(upkeep_frame(done.tables))
    verb, runs = "would go" if given.dry_run else "went", done.runs
    print(f"runs that {verb}: {len(runs.runs)} ({runs.bytes:,} bytes); old runs kept, a table's newest state: {runs.kept}")
    print(f"report folders that {verb}: {done.pages}")
    return 0


def backup(settings: Settings, given: argparse.Namespace) -> int:
    """Make an archive and say what is and is not in it."""
    from lims_platform.lakehouse.backup import backup as make

    made = make(settings, given.archive.absolute(), with_key=given.with_key)
    print(f"{given.archive}: {len(made.tables)} tables, {made.files:,} files, {made.bytes:,} bytes")
    for words in made.left_out:
        print(f"not in it: {words}")
    return 0


def restore(settings: Settings, given: argparse.Namespace) -> int:
    """Put an archive back and build the catalogue over it."""
    from lims_platform.contracts.tables import TABLES
    from lims_platform.lakehouse.backup import restore as put_back
    from lims_platform.lakehouse.catalog import build_catalog
    from lims_platform.lakehouse.lake import Lake

    to = (given.to or settings.data_dir).absolute()
    made = put_back(given.archive.absolute(), to)
    build_catalog(Lake(to / "lake"), TABLES.values(), to / settings.catalog_path.name)
    print(f"{to}: {len(made.tables)} tables, {made.files:,} files, every checksum right")
    print(f"to use it: LIMS_DATA_DIR={to} LIMS_REFERENCE_DIR={to / 'reference'}")
    for words in made.left_out:
        print(f"not in it: {words}")
    return 0


def migrate(settings: Settings, given: argparse.Namespace) -> int:
    """Close the gap between stored tables and contracts; exit 1 where one is refused."""
    from lims_platform.contracts.tables import TABLES
    from lims_platform.lakehouse import migration
    from lims_platform.lakehouse.lake import Lake

    lake = Lake(settings.lake_dir)
    found = migration.migrations(lake, TABLES.values())
    for one in found:
        print(f"{one.table.path}: {one.action} ({'; '.join(one.changes)})")
    if not found:
        print("every stored table agrees with its contract")
    refused = [one for one in found if one.action == migration.REFUSED]
    if refused or given.dry_run:
        return 1 if refused else 0
    for one in found:
        print(f"{one.table.path}: version {migration.migrate(lake, one)}")
    if any(one.action == migration.REBUILD for one in found):
        print("rebuilt tables are empty now; fill them: python -m lims_platform run")
    return 0


def rotate_key(settings: Settings, given: argparse.Namespace) -> int:
    """Begin or finish a rotation, with no run under way; audited."""
    from lims_platform.assets.rotate import rotate_key as rotate
    from lims_platform.contracts.tables import TABLES
    from lims_platform.lakehouse.catalog import build_catalog
    from lims_platform.lakehouse.lake import Lake

    if not given.runs_are_dead:
        _refuse_while_running(open_instance())
    trail, lake = AuditTrail(settings.audit_path), Lake(settings.lake_dir)
    trail.append("rotate-key", "all tables", given.reason, "begun")
    done = rotate(settings, lake, print)
    build_catalog(lake, TABLES.values(), settings.catalog_path)
    head = trail.append("rotate-key", done.key_id, given.reason, f"{done.pseudonyms} pseudonyms, {done.rows} rows")
    print(f"key {done.key_id} is in force: {done.pseudonyms:,} pseudonyms, {done.rows:,} rows of {done.tables} tables")
    print(f"older versions of the tables keep old pseudonyms for {settings.keep_versions_days} days; audit head {head}")
    return 0


def _refuse_while_running(instance: dg.DagsterInstance) -> None:
    import dagster as dg
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

    runs = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES), limit=5)
    if runs:
        names = ", ".join(f"{run.job_name} {run.run_id}" for run in runs)
        raise CommandError(f"unfinished runs hold the old key: {names}. End them first; --runs-are-dead if they were killed")


def reidentify(settings: Settings, given: argparse.Namespace) -> int:
    """Print whose pseudonym it is; the use is in the audit trail before anything is shown. Exit 1 if nobody's."""
    from lims_platform.assets.door import Door
    from lims_platform.contracts.source import SOURCE_TABLES
    from lims_platform.lakehouse.lake import Lake
    from lims_platform.privacy.lookback import find, key_of

    try:
        key_of(given.pseudonym)
    except ValueError as error:
        raise CommandError(str(error)) from None
    trail, door = AuditTrail(settings.audit_path), Door(settings, Lake(settings.lake_dir))
    trail.append("reidentify", given.pseudonym, given.reason, "asked")
    found: set[tuple[str, str]] = set()
    for table in SOURCE_TABLES.values():
        if door.sources.names(table):
            found.update(find(given.pseudonym, door.sources.identifiers(table), door.pseudonymiser))
    outcome = f"shown: {', '.join(sorted({domain for domain, _ in found}))}" if found else "in no source"
    head = trail.append("reidentify", given.pseudonym, given.reason, outcome)
    for domain, identifier in sorted(found):
        print(f"{domain} {identifier}")
    print(f"{'' if found else 'no source holds it any more; '}audit head {head}")
    return 0 if found else 1


def audit_verify(settings: Settings, given: argparse.Namespace) -> int:
    """Say whether the chain holds."""
    verdict = AuditTrail(settings.audit_path).verify()
    print(f"{verdict.entries} sound entries; head {verdict.head}")
    if verdict.problem is not None:
        print(verdict.problem, file=sys.stderr)
    return 0 if verdict.problem is None else 1


COMMANDS: dict[str, Callable[[Settings, argparse.Namespace], int]] = {
    "maintain": maintain,
    "backup": backup,
    "restore": restore,
    "migrate": migrate,
    "rotate-key": rotate_key,
    "reidentify": reidentify,
    "audit-verify": audit_verify,
}


def run(settings: Settings, given: argparse.Namespace) -> int:
    """Dispatch; what a person can mend is one line on stderr and exit code 1."""
    from lims_platform.assets.rotate import RotationError
    from lims_platform.contracts.extract import SourceError
    from lims_platform.lakehouse.backup import BackupError
    from lims_platform.lakehouse.reference import ReferenceTableError
    from lims_platform.privacy.audit import AuditError
    from lims_platform.privacy.pseudonyms import KeyFileError

    try:
        return COMMANDS[given.command](settings, given)
    except (
        CommandError, RotationError, SourceError, BackupError, ReferenceTableError, AuditError, KeyFileError,
    ) as error:  # fmt: skip
        print(error, file=sys.stderr)
        return 1
