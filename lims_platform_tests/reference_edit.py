"""A quality manager maps a code that waited in quarantine: one line in a CSV file, then the platform's own sensors and jobs.

    python -m lims_platform_tests.reference_edit FOLDER    # prints the facts as JSON

Here: what happened. Not here: what must hold (``system.test_reference_edit``).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from lims_platform_tests.laboratories import Laboratory, digest
from lims_platform_tests.system.deployment import ROOT

DAYS = 12
#: Days ago on which the laboratory used a code of its own, and that code.
USED, CODE = (9, 4), "NA_OWN"
SILVER = (
    "lab_results_history", "lab_results_standardized", "lab_results_quarantine", "quality_control_standardized",
    "sample_measurements", "device_metrics_normalized",
)  # fmt: skip
FEATURES = ("device_failure_features", "outbreak_risk_features", "quality_anomaly_features")
MARTS = ("data_quality_scorecard", "turnaround_kpis")


def save(path: Path, line: str) -> None:
    """Add a line, as saved a minute ago: a file saved moments ago may be half of an edit."""
    with path.open("a") as file:
        file.write(line + "\n")
    os.utime(path, (0, 0))


def by_day(lab: Laboratory, names: tuple[str, ...], layer: str, column: str) -> dict[str, dict[str, str]]:
    """By table and day, the digest of its rows to the last bit."""
    since = datetime.now().astimezone() + timedelta(days=1)  # nothing is left out
    return {
        name: {
            str(day): digest(rows, since)
            for (day,), rows in lab.frame(f"{layer}/{name}").partition_by(column, as_dict=True).items()
        }
        for name in names
    }


def differing(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Days that are not the same, by table."""
    days = {name: {*before[name], *after[name]} for name in after}
    return {name: sorted(d for d in days[name] if before[name].get(d) != after[name].get(d)) for name in after}


def main(folder: Path) -> dict[str, Any]:
    """The story; the environment of this process becomes the laboratory's."""
    reference = folder / "reference"
    shutil.copytree(ROOT / "data" / "reference", reference, copy_function=shutil.copy2)
    for path in reference.iterdir():
        os.utime(path, (0, 0))
    settings = {"LIMS_REFERENCE_DIR": str(reference)}
    lab = Laboratory(folder / "data", days=DAYS, devices=3, results_per_day=80, settings=settings)
    os.environ.update(lab.environment())
    lab.build()
    today = date.today()
    used = [today - timedelta(days=back) for back in USED]
    for day in used:
        where = "test_code = 'NA' AND substr(resulted_timestamp, 1, 10) = ? AND result_value GLOB '[0-9]*'"
        lab.execute(f"UPDATE lab_results SET test_code = '{CODE}' WHERE {where}", day.isoformat())
    logging.disable(logging.CRITICAL)
    import dagster as dg

    from lims_platform_tests.live_platform import LivePlatform

    def made(platform: Any) -> dict[str, dict[date, int]]:
        layers = {"silver": SILVER, "gold": (*FEATURES, *MARTS)}
        return {n: platform.materialised(dg.AssetKey([layer, n])) for layer, names in layers.items() for n in names}

    def of_code(reason: pl.Expr) -> int:
        return lab.frame("silver/lab_results_history").filter(pl.col("test_code") == CODE, "is_current", reason).height

    facts: dict[str, Any] = {"used": sorted(map(str, used))}
    with dg.DagsterInstance.ephemeral() as instance:
        platform = LivePlatform(instance)
        first = today - timedelta(days=DAYS)
        platform.load("ingest_hourly", first, today)
        platform.load("features_daily", first, today)
        for sensor in ("late_knowledge", "reference_changes"):
            facts[f"first look of {sensor}"] = len(platform.tick(sensor))
        platform.due()
        facts["waiting"] = of_code(pl.col("reason") == "unmapped_code")
        before, silver, features = made(platform), by_day(lab, SILVER, "silver", "event_date"), by_day(
            lab, FEATURES, "gold", "as_of_date"
        )  # fmt: skip
        save(reference / "loinc_map.csv", "*,NOBODYS,*,*,*,2951-2,,,")
        facts["for a code nobody uses"] = len(platform.tick("reference_changes"))
        save(reference / "loinc_map.csv", f"*,{CODE},*,*,*,2951-2,,,")
        requests = platform.tick("reference_changes")
        facts["asked"] = sorted(str(day) for request in requests for day in platform.run("rebuild_days", request))
        facts["asked once more"] = len(platform.tick("reference_changes"))
        after = made(platform)
        facts["made"] = {n: sorted(str(d) for d, i in after[n].items() if before[n].get(d) != i) for n in after}
        facts["changed"] = differing(silver, by_day(lab, SILVER, "silver", "event_date"))
        facts["still waiting"] = of_code(pl.col("reason").is_not_null())
        facts["standardised"] = of_code(pl.col("reason").is_null())
        due = {key.path[-1]: sorted(days) for key, days in platform.due().items()}
        facts["marts due"] = {name: due.get(name) for name in MARTS}
        facts["features due"] = [name for name in FEATURES if name in due]
        facts["late knowledge"] = len(platform.tick("late_knowledge"))
        # deliberately, by a person
        platform.load("features_daily", first, today)
        facts["features changed"] = differing(features, by_day(lab, FEATURES, "gold", "as_of_date"))
    return facts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1])), indent=1))
