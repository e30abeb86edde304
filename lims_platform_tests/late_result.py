"""Results that reach the LIMS 40 days late, through the platform's own sensors, conditions and jobs: what is made again.

    python -m lims_platform_tests.late_result FOLDER    # prints the facts as JSON

Two stories in one laboratory. ``entered_today``: a result of 40 days ago is entered today, and the change cursor shows it.
``entered_before``: results of 40 days ago were entered three days ago, by the LIMS's own word, but came into the table the
platform reads behind the cursor (a replica, an interface); the first look of the next day, which goes far back, finds them.
Here: what happened. Not here: what must hold (``system.test_late_result``).
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from lims_platform_tests.laboratories import Laboratory, digest

#: Days ago: the laboratory's first day, the late results' day, a day the features of today still look back to, and when the
#: results of the second story were entered.
DAYS, LATE, FELT, KNOWN = 45, 40, 20, 3
FEATURES = ("device_failure_features", "outbreak_risk_features", "quality_anomaly_features")


def enter(lab: Laboratory, count: int, day: date, at: datetime, prefix: str) -> None:
    """Copies of glucose results of a day as new results with a value of their own, entered at ``at``."""
    columns = lab.source().columns
    given = {"result_id": f"'{prefix}' || result_id", "result_value": "'181'", "updated_at": f"'{at:%Y-%m-%d %H:%M:%S}'"}
    items = ", ".join(given.get(column, column) for column in columns)
    where = "test_code = 'GLU' AND result_value GLOB '[0-9]*' AND substr(resulted_timestamp, 1, 10) = ?"
    lab.execute(
        f"INSERT INTO lab_results ({', '.join(columns)}) SELECT {items} FROM lab_results WHERE {where} LIMIT {count}",
        day.isoformat(),
    )


def feature_digests(lab: Laboratory, since: datetime) -> dict[str, dict[str, str]]:
    """By table and day, the digest of its feature rows."""
    found = {}
    for name in FEATURES:
        frame = lab.frame(f"gold/{name}")
        parts = frame.partition_by("as_of_date", as_dict=True)
        found[name] = {str(day): digest(rows, since) for (day,), rows in parts.items()}
    return found


def story(lab: Laboratory, platform: Any, since: datetime) -> dict[str, Any]:
    """Look, run what is asked for, and say what was made again and what changed."""
    import dagster as dg

    keys = {name: dg.AssetKey(["gold", name]) for name in FEATURES}
    made = {name: platform.materialised(key) for name, key in keys.items()}
    before = feature_digests(lab, since)
    read = [(r, platform.run("ingest_hourly", r)) for r in platform.tick("source_changes")]
    moved = platform.tick("moved_rows")
    due = {key.path[-1]: sorted(days) for key, days in platform.due().items()}
    for name in ("data_quality_scorecard", "turnaround_kpis"):
        for day in due.get(name, []):
            platform.run("features_daily", dg.RunRequest(partition_key=day, asset_selection=[dg.AssetKey(["gold", name])]))
    platform.due()  # a minute later
    again = [(r, platform.run("features_daily", r)) for r in platform.tick("late_knowledge")]
    after = feature_digests(lab, since)
    now_made = {name: platform.materialised(key) for name, key in keys.items()}
    return {
        "read": sorted(str(day) for _, days in read for day in days),
        "silver": sorted({key.path[-1] for r, _ in read for key in r.asset_selection or [] if key.path[0] == "silver"}),
        "moved": len(moved),
        "due": due,
        "features_asked": {key.path[-1]: sorted(map(str, days)) for r, days in again for key in r.asset_selection or []},
        "features_made": {n: sorted(str(d) for d, i in now_made[n].items() if made[n].get(d) != i) for n in FEATURES},
        "features_changed": {n: sorted(d for d, h in after[n].items() if before[n].get(d) != h) for n in FEATURES},
        "asked_once_more": len(platform.tick("late_knowledge")) + len(platform.tick("source_changes")),
    }


def mart(lab: Laboratory, day: date) -> dict[str, int]:
    """Rows counted by the operational marts of a day, and the results they count."""

    def of_day(table: str, column: str) -> pl.DataFrame:
        return lab.frame(table).filter(pl.col(column) == day)

    return {
        "results": of_day("silver/lab_results_standardized", "event_date").height
        + of_day("silver/lab_results_quarantine", "event_date").height,
        "scorecard": int(of_day("gold/data_quality_scorecard", "as_of_date")["rows"].sum()),
    }


def main(folder: Path) -> dict[str, Any]:
    """Both stories; the environment of this process becomes the laboratory's."""
    lab = Laboratory(folder / "data", days=DAYS, devices=4, results_per_day=150)
    os.environ.update(lab.environment())
    lab.build()
    logging.disable(logging.CRITICAL)
    import dagster as dg

    from lims_platform_tests.live_platform import LivePlatform

    since, today = datetime.now().astimezone(), date.today()
    late, first = today - timedelta(days=LATE), today - timedelta(days=DAYS)
    facts: dict[str, Any] = {"late": str(late), "felt": str(today - timedelta(days=FELT))}
    facts["known"] = [str(today - timedelta(days=back)) for back in range(KNOWN, 0, -1)]
    with dg.DagsterInstance.ephemeral() as instance:
        platform = LivePlatform(instance)
        platform.load("ingest_hourly", first, today)
        platform.load("features_daily", first, today)
        for sensor in ("source_changes", "source_changes", "moved_rows", "late_knowledge"):
            platform.tick(sensor)  # their first look
        platform.due()
        facts["marts_before"] = mart(lab, late)
        enter(lab, 1, late, datetime.now(), "late-")
        facts["entered_today"] = story(lab, platform, since)
        facts["marts_after"] = mart(lab, late)
        for day in (late, today - timedelta(days=FELT)):
            enter(lab, 20, day, datetime.now() - timedelta(days=KNOWN), "later-")
        facts["unseen_by_the_cursor"] = platform.tick("source_changes") == []
        platform.next_day()
        facts["entered_before"] = story(lab, platform, since)
        stored = feature_digests(lab, since)
        platform.load("features_daily", first, today)
        rebuilt = feature_digests(lab, since)
        # the row of today, which still grows, is left out
        facts["differ_from_a_rebuild"] = {
            n: sorted(d for d in rebuilt[n] if d < str(today) and stored[n].get(d) != rebuilt[n][d]) for n in FEATURES
        }
        facts["feature_days"] = {n: len(rebuilt[n]) for n in FEATURES}
    return facts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])), indent=1))
