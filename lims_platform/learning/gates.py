"""May this model take over? The gates between challenger and champion.

Here: the table of gates and their evaluation on the untouched test period. Not here: moving the alias (``registry``).

| gate | asks | default limit |
|---|---|---|
| enough_events | positive events (failure episodes) in the test period | at least 10 |
| beats_prevalence | PR-AUC / share of positives (what a coin achieves) | at least 1.5 |
| discriminates | lower end of the 95 % interval of ROC-AUC, bootstrapped by device (the spec's group) | above 0.6 |
| calibration_in_the_large | mean predicted / observed | within 0.5 to 2 |
| calibration_slope | slope of the logistic recalibration | within 0.5 to 2 |
| not_worse_than_champion | upper end of the 95 % interval of AUC(new) − AUC(champion), same rows | at least 0 |
| not_much_worse_than_champion | AUC(new) − AUC(champion) | at least −0.02 |
| onnx_parity | largest difference of ONNX and scikit-learn | at most 1e-4 |

The calibration limits are wide on purpose: a test period of a small laboratory holds some dozens of episodes. The
champion is compared by the bytes it serves, on rows neither has learnt from if its own training ended before the test
period; where it did not, it has an unfair advantage, which the gate's ``note`` says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lims_platform.learning.metrics import OneClassError
from lims_platform.learning.onnx_model import PARITY_TOLERANCE
from lims_platform.learning.resampling import auc_comparison
from lims_platform.learning.training import TrainedModel


@dataclass(frozen=True)
class Limits:
    """The limits of the gates; ValueError for one that is no finite number."""

    episodes: float = 10
    lift: float = 1.5
    auc_low: float = 0.6
    in_the_large: float = 2.0
    slope: float = 2.0
    champion_upper: float = 0.0
    champion_loss: float = -0.02
    parity: float = PARITY_TOLERANCE

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not math.isfinite(getattr(self, limit.name)):
                raise ValueError(f"Limits.{limit.name} is {getattr(self, limit.name)}")


def _row(gate: str, value: float, limit: str, passed: bool, note: str = "") -> dict[str, object]:
    """One gate; a value that is not finite never passes."""
    return {"gate": gate, "value": value, "limit": limit, "passed": bool(passed and math.isfinite(value)), "note": note}


def _within(value: float, factor: float) -> bool:
    return 1 / factor <= value <= factor


def evaluate_gates(
    model: TrainedModel,
    parity: float,
    champion: NDArray[np.float64] | None = None,
    champion_note: str = "",
    limits: Limits | None = None,
) -> tuple[bool, pl.DataFrame]:
    """Whether all gates pass, and the table: gate, value, limit, passed, note.

    ``parity`` is the answer of ``onnx_model.check_parity``; ``champion`` the reigning model's probability for each row
    of ``model.scored``, in its order, or None where nobody reigns.
    """
    limit, m = limits or Limits(), model.metrics
    rows = [
        _row("enough_events", m["events"], f">= {limit.episodes:g}", m["events"] >= limit.episodes),
        _gate_ratio("beats_prevalence", m["pr_auc"], m["prevalence"], limit.lift),
        _row("discriminates", m["roc_auc_low"], f"> {limit.auc_low:g}", m["roc_auc_low"] > limit.auc_low),
        _row(
            "calibration_in_the_large",
            m["mean_predicted"] / m["observed"],
            f"{1 / limit.in_the_large:g} to {limit.in_the_large:g}",
            _within(m["mean_predicted"] / m["observed"], limit.in_the_large),
        ),
        _row(
            "calibration_slope",
            m["calibration_slope"],
            f"{1 / limit.slope:g} to {limit.slope:g}",
            _within(m["calibration_slope"], limit.slope),
        ),
        _row("onnx_parity", parity, f"<= {limit.parity:g}", parity <= limit.parity),
    ]
    if champion is not None:
        rows += _against_champion(model, champion, champion_note, limit)
    table = pl.DataFrame(rows, schema_overrides={"value": pl.Float64})
    return bool(table["passed"].all()), table


def _gate_ratio(gate: str, value: float, reference: float, limit: float) -> dict[str, object]:
    return _row(gate, value / reference, f">= {limit:g}", value / reference >= limit)


def _against_champion(
    model: TrainedModel, champion: NDArray[np.float64], note: str, limit: Limits
) -> list[dict[str, object]]:
    scored = model.scored
    if champion.shape != (scored.height,):
        raise ValueError(f"champion scores of shape {champion.shape} for {scored.height} test rows")
    try:
        _, difference = auc_comparison(
            scored["label"].to_numpy(), scored["probability"].to_numpy(), champion, scored[model.spec.group].to_numpy()
        )
    except OneClassError as error:
        return [_row("not_worse_than_champion", float("nan"), f">= {limit.champion_upper:g}", False, str(error))]
    return [
        _row(
            "not_worse_than_champion",
            difference.high,
            f">= {limit.champion_upper:g}",
            difference.high >= limit.champion_upper,
            note,
        ),
        _row(
            "not_much_worse_than_champion",
            difference.estimate,
            f">= {limit.champion_loss:g}",
            difference.estimate >= limit.champion_loss,
            note,
        ),
    ]
