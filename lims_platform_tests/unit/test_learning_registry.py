"""Tracking, registry and ledger against a real MLflow store in SQLite."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from lims_platform.contracts.learning import MODEL_LEDGER
from lims_platform.learning.gates import evaluate_gates
from lims_platform.learning.ledger import LedgerError, champion_at, ledger_row, who_scored
from lims_platform.learning.onnx_model import export
from lims_platform.learning.registry import MODEL_NAME, Registry, RegistryError, gates_of, load_champion, rollback
from lims_platform.learning.scoring import score
from lims_platform.learning.tracking import log_training
from lims_platform_tests.unit.test_learning_frames import frame, laboratory
from lims_platform_tests.unit.test_learning_training import trained

VERSIONS = {"gold/device_failure_features": 12, "silver/device_metrics_normalized": 9}


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking store of its own; artifacts beside it."""
    import mlflow

    folder = tmp_path_factory.mktemp("mlflow")
    address = f"sqlite:///{folder / 'mlflow.db'}"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(address)
    mlflow.create_experiment("device_failure", artifact_location=(folder / "artifacts").as_uri())
    yield address
    mlflow.set_tracking_uri(before)


def log_example(uri: str) -> str:
    return log_training(
        trained(), export(trained()), frame(), data_versions=VERSIONS, code_version="1.2.3", dagster_run_id="run-7",
        parity=1e-7, gates=evaluate_gates(trained(), 1e-7)[1], tracking_uri=uri,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_id(uri: str) -> str:
    """One recorded training."""
    return log_example(uri)


def test_a_run_records_what_is_needed_to_repeat_and_judge_it(uri: str, run_id: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["data_version.gold/device_failure_features"] == "12"
    assert found.data.params["code_version"] == "1.2.3"
    wanted = "accuracy precision recall f1 roc_auc pr_auc brier calibration_slope alarm_recall alarm_lead_days onnx_parity"
    assert set(wanted.split()) <= set(found.data.metrics)
    assert found.data.metrics["roc_auc"] == pytest.approx(trained().metrics["roc_auc"])
    assert found.data.tags["dagster_run_id"] == "run-7" and found.data.tags["training_digest"] == trained().digest
    names = {f.path for f in client.list_artifacts(run_id)}
    assert {"feature_importance.png", "feature_importance.csv", "confusion_matrix.png", "calibration.png", "gates.csv",
            "classification_report.txt", "model.onnx", "training_frame.parquet", "lineage.json"} <= names  # fmt: skip
    kept = pl.read_parquet(client.download_artifacts(run_id, "training_frame.parquet", str(tmp_path)))
    assert kept.equals(frame())
    assert Path(client.download_artifacts(run_id, "calibration.png", str(tmp_path))).read_bytes()[:4] == b"\x89PNG"
    lineage = json.loads(Path(client.download_artifacts(run_id, "lineage.json", str(tmp_path))).read_text())
    assert lineage["data_versions"] == VERSIONS and lineage["training_digest"] == trained().digest


def test_an_active_run_is_used_and_left_open(uri: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("device_failure")
    with mlflow.start_run() as outer:
        assert log_example(uri) == outer.info.run_id
        active = mlflow.active_run()
        assert active is not None and active.info.run_id == outer.info.run_id


def test_a_frame_that_was_not_learnt_from_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="digest differs"):
        log_training(trained(), b"", frame().head(10), data_versions={}, code_version="1", tracking_uri=uri)


def test_the_life_of_versions(uri: str, run_id: str) -> None:
    moments = iter(datetime(2024, 9, 1, tzinfo=UTC) + timedelta(days=i) for i in range(30))
    registry = Registry(uri, now=lambda: next(moments))
    good, bad = evaluate_gates(trained(), 1e-7)[1], evaluate_gates(trained(), 1.0)[1]
    with pytest.raises(RegistryError, match=r"has no champion.*Train and promote one first"):
        load_champion(uri)

    content, ledger = export(trained()), []
    first, row = registry.register(content, run_id, trained().digest, dagster_run_id="run-7")
    ledger.append(row)
    assert registry.alias(MODEL_NAME, "challenger") == first
    with pytest.raises(ValueError, match="onnx_parity"):
        registry.promote(first, bad)
    assert registry.alias(MODEL_NAME, "champion") is None
    ledger.append(registry.reject(first, bad))
    ledger.append(registry.promote(first, good))
    assert registry.alias(MODEL_NAME, "champion") == first and registry.alias(MODEL_NAME, "challenger") is None
    with pytest.raises(RegistryError, match="no previous version"):
        registry.rollback("worse than thought")
    with pytest.raises(RegistryError, match="champion already"):
        registry.promote(first, good)

    second, row = registry.register(content, run_id, "b" * 64)
    ledger += [row, registry.promote(second, good)]
    assert (registry.alias(MODEL_NAME, "champion"), registry.alias(MODEL_NAME, "previous")) == (second, first)
    loaded = load_champion(uri)
    assert (loaded.version, loaded.training_digest, loaded.run_id) == (second, "b" * 64, run_id)
    rows = laboratory()[0].tail(40).with_columns(device_type=pl.lit("x"), facility_id=pl.lit("y"))
    assert loaded.scorer.probability(rows) == pytest.approx(trained().probability(rows), abs=1e-4)
    scores = score(rows, loaded.scorer, loaded.name, loaded.version, datetime(2024, 9, 10, tzinfo=UTC))

    with pytest.raises(ValueError, match="needs a reason"):
        registry.rollback(" ")
    ledger.append(registry.rollback("matured recall fell"))
    assert registry.alias(MODEL_NAME, "champion") == first and registry.alias(MODEL_NAME, "previous") is None
    with pytest.raises(RegistryError, match="no previous version"):
        rollback(uri, "again")
    with pytest.raises(RegistryError, match="no version 99"):
        registry.load(MODEL_NAME, "99")

    book = pl.concat(ledger)
    MODEL_LEDGER.schema.validate(book, lazy=True)
    assert book["action"].to_list() == ["registered", "rejected", "promoted", "registered", "promoted", "rolled_back"]
    assert book["from_version"].to_list() == [None, None, None, first, first, second]
    assert book["event_id"].n_unique() == book.height
    assert (book["mlflow_run_id"] == run_id).all() and book["dagster_run_id"][0] == "run-7"
    gates = gates_of(book.row(2, named=True))
    assert gates is not None and gates["gate"].to_list() == good["gate"].to_list()
    assert [champion_at(book, MODEL_NAME, t) for t in (book["at"][2], book["at"][4], book["at"][5])] == [
        first,
        second,
        first,
    ]
    with pytest.raises(LedgerError, match="had no champion"):
        champion_at(book, MODEL_NAME, datetime(2024, 1, 1, tzinfo=UTC))

    answer = who_scored(scores, book, "D000", scores["as_of_date"][0])
    assert (answer["version"], answer["training_digest"], answer["mlflow_run_id"]) == (second, "b" * 64, run_id)
    assert answer["reigned"] is False  # scored on 10 September, when the roll-back had happened
    earlier = scores.with_columns(scored_at=book["at"][4] + timedelta(hours=1))
    assert who_scored(earlier, book, "D000", scores["as_of_date"][0])["reigned"] is True
    with pytest.raises(LedgerError, match="no score of"):
        who_scored(scores, book, "D000", date(1999, 1, 1))


def test_ledger_rows_are_checked() -> None:
    at = datetime(2024, 1, 1, tzinfo=UTC)
    row = ledger_row(at=at, model_name="m", version="1", action="promoted", reason="r")
    assert row["event_id"][0] == ledger_row(at=at, model_name="m", version="1", action="promoted", reason="r")["event_id"][0]
    with pytest.raises(ValueError, match="none of registered"):
        ledger_row(at=at, model_name="m", version="1", action="crowned", reason="r")
    with pytest.raises(ValueError, match="time zone"):
        ledger_row(at=at.replace(tzinfo=None), model_name="m", version="1", action="promoted", reason="r")


def test_importing_the_room_loads_no_heavy_library() -> None:
    code = (
        "import sys, pkgutil, importlib, lims_platform.learning as room\n"
        "[importlib.import_module(f'lims_platform.learning.{m.name}') for m in pkgutil.iter_modules(room.__path__)]\n"
        "heavy = ('mlflow', 'sklearn', 'skl2onnx', 'onnxruntime', 'onnx', 'altair', 'dagster')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
