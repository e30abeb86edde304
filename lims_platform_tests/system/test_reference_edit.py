"""A line in a CSV file: the days that use it are standardised again, their marts follow, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import pytest

from lims_platform_tests.reference_edit import MARTS, SILVER
from lims_platform_tests.system.deployment import facts_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LAB = {"lab_results_history", "lab_results_standardized", "lab_results_quarantine"}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return facts_of("reference_edit", tmp_path_factory.mktemp("edit"))


def test_the_days_that_use_the_code_are_standardised_again_and_no_other(facts: dict[str, Any]) -> None:
    assert facts["first look of reference_changes"] == 0 and facts["for a code nobody uses"] == 0
    assert facts["asked"] == facts["used"] and facts["asked once more"] == 0
    ours = {name: facts["used"] if name in LAB else [] for name in SILVER}
    assert {name: facts["made"][name] for name in SILVER} == ours
    assert facts["changed"] == ours, "the rest of silver is the same to the last bit"


def test_the_rows_leave_quarantine(facts: dict[str, Any]) -> None:
    assert facts["waiting"] > 0 and facts["standardised"] == facts["waiting"] and facts["still waiting"] == 0


def test_the_marts_follow_and_features_only_when_a_person_asks(facts: dict[str, Any]) -> None:
    assert facts["marts due"] == dict.fromkeys(MARTS, facts["used"])
    assert facts["features due"] == [] and facts["late knowledge"] == 0
    changed = facts["features changed"]["quality_anomaly_features"]
    assert changed and min(changed) == min(facts["used"]), "made again, features read the code, from its first day on"
