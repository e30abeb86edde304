"""Training, ONNX, gates and scores on a small fleet whose failures can be foreseen."""

from __future__ import annotations

import dataclasses
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

import numpy as np
import polars as pl
import pytest

from lims_platform.contracts.gold import GOLD_TABLES
from lims_platform.learning.candidates import TIE, Candidate, blend, gradient_boosting, logistic, random_forest
from lims_platform.learning.frames import FrameError, matrix
from lims_platform.learning.gates import Limits, evaluate_gates
from lims_platform.learning.metrics import logit
from lims_platform.learning.onnx_model import OnnxModelError, OnnxScorer, ParityError, check_parity, convert, export
from lims_platform.learning.scoring import effects, risk_score, score
from lims_platform.learning.training import NotTrainable, TrainedModel, train
from lims_platform_tests.unit.test_learning_frames import START, frame, laboratory

SMALL = (random_forest(trees=20), gradient_boosting(4, 40), logistic(0.1))
END = START + timedelta(days=239)
NOW = datetime(2024, 9, 1, 2, tzinfo=UTC)


@lru_cache(maxsize=1)
def trained() -> TrainedModel:
    """One small training, shared by the tests."""
    return train(frame(), candidates=SMALL, test_days=50, data_end=END)


@lru_cache(maxsize=1)
def scorer() -> OnnxScorer:
    """The same as ONNX."""
    return OnnxScorer(export(trained()))


class TestTraining:
    def test_learns_and_says_so_honestly(self) -> None:
        model = trained()
        assert model.metrics["roc_auc"] > 0.75
        assert model.metrics["roc_auc_low"] < model.metrics["roc_auc"] < model.metrics["roc_auc_high"]
        assert model.metrics["pr_auc"] > 2 * model.baseline_metrics["prevalence_pr_auc"]
        assert model.metrics["roc_auc"] > model.baseline_metrics["naive_roc_auc"]
        assert model.importance["feature"][0] == "qc_imprecision_7d"
        assert sum(model.confusion.values()) == model.scored.height
        assert model.dropped == ["nothing_known"]
        assert 0.5 < model.metrics["mean_predicted"] / model.metrics["observed"] < 2

    def test_winner_follows_the_rule(self) -> None:
        table = trained().comparison
        near = table.filter(pl.col("pr_auc") >= (1 - TIE) * pl.col("pr_auc").max()).sort("log_loss")
        assert table.filter("chosen")["candidate"].to_list() == [near["candidate"][0]]
        assert table.height == len(SMALL) + 1  # and their blend

    def test_same_frame_same_model(self) -> None:
        shuffled = frame().sample(fraction=1, shuffle=True, seed=1).sort("as_of_date", "device_id")
        again = train(shuffled, candidates=SMALL, test_days=50, data_end=END)
        assert again.digest == trained().digest
        assert again.metrics == pytest.approx(trained().metrics, rel=1e-9, nan_ok=True)
        assert export(again) == export(trained())

    def test_nothing_of_gap_and_test_is_learnt(self) -> None:
        late = pl.col("as_of_date") > trained().split.fit.last
        rng = np.random.default_rng(0)
        spoilt = frame().with_columns(
            pl.when(late).then(pl.Series(rng.normal(9, 3, frame().height))).otherwise(pl.col(n)).alias(n)
            for n in ("error_rate_7d", "qc_imprecision_7d")
        )
        other = train(spoilt, candidates=SMALL, test_days=50, data_end=END)
        early = frame().filter(~late)
        assert np.array_equal(other.probability(early), trained().probability(early))
        assert (other.threshold, other.base_rate) == (trained().threshold, trained().base_rate)
        assert other.metrics != trained().metrics

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda f: f.with_columns(label=pl.lit(0, pl.Int8)), "training period holds 0 failure episodes"),
            (lambda f: f.with_columns(label=pl.lit(1, pl.Int8)), "no device-days that are 'no failure'"),
            (
                lambda f: f.filter((pl.col("label") == 0) | (pl.col("as_of_date") < date(2024, 6, 1))),
                "test period holds 0",
            ),
            (lambda f: f.filter(pl.col("as_of_date") > date(2024, 7, 15)), "mature days"),
            (lambda f: f.clear(), "no labelled rows"),
            (
                lambda f: f.select("device_id", "as_of_date", "label", "failure_date", a=pl.lit(1.0)),
                "none of the 1 features",
            ),
        ],
    )
    def test_what_cannot_be_trained_says_why(self, spoil: object, reason: str) -> None:
        with pytest.raises(NotTrainable, match=reason) as caught:
            train(spoil(frame()), candidates=SMALL, test_days=50, data_end=END)  # type: ignore[operator]
        assert reason in caught.value.reason


