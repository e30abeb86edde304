"""Speed of standardisation: rows per second, and the ratio to a bare polars scan-and-write of the same rows.

Run: python benchmarks/standardise_speed.py [rows]. Makes the rows itself (two sources, 25 analytes, 8 % coded or
censored, some dirt), best of three. Both sides read the same Parquet file and write Parquet with the streaming
engine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from lims_platform.laboratory.standardise import standardise_lab_results
from lims_platform.laboratory.unit_evidence import unit_evidence
from lims_platform.lakehouse.reference import load_reference

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
TESTS = [
    ("GLU", "mg/dL", 100.0, 0), ("GLU_MMOL", "mmol/L", 5.5, 1), ("HBA1C", "%", 5.8, 1), ("CHOL", "mg/dL", 190.0, 0),
    ("CREAT", "mg/dL", 0.9, 2), ("BUN", "mg/dL", 15.0, 0), ("NA", "mEq/L", 140.0, 0), ("K", "mmol/L", 4.2, 1),
    ("CL", "mmol/L", 103.0, 0), ("CA", "mg/dL", 9.4, 1), ("ALB", "g/dL", 4.2, 1), ("ALT", "IU/L", 25.0, 0),
    ("TBIL", "umol/L", 12.0, 1),
    ("WBC", "K/uL", 7.0, 1), ("RBC", "10*6/uL", 4.6, 2), ("HGB", "g/L", 138.0, 0), ("HCT", "%", 41.0, 1),
    ("PLT", "10^9/L", 245.0, 0),
    ("TSH", "mIU/L", 1.8, 2), ("SARS2", None, 0.0, 0), ("FLUA", None, 0.0, 0), ("HBSAG", None, 0.0, 0),
]  # fmt: skip
WORDS = np.array(["NOT DETECTED", "DETECTED", "NEG", "POSITIVE", "INDETERMINATE", "QNS"])


def synthetic(rows: int, seed: int = 1) -> pl.DataFrame:
    """``rows`` lab results of the stored contract with the lineage columns of bronze."""
    rng = np.random.default_rng(seed)
    test = rng.integers(0, len(TESTS), rows)
    code, unit, centre, digits = (np.array([t[k] for t in TESTS], dtype=object) for k in range(4))
    number = centre[test].astype(float) * np.exp(rng.normal(0, 0.15, rows))
    start = np.datetime64("2025-01-01T00:00:00", "us")
    collected = start + rng.integers(0, 86_400 * 10, rows) * np.timedelta64(1, "s")
    frame = pl.DataFrame(
        {
            "result_id": np.arange(rows).astype(str),
            "patient_hash": rng.integers(0, 50_000, rows).astype(str),
            "technician_hash": rng.integers(0, 60, rows).astype(str),
            "device_id": rng.integers(0, 40, rows).astype(str),
            "test_code": code[test].astype(str),
            "result_unit": pl.Series(unit[test].tolist(), dtype=pl.String),
            "number": number,
            "digits": digits[test].astype(np.int64),
            "word": WORDS[rng.choice(len(WORDS), rows, p=[0.6, 0.1, 0.2, 0.06, 0.03, 0.01])],
            "coded": np.array([t[1] is None for t in TESTS])[test],
            "luck": rng.random(rows),
            "collected_timestamp": collected,
            "resulted_timestamp": collected + rng.integers(600, 20_000, rows) * np.timedelta64(1, "s"),
            "age_band": rng.choice(np.array(["0-17", "18-64", "65+"]), rows),
            "location_class": rng.choice(np.array(["inpatient", "outpatient", "emergency"]), rows),
            "specimen_id": (np.arange(rows) // 6).astype(str),
            "specimen_type": rng.choice(np.array(["SERUM", "PLASMA", "WHOLE BLOOD"]), rows),
            "result_status": rng.choice(np.array(["F", "F", "F", "C"]), rows),
            "priority": rng.choice(np.array(["ROUTINE", "STAT"]), rows),
            "facility_id": rng.choice(np.array(["F1", "F2", "F3"]), rows),
            "sex": rng.choice(np.array(["F", "M"]), rows),
            "received_timestamp": collected + rng.integers(60, 600, rows) * np.timedelta64(1, "s"),
            "source": np.where(rng.random(rows) < 0.5, "north", "south"),
        }
    )
    times = ("collected_timestamp", "received_timestamp", "resulted_timestamp")
    utc = [pl.col(c).dt.replace_time_zone("UTC") for c in times]
    by_digits = [pl.when(pl.col("digits") == d).then(pl.col("number").round(d).cast(pl.String)) for d in (1, 2)]
    plain = pl.coalesce(*by_digits, pl.col("number").round(0).cast(pl.Int64).cast(pl.String))
    text = (
        pl.when("coded").then("word")
        .when(pl.col("luck") < 0.01).then("<" + plain).when(pl.col("luck") < 0.012).then(pl.lit("-999"))
        .when(pl.col("luck") < 0.014).then(pl.lit("HEMOLYZED")).otherwise(plain)
    )  # fmt: skip
    swab = pl.when(pl.col("test_code").is_in(["SARS2", "FLUA"])).then(pl.lit("NP SWAB")).otherwise("specimen_type")
    return frame.with_columns(*utc, specimen_type=swab).with_columns(
        result_value=text, event_date=pl.col("resulted_timestamp").dt.date(), row_key=pl.col("result_id"),
        row_version=pl.lit(1, pl.Int32), row_digest=pl.col("result_id").hash(1).cast(pl.String), date_source=pl.lit("event"),
        change=pl.lit("insert"), known_from=pl.col("resulted_timestamp"), ingested_at=pl.col("resulted_timestamp"),
        updated_at=pl.col("resulted_timestamp"), verified_timestamp=pl.col("resulted_timestamp"), is_conflict=pl.lit(False),
    ).drop("number", "digits", "word", "coded", "luck")  # fmt: skip


def best(work: Callable[[], None], repeats: int = 3) -> float:
    """Shortest of ``repeats`` runs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main(rows: int = 1_000_000) -> None:
    """Prints one line per side and the ratio."""
    reference = load_reference(REFERENCE)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.parquet", Path(folder) / "out.parquet"
        synthetic(rows).write_parquet(source)
        bare = best(lambda: pl.scan_parquet(source).sink_parquet(target, engine="streaming"))

        def standardise() -> None:
            rows = pl.scan_parquet(source)
            evidence = unit_evidence(rows, reference)
            plan = standardise_lab_results(rows, reference, {"north": "point", "south": "point"}, evidence)
            plan.sink_parquet(target, engine="streaming")

        ours = best(standardise)
        written = pl.scan_parquet(target).select(pl.len(), pl.col("reason").is_null().mean().alias("valid")).collect()
    print(f"rows                {rows:>12,}  (written {written['len'][0]:,}, valid {written['valid'][0]:.4f})")
    print(f"bare scan and write {bare:12.3f} s {rows / bare:>14,.0f} rows/s")
    print(f"standardised        {ours:12.3f} s {rows / ours:>14,.0f} rows/s  ratio {ours / bare:.2f}")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
