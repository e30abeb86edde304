"""The platform as an operator runs it, for system tests: its environment below one data directory, and its UI as a process.

Not here: what is tested (``test_*``), the browser (``browser``), or databases (``servers``).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DAGSTER_STORES = ("RUNS", "EVENTS", "SCHEDULES", "LOGS", "ARTIFACTS")


def facts_of(module: str, folder: Path) -> dict[str, Any]:
    """What ``lims_platform_tests.<module>`` prints as JSON of what happened in ``folder``; in a process of its own, because
    the laboratory is set by the environment.
    """
    line = [sys.executable, "-m", f"lims_platform_tests.{module}", str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def environment(data: Path, days: int, devices: int, results_per_day: int) -> dict[str, str]:
    """What the Makefile exports, with everything below ``data`` and a small demo laboratory of the last ``days`` days."""
    home = data.parent / "home"
    home.mkdir(parents=True, exist_ok=True)
    (data / "dagster").mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    # the models of this laboratory belong below its own directory
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return own | {
        "LIMS_DATA_DIR": str(data),
        "LIMS_START_DATE": (date.today() - timedelta(days=days)).isoformat(),
        "LIMS_DEMO_DEVICES": str(devices),
        "LIMS_DEMO_RESULTS_PER_DAY": str(results_per_day),
        "DAGSTER_HOME": str(home),
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        **{f"LIMS_DAGSTER_{store}": str(data / "dagster" / store.lower()) for store in DAGSTER_STORES},
    }


def command(settings: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m lims_platform …`` in that environment."""
    line = [sys.executable, "-m", "lims_platform", *arguments]
    return subprocess.run(line, env=settings, cwd=ROOT, capture_output=True, text=True)


@contextlib.contextmanager
def dagster_ui(settings: dict[str, str], log: Path, start_seconds: float = 240) -> Iterator[str]:
    """``dagster dev`` as ``make dev`` starts it (webserver, daemon, code server) on a free port; yields its address.

    Its processes are one group, which is ended with the block, whatever happens in it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    line = [str(Path(sys.executable).with_name("dagster")), "dev", "-h", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(line, env=settings, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + start_seconds
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"dagster dev did not come up: {log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)
        yield address
    finally:
        # A polite end takes dagster dev longer than a test should wait; nothing it holds outlives the test.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/server_info", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
