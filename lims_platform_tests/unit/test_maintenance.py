"""Upkeep: a dry run tells to the file and row what the real one does, and nothing a reader needs goes."""

from __future__ import annotations

import os
import time
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from lims_platform.contracts.operations import RETENTION
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse import maintenance
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.maintenance import Retention, expired_reports, retention, upkeep
from lims_platform.lakehouse.reference import ReferenceTableError, load_table
from lims_platform.settings import REPOSITORY

TABLE = TABLES["turnaround_kpis"]
TODAY = date(2026, 11, 20)
RULES = load_table(REPOSITORY / "data" / "reference", RETENTION)


def rows(day: date, facility: str) -> pl.DataFrame:
    filled = {"as_of_date": day, "facility_id": facility, "priority": "STAT", "results": 1, "flagged": 0}
    return pl.DataFrame([{name: filled.get(name) for name in TABLE.dtypes}], schema=TABLE.dtypes)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Ten days, three small files a day."""
    lake = Lake(tmp_path / "lake")
    for facility in "ABC":
        lake.append(TABLE, pl.concat([rows(TODAY - timedelta(days=d), facility) for d in range(10)]))
    return lake


def files(lake: Lake) -> int:
    delta = lake.open(TABLE)
    assert delta is not None
    return len(delta.file_uris())


def test_a_dry_run_changes_nothing_and_says_exactly_what_the_real_run_does(lake: Lake) -> None:
    rule = Retention("as_of_date", TODAY - timedelta(days=7))
    version = lake.version(TABLE)
    told = upkeep(lake, TABLE, rule, 30, dry_run=True)
    assert lake.version(TABLE) == version and files(lake) == 30
    assert (told.compacted_files, told.expired_rows, told.vacuumed_files) == (30, 6, 0)
    done = upkeep(lake, TABLE, rule, 30, dry_run=False)
    assert done == told
    assert files(lake) == 8, "one file a day, two days gone"
    kept = lake.scan(TABLE).collect()
    assert kept.height == 24 and kept["as_of_date"].min() == rule.before
    again = upkeep(lake, TABLE, rule, 30, dry_run=True)
    assert (again.compacted_files, again.expired_rows) == (0, 0)


def test_vacuum_keeps_thirty_days_of_versions_and_takes_older_files(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lake.scan(TABLE, version=3).collect()
    upkeep(lake, TABLE, None, 30, dry_run=False)
    assert lake.scan(TABLE, version=3).collect().equals(before), "an old version is still readable"
    orphan = lake.path(TABLE) / "as_of_date=2026-11-20" / "left-by-a-killed-writer.parquet"
    orphan.write_bytes(b"x" * 100)
    assert upkeep(lake, TABLE, None, 30, dry_run=True).vacuumed_files == 0, "a young file may belong to a commit under way"
    long_ago = time.time() - 31 * 86400
    os.utime(orphan, (long_ago, long_ago))
    told = upkeep(lake, TABLE, None, 30, dry_run=True)
    assert (told.vacuumed_files, told.vacuumed_bytes) == (1, 100) and orphan.exists()
    assert upkeep(lake, TABLE, None, 30, dry_run=False) == told and not orphan.exists()
    # versions older than the limit: with none kept, all files but the latest version's go
    assert upkeep(lake, TABLE, None, 0, dry_run=False).vacuumed_files == 30
    assert lake.scan(TABLE).collect().height == 30


def test_files_are_packed_as_delta_packs_them(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    delta = lake.open(TABLE)
    assert delta is not None
    size = pl.DataFrame(delta.get_add_actions(flatten=True))["size_bytes"].max()
    assert isinstance(size, int)
    monkeypatch.setattr(maintenance, "TARGET_BYTES", 2 * size + size // 2)
    told = upkeep(lake, TABLE, None, 30, dry_run=True)
    assert told.compacted_files == 20, "two of three fit together, the third stays alone"
    upkeep(lake, TABLE, None, 30, dry_run=False)
    assert files(lake) == 20


def test_every_table_has_a_rule_that_can_be_followed() -> None:
    for table in TABLES.values():
        rule = retention(RULES, table, TODAY)
        if table.layer == "bronze" and table.partition:
            assert rule == Retention("event_date", TODAY - timedelta(days=2557))
    assert retention(RULES, TABLES["model_ledger"], TODAY) is None
    assert retention(RULES, TABLES["drift_report"], TODAY) == Retention("as_of_date", TODAY - timedelta(days=90))
    assert retention(RULES, TABLES["reconciliation_report"], TODAY) == Retention("checked_at", TODAY - timedelta(days=90))


def test_a_rule_without_a_day_is_a_clear_error() -> None:
    without = RULES.filter(pl.col("table") != "devices_raw")
    assert retention(without, TABLES["devices_raw"], TODAY) is None, "a general rule is about days"
    rules = RULES.with_columns(keep_days=pl.when(pl.col("table") == "devices_raw").then(90.0).otherwise("keep_days"))
    with pytest.raises(ReferenceTableError, match=r"retention.csv, column day_column: bronze/devices_raw has no day"):
        retention(rules, TABLES["devices_raw"], TODAY)


def test_rows_expire_by_a_time_column_too(tmp_path: Path) -> None:
    lake, table = Lake(tmp_path), TABLES["reconciliation_report"]
    base = {"run_id": "r", "table_name": "t", "source": "s", "day": TODAY, "source_digest": "", "live_digest": ""}
    counts = dict.fromkeys(("source_rows", "live_rows", "inserted", "updated", "deleted", "moved"), 0)
    times = pl.Series([TODAY - timedelta(days=d) for d in (100, 91, 90, 1)]).cast(table.dtypes["checked_at"])
    frame = pl.DataFrame(
        [base | counts | {"checked_at": at, "digest_match": True, "repaired": None, "detail": None} for at in times],
        schema=table.dtypes,
    )
    lake.append(table, frame)
    done = upkeep(lake, table, retention(RULES, table, TODAY), 30, dry_run=False)
    assert done.expired_rows == 2 and lake.scan(table).collect().height == 2


def test_dated_report_folders_go_after_their_time(tmp_path: Path) -> None:
    for age in (10, 90, 91):
        (tmp_path / "drift" / (TODAY - timedelta(days=age)).isoformat()).mkdir(parents=True)
    old = expired_reports(tmp_path, RULES, TODAY, dry_run=True)
    assert [path.name for path in old] == [(TODAY - timedelta(days=91)).isoformat()] and old[0].exists()
    assert expired_reports(tmp_path, RULES, TODAY, dry_run=False) == old and not old[0].exists()
