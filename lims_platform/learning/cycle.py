"""One turn of a model's life: label, train, examine, record, register, promote or reject.

Here: the order of the steps. Not here: any one of them (``labels``, ``training``, ``gates``, ``tracking``, ``registry``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from lims_platform.learning.frames import matrix, training_frame
from lims_platform.learning.gates import evaluate_gates
from lims_platform.learning.labels import failure_labels
from lims_platform.learning.onnx_model import OnnxScorer, check_parity, export
from lims_platform.learning.registry import Registry, RegistryError, load_champion
from lims_platform.learning.spec import DEVICE_FAILURE, ModelSpec
from lims_platform.learning.tracking import log_training, note_outcome
from lims_platform.learning.training import NotTrainable, TrainedModel, train


@dataclass(frozen=True)
class Turn:
    """What a turn ended in: the ledger's new rows, and of a trained model its version, run, gates and itself.

    ``reigning``: the champion's probabilities of the same test rows, where there was one that could be asked.
    """

    outcome: str
    ledger: pl.DataFrame | None = None
    version: str | None = None
    run_id: str | None = None
    gates: pl.DataFrame | None = None
    model: TrainedModel | None = None
    reigning: np.ndarray | None = None

    def examined(self, figure: Callable[[np.ndarray, np.ndarray], pl.DataFrame]) -> pl.DataFrame:
        """A figure of label and probability on the test rows, of the new model and the one it met: model, its columns."""
        if self.model is None:
            return pl.DataFrame()
        label = self.model.scored["label"].to_numpy()
        scores = {
            f"new: version {self.version}": self.model.scored["probability"].to_numpy(),
            "champion then": self.reigning,
        }
        found = [
            figure(label, p).select(pl.lit(name).alias("model"), pl.all()) for name, p in scores.items() if p is not None
        ]
        return pl.concat(found)


def retrain(
    features: pl.DataFrame,
    failures: pl.DataFrame,
    data_end: date,
    calendar: str,
    tracking_uri: str,
    data_versions: Mapping[str, Any],
    code_version: str,
    dagster_run_id: str,
) -> Turn:
    """Train a challenger on every mature day up to ``data_end`` and promote it if it passes its gates.

    ``features``: DeviceFailureFeatures; ``failures``: device_id, failed_at (UTC). Where the data cannot train a model
    the outcome says why ("not trainable: …") and nothing is registered.
    """
    frame = training_frame(features, failure_labels(features, failures, data_end, calendar))
    return turn(DEVICE_FAILURE, frame, data_end, tracking_uri, data_versions, code_version, dagster_run_id)


def turn(
    spec: ModelSpec,
    frame: pl.DataFrame,
    data_end: date,
    tracking_uri: str,
    data_versions: Mapping[str, Any],
    code_version: str,
    dagster_run_id: str,
) -> Turn:
    """One turn of the model ``spec`` on its training frame: train, examine, record, register, promote or reject."""
    try:
        model = train(frame, data_end=data_end, spec=spec)
    except NotTrainable as reason:
        if spec is DEVICE_FAILURE:  # the active MLflow run is its own
            note_outcome(f"not trainable: {reason}")
        return Turn(f"not trainable: {reason}")
    onnx = export(model)
    parity = check_parity(model, OnnxScorer(onnx), frame.tail(5_000))
    reigning, note = _champion_scores(tracking_uri, model, frame)
    passed, gates = evaluate_gates(model, parity, reigning, note)
    run_id = log_training(
        model,
        onnx,
        frame,
        data_versions=data_versions,
        code_version=code_version,
        dagster_run_id=dagster_run_id,
        parity=parity,
        gates=gates,
        tracking_uri=tracking_uri,
    )
    registry = Registry(tracking_uri)
    version, registered = registry.register(onnx, run_id, model.digest, spec.name, dagster_run_id)
    decide = registry.promote if passed else registry.reject
    decided = decide(version, gates, spec.name, dagster_run_id)
    outcome = "promoted" if passed else "rejected"
    note_outcome(outcome, run_id)
    return Turn(outcome, pl.concat([registered, decided]), version, run_id, gates, model, reigning)


def _champion_scores(tracking_uri: str, model: TrainedModel, frame: pl.DataFrame) -> tuple[np.ndarray | None, str]:
    """The reigning model's probabilities for the test rows; None where nobody reigns or it needs other features."""
    try:
        champion = load_champion(tracking_uri, model.spec.name)
    except RegistryError:
        return None, ""
    keys = list(model.spec.keys)
    rows = model.scored.select(keys).join(frame, on=keys, how="left", maintain_order="left")
    if not set(champion.scorer.features) <= set(rows.columns):
        return None, f"version {champion.version} needs features that are gone"
    return champion.scorer(matrix(rows, champion.scorer.features)).astype(np.float64), f"version {champion.version}"
