"""Control runs and their verdict: how often a device's controls fail.

Here: what a run is, and that it fails where one of its controls does. Not here: Westgard's rules (``westgard``).
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.westgard import RUN_GAP


def run_verdicts(controls: Frame, run_gap: timedelta = RUN_GAP) -> pl.DataFrame:
    """One row per device, analyte and run: run_at (its last control), failed (one control at least did not pass).

    controls: quality_control_standardized (device_id, test_code, run_id, run_at, passed, is_repeat). A run is run_id, else
    controls of the device and test at most ``run_gap`` apart. Rows without device, time or verdict say nothing and are
    left out; so are repeats: a repeat that passes does not make the first failure undone.
    """
    rows = (
        controls.lazy()
        .filter(
            pl.all_horizontal(pl.col("device_id", "run_at", "passed").is_not_null()), pl.col("is_repeat").ne_missing(True)
        )
        .select("device_id", "test_code", "run_id", "run_at", "passed")
        .collect()
        .sort("device_id", "test_code", "run_at")
    )
    keys = ["device_id", "test_code"]
    # A chain over the controls without run_id only: a named run between them does not split one.
    unnamed = rows.filter(pl.col("run_id").is_null()).with_columns(
        chain=(pl.col("run_at").diff() > run_gap).fill_null(True).cum_sum().over(keys).cast(pl.Int64)
    )
    named = rows.filter(pl.col("run_id").is_not_null()).with_columns(chain=pl.lit(None, dtype=pl.Int64))
    return (
        pl.concat([named, unnamed])
        .group_by(*keys, "run_id", "chain")
        .agg(run_at=pl.col("run_at").max(), failed=(~pl.col("passed")).any())
        .drop("chain")
        .sort(*keys, "run_at")
    )
