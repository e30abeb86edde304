"""The model as it leaves scikit-learn: one ONNX file that holds imputation, model, calibration and its own papers.

Here: conversion, the parity check, the scorer. Not here: scores as a table (``scoring``), the registry (``registry``).

Input ``features``: float32 (rows, features), NaN where unknown, in the order of the file's metadata. Output
``probability``: float32 (rows,), calibrated. Metadata (JSON under the key ``lims_platform``): features, reference,
base_rate, threshold, digest.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.learning.candidates import Calibrator
from lims_platform.learning.frames import matrix
from lims_platform.learning.metrics import EPSILON
from lims_platform.learning.training import TrainedModel

METADATA_KEY = "lims_platform"
PARITY_TOLERANCE = 1e-4
_OPSET = 18


class ParityError(RuntimeError):
    """The ONNX model does not say what the scikit-learn model says."""


class OnnxModelError(ValueError):
    """The bytes are no model of this platform."""


def export(model: TrainedModel) -> bytes:
    """The trained model as ONNX bytes, self-contained."""
    papers = {
        "features": model.features,
        "reference": [None if np.isnan(v) else v for v in model.reference],
        "base_rate": model.base_rate,
        "threshold": model.threshold,
        "digest": model.digest,
    }
    return convert(model.estimator, model.calibrator, len(model.features), papers)


def convert(estimator: Any, calibrator: Calibrator, width: int, papers: dict[str, Any]) -> bytes:
    """A fitted classifier and its calibration as one ONNX graph with ``papers`` as metadata."""
    from onnx import TensorProto, helper
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    raw: Any = to_onnx(
        estimator,
        initial_types=[("features", FloatTensorType([None, width]))],
        options={"zipmap": False},
        target_opset={"": _OPSET, "ai.onnx.ml": 3},
    )
    graph = raw.graph
    both = graph.output[1].name

    def scalar(name: str, value: float) -> str:
        graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
        return name

    graph.initializer.append(helper.make_tensor("lims_one_index", TensorProto.INT64, [], [1]))
    one, low, high = scalar("lims_one", 1.0), scalar("lims_low", EPSILON), scalar("lims_high", 1 - EPSILON)
    slope, intercept = scalar("lims_slope", calibrator.slope), scalar("lims_intercept", calibrator.intercept)
    graph.node.append(helper.make_node("Gather", [both, "lims_one_index"], ["lims_raw"], axis=1))
    for op, inputs, output in (
        ("Clip", ["lims_raw", low, high], "lims_p"),
        ("Log", ["lims_p"], "lims_log_p"),
        ("Sub", [one, "lims_p"], "lims_q"),
        ("Log", ["lims_q"], "lims_log_q"),
        ("Sub", ["lims_log_p", "lims_log_q"], "lims_logit"),
        ("Mul", ["lims_logit", slope], "lims_scaled"),
        ("Add", ["lims_scaled", intercept], "lims_z"),
        ("Sigmoid", ["lims_z"], "probability"),
    ):
        graph.node.append(helper.make_node(op, inputs, [output], name=f"{output}_node"))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None]))
    helper.set_model_props(raw, {METADATA_KEY: json.dumps(papers)})
    return bytes(raw.SerializeToString())


class OnnxScorer:
    """Scores rows with an ONNX file made by ``export``. Thread-safe; no scikit-learn, no pickle."""

    def __init__(self, content: bytes, threads: int = 0) -> None:
        """Load; ``threads`` 0 lets the runtime choose. OnnxModelError if the bytes are no model of this platform."""
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no public base class
            raise OnnxModelError(f"not a readable ONNX model: {str(error)[:200]}") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise OnnxModelError(
                f"the ONNX model carries no {METADATA_KEY!r} metadata: it was not exported by this platform"
            )
        papers = json.loads(metadata[METADATA_KEY])
        self.content = content
        self.features: list[str] = papers["features"]
        self.reference = np.array([np.nan if v is None else v for v in papers["reference"]], dtype=np.float32)
        self.base_rate = float(papers["base_rate"])
        self.threshold = float(papers["threshold"])
        self.digest: str = papers["digest"]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated P(failure), shape (rows,), of a float32 matrix (rows, features)."""
        if x.ndim != 2 or x.shape[1] != len(self.features):
            raise ValueError(f"features of shape {x.shape}; (rows, {len(self.features)}) expected")
        if not x.shape[0]:
            return np.empty(0)
        (out,) = self._session.run(["probability"], {"features": np.ascontiguousarray(x, dtype=np.float32)})
        return np.asarray(out, dtype=np.float64)

    def probability(self, frame: pl.DataFrame) -> NDArray[np.float64]:
        """The same of a frame that has the model's features; FrameError names missing ones."""
        return self(matrix(frame, self.features))


def check_parity(model: TrainedModel, scorer: OnnxScorer, frame: pl.DataFrame, tolerance: float = PARITY_TOLERANCE) -> float:
    """Largest |ONNX − scikit-learn| over ``frame`` and over the frame with every fifth value taken away (nulls must
    agree too).

    ParityError beyond ``tolerance``: conversion can go wrong silently, so no model leaves without this.
    """
    holes = [
        pl.when(pl.int_range(pl.len()) % 5 == i % 5).then(None).otherwise(pl.col(name)).alias(name)
        for i, name in enumerate(model.features)
    ]
    worst = 0.0
    for rows in (frame, frame.with_columns(holes)):
        if rows.height:
            worst = max(worst, float(np.abs(model.probability(rows) - scorer.probability(rows)).max()))
    if not worst <= tolerance:
        raise ParityError(f"{model.candidate.label}: ONNX and scikit-learn differ by {worst:.2e}, allowed {tolerance:.0e}")
    return worst
