"""Model assets: device failures, contamination, the ledger of their lives. Here: inputs, metadata. Not here: training."""

from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from lims_platform.assets.common import CODE_VERSION, ONE_RUN, OWNERS, column_schema, reads
from lims_platform.assets.reports import plots
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.reporting.model_charts import calibration, precision_recall
from lims_platform.settings import settings

if TYPE_CHECKING:
    from lims_platform.learning.cycle import Turn


def told(turn: "Turn", lake: Lake, data_end: date) -> dg.MaterializeResult:
    """The ledger rows kept, and what a person wants to know of the turn."""
    from lims_platform.learning.metrics import calibration_table, pr_curve

    metadata: dict[str, Any] = {"outcome": turn.outcome, "data_end": str(data_end)}
    if turn.model is not None and turn.ledger is not None and turn.gates is not None:
        lake.append(TABLES["model_ledger"], turn.ledger)
        shown = {k: float(v) for k, v in turn.model.metrics.items() if v == v}
        gates = "\n".join(
            f"- {'ok' if g['passed'] else 'FAILED'} {g['gate']}: {g['value']:.4g} ({g['limit']})"
            for g in turn.gates.to_dicts()
        )
        metadata |= {"version": turn.version, "mlflow_run_id": turn.run_id, "candidate": turn.model.candidate.name}
        curves, groups = turn.examined(pr_curve), turn.examined(calibration_table)
        pictures = plots(precision_recall(curves), calibration(groups))
        metadata |= {"gates": dg.MetadataValue.md(gates), "plots": pictures, **shown}
    return dg.MaterializeResult(metadata=metadata)


def model_asset(name: str, description: str) -> dict[str, Any]:
    """Arguments of ``dg.asset`` that every model shares."""
    return {
        "key": ["models", name],
        "group_name": "models",
        "description": f"{description}, champion if it passes its gates.",
        "kinds": {"scikitlearn", "mlflow", "onnx"},
        "owners": [OWNERS["models"]],
        "tags": {"layer": "models"},
        "code_version": CODE_VERSION,
        "backfill_policy": ONE_RUN,
        "metadata": {"dagster/column_schema": column_schema(TABLES["model_ledger"])},
    }


@dg.asset(
    **model_asset("device_failure_model", "Trained on every mature day, examined on the last 60"),
    ins={"features": reads("device_failure_features"), "logs": reads("device_metrics_normalized")},
)
def device_failure_model(
    context: dg.AssetExecutionContext,
    features: pl.LazyFrame,
    logs: pl.LazyFrame,
    lake: dg.ResourceParam[Lake],
    mlflow: dg.ResourceParam[Any],
) -> dg.MaterializeResult:
    from lims_platform.learning.cycle import retrain
    from lims_platform.learning.labels import failure_events, last_day_of_logs

    data_end = last_day_of_logs(logs, settings().today)
    versions = {name: lake.version(TABLES[name]) for name in ("device_failure_features", "device_metrics_normalized")}
    turn = retrain(
        pl.DataFrame(features.filter(pl.col("as_of_date") <= data_end).collect()),
        failure_events(logs),
        data_end,
        settings().timezone,
        settings().tracking_uri,
        versions,
        CODE_VERSION,
        context.run_id,
    )
    context.log.info(f"device failure model: {turn.outcome}")
    return told(turn, lake, data_end)


@dg.asset(
    **model_asset("contamination_model", "P(contaminated) of a batch sample; trained on confirmed samples"),
    ins={"samples": reads("sample_measurements")},
)
def contamination_model(
    context: dg.AssetExecutionContext, samples: pl.LazyFrame, lake: dg.ResourceParam[Lake]
) -> dg.MaterializeResult:
    from lims_platform.learning.contamination import contamination_frame
    from lims_platform.learning.cycle import turn
    from lims_platform.learning.spec import CONTAMINATION
    from lims_platform.learning.tracking import make_store

    make_store(settings().tracking_uri)
    data_end = settings().today - timedelta(days=1)
    versions = {"sample_measurements": lake.version(TABLES["sample_measurements"])}
    frame = contamination_frame(samples, data_end)
    ended = turn(CONTAMINATION, frame, data_end, settings().tracking_uri, versions, CODE_VERSION, context.run_id)
    context.log.info(f"contamination model: {ended.outcome}")
    return told(ended, lake, data_end)


MODEL_ASSETS = [device_failure_model, contamination_model]
