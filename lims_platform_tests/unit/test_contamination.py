"""The contamination model goes the way of every model: its frame, its split by time, its gates; only the spec differs."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.learning.candidates import default_candidates
from lims_platform.learning.contamination import contamination_frame
from lims_platform.learning.gates import evaluate_gates
from lims_platform.learning.onnx_model import OnnxScorer, check_parity, export
from lims_platform.learning.spec import CONTAMINATION
from lims_platform.learning.tracking import note_outcome, run
from lims_platform.learning.training import NotTrainable, train

FIRST, DAYS, A_DAY = date(2024, 1, 1), 120, 25


@pytest.fixture(scope="module")
def silver() -> pl.LazyFrame:
    """Samples whose contamination follows turbidity and distance from pH 7.2; one in ten is not confirmed."""
    rng, n = np.random.default_rng(8), DAYS * A_DAY
    ph, turbidity = rng.normal(7.2, 0.3, n), rng.gamma(2, 1.0, n)
    chance = 1 / (1 + np.exp(5 - 6 * np.abs(ph - 7.2) - 0.8 * turbidity))
    known = {
        "row_key": [f"k{i:05d}" for i in range(n)],
        "event_date": [FIRST + timedelta(days=i // A_DAY) for i in range(n)],
        "batch_id": [None if i % 50 == 0 else f"B{i // 8}" for i in range(n)],
        "ph_level": pl.Series(ph).set(pl.Series(rng.random(n) < 0.02), None),
        "storage_temp_c": rng.normal(4, 0.3, n),
        "turbidity_ntu": turbidity,
        "processing_time_hours": rng.gamma(2, 1.0, n),
        "is_contaminated": pl.Series(rng.random(n) < chance).set(pl.Series(rng.random(n) < 0.1), None),
        "reason": ["no_usable_time" if i == 7 else None for i in range(n)],
    }
    frame = pl.DataFrame(known)
    return frame.select(
        pl.col(name).cast(dtype) if name in known else pl.lit(None, dtype).alias(name)
        for name, dtype in TABLES["sample_measurements"].dtypes.items()
    ).lazy()


def test_only_confirmed_samples_teach_and_faults_stay_unknown(silver: pl.LazyFrame) -> None:
    frame = contamination_frame(silver, FIRST + timedelta(days=99))
    assert frame["as_of_date"].max() == FIRST + timedelta(days=99)
    assert set(frame["label"].unique()) == {0, 1} and "k00007" not in frame["row_key"]
    assert 0 < frame["ph_level"].null_count() < 0.05 * frame.height
    assert frame["batch_id"].null_count() == 0


def test_trained_examined_and_exported_like_any_model(silver: pl.LazyFrame) -> None:
    frame = contamination_frame(silver, FIRST + timedelta(days=DAYS - 1))
    quick = [c for c in default_candidates() if "forest" in c.label][:1] or default_candidates()[:1]
    model = train(frame, spec=CONTAMINATION, candidates=quick, test_days=30, folds=2)
    assert set(model.features) == set(CONTAMINATION.features or ())
    assert model.split.fit.last < model.split.test.first
    assert model.metrics["events"] == model.metrics["positives"] and "alarm_recall" not in model.metrics
    assert model.metrics["roc_auc"] > model.baseline_metrics["naive_roc_auc"]
    assert model.importance["feature"][:2].to_list() != ["storage_temp_c", "processing_time_hours"]
    parity = check_parity(model, OnnxScorer(export(model)), frame.tail(200))
    passed, gates = evaluate_gates(model, parity, model.scored["probability"].to_numpy(), "the same model")
    assert passed, gates


def test_too_few_contaminated_samples_is_an_outcome_in_words(silver: pl.LazyFrame) -> None:
    frame = contamination_frame(silver, FIRST + timedelta(days=DAYS - 1)).with_columns(label=pl.lit(0, pl.Int8))
    with pytest.raises(NotTrainable, match="0 contaminated samples"):
        train(frame, spec=CONTAMINATION)


def test_a_second_model_of_a_run_is_recorded_below_the_first(tmp_path: Path) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_experiment("first")
    with mlflow.start_run() as outer, run(own=True, name="second") as own:
        assert own != outer.info.run_id
        mlflow.log_param("candidate", "another")
        note_outcome("rejected", own)
    client = mlflow.MlflowClient()
    assert client.get_run(own).data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert client.get_run(own).data.tags["outcome"] == "rejected"
    assert "candidate" not in client.get_run(outer.info.run_id).data.params
