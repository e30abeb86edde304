"""Debian's headless Chromium through Playwright. Here: how a page is opened. Not here: what is looked at."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

from playwright.sync_api import Page, expect, sync_playwright

from lims_platform_tests.programs import program

#: No sandbox: tests run as root in containers. The rest keeps the browser from talking to anybody but the page.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Milliseconds a page may take to show what is expected of it; what is there is seen at once, however long this is.
PATIENCE = 120_000


@contextlib.contextmanager
def page(width: int, height: int) -> Iterator[Page]:
    """An empty page of so many pixels, in a browser without history that ends with the block."""
    executable = program("chromium", "chromium")
    with tempfile.TemporaryDirectory(prefix="lims-chromium-") as profile, sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=executable, args=FLAGS, viewport={"width": width, "height": height}
        )
        browser.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        try:
            yield browser.pages[0]
        finally:
            browser.close()
