"""The documentation's pictures, all by one command: ``python -m lims_platform_tests.system.screenshots docs/images``.

Builds a small laboratory, runs the whole graph, lets one reading fail (a column is gone), opens the Dagster UI and the
pages, and switches automation on. ``--only`` takes some of them, ``--lab`` keeps the laboratory for the next time. Each
picture is for a person to look at: nothing here tells a good one from a bad one. Not here: tests (``test_browser``).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

from playwright.sync_api import Page, expect

from lims_platform_tests.laboratories import Laboratory
from lims_platform_tests.system import browser
from lims_platform_tests.system.deployment import dagster_ui

#: The graph redraws and refits after its data are there, without any mark in the page that it is done.
SETTLE = 3_000
#: A laboratory large enough to train a model on.
DAYS, DEVICES, RESULTS_PER_DAY = 240, 30, 400
#: Days read again after the failure: their quarantine is what the preview shows.
REPAIRED_DAYS = 30
#: Until every sensor has looked once after it was switched on.
FIRST_TICKS = 75_000
#: Until the list shows which are on and what each did last.
SWITCHES = 12_000


@dataclass(frozen=True)
class Scene:
    """Where pictures are taken: the UI's address, the folder of the reports."""

    address: str
    reports: Path

    def page(self, pattern: str) -> str:
        """Address of the newest report page."""
        return sorted(self.reports.glob(pattern))[-1].as_uri()


def asset_graph(page: Page, scene: Scene) -> None:
    """All groups and how they feed each other; every asset by name in the side list."""
    page.goto(f"{scene.address}/asset-groups")
    expect(page.get_by_title("reports", exact=True)).to_be_visible()
    page.get_by_role("button", name="Hide navigation").click()
    for group in reversed(page.locator("[role=img][aria-label=asset_group] + [title]").all()):
        group.dblclick()
    page.reload()
    expect(page.get_by_title("laboratory_overview", exact=True)).to_be_visible()


def asset_with_plot(page: Page, scene: Scene) -> None:
    """The page of a report with its plots opened."""
    page.goto(f"{scene.address}/assets/reports/laboratory_overview")
    page.get_by_text("[Show Markdown]").click()
    expect(page.locator("img[src^='data:image/png']").first).to_be_visible()


def model(page: Page, scene: Scene) -> None:
    """A model's examination: precision against recall, observed against predicted."""
    page.goto(f"{scene.address}/assets/models/device_failure_model")
    page.get_by_role("row", name="plots").get_by_text("[Show Markdown]").click()
    expect(page.locator("img[src^='data:image/png']").first).to_be_visible()


def _check(page: Page, scene: Scene, asset: str, check: str) -> None:
    page.goto(f"{scene.address}/assets/{asset}?view=checks")
    page.get_by_text(check, exact=True).first.click()


def asset_checks(page: Page, scene: Scene) -> None:
    """A table's checks, the one that counts rows opened: expected against actual."""
    _check(page, scene, "silver/lab_results_standardized", "bronze_rows_conserved")
    expect(page.get_by_text("expected_rows", exact=True).first).to_be_visible()


def quarantine_preview(page: Page, scene: Scene) -> None:
    """Why results wait in quarantine, with samples and proposals, on the check of the valid share."""
    _check(page, scene, "silver/lab_results_standardized", "valid_share")
    page.get_by_text("[Show Markdown]").first.click()
    expect(page.get_by_role("dialog").locator("table").first).to_be_visible()


def scorecard_trend(page: Page, scene: Scene) -> None:
    """The scorecard's checks, the trend of one share opened."""
    _check(page, scene, "gold/data_quality_scorecard", "validity")
    page.get_by_role("row", name="trend").get_by_text("[Show Markdown]").click()
    expect(page.locator("img[src^='data:image/png']").first).to_be_visible()


