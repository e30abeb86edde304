"""The life of models as a table: which version reigned when, and why.

Here: the contract of the model ledger. Not here: how rows are made (``learning.ledger``).
"""

from __future__ import annotations

import pandera.polars as pa

from lims_platform.contracts.base import Table, UtcTime, column, table

LEDGER_ACTIONS = ["registered", "promoted", "rejected", "rolled_back"]


class ModelLedger(pa.DataFrameModel):
    """One row per event in the life of a registered model; append-only.

    promoted and rolled_back make ``version`` the champion from ``at`` on; an alias has no history, this table has.
    """

    event_id: str = column("Identity of the event: SHA-256 of its content, 32 hex digits")
    at: UtcTime = column("When it happened")
    model_name: str = column("Registered model")
    version: str = column("Registry version the event is about; of a roll-back, the version that reigns again")
    action: str = column("registered, promoted, rejected or rolled_back", isin=LEDGER_ACTIONS)
    from_version: str = column("The champion before the event; null if there was none", nullable=True)
    gates: str = column("The gates' table as JSON; null where none were asked", nullable=True)
    training_digest: str = column("SHA-256 of the frame the version was trained on", nullable=True)
    mlflow_run_id: str = column("MLflow run that made the version", nullable=True)
    dagster_run_id: str = column("Dagster run of the event", nullable=True)
    reason: str = column("Why, in plain words")

    class Config:
        name = "model_ledger"
        strict = True


MODEL_LEDGER: Table = table("models", ("event_id",), None, ModelLedger)
LEARNING_TABLES: dict[str, Table] = {MODEL_LEDGER.name: MODEL_LEDGER}
