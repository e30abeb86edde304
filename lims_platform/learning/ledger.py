"""The ledger of models: rows of events, and the questions it answers.

Here: pure functions over the table ``model_ledger``. Not here: the registry's aliases (``registry``), storing rows
(the caller).
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from lims_platform.contracts.learning import LEDGER_ACTIONS, MODEL_LEDGER

_REIGNS = ("promoted", "rolled_back")


class LedgerError(LookupError):
    """The ledger holds no answer; the message says what is missing."""


def ledger_row(
    *,
    at: datetime,
    model_name: str,
    version: str,
    action: str,
    reason: str,
    from_version: str | None = None,
    gates: pl.DataFrame | None = None,
    training_digest: str | None = None,
    mlflow_run_id: str | None = None,
    dagster_run_id: str | None = None,
) -> pl.DataFrame:
    """One row of the contract ``model_ledger``. ``at`` has a time zone. The same event always has the same
    event_id."""
    if at.tzinfo is None:
        raise ValueError("ledger_row: at needs a time zone")
    if action not in LEDGER_ACTIONS:
        raise ValueError(f"ledger_row: action {action!r} is none of {', '.join(LEDGER_ACTIONS)}")
    row: dict[str, Any] = {
        "at": at.astimezone(UTC),
        "model_name": model_name,
        "version": str(version),
        "action": action,
        "from_version": from_version,
        "gates": None if gates is None else json.dumps(gates.to_dicts()),
        "training_digest": training_digest,
        "mlflow_run_id": mlflow_run_id,
        "dagster_run_id": dagster_run_id,
        "reason": reason,
    }
    text = json.dumps({**row, "at": row["at"].isoformat()}, sort_keys=True)
    row["event_id"] = hashlib.sha256(text.encode()).hexdigest()[:32]
    return pl.DataFrame([row], schema=MODEL_LEDGER.dtypes)


def champion_at(ledger: pl.DataFrame, model_name: str, at: datetime) -> str:
    """The version that reigned at that moment; LedgerError if none did."""
    reigns = ledger.filter(pl.col("model_name") == model_name, pl.col("action").is_in(_REIGNS), pl.col("at") <= at)
    if not reigns.height:
        raise LedgerError(f"{model_name} had no champion at {at.isoformat()}")
    return str(reigns.sort("at", maintain_order=True)["version"][-1])


def who_scored(scores: pl.DataFrame, ledger: pl.DataFrame, device_id: str, day: date) -> dict[str, Any]:
    """Which version scored this device on that day, trained on what.

    ``scores`` are device_risk_scores. Answers model_name, version, scored_at, failure_probability, training_digest,
    mlflow_run_id, and reigned: whether the ledger agrees that the version was champion at scored_at. LedgerError if
    the device has no score of the day or the ledger does not know the version.
    """
    score = scores.filter(pl.col("device_id") == device_id, pl.col("as_of_date") == day)
    if not score.height:
        raise LedgerError(f"device {device_id} has no score of {day}")
    found = score.row(0, named=True)
    version = ledger.filter(
        pl.col("model_name") == found["model_name"],
        pl.col("version") == found["model_version"],
        pl.col("training_digest").is_not_null(),
    )
    if not version.height:
        raise LedgerError(f"the ledger does not know {found['model_name']} version {found['model_version']}")
    origin = version.sort("at").row(0, named=True)
    try:
        reigned = champion_at(ledger, found["model_name"], found["scored_at"]) == found["model_version"]
    except LedgerError:
        reigned = False
    return {
        "model_name": found["model_name"],
        "version": found["model_version"],
        "scored_at": found["scored_at"],
        "failure_probability": found["failure_probability"],
        "training_digest": origin["training_digest"],
        "mlflow_run_id": origin["mlflow_run_id"],
        "reigned": reigned,
    }
