"""What three statistics of a device add up to: level, who moved, since when, and the words for it.

Here: the rules between sisters, own past and controls, one polars expression each. Not here: the statistics
(``device_drift``).
"""

from __future__ import annotations

import polars as pl
import polars.selectors as cs

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.change_points import Limit, weekly_limit
from lims_platform.laboratory.drift_limits import DriftLimits

NO_VERDICTS = TABLES["drift_report"].empty().drop("q_value")
#: With more than this share of its results censored a location says nothing.
_MAX_CENSORED = 0.5
#: Standard errors between the controls' bias and the patients' from which they contradict each other.
_CONTRADICTION = 3.0


def verdicts(evidence: pl.DataFrame, analytes: pl.DataFrame, limits: DriftLimits) -> pl.DataFrame:
    """Rows of kind 'device' of the contract DriftReport without q_value.

    evidence: ``device_drift._evidence`` of any days. The patients' statistic is that against the sisters where there
    are any, else that against the own past. Where there are controls, patients and controls together make a second
    one, which gets ``controls_share`` of the false alarms. A shift alarms if its |z| is beyond the weekly limit, its
    |effect| (bias in allowable errors; in robust SD of the results where none is known) at least ``critical_effect``,
    and the device has not returned since; with fewer than ``trusted_sisters`` the own past must show half of it.

    CRITICAL: either alarms, or the device left its past together with its sisters and its controls show that too (a
    shared reagent or calibrator). HIGH: patients alarm without a known allowable error; or both together alarm but the
    patients contradict the controls (their material may have changed). MEDIUM: beyond the warning limit with
    ``warning_effect``; or the device and its sisters left their past together. ``moved`` names who: 'analyser',
    'patients' (or a reagent they share), 'controls', or 'analyser or patients' where neither sisters nor controls can
    tell. ``value``, ``effect``, ``bias``, ``change_date`` are the patients', and those of both where only both alarm.
    """
    by_sisters = pl.col("by_sisters")
    patients = [
        pl.when(by_sisters).then(f"{n}_sisters").otherwise(f"{n}_own").alias(n)
        for n in ("z", "bias", "error", "days", "size", "returned")
    ]
    then = [
        pl.when(by_sisters).then(f"{n}_sisters_then").otherwise(f"{n}_own_then").alias(f"{n}_then")
        for n in ("bias", "error")
    ]
    known = (pl.col("allowable_error") > 0).fill_null(False)
    unit = pl.when(known).then("allowable_error").when(pl.col("robust_sd") > 0).then("robust_sd")
    has_controls = pl.col("z_both").is_not_null()
    # polars takes NaN for the largest number: absent statistics are null here
    rows = evidence.with_columns(cs.float().fill_nan(None)).with_columns(
        *patients, *then, known.alias("known"), unit.alias("unit"), has_controls.alias("has_controls")
    )
    rows = rows.with_columns(_alarms(limits)).with_columns(_combined()).with_columns(_outcome(limits))
    judged = pl.col("outcome").str.starts_with("evaluated")
    looks = weekly_limit(limits.weekly_false_alarms, limits.window_days, limits.baseline_days)
    value, bias, error, since, size = (
        pl.when("by_controls").then(f"{n}_both").otherwise(n) for n in ("z", "bias", "error", "days", "size")
    )
    change = pl.col("as_of_date") - pl.duration(days=since - 1)
    quiet = pl.col("alert_level") == "LOW"
    names = analytes.unique("loinc_code").select("loinc_code", name="analyte")
    out = rows.join(names, on="loinc_code", how="left", maintain_order="left").with_columns(
        kind=pl.lit("device"),
        subject="device_id",
        statistic=pl.lit("z"),
        value=pl.when(judged).then(value),
        effect=pl.when(judged & pl.col("known")).then(bias / pl.col("unit")),
        bias=pl.when(judged).then(bias),
        standard_error=pl.when(judged).then(error),
        change_date=pl.when(judged & ~quiet).then(change),
        moved=pl.when(judged & ~quiet).then("moved"),
        current_rows=pl.when(judged).then(size).otherwise("rows_today"),
        current_mean=pl.when(judged).then(pl.col("reference_mean") + bias),
        allowable_error=pl.when(pl.col("known")).then("allowable_error"),
        alert_level=pl.when(judged).then("alert_level").otherwise(pl.lit("LOW")),
    )
    out = out.with_columns(p_value=pl.Series(looks.p_value(out["value"].fill_null(float("nan")).to_numpy())))
    absent = [pl.lit(None).alias(n) for n in NO_VERDICTS.columns if n not in out.columns]
    out = out.with_columns(cs.float().fill_nan(None), *absent)
    return out.select([pl.col(n).cast(t) for n, t in NO_VERDICTS.schema.items()])


def _limit(limits: DriftLimits, rate: float, share: float) -> Limit:
    return weekly_limit(rate * share, limits.window_days, limits.baseline_days)


def _beyond(of: str, limits: DriftLimits, rate: float) -> pl.Expr:
    """Patients' |z| beyond the limit of their part of the false alarms, and not returned since."""
    part = _limit(limits, rate, 1 - limits.controls_share).z
    whole = _limit(limits, rate, 1.0).z
    limit = pl.when("has_controls").then(part).otherwise(whole)
    return (pl.col(f"z{of}").abs() > limit) & ~pl.col(f"returned{of}")


