"""Programs of the operating system a test drives. Here: finding one, or saying why the test cannot run.

In CI a test that cannot run fails: `make test` installs what is missing. Not here: database servers (``servers``).
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest


def cannot_run(why: str) -> None:
    """Skip the test and say why; in CI fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    print(f"SKIPPED: {why}", file=sys.stderr)
    pytest.skip(why)


def program(name: str, package: str) -> str:
    """Path of a program; where there is none, ``cannot_run`` names the Debian package to install."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        cannot_run(f"no {name}: install Debian's package {package}")
    return str(found)
