"""The Dagster UI in a real browser: the graph is there, one day is launched by clicks, its run and checks succeed.

Not here: what the assets compute (``test_main_job``, unit tests).
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from playwright.sync_api import Page, expect

from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform_tests.programs import program
from lims_platform_tests.system import browser, deployment

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DAYS = 40
DAY = date.today() - timedelta(days=5)
GROUPS = ("bronze", "silver", "features", "operations", "models", "scores", "monitoring", "reports")
ASSET = "lab_results_standardized"
CHECKS = {"contract", "bronze_rows_conserved", "valid_share"}
CHECK_QUERY = """query Checks($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { assetChecksOrError { ... on AssetChecks { checks {
    name executionForLatestMaterialization { status runId evaluation { success } } } } } } } }"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a laboratory whose source is built and whose lake is still empty."""
    folder = tmp_path_factory.mktemp("ui") / "data"
    built = deployment.command(deployment.environment(folder, DAYS, devices=5, results_per_day=100), "demo")
    assert built.returncode == 0, built.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def ui(data: Path) -> Iterator[str]:
    """Address of the UI over that laboratory; a missing browser is noticed before anything is started."""
    program("chromium", "chromium")
    settings = deployment.environment(data, DAYS, devices=5, results_per_day=100)
    with deployment.dagster_ui(settings, data.parent / "dagster-dev.log") as address:
        yield address


def graphql(address: str, query: str, **variables: Any) -> Any:
    """Data of a GraphQL answer."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = json.load(answer)
    assert "errors" not in content, content
    return content["data"]


def launch_one_day(page: Page, address: str) -> str:
    """Choose bronze and silver in the graph, launch DAY in the Materialize dialog; returns the run's page."""
    page.goto(f"{address}/asset-groups")
    for group in GROUPS:
        expect(page.get_by_title(group, exact=True)).to_be_visible()
    page.get_by_title("silver", exact=True).dblclick()
    expect(page.get_by_title(ASSET, exact=True)).to_be_visible()

    page.locator(".CodeMirror").first.click()
    page.keyboard.type('group:"bronze" or group:"silver"')
    page.keyboard.press("Enter")
    expect(page.get_by_title("reports", exact=True)).to_have_count(0)
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    chosen = len(BRONZE_TABLES) + sum(table.layer == "silver" for table in TABLES.values())
    expect(dialog).to_contain_text(f"materialize {chosen} assets")
    dialog.get_by_placeholder("No matching partitions").fill(DAY.isoformat())
    page.keyboard.press("Tab")
    dialog.get_by_role("button", name="Launch 1 run").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("link", name="Runs").click()
    page.locator("a[href*='/runs/']").get_by_text(re.compile("^[0-9a-f]{8}$")).first.click()
    page.wait_for_url(re.compile("/runs/[0-9a-f-]{36}"))
    return page.url


def test_a_day_launched_in_the_ui_succeeds_with_its_checks(ui: str, data: Path) -> None:
    with browser.page(1920, 1200) as page:
        run_id = launch_one_day(page, ui).split("/runs/")[1][:36]
        expect(page.get_by_text("Success", exact=True).first).to_be_visible()

        page.goto(f"{ui}/assets/silver/{ASSET}?view=checks")
        for check in sorted(CHECKS):
            page.get_by_text(check, exact=True).first.click()
            expect(page.get_by_text("Passed", exact=True).first).to_be_visible()
        expect(page.get_by_text("Succeeded", exact=True)).to_have_count(len(CHECKS))

    run = graphql(ui, "query Run($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)
    assert run["runOrError"]["status"] == "SUCCESS"
    node = graphql(ui, CHECK_QUERY, asset={"path": ["silver", ASSET]})["assetNodeOrError"]
    latest = {check["name"]: check["executionForLatestMaterialization"] for check in node["assetChecksOrError"]["checks"]}
    assert set(latest) == CHECKS
    assert all(execution["runId"] == run_id and execution["evaluation"]["success"] for execution in latest.values())

    lake = Lake(data / "lake")
    days = lake.scan(TABLES[ASSET]).group_by("event_date").agg(rows=pl.len()).collect()
    assert days["event_date"].to_list() == [DAY] and days["rows"][0] > 20
    held = lake.scan(TABLES["lab_results_quarantine"]).select(pl.len()).collect().item()
    bronze = lake.scan(TABLES["lab_results_raw"], DAY, DAY).select("row_key").unique().select(pl.len()).collect().item()
    assert days["rows"][0] + held == bronze
