"""The documentation's pictures of the Dagster UI: ``python -m lims_platform_tests.system.screenshots URL FOLDER``.

Wants a UI (``make dev``) over a laboratory that went through the whole graph. Not here: tests (``test_browser``).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from lims_platform_tests.system import browser

#: The graph redraws and refits after its data are there, without any mark in the page that it is done.
SETTLE = 3_000


def asset_graph(page: Page, address: str) -> None:
    """All groups and how they feed each other; every asset by name in the side list."""
    page.goto(f"{address}/asset-groups")
    expect(page.get_by_title("reports", exact=True)).to_be_visible()
    page.get_by_role("button", name="Hide navigation").click()
    for group in reversed(page.locator("[role=img][aria-label=asset_group] + [title]").all()):
        group.dblclick()
    page.reload()
    expect(page.get_by_title("laboratory_overview", exact=True)).to_be_visible()


def asset_with_plot(page: Page, address: str) -> None:
    """The page of a report with its plots opened."""
    page.goto(f"{address}/assets/reports/laboratory_overview")
    page.get_by_text("[Show Markdown]").click()
    expect(page.locator("img[src^='data:image/png']").first).to_be_visible()


def asset_checks(page: Page, address: str) -> None:
    """A table's checks, the one that counts rows opened: expected against actual."""
    page.goto(f"{address}/assets/silver/lab_results_standardized?view=checks")
    page.get_by_text("bronze_rows_conserved", exact=True).first.click()
    expect(page.get_by_text("expected_rows", exact=True).first).to_be_visible()


#: picture → (what to open, width, height)
PICTURES: dict[str, tuple[Callable[[Page, str], None], int, int]] = {
    "asset_graph": (asset_graph, 2440, 1250),
    "asset_with_plot": (asset_with_plot, 1900, 1500),
    "asset_checks": (asset_checks, 1500, 640),
}


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="address of a running Dagster UI, e.g. http://127.0.0.1:3000")
    parser.add_argument("folder", type=Path, help="where the PNG files go")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name, (show, width, height) in PICTURES.items():
        with browser.page(width, height) as page:
            show(page, given.url.rstrip("/"))
            page.wait_for_timeout(SETTLE)
            path = given.folder / f"{name}.png"
            page.screenshot(path=path)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
