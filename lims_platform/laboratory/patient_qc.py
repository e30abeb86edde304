"""Patient-based QC, day by day: did the run of patients' results on a device leave its limits?

Here: the monitor of each analyte along each device's results, and the verdict of each day. Not here: tuning
(``patient_qc_settings``), the statistics (``patient_qc_monitors``).

The statistic of a day runs on from memory_days before it and no further, so a day computed alone is the day
computed in a range. It is an operational mart: rebuilt with the settings of now, not with those of its day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl

from lims_platform.contracts.patient_qc import NO_DEVICE, POOLED
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.patient_qc_rows import ORDER, by_analyte, candidate_of, history_of, quantitative, within
from lims_platform.laboratory.patient_qc_scores import Floats
from lims_platform.laboratory.patient_qc_tuning import Candidate

#: |statistic| / limit is compared at this many digits: sums in another order must not decide an alarm.
_DIGITS = 9


@dataclass(frozen=True)
class _Setting:
    """An analyte's pooled candidate, and per-device centre and limit by device name."""

    candidate: Candidate
    own: dict[str, tuple[float, float]]
    tuned_on: date


def patient_qc(results: Frame, settings: pl.DataFrame, first: date, last: date, memory_days: int) -> pl.DataFrame:
    """Rows of the contract PatientQc, one per device, analyte and day of [first, last] with quantitative results.

    results: as in patient_qc_settings, from memory_days before ``first``. Results without a finite number, and censored
    ones whose limit lies where the monitor tells results apart, do not enter a statistic; they are counted. A day without
    a usable result, without a setting, or before the statistic has results enough to answer is "not evaluable: …", with
    ``alarm`` null.
    """
    rows = quantitative(results).filter(pl.col("event_date").is_between(first - timedelta(days=memory_days), last))
    frame = rows.sort(ORDER).collect()
    pooled = {r["loinc_code"]: r for r in settings.filter(pl.col("device_id") == POOLED).to_dicts()}
    own = settings.filter(pl.col("device_id") != POOLED, pl.col("control_limit").is_not_null())
    judged = []
    for part in by_analyte(frame):
        code = part["loinc_code"][0]
        row = pooled.get(code)
        if row is None or row["method"] is None:
            why = "not evaluable: the analyte has no setting yet" if row is None else row["outcome"]
            judged.append(_unjudged(part, why))
            continue
        limits = own.filter(pl.col("loinc_code") == code)
        each = {d: (c, h) for d, c, h in limits.select("device_id", "centre", "control_limit").iter_rows()}
        judged.append(_judged(part, _Setting(candidate_of(row), each, row["tuned_on"]), memory_days))
    table = TABLES["patient_qc"]
    if not judged:
        return table.empty()
    whole = pl.concat(judged, how="diagonal").filter(pl.col("as_of_date").is_between(first, last))
    whole = whole.with_columns(max_statistic=pl.col("max_ratio") * pl.col("control_limit"))
    return whole.select([pl.col(n).cast(t) for n, t in table.dtypes.items()]).sort("as_of_date", "loinc_code", "device_id")


def _unjudged(part: pl.DataFrame, why: str) -> pl.DataFrame:
    return _days(part, part.head(0).with_columns(statistic=0.0, ratio=0.0, behind=pl.lit(0, pl.Int64)), 0).with_columns(
        monitor=pl.lit(None, pl.String), control_limit=pl.lit(None, pl.Float64), limit_of=pl.lit(None, pl.String),
        tuned_on=pl.lit(None, pl.Date), outcome=pl.lit(why),
    )  # fmt: skip


def _judged(part: pl.DataFrame, setting: _Setting, memory_days: int) -> pl.DataFrame:
    """The analyte's days, all its devices at once."""
    candidate = setting.candidate
    monitor, knots = candidate.monitor, candidate.table.knots
    inside = within(pl.col("value"), pl.col("side"), knots[0], knots[-1])
    part = part.with_columns(usable=pl.col("usable") & inside)
    usable = part.filter("usable")
    devices = (
        part.select("device_id")
        .unique()
        .with_columns(
            centre=pl.col("device_id").replace_strict({d: c for d, (c, _) in setting.own.items()}, default=candidate.centre),
            control_limit=pl.col("device_id").replace_strict(
                {d: h for d, (_, h) in setting.own.items()}, default=candidate.limit
            ),
            limit_of=pl.when(pl.col("device_id").is_in(list(setting.own)))
            .then(pl.lit("device"))
            .otherwise(pl.lit("pooled")),
        )
    )
    rows = usable.join(devices, on="device_id", how="left", maintain_order="left")
    history = history_of(rows)
    # streams of more days than any calendar apart: one ascending number per device and day
    at = history.streams * 10**7 + history.days
    first = np.searchsorted(at, at - memory_days)
    up, down = candidate.table.score(history.values)
    statistic = monitor.statistic(up, down, first, rows["centre"].to_numpy())
    ratio: Floats = np.round(np.abs(statistic) / rows["control_limit"].to_numpy(), _DIGITS)
    rows = rows.with_columns(statistic=statistic, ratio=ratio, behind=np.arange(rows.height) - first + 1)
    parameter = "" if monitor.parameter is None else f" {monitor.parameter:g}"
    need = f"{monitor.memory} results in {memory_days} days needed, "
    return (
        _days(part, rows, monitor.memory)
        .join(devices.drop("centre"), on="device_id", how="left")
        .with_columns(
            monitor=pl.lit(f"{monitor.method}{parameter}, {candidate.table.name}"), tuned_on=pl.lit(setting.tuned_on)
        )
        .with_columns(
            outcome=pl.when(pl.col("device_id") == NO_DEVICE)
            .then(pl.lit("not evaluable: the results name no device"))
            .when(pl.col("results") == 0)
            .then(pl.lit("not evaluable: no usable result on the day"))
            .when(pl.col("alarm").is_null())
            .then(pl.format("not evaluable: {}{} there", pl.lit(need), pl.col("behind")))
            .otherwise(pl.lit("evaluated"))
        )
    )


def _days(part: pl.DataFrame, rows: pl.DataFrame, memory: int) -> pl.DataFrame:
    """One row per device and day of ``part``, with the extremes of its judged ``rows``."""
    by = ["device_id", "loinc_code", "event_date"]
    judged, beyond = pl.col("behind") >= memory, (pl.col("behind") >= memory) & (pl.col("ratio") > 1)
    verdict = rows.group_by(by).agg(
        max_ratio=pl.col("ratio").filter(judged).max(),
        alarm=pl.col("ratio").filter(judged).max() > 1,
        first_alarm_at=pl.col("resulted_at").filter(beyond).first(),
        direction=pl.when(pl.col("statistic").filter(beyond).first() > 0)
        .then(pl.lit("high"))
        .when(pl.col("statistic").filter(beyond).first() < 0)
        .then(pl.lit("low")),
        behind=pl.col("behind").max(),
    )
    counted = part.group_by(by).agg(
        pl.col("analyte").drop_nulls().first(),
        results=pl.col("usable").sum().cast(pl.Int64),
        unusable=(~pl.col("usable")).sum().cast(pl.Int64),
    )
    return counted.join(verdict, on=by, how="left").rename({"event_date": "as_of_date"})
