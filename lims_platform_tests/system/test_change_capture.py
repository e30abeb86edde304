"""Bronze against the log that a PostgreSQL's and a MariaDB's own triggers keep of random changes (a small benchmark)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lims_platform_tests.servers import mariadb_database, mariadb_server, postgres_database, postgres_server
from lims_platform_tests.system.deployment import ROOT

__all__ = ["mariadb_database", "mariadb_server", "postgres_database", "postgres_server"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_200)]


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_bronze_is_the_servers_own_log(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    uri = request.getfixturevalue("postgres_database" if kind == "postgresql" else "mariadb_database")
    script = [sys.executable, str(ROOT / "benchmarks" / "change_capture.py")]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    line = [*script, "--trial", kind, uri, str(tmp_path), "40", "20", "11"]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["changes"] >= 40 and told["days_changed"] > 15
    assert told["rows_with_other_history"] == [] and told["versions_found"] == told["versions_expected"]
    assert told["rows_with_other_state"] == [] and told["pseudonym_faults"] == 0
    assert told["missed"] == [] and told["superfluous"] == []
    assert told["silver_versions_missing"] == 0 and told["asked_after_the_last_look"] == 0
    assert told["added_by_reading_everything_again"] == 0
