"""Pseudonyms per second at the door, against a plain loop of unkeyed SHA-256 (which protects nothing).

Run: python benchmarks/pseudonyms.py [rows]
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.privacy.pseudonyms import Pseudonymiser


def best(work: Callable[[], object], times: int = 3) -> float:
    """Shortest of a few runs, in seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def main(rows: int) -> None:
    """Print rows a second: distinct identifiers, repeated ones, and a whole frame through the door."""
    maker = Pseudonymiser(bytes(range(32)))
    random = np.random.default_rng(1)
    distinct = pl.Series("id", np.arange(rows)).cast(pl.String).str.zfill(8)
    repeated = pl.Series("id", random.integers(0, 50_000, rows)).cast(pl.String).str.zfill(7)

    def plain(values: pl.Series) -> pl.Series:
        return pl.Series([hashlib.sha256(v.encode()).hexdigest() for v in values.to_list()])

    for name, values in (("all distinct", distinct), ("50,000 patients", repeated)):
        ours, theirs = best(lambda v=values: maker.pseudonyms(v, "patient")), best(lambda v=values: plain(v))  # type: ignore[misc]
        print(
            f"{name}: {rows:,} rows, keyed {rows / ours:,.0f} rows/s; plain hashlib.sha256 loop {rows / theirs:,.0f} rows/s;"
            f" ratio {theirs / ours:.2f}"
        )
    frame = pl.DataFrame({c: pl.Series([None], dtype=t).new_from_index(0, rows) for c, t in LAB_RESULTS.schema.items()})
    values = pl.Series(random.integers(0, 5000, rows) / 10).cast(pl.String)
    said = pl.when(pl.int_range(pl.len()) % 1000 == 0).then("P" + pl.col("patient_id") + " clotted")
    frame = frame.with_columns(patient_id=repeated, technician_id=repeated.str.slice(3), result_value=values)
    frame = frame.with_columns(result_value=pl.coalesce(said, "result_value"))
    taken = best(lambda: maker.protect(frame, LAB_RESULTS, {"patient": r"\bP\d{7}\b"}))
    print(f"whole lab_results frame, free text redacted: {rows:,} rows, {rows / taken:,.0f} rows/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
