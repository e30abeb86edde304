"""What 1,000 changes in a LIMS become: every version kept, the source's state current, the same for every chunk size.

A demo laboratory is loaded, changed (amended, deleted, moved to another day, duplicated, A→B), loaded again, changed back
(B→A) and loaded once more, once per chunk size. Then two runs of one day at once, and a truncated extract. Everything is
verified by plain frames on the LIMS and on the files of the lake, not by the platform's code. The baseline of every figure
is the LIMS itself: counts are printed as found / expected. Exit code 1 where they differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from lims_platform.simulator.changes import apply_changes, flip_back
from lims_platform_tests.laboratories import Laboratory, digest

ZONE = "Europe/Berlin"
#: The bronze versions each kind of change has to leave, in order, after flip_back.
VERSIONS = {
    "amended": ["insert", "update"],
    "flipped": ["insert", "update", "update"],
    "deleted": ["insert", "delete"],
    "moved": ["insert", "delete", "insert"],
    "duplicated": ["insert"],
}
FEATURES = ("gold/device_failure_features", "gold/quality_anomaly_features")


class Outcomes:
    """The table that is printed: what, found, expected."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, object, object]] = []

    def add(self, what: str, found: object, expected: object) -> None:
        """One line; it counts as missed unless both are equal."""
        self.rows.append((what, found, expected))
        print(f"| {what} | {found} | {expected} | {'as it should be' if found == expected else 'WRONG'} |", flush=True)

    @property
    def missed(self) -> int:
        """Lines that are not as they should be."""
        return sum(found != expected for _, found, expected in self.rows)


def load(lab: Laboratory, days: tuple[date, date], *arguments: str) -> None:
    """Bronze and silver, then features, of the days."""
    span = ("--from", days[0].isoformat(), "--to", days[1].isoformat())
    lab.must("run", "--job", "ingest_hourly", *span, *arguments)
    lab.must("run", "--job", "features_daily", *span)


def check_versions(out: Outcomes, lab: Laboratory, log: pl.DataFrame) -> None:
    """Each changed row's versions, in kind, value and day; every other row still has its one."""
    bronze = lab.frame("bronze/lab_results_raw").filter(~pl.col("is_conflict")).sort("result_id", "row_version")
    changes = bronze.group_by("result_id").agg("change", "result_value", "event_date")
    by_kind = log.join(changes, on="result_id", how="left")
    for kind, expected in VERSIONS.items():
        rows = by_kind.filter(pl.col("kind") == kind)
        told = rows.filter(pl.col("change") == expected)
        out.add(f"{kind}: rows with versions {'+'.join(expected)}", told.height, rows.height)
    amended = by_kind.filter(pl.col("kind") == "amended")
    both = amended.select(pl.concat_list("old_value", "new_value") == pl.col("result_value")).to_series()
    out.add("amended: old and new value both kept", int(both.sum()), amended.height)
    flipped = by_kind.filter(pl.col("kind") == "flipped")
    aba = flipped.select(pl.concat_list("old_value", "new_value", "old_value") == pl.col("result_value")).to_series()
    out.add("A→B→A: three values kept", int(aba.sum()), flipped.height)
    moved = by_kind.filter(pl.col("kind") == "moved").with_columns(
        days=pl.concat_list(*(pl.col(f"{w}_resulted").dt.date() for w in ("old", "old", "new")))
    )
    out.add(
        "moved: deleted on the old day, inserted on the new", int((moved["days"] == moved["event_date"]).sum()), moved.height
    )
    rest = bronze.join(log, on="result_id", how="anti")
    out.add("rows nobody changed: versions", rest.height, rest["result_id"].n_unique())


def check_state(out: Outcomes, lab: Laboratory, label: str = "") -> None:
    """Silver is the LIMS's present state, and no row is live on two days."""
    source = lab.source().rename({"resulted_timestamp": "resulted"})
    kept = pl.concat(
        lab.frame(f"silver/lab_results_{part}").select("result_id", "result_text", "event_date")
        for part in ("standardized", "quarantine")
    )
    expected = source.unique(["result_id", *(c for c in source.columns if c not in ("updated_at",))]).height
    out.add(f"{label}silver + quarantine rows / distinct LIMS rows", kept.height, expected)
    single = source.filter(pl.col("result_id").is_unique())
    # Text that names a patient is redacted at the door; it cannot be compared.
    plain = single.filter(~pl.col("result_value").fill_null("").str.contains(r"P\d{7}"))
    joined = plain.join(kept, on="result_id", how="left")
    same = joined.filter(pl.col("result_value").eq_missing(pl.col("result_text")))
    out.add(f"{label}silver values equal to the LIMS's", same.height, plain.height)
    dated = joined.filter(pl.col("resulted").dt.year() > 1970)
    out.add(
        f"{label}silver days equal to the LIMS's",
        dated.filter(pl.col("event_date") == pl.col("resulted").dt.date()).height,
        dated.height,
    )
    bronze = lab.frame("bronze/lab_results_raw").filter(~pl.col("is_conflict"))
    last = bronze.sort("row_version").group_by("result_id", "event_date").agg(pl.col("change").last())
    days = last.filter(pl.col("change") != "delete").group_by("result_id").len()
    out.add(f"{label}rows live on two days", days.filter(pl.col("len") > 1).height, 0)
    doubled = lab.frame("bronze/lab_results_raw").select(pl.struct("row_key", "row_version").is_duplicated().sum()).item()
    out.add(f"{label}versions written twice", doubled, 0)


