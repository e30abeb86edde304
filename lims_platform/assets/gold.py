"""Gold assets: features as known at the end of each day, and operational marts of the current truth.

Here: which tables and which trailing days feed which function. Not here: formulas (``laboratory``).
"""

import dagster as dg
import polars as pl

from lims_platform.assets.common import reads, run_range, table_asset
from lims_platform.contracts.reference import Reference
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import validity
from lims_platform.laboratory.device_health import device_failure_features as device_features
from lims_platform.laboratory.device_logs import normalise_device_logs
from lims_platform.laboratory.outbreaks import outbreak_risk_features as outbreak_features
from lims_platform.laboratory.proposals import unmapped_codes as work_list
from lims_platform.laboratory.qc_rule_sets import RuleChoice, performance_between, violations_between
from lims_platform.laboratory.quality import quality_anomaly_features as quality_features
from lims_platform.laboratory.scorecard import data_quality_scorecard as scorecard
from lims_platform.laboratory.standardise_qc import standardise_qc
from lims_platform.laboratory.turnaround import turnaround_kpis as turnaround
from lims_platform.lakehouse.versions import live_rows
from lims_platform.partitions import BASELINE_DAYS, DEVICE_HISTORY_DAYS, OUTBREAK_HISTORY_DAYS, trailing
from lims_platform.settings import settings


@dg.asset(
    **table_asset(
        "device_failure_features",
        kinds={"polars", "deltalake"},
        group="features",
        ins={
            "devices": reads("devices_raw"),
            "results": reads("lab_results_history", trailing(DEVICE_HISTORY_DAYS)),
            "logs": reads("device_logs_raw", trailing(DEVICE_HISTORY_DAYS)),
            "controls": reads("quality_control_raw", trailing(DEVICE_HISTORY_DAYS)),
        },
    )
)
def device_failure_features(
    context: dg.AssetExecutionContext,
    devices: pl.LazyFrame,
    results: pl.LazyFrame,
    logs: pl.LazyFrame,
    controls: pl.LazyFrame,
    reference: dg.ResourceParam[Reference],
) -> pl.DataFrame:
    first, last = run_range(context)
    events = normalise_device_logs(validity(logs), history=True)
    measured = standardise_qc(validity(controls), reference)
    return device_features(live_rows(devices), results, events, measured, first, last, settings().timezone)


@dg.asset(
    **table_asset(
        "outbreak_risk_features",
        kinds={"polars", "deltalake"},
        group="features",
        ins={"history": reads("lab_results_history", trailing(OUTBREAK_HISTORY_DAYS))},
    )
)
def outbreak_risk_features(
    context: dg.AssetExecutionContext, history: pl.LazyFrame, reference: dg.ResourceParam[Reference]
) -> pl.DataFrame:
    first, last = run_range(context)
    rate = settings().outbreak_false_alarms
    return outbreak_features(history, reference.analytes, first, last, settings().timezone, false_alarms=rate)


@dg.asset(
    **table_asset(
        "quality_anomaly_features",
        kinds={"polars", "deltalake"},
        group="features",
        ins={"history": reads("lab_results_history", trailing(BASELINE_DAYS))},
    )
)
def quality_anomaly_features(
    context: dg.AssetExecutionContext, history: pl.LazyFrame, reference: dg.ResourceParam[Reference]
) -> pl.DataFrame:
    first, last = run_range(context)
    return quality_features(history, reference.analytes, first, last, settings().timezone)


@dg.asset(
    **table_asset(
        "westgard_violations",
        kinds={"polars", "deltalake"},
        group="operations",
        ins={
            "controls": reads("quality_control_standardized", trailing(DEVICE_HISTORY_DAYS)),
            "logs": reads("device_metrics_normalized", trailing(DEVICE_HISTORY_DAYS)),
        },
    )
)
def westgard_violations(
    context: dg.AssetExecutionContext, controls: pl.LazyFrame, logs: pl.LazyFrame, reference: dg.ResourceParam[Reference]
) -> pl.DataFrame:
    first, last = run_range(context)
    return violations_between(controls, logs, first, last, settings().timezone, _rule_choice(reference))


@dg.asset(
    **table_asset(
        "qc_performance",
        kinds={"polars", "deltalake"},
        group="operations",
        ins={"controls": reads("quality_control_standardized", trailing(DEVICE_HISTORY_DAYS))},
    )
)
def qc_performance(
    context: dg.AssetExecutionContext, controls: pl.LazyFrame, reference: dg.ResourceParam[Reference]
) -> pl.DataFrame:
    return performance_between(controls, *run_range(context), _rule_choice(reference))


def _rule_choice(reference: Reference) -> RuleChoice:
    chosen = settings()
    return RuleChoice(chosen.westgard_rules, chosen.westgard_by_sigma, reference.analytes, reference.sigma_rules)


@dg.asset(
    **table_asset(
        "turnaround_kpis", kinds={"polars", "deltalake"}, group="operations", ins={"rows": reads("lab_results_standardized")}
    )
)
def turnaround_kpis(rows: pl.LazyFrame) -> pl.DataFrame:
    return turnaround(rows)


@dg.asset(
    **table_asset(
        "data_quality_scorecard",
        kinds={"polars", "deltalake"},
        group="operations",
        ins={"valid": reads("lab_results_standardized"), "quarantined": reads("lab_results_quarantine")},
    )
)
def data_quality_scorecard(valid: pl.LazyFrame, quarantined: pl.LazyFrame) -> pl.DataFrame:
    return scorecard(valid, quarantined)


@dg.asset(
    **table_asset(
        "unmapped_codes", kinds={"polars", "deltalake"}, group="operations", ins={"rows": reads("lab_results_quarantine")}
    )
)
def unmapped_codes(rows: pl.LazyFrame, reference: dg.ResourceParam[Reference]) -> pl.DataFrame:
    return work_list(rows, reference).select(TABLES["unmapped_codes"].dtypes.keys())


GOLD_ASSETS = [
    device_failure_features,
    outbreak_risk_features,
    quality_anomaly_features,
    westgard_violations,
    qc_performance,
    turnaround_kpis,
    data_quality_scorecard,
    unmapped_codes,
]
