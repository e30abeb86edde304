"""Patient-based QC on the lake's tables: the tuned setting of every analyte, and its verification.

Here: history in, rows of the contracts out; pooled and per-device limits. Not here: the search (``patient_qc_tuning``),
the daily verdicts (``patient_qc``).

The monitor of an analyte is chosen on all its devices together; centre and limit are the device's own where its history
has days enough.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl

from lims_platform.contracts.patient_qc import POOLED
from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory import patient_qc_monitors as monitors
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.patient_qc_rows import (
    at_limits,
    bias_model,
    by_analyte,
    candidate_of,
    history_of,
    quantitative,
    with_allowable,
)
from lims_platform.laboratory.patient_qc_tuning import Choice, Design, History, NotEvaluableError, detection, tune

#: A device has a limit of its own from as many days as hold this many false alarms in expectation.
OWN_LIMIT_ALARMS = 3


def patient_qc_settings(
    results: Frame, rejected: Frame, analytes: pl.DataFrame, design: Design, tuned_on: date, history_days: int
) -> pl.DataFrame:
    """Rows of the contract PatientQcSettings: one per analyte, and one per device with days enough for its own limit.

    results: event_date, resulted_at, row_key, device_id, loinc_code, analyte, value_kind, value_number, comparator (rows of
    lab_results_standardized), of which the ``history_days`` days before tuned_on count. rejected: westgard_violations;
    device-days on which a control was rejected are no in-control history and left out. analytes: loinc_code, analyte,
    tea_percent, tea_absolute. An analyte without a choice has a row whose outcome says why.
    """
    first, last = tuned_on - timedelta(days=history_days), tuned_on - timedelta(days=1)
    rows = quantitative(results).filter(pl.col("event_date").is_between(first, last))
    bad = rejected.lazy().filter(pl.col("severity") == "rejection")
    bad = bad.select("device_id", "loinc_code", event_date="as_of_date").unique()
    rows = rows.join(bad, on=["device_id", "loinc_code", "event_date"], how="anti")
    frame = with_allowable(rows.collect(), analytes)
    span = {"history_first": first, "history_last": last, "tuned_on": tuned_on}
    found = [_tuned(part, design, span) for part in by_analyte(frame)]
    return _conformed("patient_qc_settings", [row for rows_ in found for row in rows_])


def patient_qc_verification(results: Frame, settings: pl.DataFrame, analytes: pl.DataFrame, design: Design) -> pl.DataFrame:
    """Rows of the contract PatientQcVerification: bias detection curves of the pooled settings.

    On the days from verified_from to history_last of each setting, which took no part in its choice; false alarms are
    those of the pooled limit on these days as they were.
    """
    pooled = settings.filter(pl.col("device_id") == POOLED)
    rows = quantitative(results).join(
        pooled.lazy().select("loinc_code", "verified_from", "history_last"), on="loinc_code", how="inner"
    )
    rows = rows.filter(pl.col("event_date").is_between("verified_from", "history_last"))
    parts = {p["loinc_code"][0]: p for p in by_analyte(with_allowable(rows.collect(), analytes))}
    found: list[dict[str, object]] = []
    for row in pooled.sort("loinc_code").to_dicts():
        base = {k: row[k] for k in ("loinc_code", "analyte", "tuned_on", "outcome")} | {"censored_at": design.max_results}
        part, reportable = parts.get(row["loinc_code"]), (-np.inf, np.inf)
        if part is not None:
            part, reportable = at_limits(part)
        usable = part.filter("usable") if part is not None else pl.DataFrame()
        if row["method"] is None or usable.is_empty() or part is None:
            why = row["outcome"] if row["method"] is None else "not evaluable: no usable result since the choice"
            found.append(base | {"bias": 0.0, "onsets": 0, "device_days": 0, "outcome": why})
            continue
        candidate, history = candidate_of(row), history_of(usable)
        maxima = candidate.maxima(history)
        shared = base | {"device_days": len(maxima), "false_alarms_per_day": float((maxima > candidate.limit).mean())}
        for d in detection(candidate, history, bias_model(usable, reportable), design):
            curve = {"anped": d.anped, "mnped": d.mnped, "np95ed": d.p95nped, "detected": d.detected}
            found.append(shared | curve | {"bias": d.bias, "onsets": d.onsets})
    return _conformed("patient_qc_verification", found)


def _tuned(part: pl.DataFrame, design: Design, span: dict[str, date]) -> list[dict[str, object]]:
    """The analyte's pooled row and its devices' own."""
    part, reportable = at_limits(part)
    usable = part.filter("usable")
    base: dict[str, object] = {
        "loinc_code": part["loinc_code"][0],
        "analyte": part["analyte"].drop_nulls().first() if part["analyte"].drop_nulls().len() else None,
        "device_id": POOLED,
        "false_alarms_per_day": design.false_alarms_per_day,
        "design_bias": design.bias,
        "results": usable.height,
        "unusable": part.height - usable.height,
        **span,
    }
    history = history_of(usable)
    try:
        choice = tune(history, bias_model(part, reportable), design)
    except NotEvaluableError as error:
        return [base | {"outcome": f"not evaluable: {error}"}]
    chosen = choice.candidate
    known = history.between(int(history.days.min()), choice.verified_from)
    base |= {
        "method": chosen.monitor.method,
        "parameter": chosen.monitor.parameter,
        "transformation": chosen.table.name,
        "knots": chosen.table.knots.tolist(),
        "score_up": chosen.table.up.tolist(),
        "score_down": None if chosen.table.down is None else chosen.table.down.tolist(),
        "centre": chosen.centre,
        "control_limit": chosen.limit,
        "limit_days": len(known.day_starts),
        "expected_results": choice.expected_results,
        "fixed_results": choice.fixed_results if np.isfinite(choice.fixed_results) else None,
        "selection_false_alarms": choice.selection_false_alarms,
        "candidates": choice.compared,
        "verified_from": date.fromordinal(choice.verified_from + date(1970, 1, 1).toordinal()),
        "outcome": "; ".join(["evaluated", *choice.notes]),
    }
    return [base, *_own(base, choice, known, usable, design)]


def _own(
    base: dict[str, object], choice: Choice, known: History, usable: pl.DataFrame, design: Design
) -> list[dict[str, object]]:
    """Rows of the devices whose own days hold OWN_LIMIT_ALARMS false alarms in expectation."""
    chosen, names = choice.candidate, usable["device_id"].unique().sort().to_list()
    up, down = chosen.table.score(known.values)
    centres = chosen.monitor.centres(up, known.streams)
    statistic = chosen.monitor.statistic(up, down, monitors.starts_of(known.streams), centres[known.streams])
    maxima = monitors.day_maxima(statistic, known.day_starts)
    limits, days = monitors.control_limits(maxima, known.streams[known.day_starts], design.false_alarms_per_day)
    enough = np.flatnonzero((days >= OWN_LIMIT_ALARMS / design.false_alarms_per_day) & (limits > 0))
    counts = np.bincount(known.streams)
    return [
        base
        | {"device_id": names[d], "centre": float(centres[d]), "control_limit": float(limits[d])}
        | {"limit_days": int(days[d]), "results": int(counts[d])}
        for d in enough
    ]


def _conformed(name: str, rows: list[dict[str, object]]) -> pl.DataFrame:
    dtypes = TABLES[name].dtypes
    return pl.DataFrame([{column: row.get(column) for column in dtypes} for row in rows], schema=dtypes)
