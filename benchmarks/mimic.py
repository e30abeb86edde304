"""The MIMIC-III demo's 76,074 laboratory results through the main job, by a sources.yaml alone.

Loads the CSV files of ../shared/data/mimic3_demo into a database of its own on PostgreSQL (LIMS_TEST_POSTGRES or the
local server), folds each patient's timeline onto one recent start date inside the query, and runs the whole graph through
the dagster command line. Prints rows = silver + quarantine, the valid share (a ratio to all rows), the commonest reasons
with the ten most frequent texts of each, and the work list of unmapped codes. With --accept 0.4 it then accepts the
proposals of that confidence and more, one line of loinc_map.csv each in a copy of the reference tables, and runs again.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import date, timedelta
from pathlib import Path

import adbc_driver_postgresql.dbapi as postgres
import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LIMS_SHARED_DATA", ROOT.parent / "shared" / "data")) / "mimic3_demo"
SERVER = os.environ.get("LIMS_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432")
FOLD_DAYS = 200

SOURCES = """
sources:
  mimic:
    uri: {uri}
    timezone: America/New_York
    tables:
      lab_results:
        query: |
          SELECT e.row_id::text AS result_id, e.subject_id::text AS patient_id, e.itemid::text AS test_code,
                 e.value AS result_value, e.valueuom AS result_unit, NULL::text AS device_id, NULL::text AS technician_id,
                 t.folded AS collected_timestamp, t.folded AS resulted_timestamp,
                 d.loinc_code, d.label AS test_name, d.fluid AS specimen_type
          FROM labevents e
          JOIN (SELECT row_id, DATE '{start}' + charttime::time
                       + (charttime::date - min(charttime::date) OVER (PARTITION BY subject_id)) % {fold}
                         * INTERVAL '1 day' AS folded
                FROM labevents) t USING (row_id)
          LEFT JOIN d_labitems d USING (itemid)
"""


def load(uri: str) -> int:
    """Copy the two CSV files into tables of the database at ``uri``; returns the number of results."""
    with gzip.open(DATA / "labevents.csv.gz") as file:
        events = pl.read_csv(file.read(), infer_schema=False)
    events = events.with_columns(
        pl.col("row_id", "subject_id", "itemid").cast(pl.Int64),
        pl.col("charttime").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us"),
    )
    items = pl.read_csv(DATA / "d_labitems.csv", infer_schema=False).with_columns(pl.col("itemid").cast(pl.Int64))
    events.write_database("labevents", uri, engine="adbc")
    items.write_database("d_labitems", uri, engine="adbc")
    return events.height


def main() -> int:
    """Load, run, count; exit code 1 if a row is lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accept", type=float, help="accept proposals of this confidence and run again")
    options = parser.parse_args()
    if not DATA.exists():
        print(f"not run: {DATA} is absent")
        return 0
    name = f"mimic_{uuid.uuid4().hex[:8]}"
    with postgres.connect(f"{SERVER}/postgres", autocommit=True) as admin, admin.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return measure(f"{SERVER}/{name}", Path(folder), options.accept)
    finally:
        with postgres.connect(f"{SERVER}/postgres", autocommit=True) as admin, admin.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def measure(uri: str, folder: Path, accept: float | None) -> int:
    """Run the main job on the loaded database and print the figures."""
    rows = load(uri)
    start = date.today() - timedelta(days=FOLD_DAYS)
    (folder / "sources.yaml").write_text(SOURCES.format(uri=uri, start=start, fold=FOLD_DAYS - 1))
    shutil.copytree(ROOT / "data" / "reference", folder / "reference")
    environment = os.environ | {
        "LIMS_SOURCES": str(folder / "sources.yaml"),
        "LIMS_REFERENCE_DIR": str(folder / "reference"),
        "LIMS_DATA_DIR": str(folder / "data"),
        "LIMS_START_DATE": start.isoformat(),
        "LIMS_TIMEZONE": "America/New_York",
    }
    lake = Lake(folder / "data" / "lake")
    kept = run(environment, lake, rows)
    if accept is not None:
        lines = lake.scan(TABLES["unmapped_codes"]).filter(pl.col("confidence") >= accept).collect()["csv_line"].to_list()
        with (folder / "reference" / "loinc_map.csv").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)
        print(f"\naccepted {len(lines)} proposals of confidence {accept} and more:")
        kept &= run(environment, lake, rows)
    return 0 if kept else 1


def run(environment: dict[str, str], lake: Lake, rows: int) -> bool:
    """One run of the job and its figures; True where no row is lost or doubled."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "lims_platform", "run"]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=sys.stderr)
    seconds = time.perf_counter() - started
    valid = lake.scan(TABLES["lab_results_standardized"]).select(pl.len()).collect().item()
    quarantine = lake.scan(TABLES["lab_results_quarantine"]).collect()
    print(f"{rows:,} rows = {valid:,} silver + {quarantine.height:,} quarantine: {rows == valid + quarantine.height}")
    print(f"ratio valid / all rows = {valid / rows:.4f}   (whole job {seconds:.0f} s)")
    for reason, count in quarantine["reason"].value_counts(sort=True).iter_rows():
        texts = quarantine.filter(pl.col("reason") == reason)["result_text"].value_counts(sort=True).head(10)
        print(f"  {reason:<24}{count:>8,}   " + "; ".join(f"{text} ({n})" for text, n in texts.iter_rows()))
    print("  unmapped codes:")
    listed = lake.scan(TABLES["unmapped_codes"]).sort("rows", descending=True).head(12).collect()
    for row in listed.iter_rows(named=True):
        print(f"    {row['rows']:>6,}  {row['test_name'] or row['test_code']:<28}{row['csv_line'] or '(no proposal)'}")
    return bool(rows == valid + quarantine.height)


if __name__ == "__main__":
    sys.exit(main())
