"""Gold tables of patient-based QC: the tuned settings, their verification, and the daily verdicts.

Here: one Pandera model per table. Not here: statistics (``laboratory.patient_qc``), other gold tables (``gold``).
"""

from __future__ import annotations

import pandera.polars as pa
import polars as pl

from lims_platform.contracts.base import Numbers, Table, UtcTime, column, table

#: device_id of a setting that holds for every device without one of its own.
POOLED = "*"
#: device_id of results that name no device.
NO_DEVICE = "(none)"


class PatientQcSettings(pa.DataFrameModel):
    """The patient-based QC monitor of each analyte as last tuned on history, with its evidence; centre and limit also per
    device where its own history is long enough."""

    loinc_code: str = column("LOINC code")
    device_id: str = column("The analyser the limit holds for; * for all that have none of their own")
    analyte: str = column("Name of the analyte", nullable=True)
    method: str = column("EWMA, moving mean, moving median or CUSUM", nullable=True)
    parameter: float = column("Weight of the EWMA, window of the mean or median", nullable=True)
    transformation: str = column("What a result becomes before it enters the statistic", nullable=True)
    knots: Numbers = column("Results at which the transformation is tabulated; flat beyond", nullable=True)
    score_up: Numbers = column("Score of each knot as evidence of results too high", nullable=True)
    score_down: Numbers = column("Score as evidence of results too low; null: minus score_up", nullable=True)
    centre: float = column("The statistic in control", nullable=True)
    control_limit: float = column("An alarm is |statistic - centre| beyond this", nullable=True)
    limit_days: pl.Int64 = column("Device-days the limit was fitted on", nullable=True, ge=0)
    false_alarms_per_day: float = column("Share of in-control device-days with an alarm, as chosen", gt=0, lt=1)
    design_bias: float = column("Bias the choice was made for, in units of allowable error", gt=0)
    expected_results: float = column("ANPed at that bias, either sign, on the selection days", nullable=True)
    fixed_results: float = column("The same of the best textbook monitor compared", nullable=True)
    selection_false_alarms: float = column("Share of the selection's device-days with an alarm", nullable=True, ge=0, le=1)
    candidates: pl.Int64 = column("Monitors compared", nullable=True, ge=0)
    results: pl.Int64 = column("Usable results of the history", ge=0)
    unusable: pl.Int64 = column(
        "Results without a finite number, a device or a time, and censored ones between the limits others are reported to",
        ge=0,
    )
    history_first: pl.Date = column("First day of the history")
    history_last: pl.Date = column("Last day of the history")
    verified_from: pl.Date = column("First day of the history that took no part in the choice", nullable=True)
    tuned_on: pl.Date = column("The day it was tuned")
    outcome: str = column("'evaluated', or why not")

    class Config:
        name = "patient_qc_settings"
        strict = True


class PatientQcVerification(pa.DataFrameModel):
    """Bias detection curve of each analyte's patient-based QC, on days that took no part in its choice."""

    loinc_code: str = column("LOINC code")
    analyte: str = column("Name of the analyte", nullable=True)
    bias: float = column("Injected bias, in units of allowable error; 0 in the row of an analyte that is not evaluable")
    anped: float = column("Average number of patient results until detection", nullable=True, ge=1)
    mnped: float = column("Median number", nullable=True, ge=1)
    np95ed: float = column("95th percentile", nullable=True, ge=1)
    detected: float = column("Share found before the count is censored", nullable=True, ge=0, le=1)
    censored_at: pl.Int64 = column("Results after which the count is censored", ge=1)
    onsets: pl.Int64 = column("Onsets of the bias", ge=0)
    false_alarms_per_day: float = column("Share of device-days with an alarm as they were", nullable=True, ge=0, le=1)
    device_days: pl.Int64 = column("Device-days verified on", ge=0)
    tuned_on: pl.Date = column("The day of the setting")
    outcome: str = column("'evaluated', or why not")

    class Config:
        name = "patient_qc_verification"
        strict = True


class PatientQc(pa.DataFrameModel):
    """One row per device, analyte and day: whether the run of patients' results left its limits."""

    as_of_date: pl.Date = column("The day the row speaks of, in the laboratory's calendar; partition column")
    device_id: str = column("The analyser; (none) for results that name none")
    loinc_code: str = column("LOINC code")
    analyte: str = column("Name of the analyte", nullable=True)
    monitor: str = column("Method, parameter and transformation", nullable=True)
    results: pl.Int64 = column("Usable results of the day", ge=0)
    unusable: pl.Int64 = column("Results without a finite number, device or time; censored ones that say too little", ge=0)
    max_statistic: float = column("The day's greatest |statistic - centre|", nullable=True, ge=0)
    control_limit: float = column("Its limit", nullable=True, ge=0)
    limit_of: str = column("device, or pooled over the analyte's devices", nullable=True, isin=["device", "pooled"])
    alarm: bool = column("The statistic left its limits; null where it is not evaluable", nullable=True)
    direction: str = column("high or low, at the first alarm", nullable=True, isin=["high", "low"])
    first_alarm_at: UtcTime = column("Time of the result at the first alarm", nullable=True)
    tuned_on: pl.Date = column("The day of the setting", nullable=True)
    outcome: str = column("'evaluated', or why not")

    class Config:
        name = "patient_qc"
        strict = True


PATIENT_QC_TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        table("gold", ("loinc_code", "device_id"), None, PatientQcSettings),
        table("gold", ("loinc_code", "bias"), None, PatientQcVerification),
        table("gold", ("device_id", "loinc_code", "as_of_date"), "as_of_date", PatientQc),
    )
}
