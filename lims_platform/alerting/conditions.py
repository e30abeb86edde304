"""Every condition a rule may name, and the test of all rules.

Here: which function tests which condition, which tables it needs, which page of the UI explains it. Not here: the tests.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from lims_platform.alerting.devices import device_drift, device_risk, patient_qc, qc_fail_rate, qc_rejection
from lims_platform.alerting.platform_health import api_latency, freshness, pipeline_failure
from lims_platform.alerting.results import corrected_report, critical_result, data_drift, outbreak
from lims_platform.alerting.rules import Condition, Evaluation, Rule, Situation
from lims_platform.alerting.samples import critical_sample

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tested:
    """A condition: its test, the tables it cannot do without (the first explains it to people)."""

    test: Condition
    tables: tuple[str, ...]


CONDITIONS: dict[str, Tested] = {
    "device_drift": Tested(device_drift, ("drift_report",)),
    "device_risk": Tested(device_risk, ("device_risk_scores",)),
    "outbreak": Tested(outbreak, ("outbreak_risk_features",)),
    "qc_rejection": Tested(qc_rejection, ("westgard_violations", "quality_control_standardized")),
    "patient_qc": Tested(patient_qc, ("patient_qc",)),
    "critical_sample": Tested(critical_sample, ("sample_alerts",)),
    "critical_result": Tested(critical_result, ("lab_results_standardized", "lab_results_quarantine")),
    "corrected_report": Tested(corrected_report, ("lab_results_history",)),
    "data_drift": Tested(data_drift, ("drift_report",)),
    "qc_fail_rate": Tested(qc_fail_rate, ("quality_control_standardized",)),
    "pipeline_failure": Tested(pipeline_failure, ("runs",)),
    "api_latency": Tested(api_latency, ("api_requests",)),
    "freshness": Tested(freshness, ("readings",)),
}


def evaluate(rules: Iterable[Rule], given: Situation, only: str | None = None) -> dict[str, Evaluation]:
    """Test every rule, or those of the condition ``only``; the others stay without a verdict.

    A rule whose table was never written is not evaluable, which is not the same as all clear.
    """
    not_asked = Evaluation(not_evaluable="not asked")
    return {r.name: _evaluate(r, given) if only in (None, r.condition) else not_asked for r in rules}


def _evaluate(rule: Rule, given: Situation) -> Evaluation:
    condition = CONDITIONS[rule.condition]
    absent = [name for name in condition.tables if name not in given.tables]
    if absent:
        return Evaluation(not_evaluable=f"no table {', '.join(absent)} yet")
    try:
        return condition.test(rule, given)
    except Exception as error:  # one broken table or row of the rule file must not silence the other rules
        LOG.exception("rule %s could not be tested", rule.name)
        return Evaluation(not_evaluable=f"{type(error).__name__}: {error}", broken=True)
