"""Debian's headless Chromium through Playwright. Here: how a page is opened. Not here: what is looked at."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect, sync_playwright

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


def chromium() -> str:
    """Path of Chromium; without one the test is skipped, and fails in CI."""
    found = shutil.which("chromium")
    if found is None:
        message = "no chromium: install Debian's package of that name"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        print(f"SKIPPED: {message}", file=sys.stderr)
        pytest.skip(message)
    return found


@contextlib.contextmanager
def page(width: int, height: int) -> Iterator[Page]:
    """An empty page of so many pixels, in a browser without history that ends with the block."""
    executable = chromium()
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