class TestOnnx:
    @pytest.mark.parametrize("candidate", [*SMALL, blend(SMALL)], ids=lambda c: c.name)
    def test_every_candidate_leaves_with_nulls_and_calibration(self, candidate: Candidate) -> None:
        names = trained().features
        learnt = frame().head(3000)
        estimator = candidate.make(1)
        estimator.fit(matrix(learnt, names), learnt["label"].to_numpy())
        model = dataclasses.replace(trained(), estimator=estimator, candidate=candidate)
        got = OnnxScorer(export(model))
        assert check_parity(model, got, frame().tail(1500)) <= 1e-4
        assert got.features == names and got.base_rate == model.base_rate and got.digest == model.digest

    def test_disagreement_is_an_error(self) -> None:
        model = trained()
        other = dataclasses.replace(model, calibrator=dataclasses.replace(model.calibrator, intercept=0.5))
        with pytest.raises(ParityError, match="differ by"):
            check_parity(other, scorer(), frame().tail(200))

    def test_forest_with_its_own_nulls_is_caught(self) -> None:
        """The silent error that parity exists for: a forest that reads NaN itself converts without complaint."""
        from sklearn.ensemble import RandomForestClassifier

        names = trained().features
        learnt = frame().with_columns(
            pl.when(pl.int_range(pl.len()) % 3 == 0).then(None).otherwise(pl.col(n)).alias(n) for n in names
        )
        forest = RandomForestClassifier(30, min_samples_leaf=5, random_state=0)
        forest.fit(matrix(learnt, names), learnt["label"].to_numpy())
        model = dataclasses.replace(trained(), estimator=forest)
        with pytest.raises(ParityError):
            check_parity(model, OnnxScorer(export(model)), learnt)

    def test_foreign_bytes_are_refused(self) -> None:
        import onnx

        with pytest.raises(OnnxModelError, match="not a readable ONNX model"):
            OnnxScorer(b"nothing")
        raw = onnx.load_model_from_string(scorer().content)
        del raw.metadata_props[:]
        with pytest.raises(OnnxModelError, match="no 'lims_platform' metadata"):
            OnnxScorer(raw.SerializeToString())

    def test_shapes(self) -> None:
        assert scorer()(np.empty((0, len(scorer().features)), dtype=np.float32)).shape == (0,)
        with pytest.raises(ValueError, match="expected"):
            scorer()(np.zeros((2, 1), dtype=np.float32))
        with pytest.raises(FrameError, match="missing: qc_imprecision_7d"):
            scorer().probability(frame().drop("qc_imprecision_7d"))

    def test_convert_takes_any_papers(self) -> None:
        model = trained()
        assert convert(model.estimator, model.calibrator, len(model.features), {"features": []})


class TestGates:
    def test_a_good_model_passes_and_the_table_says_how(self) -> None:
        passed, table = evaluate_gates(trained(), 1e-7)
        assert passed and table["passed"].all()
        assert table.columns == ["gate", "value", "limit", "passed", "note"]

    @pytest.mark.parametrize(
        ("change", "gate"),
        [
            ({"events": 9.0}, "enough_events"),
            ({"pr_auc": 0.01}, "beats_prevalence"),
            ({"roc_auc_low": 0.6}, "discriminates"),
            ({"mean_predicted": 0.9}, "calibration_in_the_large"),
            ({"calibration_slope": 0.3}, "calibration_slope"),
            ({"calibration_slope": float("nan")}, "calibration_slope"),
        ],
    )
    def test_each_gate_can_close(self, change: dict[str, float], gate: str) -> None:
        model = dataclasses.replace(trained(), metrics={**trained().metrics, **change})
        passed, table = evaluate_gates(model, 1e-7)
        assert not passed and table.filter(~pl.col("passed"))["gate"].to_list() == [gate]

    def test_parity_closes_too(self) -> None:
        assert evaluate_gates(trained(), 2e-4)[1].filter(~pl.col("passed"))["gate"].to_list() == ["onnx_parity"]

    def test_champion_on_the_same_rows(self) -> None:
        scored = trained().scored
        same = scored["probability"].to_numpy()
        assert evaluate_gates(trained(), 0.0, same)[0]
        oracle = scored["label"].to_numpy() + 0.001 * same
        passed, table = evaluate_gates(trained(), 0.0, oracle, "trained on these days")
        assert not passed
        assert set(table.filter(~pl.col("passed"))["gate"]) == {
            "not_worse_than_champion",
            "not_much_worse_than_champion",
        }
        assert "trained on these days" in table["note"].to_list()
        with pytest.raises(ValueError, match="test rows"):
            evaluate_gates(trained(), 0.0, same[1:])

    def test_limits_are_numbers(self) -> None:
        with pytest.raises(ValueError, match="auc_low"):
            Limits(auc_low=float("nan"))


