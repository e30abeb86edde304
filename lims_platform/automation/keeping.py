"""Upkeep of the whole platform at once, and the notice a deletion by the clock gives.

Here: what goes by which rules, and whether a run nobody watches may let it go. Not here: one table
(``lakehouse.maintenance``), runs (``pruning``), the job (``operations``).

A wrong line in retention.csv, or a server whose clock jumped ahead, would cost years of results on the next Sunday. So a
run by the clock deletes only by rules that were announced in the audit trail at least NOTICE ago and have stood there,
unchanged and without a gap longer than SILENCE, ever since. Until then it says what would go and touches nothing. A
person's ``maintain`` deletes at once; its rules need no further notice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
import polars as pl

from lims_platform.automation.pruning import Pruned, prune
from lims_platform.automation.windows import now
from lims_platform.contracts.operations import RETENTION
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.maintenance import Upkeep, expired_reports, retention, upkeep
from lims_platform.lakehouse.reference import load_table
from lims_platform.privacy.audit import AuditTrail
from lims_platform.settings import Settings

#: A week less a day: the job is weekly, and runs early, late or across a clock change all the same.
NOTICE = timedelta(days=6)
#: Longer than any month: a platform that stood still so long, or a clock that jumped so far, announces anew.
SILENCE = timedelta(days=31)
ACTION = "maintenance"
BY_HAND = "by hand"
BY_THE_CLOCK = "by the clock"


@dataclass(frozen=True)
class Kept:
    """What one upkeep of everything let go, or would: per table, runs of Dagster, number of report folders."""

    tables: tuple[Upkeep, ...]
    runs: Pruned
    pages: int

    def __str__(self) -> str:
        rows = [f"{t.expired_rows:,} rows of {t.table} before {t.kept_from}" for t in self.tables if t.expired_rows]
        files = f"{sum(t.vacuumed_files for t in self.tables):,} files of old versions"
        return ", ".join([*rows, files, f"{len(self.runs.runs):,} runs", f"{self.pages:,} report folders"])


def keep_house(settings: Settings, instance: dg.DagsterInstance, lake: Lake, *, dry_run: bool) -> Kept:
    """Upkeep of every table, run and report folder; with ``dry_run`` only what would go.

    Raises ReferenceTableError, before anything goes, where a line of retention.csv cannot be followed.
    """
    rules = load_table(settings.reference_dir, RETENTION)
    tables = lake.existing(TABLES.values())
    kept = {table.path: retention(rules, table, settings.today) for table in tables}
    done = [upkeep(lake, table, kept[table.path], settings.keep_versions_days, dry_run=dry_run) for table in tables]
    runs = prune(instance, now() - timedelta(days=settings.keep_runs_days), dry_run=dry_run)
    pages = expired_reports(settings.report_dir, rules, settings.today, dry_run=dry_run)
    return Kept(tuple(done), runs, len(pages))


def rules_digest(settings: Settings) -> str:
    """Digest of everything that decides what goes: retention.csv and the two ages of the settings."""
    rules: pl.DataFrame = load_table(settings.reference_dir, RETENTION).drop("reason")
    lines = sorted(map(str, rules.rows()))
    told = [*lines, f"versions {settings.keep_versions_days}", f"runs {settings.keep_runs_days}"]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def announce(settings: Settings, would_go: Kept, reason: str) -> None:
    """One audit entry, before anything goes: by which rules, on whose account (BY_HAND, BY_THE_CLOCK), what."""
    AuditTrail(settings.audit_path).append(ACTION, rules_digest(settings), reason, str(would_go))


def may_delete(settings: Settings) -> bool:
    """Whether the rules in force have been announced for long enough. Raises AuditError where the trail is broken."""
    return announced(AuditTrail(settings.audit_path).entries(ACTION), rules_digest(settings), now())


def announced(entries: Sequence[Mapping[str, object]], digest: str, at: datetime) -> bool:
    """Whether the newest entries, all of ``digest`` and none SILENCE apart, reach back NOTICE or to a person's word.

    ``entries``: audit entries of ACTION, oldest first; ``at``: now, aware.
    """
    later = at
    for entry in reversed(entries):
        told = datetime.fromisoformat(str(entry["at"]))
        if entry["subject"] != digest or later - told > SILENCE:
            return False
        if entry["reason"] == BY_HAND or at - told >= NOTICE:
            return True
        later = told
    return False
