"""Look-back: the results a device gave since its shift began, and by how much they are wrong.

Here: which results, their estimated bias, the decision limits between what was reported and what was meant. Not here:
whether there was a shift (``device_drift``), re-identification of patients (``privacy``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.daily_location import ratio_scale

_ALARMS = ["HIGH", "CRITICAL"]


def drift_lookback(report: pl.DataFrame, results: Frame, analytes: pl.DataFrame) -> pl.DataFrame:
    """The contract DriftLookback: a row per result since the change, for every device at HIGH or CRITICAL.

    report: the contract DriftReport; results: lab_results_standardized; analytes: loinc_code, analyte, plausible_low,
    tea_percent, tea_absolute, decision_limits (joined by ';').

    The bias found at the baseline is taken as proportional for ratio analytes (``daily_location.ratio_scale``) and as
    constant for the others; the patients' results a device shares with nobody cannot tell which it is. A censored
    result is listed without a corrected value.
    """
    alarms = report.filter(pl.col("kind") == "device", pl.col("alert_level").is_in(_ALARMS)).select(
        "as_of_date", "loinc_code", "change_date", "alert_level", "bias", "reference_mean", device_id="subject"
    )
    of_analyte = ratio_scale(analytes).join(
        analytes.unique("loinc_code").select(
            "loinc_code",
            "analyte",
            pl.col("tea_percent", "tea_absolute").cast(pl.Float64),
            limits=pl.col("decision_limits").str.split(";").list.eval(pl.element().cast(pl.Float64, strict=False)),
        ),
        on="loinc_code",
    )
    listed = (
        results.lazy()
        .filter(pl.col("value_kind").is_in(["number", "censored"]), pl.col("value_number").is_finite())
        .join(alarms.lazy(), on=["device_id", "loinc_code"], how="inner")
        .filter(pl.col("event_date").is_between("change_date", "as_of_date"))
        .join(of_analyte.lazy(), on="loinc_code", how="left")
        .collect()
    )
    share = pl.col("bias") / (pl.col("reference_mean") + pl.col("bias"))
    reported, number = pl.col("value_number"), pl.col("value_kind") == "number"
    bias = pl.when(pl.col("is_ratio")).then(reported * share).otherwise("bias")
    rows = listed.with_columns(estimated_bias=bias).with_columns(
        reported=reported,
        corrected=pl.when(number).then(reported - pl.col("estimated_bias")),
        analyte="analyte",
    )
    tea = pl.max_horizontal(pl.col("tea_percent") / 100 * pl.col("corrected").abs(), "tea_absolute")
    low, high = pl.min_horizontal("reported", "corrected"), pl.max_horizontal("reported", "corrected")
    between = pl.col("limits").list.eval(pl.element())
    rows = rows.with_columns(bias_in_tea=pl.when(tea > 0).then(pl.col("estimated_bias") / tea), low=low, high=high)
    crossed = (
        rows.select("as_of_date", "device_id", "loinc_code", "row_key", "low", "high", "reported", limit=between)
        .explode("limit")
        # a limit belongs to the side above it
        .filter(pl.col("limit") > pl.col("low"), pl.col("limit") <= pl.col("high"))
        .sort((pl.col("limit") - pl.col("reported")).abs(), "limit")
        .unique(["as_of_date", "device_id", "loinc_code", "row_key"], keep="first", maintain_order=True)
        .select("as_of_date", "device_id", "loinc_code", "row_key", limit_crossed="limit")
    )
    keys = ["as_of_date", "device_id", "loinc_code", "row_key"]
    contract = TABLES["drift_lookback"].dtypes
    out = rows.join(crossed, on=keys, how="left")
    return out.select([pl.col(n).cast(t) for n, t in contract.items()]).sort(keys)
