"""A result that comes 40 days late: its day's silver and marts are made again, features from its knowledge day on only."""

from __future__ import annotations

from typing import Any

import pytest

from lims_platform_tests.late_result import FEATURES
from lims_platform_tests.system.deployment import facts_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SILVER = ["lab_results_history", "lab_results_quarantine", "lab_results_standardized"]
NONE: dict[str, list[str]] = {name: [] for name in FEATURES}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return facts_of("late_result", tmp_path_factory.mktemp("late"))


def test_a_result_entered_today_makes_its_day_again_and_no_feature_row(facts: dict[str, Any]) -> None:
    told, late = facts["entered_today"], [facts["late"]]
    assert told["read"] == late and told["silver"] == SILVER and told["moved"] == 0
    assert told["due"] == {"data_quality_scorecard": late, "turnaround_kpis": late}
    assert facts["marts_after"] == {name: rows + 1 for name, rows in facts["marts_before"].items()}
    assert told["features_made"] == NONE and told["features_asked"] == {}, "today's row is made after midnight"
    assert told["features_changed"] == NONE and told["asked_once_more"] == 0


def test_results_known_for_three_days_make_those_days_features_again_and_none_earlier(facts: dict[str, Any]) -> None:
    told, days = facts["entered_before"], [facts["late"], facts["felt"]]
    assert facts["unseen_by_the_cursor"] and told["read"] == days
    assert told["due"]["data_quality_scorecard"] == told["due"]["turnaround_kpis"] == days
    assert told["features_asked"] == told["features_made"] == dict.fromkeys(FEATURES, facts["known"])
    assert told["features_changed"]["quality_anomaly_features"] == facts["known"], "their baseline has other values"
    assert all(set(changed) <= set(facts["known"]) for changed in told["features_changed"].values())
    assert told["asked_once_more"] == 0


def test_every_stored_feature_row_is_what_a_rebuild_of_all_days_makes(facts: dict[str, Any]) -> None:
    assert all(days >= 45 for days in facts["feature_days"].values())
    assert facts["differ_from_a_rebuild"] == NONE
