"""What a test asks of services that run: the webserver, the kernel, a database, a command. Not here: starting them."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from lims_platform_tests.system import services
from lims_platform_tests.system.services import Services

LAUNCH = """mutation Launch($run: ExecutionParams!) { launchPipelineExecution(executionParams: $run) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUNS = """query Runs { runsOrError(limit: 50) { ... on Runs { results { runId status jobName parentRunId } } } }"""


def query(address: str, statement: str) -> pl.DataFrame:
    return pl.read_database_uri(statement, address, engine="connectorx")


def eventually(question: Any, seconds: float, otherwise: str) -> Any:
    """The first true answer; the test fails where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.5)
    return answer


def listeners(port: int) -> list[str]:
    """Addresses on which somebody listens on a TCP port, as the kernel writes them."""
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    found = [row[1].split(":") for row in rows if row[3] == "0A"]
    return [address for address, hexadecimal in found if int(hexadecimal, 16) == port]


def graphql(platform: Services, text: str, **variables: Any) -> Any:
    """Data of the webserver's answer."""
    body = json.dumps({"query": text, "variables": variables}).encode()
    address = f"http://127.0.0.1:{platform.settings['LIMS_UI_PORT']}/graphql"
    with urllib.request.urlopen(
        urllib.request.Request(address, body, {"Content-Type": "application/json"}), timeout=60
    ) as answer:
        content = json.load(answer)
    assert "errors" not in content, content
    return content["data"]


def launch(platform: Services) -> str:
    """``ingest_hourly`` over every day, asked for as the UI asks; the run's id."""
    days = {"start": platform.settings["LIMS_START_DATE"], "end": date.today().isoformat()}
    run = {
        "selector": {
            "repositoryLocationName": "lims_platform",
            "repositoryName": "__repository__",
            "jobName": "ingest_hourly",
        },
        "executionMetadata": {
            "tags": [{"key": f"dagster/asset_partition_range_{end}", "value": day} for end, day in days.items()]
        },
    }
    answer = graphql(platform, LAUNCH, run=run)["launchPipelineExecution"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def runs(platform: Services) -> dict[str, dict[str, str]]:
    return {run["runId"]: run for run in graphql(platform, RUNS)["runsOrError"]["results"]}


def said(platform: Services, *arguments: str, status: int = 0) -> str:
    """What ``python -m lims_platform …`` printed, run by hand beside the services."""
    line = platform.command(f"/opt/lims_platform/.venv/bin/python -m lims_platform {' '.join(arguments)}")
    done = subprocess.run(line, env=platform.environment(), cwd=services.ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def ended(platform: Services, run: str) -> str | None:
    """Status of a run that is over."""
    status = runs(platform)[run]["status"]
    return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None
