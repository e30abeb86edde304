"""Versions of a model and who reigns: MLflow's registry with the aliases challenger, champion and previous.

Here and in ``tracking``: the only places that speak to MLflow, imported inside functions. Every change of an alias
returns the row the caller appends to ``model_ledger``: an alias has no history. Models are kept in the ONNX flavour
(the scikit-learn flavour refuses trees without skops, and would unpickle). Not here: whether a model deserves
promotion (``gates``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from lims_platform.learning.ledger import ledger_row
from lims_platform.learning.onnx_model import OnnxScorer
from lims_platform.learning.spec import DEVICE_FAILURE

MODEL_NAME = DEVICE_FAILURE.name
CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"


class RegistryError(LookupError):
    """The registry lacks a model, version or alias; the message names it."""


@dataclass(frozen=True)
class Loaded:
    """A version ready to score, and where it comes from."""

    name: str
    version: str
    scorer: OnnxScorer
    run_id: str | None
    training_digest: str | None


class Registry:
    """The registry behind a tracking URI. ``now`` gives the time of events; tests pass their own."""

    def __init__(self, tracking_uri: str, now: Any = None) -> None:
        import mlflow
        from mlflow import MlflowClient

        self.tracking_uri = tracking_uri
        # Loading a version follows the process's tracking URI, whatever the client's own is.
        mlflow.set_tracking_uri(tracking_uri)
        self._client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
        self._now = now or (lambda: datetime.now(UTC))

    def alias(self, name: str, alias: str) -> str | None:
        """The version behind an alias, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.get_model_version_by_alias(name, alias).version)
        except MlflowException as error:
            # an alias that was never set is INVALID_PARAMETER_VALUE, a model never registered RESOURCE_DOES_NOT_EXIST
            if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
                return None
            raise

    def load(self, name: str, version: str) -> Loaded:
        """A version by number; RegistryError if there is none."""
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_model_version(name, version)
        except MlflowException as error:
            raise RegistryError(f"{name} has no version {version} in the registry: {error.message}") from error
        folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=found.source, tracking_uri=self.tracking_uri))
        files = list(folder.rglob("*.onnx"))
        if len(files) != 1:
            raise RegistryError(f"{name} version {version} holds {len(files)} ONNX files, exactly one expected")
        scorer = OnnxScorer(files[0].read_bytes())
        return Loaded(name, str(found.version), scorer, found.run_id or None, found.tags.get("training_digest"))

    def load_alias(self, name: str, alias: str) -> Loaded:
        """The version behind an alias; RegistryError if nobody holds it."""
        version = self.alias(name, alias)
        if version is None:
            raise RegistryError(f"{name} has no {alias}: no version holds that alias yet")
        return self.load(name, version)

    def register(
        self,
        onnx: bytes,
        run_id: str,
        training_digest: str,
        name: str = MODEL_NAME,
        dagster_run_id: str | None = None,
        reason: str = "trained",
    ) -> tuple[str, pl.DataFrame]:
        """Register ONNX bytes as a new version made by ``run_id``, alias challenger; version and ledger row.

        OnnxModelError if the bytes are no model of this platform.
        """
        import mlflow
        import onnx as onnx_library
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec
        from numpy import dtype

        scorer = OnnxScorer(onnx)
        signature = ModelSignature(
            inputs=Schema([TensorSpec(dtype("float32"), (-1, len(scorer.features)), "features")]),
            outputs=Schema([TensorSpec(dtype("float32"), (-1,), "probability")]),
        )
        mlflow.set_tracking_uri(self.tracking_uri)
        active = mlflow.active_run()
        resumed = (
            None
            if active is not None and active.info.run_id == run_id
            else mlflow.start_run(run_id=run_id, nested=active is not None)
        )
        try:
            logged = mlflow.onnx.log_model(
                onnx_library.load_model_from_string(onnx),
                name=name,
                registered_model_name=name,
                signature=signature,
                pip_requirements=["onnx", "onnxruntime"],
                save_as_external_data=False,
            )
        finally:
            if resumed is not None:
                mlflow.end_run()
        version = str(logged.registered_model_version)
        self._client.set_model_version_tag(name, version, "training_digest", training_digest)
        self._client.set_registered_model_alias(name, CHALLENGER, version)
        row = self._row(name, version, "registered", reason, self.alias(name, CHAMPION), None, dagster_run_id)
        return version, row

    def promote(
        self,
        version: str,
        gates: pl.DataFrame,
        name: str = MODEL_NAME,
        dagster_run_id: str | None = None,
        reason: str = "all gates passed",
    ) -> pl.DataFrame:
        """Make a version champion, the reigning one previous; the ledger row.

        ValueError if a gate of the table failed; RegistryError if there is no such version or it reigns already.
        """
        failed = gates.filter(~pl.col("passed"))["gate"].to_list()
        if failed or not gates.height:
            raise ValueError(f"{name} version {version} is not promoted: {', '.join(failed) or 'no gate was asked'}")
        self.load(name, version)  # what cannot be loaded must not reign
        before = self.alias(name, CHAMPION)
        if before == version:
            raise RegistryError(f"{name} version {version} is the champion already")
        if before is not None:
            self._client.set_registered_model_alias(name, PREVIOUS, before)
        self._client.set_registered_model_alias(name, CHAMPION, version)
        if self.alias(name, CHALLENGER) == version:
            self._client.delete_registered_model_alias(name, CHALLENGER)
        return self._row(name, version, "promoted", reason, before, gates, dagster_run_id)

    def reject(
        self, version: str, gates: pl.DataFrame, name: str = MODEL_NAME, dagster_run_id: str | None = None
    ) -> pl.DataFrame:
        """Note that a version failed its gates; it stays challenger, to be watched in shadow. The ledger row."""
        failed = gates.filter(~pl.col("passed"))["gate"].to_list()
        if not failed:
            raise ValueError(f"{name} version {version} is not rejected: no gate failed")
        reason = f"failed: {', '.join(failed)}"
        return self._row(name, version, "rejected", reason, self.alias(name, CHAMPION), gates, dagster_run_id)

    def rollback(self, reason: str, name: str = MODEL_NAME, dagster_run_id: str | None = None) -> pl.DataFrame:
        """Make the previous champion reign again; the ledger row.

        The alias previous is then free: a second roll-back must not bring back what was just taken down. RegistryError
        if nobody is previous; ValueError without a reason.
        """
        if not reason.strip():
            raise ValueError("a roll-back needs a reason")
        before, back = self.alias(name, CHAMPION), self.alias(name, PREVIOUS)
        if back is None:
            raise RegistryError(f"{name} has no previous version to roll back to (champion: {before or 'none'})")
        self.load(name, back)
        self._client.set_registered_model_alias(name, CHAMPION, back)
        self._client.delete_registered_model_alias(name, PREVIOUS)
        return self._row(name, back, "rolled_back", reason, before, None, dagster_run_id)

    def _row(
        self,
        name: str,
        version: str,
        action: str,
        reason: str,
        from_version: str | None,
        gates: pl.DataFrame | None,
        dagster_run_id: str | None,
    ) -> pl.DataFrame:
        found = self._client.get_model_version(name, version)
        return ledger_row(
            at=self._now(),
            model_name=name,
            version=version,
            action=action,
            reason=reason,
            from_version=from_version,
            gates=gates,
            training_digest=found.tags.get("training_digest"),
            mlflow_run_id=found.run_id or None,
            dagster_run_id=dagster_run_id,
        )


def load_champion(tracking_uri: str, name: str = MODEL_NAME) -> Loaded:
    """The reigning version; RegistryError, in words for an operator, if nobody reigns yet."""
    try:
        return Registry(tracking_uri).load_alias(name, CHAMPION)
    except RegistryError as error:
        raise RegistryError(f"{error}. Train and promote one first (job training_weekly)") from error


def rollback(tracking_uri: str, reason: str, name: str = MODEL_NAME, dagster_run_id: str | None = None) -> pl.DataFrame:
    """Make the previous champion reign again; the row to append to model_ledger."""
    return Registry(tracking_uri).rollback(reason, name, dagster_run_id)


def gates_of(row: dict[str, Any]) -> pl.DataFrame | None:
    """The gates' table of a ledger row, or None."""
    return None if row["gates"] is None else pl.DataFrame(json.loads(row["gates"]))