def old_features(lab: Laboratory, last: date, since: datetime) -> dict[str, str]:
    """Digests of feature rows dated up to ``last``."""
    return {t: digest(lab.frame(t).filter(pl.col("as_of_date") <= last), since) for t in FEATURES}


def two_at_once(out: Outcomes, lab: Laboratory, day: date, changes: int, seed: int) -> None:
    """The same day of a changed LIMS ingested by two processes at the same time."""
    apply_changes(lab.uri, changes, seed)
    span = ("--from", day.isoformat(), "--to", day.isoformat())
    runs = [lab.start("run", "--job", "ingest_hourly", *span) for _ in range(2)]
    codes = [run.wait() for run in runs if run.communicate()]
    out.add("two runs of one day: exit codes", codes, [0, 0])
    alone = lab.frame("bronze/lab_results_raw").height
    lab.must("run", "--job", "ingest_hourly", *span)
    out.add("two runs of one day: versions a third run adds", lab.frame("bronze/lab_results_raw").height - alone, 0)
    doubled = lab.frame("bronze/lab_results_raw").select(pl.struct("row_key", "row_version").is_duplicated().sum()).item()
    out.add("two runs of one day: versions written twice", doubled, 0)


def truncated(out: Outcomes, lab: Laboratory, day: date) -> None:
    """More than 1 % of a day's rows leave the LIMS: nothing is written, and the run says so."""
    before = {table: lab.delta(table).version() for table in lab.tables() if "lab_results" in table}
    ids = lab.source().filter(pl.col("resulted_timestamp").dt.date() == day)["result_id"].unique().sort()
    lost = ids.head(max(10, ids.len() // 20)).to_list()
    lab.execute(f"DELETE FROM lab_results WHERE result_id IN ({','.join('?' * len(lost))})", *lost)
    span = ("--from", day.isoformat(), "--to", day.isoformat())
    result = lab.command("run", "--job", "ingest_hourly", *span)
    out.add("truncated extract: the run fails", result.returncode != 0, True)
    out.add(
        "truncated extract: the message names table and day",
        f"lab_results: rows vanished from source demo_lims ({day}" in result.stdout,
        True,
    )
    after = {table: lab.delta(table).version() for table in before}
    out.add("truncated extract: lab_results tables written", sum(after[t] != before[t] for t in before), 0)
    lab.must("run", "--job", "ingest_hourly", *span, "--confirm-vanished")
    live = lab.frame("silver/lab_results_standardized")["result_id"].is_in(lost).sum()
    out.add("truncated extract: lost rows live once confirmed", int(live), 0)


def main() -> int:
    """Run everything; returns the number of lines that are wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--changes", type=int, default=1_000)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--results-per-day", type=int, default=1_200)
    parser.add_argument(
        "--chunks", type=int, nargs="+", default=[2_000_000, 9_000, 1_300], help="LIMS_CHUNK_ROWS of each load"
    )
    given = parser.parse_args()
    started, since = time.monotonic(), datetime.now(UTC)
    out = Outcomes()
    print("| what | found | expected | |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        size = {"devices": 12, "days": given.days, "results_per_day": given.results_per_day}
        origin = Laboratory(Path(folder) / "origin" / "data", **size, settings={"LIMS_DEMO_SEED": str(given.seed)})
        origin.build()
        days = (date.today() - timedelta(days=given.days), date.today())
        digests, labs = {}, {}
        for rows in given.chunks:
            lab = labs[rows] = origin.copy(Path(folder) / str(rows) / "data", LIMS_CHUNK_ROWS=str(rows))
            load(lab, days)
            old = days[1] - timedelta(days=2)
            before = old_features(lab, old, since)
            log = apply_changes(lab.uri, given.changes, given.seed)
            load(lab, days)
            flip_back(lab.uri, log)
            load(lab, days)
            digests[rows] = lab.digests(since)
            after = old_features(lab, old, since)
            out.add(
                f"old feature rows that changed (chunks of {rows:,} rows)",
                [t for t in FEATURES if after[t] != before[t]],
                [],
            )
        first, *others = given.chunks
        lab = labs[first]
        check_versions(out, lab, log)
        check_state(out, lab)
        for rows in others:
            other = [t for t, d in digests[first].items() if digests[rows][t] != d]
            out.add(f"tables that differ, chunks of {rows:,} rows against {first:,}", other, [])
        two_at_once(out, lab, days[1] - timedelta(days=3), 100, given.seed + 1)
        load(lab, days)
        check_state(out, lab, "after that and a full run: ")
        truncated(out, lab, days[1] - timedelta(days=5))
    wrong = out.missed
    print(f"{len(out.rows) - wrong} of {len(out.rows)} outcomes as they should be, {time.monotonic() - started:.0f} s")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
