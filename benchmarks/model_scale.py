"""Training on 90 days of 10,000 devices, and scoring 10,000 devices with the workbook: seconds, and ratios to a bare forest.

A simulated laboratory of 200 devices gives the features; its devices are copied, with ids of their own, until there are as
many as asked for. Training is the platform's whole turn of a model (candidates on rolling folds, calibration, gates, ONNX,
MLflow) on 90 training days and the 60 test days and the gap beside them; scoring uses a model of the 200 devices. Baselines:
one scikit-learn forest of 100 trees fitted to the same training rows; such a forest's predict_proba on the 10,000 rows.

Run: python benchmarks/model_scale.py [--devices 10000] [--days 90] [--seed 11] [--scoring-only] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
from device_failure_model import Frames, load_frames
from sklearn.ensemble import RandomForestClassifier

from lims_platform.learning.cycle import Turn, retrain
from lims_platform.learning.frames import matrix, training_frame
from lims_platform.learning.labels import failure_labels
from lims_platform.learning.registry import load_champion
from lims_platform.learning.scoring import score
from lims_platform.learning.tracking import make_store
from lims_platform.reporting.workbook import write_workbook
from lims_platform.simulator.config import LabConfig

TEST_AND_GAP_DAYS = 67
#: A device has features once it has this much past, and its last week has no label yet.
WARM_UP_DAYS = 37
SIMULATED_DEVICES = 200


def copied(frames: Frames, devices: int) -> Frames:
    """The laboratory with ``devices`` devices, each a copy of one of its own."""
    times = devices // SIMULATED_DEVICES

    def many(frame: pl.DataFrame) -> pl.DataFrame:
        parts = [frame.with_columns(device_id=pl.col("device_id") + f"#{copy}") for copy in range(times)]
        return pl.concat(parts)

    return Frames(many(frames.features), many(frames.failures), frames.truth)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--scoring-only", action="store_true")
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    config = LabConfig(
        seed=options.seed,
        end=date(2025, 6, 30),
        days=options.days + TEST_AND_GAP_DAYS + WARM_UP_DAYS,
        devices=SIMULATED_DEVICES,
        results_per_day=40 * SIMULATED_DEVICES,
        failures_per_device_year=4.0,
    )
    own = load_frames(config, options.keep)
    frames = copied(own, options.devices)
    print(f"{frames.features.height:,} device-days of {options.devices:,} devices, {frames.failures.height:,} failures")
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        make_store(uri)
        turn, _ = trained(own, config, uri)
        scoring(frames.features, turn, uri, Path(folder) / "device_risk.xlsx")
        if options.scoring_only:
            return
        turn, seconds = trained(frames, config, uri)
        bare, rows = forest(frames, config, turn)
        ratio = f"one forest on {rows:,} rows {bare:.1f} s: {seconds / bare:.1f} times"
        print(f"training {seconds:.1f} s, {turn.outcome}; {ratio}")


def trained(frames: Frames, config: LabConfig, uri: str) -> tuple[Turn, float]:
    """A whole turn of the model, and its seconds."""
    begin = time.perf_counter()
    turn = retrain(frames.features, frames.failures, config.end, config.timezone, uri, {}, "1", "benchmark")
    if turn.model is None:
        raise SystemExit(turn.outcome)
    return turn, time.perf_counter() - begin


def forest(frames: Frames, config: LabConfig, turn: Turn) -> tuple[float, int]:
    """Seconds and rows of one bare forest on the rows the model learnt from."""
    assert turn.model is not None
    frame = training_frame(frames.features, failure_labels(frames.features, frames.failures, config.end, config.timezone))
    learnt = turn.model.split.fit.rows(frame)
    x, y = matrix(learnt, turn.model.features), learnt["label"].to_numpy()
    begin = time.perf_counter()
    RandomForestClassifier(100, min_samples_leaf=20, n_jobs=2, random_state=1).fit(x, y)
    return time.perf_counter() - begin, len(y)


def scoring(features: pl.DataFrame, turn: Turn, uri: str, path: Path) -> None:
    """Print what the newest day's scores and workbook take, against predict_proba of a bare forest."""
    assert turn.model is not None
    if turn.outcome != "promoted":
        raise SystemExit(f"the model was {turn.outcome}: nothing to score with")
    scorer = load_champion(uri).scorer
    newest = features.filter(pl.col("as_of_date") == features["as_of_date"].max())
    begin = time.perf_counter()
    scores = score(newest, scorer, "device_failure_predictor", "1", datetime.now(UTC))
    scored = time.perf_counter() - begin
    write_workbook(scores, path)
    written = time.perf_counter() - begin
    x = matrix(newest, turn.model.features)
    bare = RandomForestClassifier(100, min_samples_leaf=20, n_jobs=2, random_state=1).fit(x, x[:, 0] > np.nanmedian(x[:, 0]))
    begin = time.perf_counter()
    bare.predict_proba(x)
    predicted = time.perf_counter() - begin
    print(
        f"scoring {newest.height:,} devices with top factors {scored:.2f} s, with the workbook {written:.2f} s; "
        f"predict_proba of one forest {predicted:.2f} s: {written / predicted:.1f} times",
        flush=True,
    )


if __name__ == "__main__":
    main()
