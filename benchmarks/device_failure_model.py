"""Device failures of a simulated laboratory: the model against the oracle, and against the error rate alone.

    python benchmarks/device_failure_model.py [--devices 200] [--days 400] [--seed 7] [--keep FOLDER]

Simulates a laboratory at about 4 failures per device-year, makes the platform's features and labels of it, trains on
everything but the last 60 days (and a seven-day gap before them), and prints, all on the same rows of those 60 days:

- ROC-AUC of the model, of the oracle (P(FAILURE in (D, D+7] | latent state at the end of D)) and of error_rate_7d
  alone, the named baseline; ratios with 95 % intervals from resampling devices;
- calibration, recall at 5 alarms per 40 devices a week, median lead time;
- what the risk levels would have meant, and how fast 10,000 devices score.

The truth is read after the model is made, by this script only. ``--keep`` stores frames in a folder and reuses them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl

from lims_platform.laboratory.device_health import device_failure_features
from lims_platform.laboratory.device_logs import failure_episodes, normalise_device_logs
from lims_platform.learning import metrics
from lims_platform.learning.alarms import alarm_metrics
from lims_platform.learning.frames import training_frame
from lims_platform.learning.gates import evaluate_gates
from lims_platform.learning.labels import failure_labels
from lims_platform.learning.onnx_model import OnnxScorer, check_parity, export
from lims_platform.learning.resampling import auc_comparison, auc_interval
from lims_platform.learning.scoring import score
from lims_platform.learning.training import train
from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.generate import simulate_days

TEST_DAYS = 60


@dataclass(frozen=True)
class Frames:
    """What the benchmark needs of a laboratory; failures as the platform sees them, truth as the oracle does."""

    features: pl.DataFrame
    failures: pl.DataFrame
    truth: pl.DataFrame


def _utc(name: str, zone: str) -> pl.Expr:
    wall = pl.col(name).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    return wall.dt.convert_time_zone("UTC").dt.cast_time_unit("us")


def _history(frame: pl.DataFrame, at: str, zone: str) -> pl.DataFrame:
    """Events as a history of first versions, known when they happened."""
    return frame.filter(pl.col(at).is_not_null()).with_columns(
        pl.col(at).dt.convert_time_zone(zone).dt.date().alias("event_date"),
        pl.col(at).alias("known_from"),
        pl.lit(None, dtype=pl.Datetime("us", "UTC")).alias("known_to"),
        pl.lit("insert").alias("change"),
        pl.lit(False).alias("is_conflict"),
    )


def make_frames(config: LabConfig) -> Frames:
    """Simulate by chunks, keep only the columns the features read, and make features of them."""
    zone = config.timezone
    parts: dict[str, list[pl.DataFrame]] = {"results": [], "logs": [], "controls": []}
    devices, truth = pl.DataFrame(), pl.DataFrame()
    for chunk in simulate_days(config):
        if "devices" in chunk.tables:
            devices = chunk.tables["devices"].with_columns(_utc("installed_date", zone))
            truth = chunk.truth["device_hazard"].select(
                "device_id", pl.col("date").alias("as_of_date"), "oracle_probability"
            )
        results = chunk.tables["lab_results"].select(
            "device_id",
            _utc("collected_timestamp", zone).alias("_from"),
            _utc("resulted_timestamp", zone).alias("resulted_at"),
        )
        hours = (pl.col("resulted_at") - pl.col("_from")).dt.total_seconds() / 3600
        parts["results"].append(results.with_columns(hours.alias("turnaround_time_hours")).drop("_from"))
        times = [_utc(c, zone) for c in ("log_timestamp", "calibration_date", "maintenance_date")]
        parts["logs"].append(chunk.tables["device_logs"].with_columns(times))
        controls = chunk.tables["quality_control"]
        z = (pl.col("measured_value") - pl.col("expected_value")) / pl.col("expected_sd")
        parts["controls"].append(
            controls.select(
                "device_id", pl.col("test_code").alias("loinc_code"), "qc_level", z.alias("z"), "passed",
                _utc("timestamp", zone).alias("run_at"),
            )
        )  # fmt: skip
    first_sane = pl.col("resulted_at") > datetime(2000, 1, 1, tzinfo=UTC)
    results = _history(pl.concat(parts["results"]).filter(first_sane), "resulted_at", zone)
    controls = _history(pl.concat(parts["controls"]), "run_at", zone)
    raw_logs = _history(pl.concat(parts["logs"]), "log_timestamp", zone).with_columns(
        pl.lit("event").alias("date_source"),
        pl.lit(True).alias("is_current"),
        pl.int_range(pl.len()).cast(pl.String).alias("row_key"),
    )
    missing = [c for c in _log_columns() if c not in raw_logs.columns]
    logs = normalise_device_logs(raw_logs.with_columns(pl.lit(None).alias(c) for c in missing), history=True).collect()
    features = device_failure_features(devices, results, logs, controls, config.start, config.end, zone)
    failures = failure_episodes(logs).select("device_id", pl.col("started_at").alias("failed_at"))
    return Frames(features, failures, truth)


def _log_columns() -> list[str]:
    from lims_platform.contracts.tables import TABLES

    return list(TABLES["device_metrics_normalized"].dtypes)


def load_frames(config: LabConfig, keep: Path | None) -> Frames:
    """The laboratory's frames, from the folder ``keep`` where they are there already."""
    names = ("features", "failures", "truth")
    stem = f"{config.devices}x{config.days}-{config.seed}"
    if keep and all((keep / f"{stem}-{n}.parquet").exists() for n in names):
        return Frames(*(pl.read_parquet(keep / f"{stem}-{n}.parquet") for n in names))
    frames = make_frames(config)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        for n in names:
            getattr(frames, n).write_parquet(keep / f"{stem}-{n}.parquet")
    return frames


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--end", type=date.fromisoformat, default=date(2025, 6, 30))
    parser.add_argument("--keep", type=Path, default=None)
    args = parser.parse_args()
    config = LabConfig(
        seed=args.seed, end=args.end, days=args.days, devices=args.devices, results_per_day=40 * args.devices,
        failures_per_device_year=4.0,
    )  # fmt: skip

    begin = time.perf_counter()
    frames = load_frames(config, args.keep)
    made = time.perf_counter()
    years = config.devices * config.days / 365.25
    print(f"laboratory   {config.devices} devices × {config.days} days, seed {config.seed} ({made - begin:.0f} s)")
    print(f"failures     {frames.failures.height}, {frames.failures.height / years:.2f} per device-year")

    labels = failure_labels(frames.features, frames.failures, config.end, config.timezone)
    frame = training_frame(frames.features, labels)
    model = train(frame, test_days=TEST_DAYS, data_end=config.end)
    print(f"learnt       {model.split.fit}, then a gap of {model.split.gap_days} days")
    print(f"test         {model.split.test}")
    print(model.comparison)
    seconds = time.perf_counter() - made
    print(f"chosen       {model.candidate.label}, {len(model.features)} features ({seconds:.0f} s)")

    test = model.split.test.rows(frame)
    scorer = OnnxScorer(export(model))
    parity = check_parity(model, scorer, test)
    keys = ["device_id", "as_of_date"]
    rows = model.scored.join(frames.truth, on=keys).join(test.select(*keys, "error_rate_7d"), on=keys)
    if rows.height != model.scored.height:
        raise SystemExit("the oracle does not know every test row: nothing to compare")
    _compare(rows)
    print(model.calibration_table)
    print(model.importance.head(12))
    print(evaluate_gates(model, parity)[1].drop("note"))
    _levels(test, rows, scorer, parity)


