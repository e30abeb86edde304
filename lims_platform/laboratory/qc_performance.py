"""Performance of an assay as its controls show it: bias, imprecision, sigma, and the QC its sigma calls for.

Here: one row per device, analyte, level and lot on each day with controls. Not here: whether a run is rejected
(``westgard``), drift of patients' results.

sigma = (TEa − |bias|) / CV, all in percent of the target (Westgard, Six Sigma Quality Design and Control, 2006).
Rules and run sizes by sigma: data/reference/sigma_rules.csv (Westgard Sigma Rules, 2014; run sizes: Westgard, Bayat,
Westgard, Clin Chem 2018;64:289-296).
"""

from __future__ import annotations

from datetime import date
from typing import Final

import polars as pl

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.qc_targets import EVALUATED, LOT, START_UP, judged

#: Days of controls a row looks back over, the day itself included.
WINDOW_DAYS: Final = 30


def qc_performance(
    controls: Frame, analytes: pl.DataFrame, sigma_rules: pl.DataFrame, first: date, last: date
) -> pl.DataFrame:
    """One row per day of [first, last], device, analyte, level and control lot measured that day; contract QcPerformance.

    controls: quality_control_standardized of the days before too. analytes: loinc_code, tea_percent (%), tea_absolute
    (the analyte's unit). sigma_rules: sigma_from, rules, controls_per_run, run_size. Mean, SD and bias are of the
    usable controls of the last 30 days, repeats left out; allowable error is the greater of the relative and the
    absolute one at the target. bias_percent is null where the target is the lot's own history, which has no bias
    against itself; sigma then assumes none and ``outcome`` says so. Where there are fewer than 20 controls, no
    allowable error or no spread, sigma and rule set are null and ``outcome`` starts with "not evaluable: ".
    rules_applied stays null: what judges is the laboratory's choice (``qc_rule_sets``).
    """
    contract = TABLES["qc_performance"]
    rows = judged(controls).filter(pl.col("event_date").is_not_null(), pl.col("loinc_code").is_not_null())
    if rows.is_empty():
        return contract.empty()
    good = pl.col("outcome") == EVALUATED
    counts = good & ~pl.col("is_repeat").fill_null(False)
    away = pl.when(counts).then(pl.col("measured_value") - pl.col("target"))
    daily = rows.group_by(*LOT, "event_date").agg(
        pl.col("analyte").first(),
        counts.sum().cast(pl.Int64).alias("n"),
        pl.len().cast(pl.Int64).alias("controls"),
        away.sum().alias("sum"),
        (away**2).sum().alias("squares"),
        pl.col("target").last(),
        pl.col("target_source").last(),
        pl.col("outcome").filter(~good).last().alias("why"),
        (pl.col("z").abs() > 3).sum().cast(pl.Int64).alias("beyond_3sd"),
    )
    window = (
        daily.sort("event_date")
        .rolling("event_date", period=f"{WINDOW_DAYS}d", group_by=LOT)
        .agg(
            pl.col("analyte").last(),
            pl.col("n", "controls", "sum", "squares", "beyond_3sd").sum(),
            pl.col("target", "target_source").drop_nulls().last(),
            pl.col("why").last(),
        )
    )
    return _figures(window.filter(pl.col("event_date").is_between(first, last)), analytes, sigma_rules)


def _figures(rows: pl.DataFrame, analytes: pl.DataFrame, sigma_rules: pl.DataFrame) -> pl.DataFrame:
    tea = analytes.select("loinc_code", "tea_percent", "tea_absolute").unique("loinc_code")
    n, target = pl.col("n"), pl.col("target")
    assigned = pl.col("target_source") == "assigned"
    rows = rows.join(tea, on="loinc_code", how="left").with_columns(
        mean=target + pl.col("sum") / n,
        sd=pl.when(n > 1).then(((pl.col("squares") - pl.col("sum") ** 2 / n) / (n - 1)).clip(lower_bound=0.0).sqrt()),
        tea_percent=pl.max_horizontal("tea_percent", 100 * pl.col("tea_absolute") / target.abs()),
    )
    rows = rows.with_columns(
        bias_percent=pl.when(assigned & (target != 0)).then(100 * (pl.col("mean") - target) / target.abs()),
        cv_percent=pl.when(target != 0).then(100 * pl.col("sd") / target.abs()),
    )
    spread = pl.col("cv_percent") > 0
    outcome = (
        pl.when(n == 0).then(pl.col("why"))
        .when(n < START_UP).then(pl.format("not evaluable: {} of {} controls in {} days", n, START_UP, WINDOW_DAYS))
        .when(~spread.fill_null(False)).then(pl.lit("not evaluable: all values equal"))
        .when(pl.col("tea_percent").is_null()).then(pl.lit("not evaluable: no allowable error in the analyte's row"))
        .when(assigned).then(pl.lit(EVALUATED))
        .otherwise(pl.lit("evaluated, no bias assumed: the target is the lot's own history"))
    )  # fmt: skip
    sigma = (pl.col("tea_percent") - pl.col("bias_percent").abs().fill_null(0.0)) / pl.col("cv_percent")
    rows = rows.with_columns(outcome=outcome).with_columns(
        sigma=pl.when(pl.col("outcome").str.starts_with(EVALUATED)).then(sigma)
    )
    steps = sigma_steps(sigma_rules)
    rows = rows.sort("sigma").join_asof(steps, left_on="sigma", right_on="sigma_from", strategy="backward")
    dtypes = TABLES["qc_performance"].dtypes
    return (
        rows.rename({"event_date": "as_of_date"})
        .with_columns(rules_applied=pl.lit(None))
        .select([pl.col(name).cast(dtype) for name, dtype in dtypes.items()])
        .sort("as_of_date", *LOT, nulls_last=True)
    )


def sigma_steps(sigma_rules: pl.DataFrame) -> pl.DataFrame:
    """The rows of sigma_rules by sigma_from; the lowest applies below itself too, where no rule set is good enough."""
    steps = sigma_rules.select(pl.col("sigma_from").cast(pl.Float64), "rules", "controls_per_run", "run_size").sort(
        "sigma_from"
    )
    first = pl.int_range(pl.len()) == 0
    return steps.with_columns(pl.when(first).then(float("-inf")).otherwise("sigma_from").alias("sigma_from"))