def _alarms(limits: DriftLimits) -> list[pl.Expr]:
    """by_patients, by_qc, contradicted, together, warned: flags, false where a statistic is absent."""
    effect, own_effect, both_effect = ((pl.col(f"bias{n}") / pl.col("unit")).abs() for n in ("", "_own", "_both"))
    few = pl.col("by_sisters") & (pl.col("sisters") < limits.trusted_sisters)
    agrees = ~few | ((pl.col("bias_own").sign() == pl.col("bias").sign()) & (own_effect >= effect / 2))
    both_agrees = ~few | (pl.col("bias_own_then") * pl.col("bias_both").sign() >= pl.col("bias_both").abs() / 2)
    limit = _limit(limits, limits.weekly_false_alarms, limits.controls_share).z
    by_both = pl.col("has_controls") & (pl.col("z_both").abs() > limit) & ~pl.col("returned_both")
    gap = pl.col("bias_qc_then") - pl.col("bias_then")
    error = (pl.col("error_then") ** 2 + pl.col("error_qc_then") ** 2).sqrt()
    apart = gap.abs() > _CONTRADICTION * error
    hidden = apart & (pl.col("bias_qc_then").abs() < pl.col("bias_then").abs() / 2)
    together = _beyond("_own", limits, limits.weekly_false_alarms) & (own_effect >= limits.critical_effect)
    together &= pl.col("by_sisters")
    flags = {
        "by_patients": _beyond("", limits, limits.weekly_false_alarms) & (effect >= limits.critical_effect) & agrees,
        "by_both": by_both & (both_effect >= limits.critical_effect) & both_agrees,
        "contradicted": apart & (pl.col("bias_then").abs() < pl.col("bias_qc_then").abs() / 2),
        "hidden": pl.col("has_controls") & hidden,
        "together": together,
        "reagent": together
        & (pl.col("z_qc").abs() > limit)
        & ~pl.col("returned_qc")
        & (pl.col("bias_qc") * pl.col("bias_own").sign() >= limits.critical_effect * pl.col("unit")),
        "warned": _beyond("", limits, limits.warning_false_alarms) & (effect >= limits.warning_effect) & agrees,
    }
    return [flag.fill_null(False).alias(name) for name, flag in flags.items()]


def _combined() -> list[pl.Expr]:
    """alert_level, moved, by_controls."""
    patients, controls, contradicted = pl.col("by_patients"), pl.col("by_both"), pl.col("contradicted")
    told = pl.col("by_sisters") | controls
    # a bias without an allowable error to hold it against is never critical; controls always have one
    level = (
        pl.when((patients & pl.col("known")) | (controls & ~contradicted) | pl.col("reagent"))
        .then(pl.lit("CRITICAL"))
        .when(patients | controls)
        .then(pl.lit("HIGH"))
        .when(pl.col("warned") | pl.col("together"))
        .then(pl.lit("MEDIUM"))
        .otherwise(pl.lit("LOW"))
    )
    moved = (
        pl.when((patients & told) | (controls & ~contradicted) | pl.col("reagent"))
        .then(pl.lit("analyser"))
        .when(patients)
        .then(pl.lit("analyser or patients"))
        .when(controls)
        .then(pl.lit("controls"))
        .when(pl.col("together"))
        .then(pl.lit("patients"))
        .when(pl.col("warned"))
        .then(pl.when(pl.col("by_sisters")).then(pl.lit("analyser")).otherwise(pl.lit("analyser or patients")))
    )
    return [
        level.alias("alert_level"),
        moved.alias("moved"),
        (controls & ~patients & ~pl.col("reagent")).alias("by_controls"),
    ]


def _outcome(limits: DriftLimits) -> pl.Expr:
    """'evaluated' and what a reader should know, or 'not evaluable: …' and why."""
    absent = pl.col("z").is_null()
    why_not = (
        pl.when(pl.col("censored") > _MAX_CENSORED * pl.col("rows_seen"))
        .then(pl.lit("not evaluable: more than half of the results are censored"))
        .when(pl.col("baseline_days") < limits.min_baseline_days)
        .then(pl.lit(f"not evaluable: fewer than {limits.min_baseline_days} baseline days"))
        .when(pl.col("rows_today") == 0)
        .then(pl.lit("not evaluable: no result on the day"))
        .when(~pl.col("varies"))
        .then(pl.lit("not evaluable: all values are equal"))
        .when(absent)
        .then(pl.lit(f"not evaluable: fewer than {limits.min_results} results in {limits.window_days} days"))
    )
    quiet = pl.col("alert_level") == "LOW"
    limit = _limit(limits, limits.weekly_false_alarms, 1.0).z
    notes = [
        pl.when(~pl.col("known")).then(pl.lit("; no allowable error")),
        pl.when(~pl.col("by_sisters")).then(pl.lit("; no sister device")),
        pl.when(pl.col("censored") > 0).then(
            pl.concat_str(pl.lit("; "), pl.col("censored").cast(pl.Int64).cast(pl.String), pl.lit(" censored values"))
        ),
        pl.when(pl.col("left_out") > 0).then(
            pl.concat_str(pl.lit(", "), pl.col("left_out").cast(pl.Int64).cast(pl.String), pl.lit(" of them left out"))
        ),
        pl.when(pl.col("together") & (pl.col("moved") == "patients")).then(pl.lit("; sister devices moved along")),
        pl.when(pl.col("reagent")).then(pl.lit("; sister devices moved along, and the controls")),
        pl.when(pl.col("by_patients") & pl.col("hidden")).then(pl.lit("; controls do not show it")),
        pl.when(pl.col("by_controls") & pl.col("contradicted")).then(pl.lit("; patients' results contradict the controls")),
        pl.when(pl.col("returned") & (pl.col("z").abs() > limit) & quiet).then(pl.lit("; had moved, has returned")),
    ]
    return pl.coalesce(why_not, pl.concat_str(pl.lit("evaluated"), *[n.fill_null("") for n in notes])).alias("outcome")