class TestScoring:
    def scores(self, rows: pl.DataFrame) -> pl.DataFrame:
        rows = rows.with_columns(device_type=pl.lit("Chemistry"), facility_id=pl.lit("F1"))
        return score(rows, scorer(), "device_failure_predictor", "3", NOW)

    def test_rows_keep_the_contract(self) -> None:
        features = laboratory()[0].tail(400)
        got = self.scores(features)
        table = GOLD_TABLES["device_risk_scores"]
        table.schema.validate(got, lazy=True)
        assert dict(got.schema) == table.dtypes
        assert got["device_id"].to_list() == features["device_id"].to_list()
        with pytest.raises(Exception, match="risk_level"):
            table.schema.validate(got.with_columns(risk_level=pl.lit("SEVERE")), lazy=True)

    def test_levels_are_cut_as_the_specification_says(self) -> None:
        got = self.scores(laboratory()[0])
        s, level = got["risk_score"], got["risk_level"]
        want = pl.Series(["CRITICAL" if v >= 80 else "HIGH" if v >= 60 else "MEDIUM" if v >= 30 else "LOW" for v in s])
        assert (level == want).all()
        assert level.n_unique() == 4

    def test_risk_score_is_monotone_and_means_odds_against_the_average(self) -> None:
        p = np.linspace(0, 1, 1001)
        s = risk_score(p, 0.08)
        assert (np.diff(s) >= 0).all() and s.min() >= 0 and s.max() <= 100
        assert risk_score(np.array([0.08]), 0.08)[0] == pytest.approx(20)
        assert risk_score(np.array([0.2]), 0.2)[0] == pytest.approx(20)
        high = risk_score(np.array([6 * 0.08 / (0.92 + 6 * 0.08)]), 0.08)[0]
        assert high == pytest.approx(60)
        with pytest.raises(ValueError, match="base_rate"):
            risk_score(p, 0.0)

    def test_factors_are_what_occlusion_says_row_by_row(self) -> None:
        rows = laboratory()[0].tail(300)
        x = matrix(rows, scorer().features)
        got = effects(scorer(), x, scorer()(x))
        for i, j in ((0, 0), (17, 1), (250, 2), (299, 3)):
            changed = x[i : i + 1].copy()
            changed[0, j] = scorer().reference[j]
            assert got[i, j] == pytest.approx(logit(scorer()(x[i : i + 1]))[0] - logit(scorer()(changed))[0], abs=1e-4)

    def test_a_planted_fault_is_named_first(self) -> None:
        usual = dict(zip(scorer().features, scorer().reference.tolist(), strict=True))
        row = laboratory()[0].tail(1).with_columns(
            [pl.lit(v).cast(laboratory()[0].schema[n]).alias(n) for n, v in usual.items()]
        )  # fmt: skip
        calm = self.scores(row)
        assert calm["top_factors"].to_list() == [None] and calm["risk_level"][0] == "LOW"
        loud = self.scores(row.with_columns(qc_imprecision_7d=pl.lit(2.0)))
        assert loud["top_factors"][0].startswith("qc_imprecision_7d 2 (usual 1")
        assert loud["risk_score"][0] > calm["risk_score"][0]
        assert "check controls" in loud["recommended_action"][0]

    def test_a_device_that_is_down_is_told_to_be_repaired(self) -> None:
        got = self.scores(laboratory()[0].tail(1).with_columns(in_outage=pl.lit(True)))
        assert got["recommended_action"][0].startswith("Down after a failure")

    def test_no_rows_and_naive_time(self) -> None:
        assert self.scores(laboratory()[0].clear()).height == 0
        with pytest.raises(ValueError, match="time zone"):
            score(laboratory()[0].head(1), scorer(), "m", "1", NOW.replace(tzinfo=None))
