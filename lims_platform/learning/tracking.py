"""The record of a training: everything a person needs to see, repeat and judge it, in one MLflow run.

Here and in ``registry``: the only places that speak to MLflow, imported inside functions. Not here: versions and
aliases.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from lims_platform.learning.candidates import RULE
from lims_platform.learning.spec import DEVICE_FAILURE
from lims_platform.learning.training import TrainedModel

EXPERIMENT = DEVICE_FAILURE.experiment
#: Tag of an MLflow run that says what came of it; a run without it ended before its training did.
OUTCOME = "outcome"
_VALUE_LIMIT = 6000


def make_store(tracking_uri: str, experiment: str = EXPERIMENT) -> None:
    """Make the folder of a SQLite tracking store, and the experiment with its artifacts beside the store.

    MLflow's own default is ``mlruns`` in whatever directory the process was started in: a backup of the data would miss it.
    """
    import mlflow

    uri = urlsplit(tracking_uri)
    if uri.scheme != "sqlite":
        return
    folder = Path(uri.path.removeprefix("/")).absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(tracking_uri)
    if mlflow.get_experiment_by_name(experiment) is None:
        mlflow.create_experiment(experiment, artifact_location=(folder / "artifacts").as_uri())


def close_run() -> None:
    """End the active MLflow run, as FAILED where nothing said what came of it."""
    import mlflow

    active = mlflow.active_run()
    if active is not None:
        tags = mlflow.get_run(active.info.run_id).data.tags
        mlflow.end_run("FINISHED" if OUTCOME in tags else "FAILED")


def note_outcome(outcome: str, run_id: str | None = None) -> None:
    """Say on the MLflow run, by default the active one if there is one, what came of the training."""
    import mlflow

    if run_id is not None:
        mlflow.MlflowClient().set_tag(run_id, OUTCOME, outcome)
    elif mlflow.active_run() is not None:
        mlflow.set_tag(OUTCOME, outcome)


@contextmanager
def run(
    tracking_uri: str | None = None, experiment: str = EXPERIMENT, name: str | None = None, own: bool = False
) -> Iterator[str]:
    """The active MLflow run if there is one and ``own`` is not asked, else one of its own; yields its run id.

    ``tracking_uri`` and ``experiment`` are used only when no run is active: a run that another opened keeps its place.
    A run of our own is marked FAILED if the block raises.
    """
    import mlflow

    active = mlflow.active_run()
    if active is not None and not own:
        yield active.info.run_id
        return
    if active is not None:
        # one Dagster run trains several models: a second set of parameters needs a run below the first
        with mlflow.start_run(run_name=name, nested=True) as below:
            yield below.info.run_id
        return
    if tracking_uri is not None:
        mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=name) as started:
        yield started.info.run_id


def charts(model: TrainedModel) -> dict[str, Any]:
    """Altair charts by name: feature_importance, calibration, confusion_matrix, score_distribution."""
    import altair as alt

    top = model.importance.head(20)
    importance = (
        alt.Chart(top)
        .mark_bar()
        .encode(
            x=alt.X("importance:Q", title="Fall of ROC-AUC when shuffled"),
            y=alt.Y("feature:N", sort="-x", title=None),
        )
        .properties(title="Permutation importance on the test period", width=420)
    )
    table = model.calibration_table
    limit = max(0.05, float(model.calibration_table.select(pl.max_horizontal("high", "mean_predicted").max()).item()))
    line = alt.Chart(alt.Data(values=[{"x": 0, "y": 0}, {"x": limit, "y": limit}])).mark_line(
        strokeDash=[4, 4], color="gray"
    )
    points = alt.Chart(table).encode(x=alt.X("mean_predicted:Q", title="Predicted probability"))
    calibration = (
        line.encode(x="x:Q", y="y:Q")
        + points.mark_rule().encode(y=alt.Y("low:Q", title="Observed share (95 %)"), y2="high:Q")
        + points.mark_circle(size=70).encode(y="observed:Q")
    ).properties(title="Calibration on the test period, ten groups of equal size", width=360, height=360)
    cells = pl.DataFrame(
        {
            "predicted": [model.spec.positive] * 2 + [model.spec.negative] * 2,
            "observed": [model.spec.positive, model.spec.negative] * 2,
            "rows": [model.confusion[k] for k in ("tp", "fp", "fn", "tn")],
        }
    )
    base = alt.Chart(cells).encode(x="predicted:N", y="observed:N")
    matrix = (
        base.mark_rect().encode(color=alt.Color("rows:Q", scale=alt.Scale(type="symlog", scheme="blues"), legend=None))
        + base.mark_text(fontSize=16).encode(text="rows:Q")
    ).properties(title=f"{model.spec.rows} at probability ≥ {model.threshold:.3f}", width=240, height=240)
    edges = np.linspace(0, 1, 41)
    shown = []
    for label, name in ((1, model.spec.positive), (0, model.spec.negative)):
        share, _ = np.histogram(model.scored.filter(pl.col("label") == label)["probability"].to_numpy(), edges)
        shown.append(pl.DataFrame({"probability": edges[:-1], "share": share / max(1, share.sum()), "observed": name}))
    distribution = (
        alt.Chart(pl.concat(shown))
        .mark_line(interpolate="step-after")
        .encode(
            x="probability:Q",
            y=alt.Y("share:Q", scale=alt.Scale(type="symlog", constant=0.01)),
            color="observed:N",
        )
        .properties(title="Scores of the test period", width=420)
    )
    return {
        "feature_importance": importance,
        "calibration": calibration,
        "confusion_matrix": matrix,
        "score_distribution": distribution,
    }


def classification_report(model: TrainedModel) -> str:
    """Precision, recall, F1 and support per class at the model's threshold, and the figures that need no threshold."""
    c, lines = model.confusion, []
    lines.append(f"{'':16}{'precision':>10}{'recall':>10}{'f1':>10}{'rows':>10}")
    for name, hit, alarm, real in (
        (model.spec.positive, c["tp"], c["tp"] + c["fp"], c["tp"] + c["fn"]),
        (model.spec.negative, c["tn"], c["tn"] + c["fn"], c["tn"] + c["fp"]),
    ):
        f1 = 2 * hit / (alarm + real) if alarm + real else 0.0
        lines.append(f"{name:16}{hit / max(1, alarm):10.3f}{hit / max(1, real):10.3f}{f1:10.3f}{real:10d}")
    lines.append(f"\nthreshold {model.threshold:.4f}; test period {model.split.test}")
    lines += [f"{name:24}{value:12.4f}" for name, value in sorted(model.metrics.items())]
    return "\n".join(lines) + "\n"