def automation(page: Page, scene: Scene) -> None:
    """Every schedule and sensor, switched on as a person does it, and what each did last."""
    page.goto(f"{scene.address}/automation")
    expect(page.get_by_text("ingest_hourly_schedule", exact=True).first).to_be_visible()
    page.get_by_text("Select all", exact=True).click()
    page.get_by_role("button", name="Actions").click()
    start = re.compile(r"^Start \d+ automations$")
    page.get_by_text(start).click()
    page.get_by_role("button", name=start).click()
    page.wait_for_timeout(FIRST_TICKS)
    page.reload()
    expect(page.get_by_text("data_starts", exact=True).first).to_be_visible()
    page.wait_for_timeout(SWITCHES)


def pipeline_health(page: Page, scene: Scene) -> None:
    """The platform's health: one reading failed."""
    page.goto(scene.page("health/*/pipeline_health.html"))


def pipeline_health_rows(page: Page, scene: Scene) -> None:
    """Further down the same page: runs and rows a day."""
    pipeline_health(page, scene)
    page.get_by_alt_text("Runs a day by outcome").evaluate("image => image.scrollIntoView()")


def drift_report(page: Page, scene: Scene) -> None:
    """The drift report's page."""
    page.goto(scene.page("drift/*/drift_report.html"))


def qc_page(page: Page, scene: Scene) -> None:
    """The quality control page with Levey-Jennings charts."""
    page.goto(scene.page("qc/*/qc_page.html"))


#: picture → (what to open, width, height)
PICTURES: dict[str, tuple[Callable[[Page, Scene], None], int, int]] = {
    "asset_graph": (asset_graph, 2240, 1250),
    "asset_with_plot": (asset_with_plot, 1900, 1500),
    "model": (model, 1500, 1250),
    "asset_checks": (asset_checks, 1500, 640),
    "quarantine_preview": (quarantine_preview, 1500, 900),
    "scorecard_trend": (scorecard_trend, 1500, 800),
    "pipeline_health": (pipeline_health, 1400, 1500),
    "pipeline_health_rows": (pipeline_health_rows, 1150, 1500),
    "drift_report": (drift_report, 1300, 1500),
    "qc_page": (qc_page, 1000, 1600),
    # the last: what it switches on starts runs
    "automation": (automation, 1700, 1150),
}


def prepare(laboratory: Laboratory) -> None:
    """The whole graph once, a reading of a table that lost a column, the health page then, a reading that works again."""
    laboratory.build()
    laboratory.must("run")
    today = date.today().isoformat()
    laboratory.execute("ALTER TABLE lab_results RENAME COLUMN result_unit TO unit")
    assert laboratory.command("run", "--job", "ingest_hourly", "--from", today, "--to", today).returncode != 0
    laboratory.execute("ALTER TABLE lab_results RENAME COLUMN unit TO result_unit")
    laboratory.must("run", "--job", "pipeline_health")
    first = (date.today() - timedelta(days=REPAIRED_DAYS)).isoformat()
    laboratory.must("run", "--job", "ingest_hourly", "--from", first, "--to", today)


@contextlib.contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """The laboratory in ``folder``, made unless it is there, with its UI."""
    laboratory = Laboratory(folder / "data", DAYS, DEVICES, RESULTS_PER_DAY)
    if not laboratory.data.exists():
        prepare(laboratory)
    with dagster_ui(laboratory.environment(), folder / "dagster-dev.log") as address:
        yield Scene(address, laboratory.data / "reports")


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the PNG files go")
    parser.add_argument("--lab", type=Path, help="folder of the laboratory; default one that is thrown away")
    parser.add_argument("--only", nargs="+", choices=list(PICTURES), default=list(PICTURES), help="these pictures")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lab = given.lab or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lims-pictures-")))
        place = stack.enter_context(scene(lab.absolute()))
        for name in given.only:
            show, width, height = PICTURES[name]
            with browser.page(width, height) as page:
                show(page, place)
                page.wait_for_timeout(SETTLE)
                path = given.folder / f"{name}.png"
                page.screenshot(path=path)
                print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