def _compare(rows: pl.DataFrame) -> None:
    """Model, oracle and baseline on the same rows."""
    y, devices = rows["label"].to_numpy(), rows["device_id"].to_numpy()
    columns = {"model": "probability", "oracle": "oracle_probability", "error_rate_7d": "error_rate_7d"}
    print(f"\n{'':15}{'ROC-AUC (95 % device bootstrap)':34}{'PR-AUC':>8}{'recall*':>9}{'lead days*':>12}")
    for name, column in columns.items():
        p, alarm = rows[column].to_numpy(), alarm_metrics(rows, column)
        figures = f"{metrics.pr_auc(y, p):8.3f}{alarm['alarm_recall']:9.3f}{alarm['alarm_lead_days']:12.0f}"
        print(f"{name:15}{auc_interval(y, p, devices)!s:34}{figures}")
    print(f"{'':15}* at {alarm['alarms_per_week']:.0f} alarms a week (5 per 40 devices)")
    print(f"{'':15}{alarm['alarm_episodes']:.0f} episodes, {len(y)} rows, {y.sum()} of them positive")
    for name in ("oracle", "error_rate_7d"):
        ratio, _ = auc_comparison(y, rows["probability"].to_numpy(), rows[columns[name]].to_numpy(), devices)
        print(f"model / {name:15} {ratio}")
    for name in ("model", "oracle"):
        c = metrics.calibration(y, rows[columns[name]].to_numpy())
        line = f"slope {c['calibration_slope']:.3f}, intercept {c['calibration_intercept']:+.3f}"
        print(f"calibration of the {name:7} {line}, predicted {c['mean_predicted']:.4f}, observed {c['observed']:.4f}")


def _levels(test: pl.DataFrame, rows: pl.DataFrame, scorer: OnnxScorer, parity: float) -> None:
    """What each risk level meant, and the time to score 10,000 devices."""
    now = datetime(2025, 1, 1, tzinfo=UTC)
    test = test.with_columns(device_type=pl.lit(None, pl.String), facility_id=pl.lit(None, pl.String))
    scored = score(test, scorer, "device_failure_predictor", "1", now)
    labelled = scored.join(rows.select("device_id", "as_of_date", "label"), on=["device_id", "as_of_date"])
    print(
        labelled.group_by("risk_level")
        .agg(
            pl.len().alias("device_days"),
            pl.col("label").mean().alias("failed_within_7_days"),
            pl.col("failure_probability").min().alias("from_probability"),
        )
        .sort("from_probability")
    )
    many = test.sample(10_000, with_replacement=True, seed=1)
    begin = time.perf_counter()
    score(many, scorer, "device_failure_predictor", "1", now)
    print(f"10,000 devices scored with top factors in {time.perf_counter() - begin:.2f} s")
    print(f"ONNX file of {len(scorer.content) / 1e6:.2f} MB, largest difference to scikit-learn {parity:.1e}")


if __name__ == "__main__":
    main()