def write_artifacts(
    model: TrainedModel,
    onnx: bytes,
    frame: pl.DataFrame,
    lineage: Mapping[str, Any],
    folder: Path,
    gates: pl.DataFrame | None,
) -> list[Path]:
    """Write every artifact into ``folder``; the files."""
    for name, chart in charts(model).items():
        chart.save(str(folder / f"{name}.png"), ppi=110)
    model.importance.write_csv(folder / "feature_importance.csv")
    model.calibration_table.write_csv(folder / "calibration.csv")
    model.comparison.write_csv(folder / "candidates.csv")
    (folder / "confusion_matrix.json").write_text(json.dumps(model.confusion, indent=2))
    (folder / "classification_report.txt").write_text(classification_report(model))
    (folder / "lineage.json").write_text(json.dumps(lineage, indent=2, sort_keys=True, default=str))
    (folder / "model.onnx").write_bytes(onnx)
    frame.write_parquet(folder / "training_frame.parquet")
    model.scored.write_parquet(folder / "test_scores.parquet")
    if gates is not None:
        gates.write_csv(folder / "gates.csv")
    return sorted(folder.iterdir())


def log_training(
    model: TrainedModel,
    onnx: bytes,
    frame: pl.DataFrame,
    *,
    data_versions: Mapping[str, Any],
    code_version: str,
    dagster_run_id: str | None = None,
    parity: float | None = None,
    gates: pl.DataFrame | None = None,
    tracking_uri: str | None = None,
) -> str:
    """Record a training in the active MLflow run, or in one of its own; returns the run id.

    Params: what was chosen, periods, data version of every input table, code version. Metrics: all of the test period,
    the baselines' with them, the parity. Artifacts: plots and tables, report, ONNX file, the training frame as Parquet
    with its digest in tags and lineage (table versions are vacuumed after 30 days, the frame stays). ValueError if
    ``frame`` is not the one the model learnt from.
    """
    import mlflow

    from lims_platform.learning.frames import frame_digest

    if frame_digest(frame) != model.digest:
        raise ValueError("log_training: this is not the frame the model was trained on (its digest differs)")
    lineage = {
        "training_digest": model.digest,
        "data_versions": dict(data_versions),
        "code_version": code_version,
        "dagster_run_id": dagster_run_id,
        "features": model.features,
        "rule": RULE,
    }
    own = model.spec is not DEVICE_FAILURE
    with run(tracking_uri, model.spec.experiment, model.candidate.name, own) as run_id:
        versions = {f"data_version.{table}": str(version) for table, version in data_versions.items()}
        params = {**model.params, **versions, "code_version": code_version, "selection_rule": RULE}
        mlflow.log_params({k: v[:_VALUE_LIMIT] for k, v in params.items()})
        figures = {**model.metrics, **model.baseline_metrics, **({} if parity is None else {"onnx_parity": parity})}
        mlflow.log_metrics({k: v for k, v in figures.items() if np.isfinite(v)})
        tags = {"training_digest": model.digest, "code_version": code_version}
        tags["mlflow.runName"] = model.candidate.name
        mlflow.set_tags(tags if dagster_run_id is None else {**tags, "dagster_run_id": dagster_run_id})
        with tempfile.TemporaryDirectory() as folder:
            write_artifacts(model, onnx, frame, lineage, Path(folder), gates)
            mlflow.log_artifacts(folder)
    return run_id
