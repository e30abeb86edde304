"""kill -9 in the middle of runs: the tables are readable all along, and after a rerun those of an undisturbed run.

Fifty kills of the whole main job: ``python benchmarks/kill_nine.py 50``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lims_platform_tests.kills import BETWEEN, IN_COMMIT, LOGGED, MISSED, kill_series


@pytest.mark.slow
def test_shot_runs_leave_nothing_half_done(tmp_path: Path) -> None:
    size = {"devices": 4, "days": 6, "results_per_day": 60}
    report = kill_series(tmp_path, "ingest_hourly", 5, 5, 9, print, **size)
    met = [where for _, where in report.shots]
    assert BETWEEN in met and {IN_COMMIT, LOGGED} & set(met) and met.count(MISSED) <= 2, report.shots
    assert not report.differing and not report.unreadable and report.finished == [0]
    assert report.reads > 100 and report.tables >= 12
