"""Patient-based QC assets: the tuned settings, their verification, the daily verdicts.

Here: which tables feed them and what the laboratory chose. Not here: statistics (``laboratory``), which are imported when
a run needs them: loading the definitions does not.
"""

from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from lims_platform.assets.common import reads, run_range, table_asset
from lims_platform.contracts.reference import Reference
from lims_platform.partitions import PATIENT_QC_DAYS, trailing
from lims_platform.settings import settings

if TYPE_CHECKING:
    from lims_platform.laboratory.patient_qc_tuning import Design


def chosen_design() -> "Design":
    """The laboratory's choices; the rest are the method's defaults."""
    from lims_platform.laboratory.patient_qc_tuning import Design

    chosen = settings()
    return Design(chosen.patient_qc_false_alarms, chosen.patient_qc_bias, memory_days=PATIENT_QC_DAYS)


@dg.asset(
    **table_asset(
        "patient_qc_settings",
        kinds={"scipy", "deltalake"},
        group="tuning",
        ins={"results": reads("lab_results_standardized"), "rejected": reads("westgard_violations")},
    )
)
def patient_qc_settings(
    results: pl.LazyFrame, rejected: pl.LazyFrame, reference: dg.ResourceParam[Reference]
) -> pl.DataFrame:
    from lims_platform.laboratory.patient_qc_settings import patient_qc_settings as tuned

    history_days = settings().patient_qc_history_days
    return tuned(results, rejected, reference.analytes, chosen_design(), settings().today, history_days)


@dg.asset(
    **table_asset(
        "patient_qc_verification",
        kinds={"scipy", "deltalake"},
        group="tuning",
        ins={"results": reads("lab_results_standardized"), "tuned": reads("patient_qc_settings")},
    )
)
def patient_qc_verification(
    results: pl.LazyFrame, tuned: pl.LazyFrame, reference: dg.ResourceParam[Reference]
) -> pl.DataFrame:
    from lims_platform.laboratory.patient_qc_settings import patient_qc_verification as verified

    return verified(results, tuned.collect(), reference.analytes, chosen_design())


@dg.asset(
    **table_asset(
        "patient_qc",
        kinds={"scipy", "deltalake"},
        group="monitoring",
        ins={
            "results": reads("lab_results_standardized", trailing(PATIENT_QC_DAYS)),
            "tuned": reads("patient_qc_settings"),
        },
    )
)
def patient_qc(context: dg.AssetExecutionContext, results: pl.LazyFrame, tuned: pl.LazyFrame) -> pl.DataFrame:
    from lims_platform.laboratory.patient_qc import patient_qc as judged

    first, last = run_range(context)
    return judged(results, tuned.collect(), first, last, PATIENT_QC_DAYS)


PATIENT_QC_ASSETS = [patient_qc_settings, patient_qc_verification, patient_qc]
