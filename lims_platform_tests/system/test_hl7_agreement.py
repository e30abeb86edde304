"""Real interfaces' messages against another converter's bundles: no field differs without an explanation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "hl7v2"


def test_every_difference_is_explained() -> None:
    if not DATA.is_dir():
        message = f"the shared HL7 messages are not here: {DATA}"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    command = [sys.executable, "benchmarks/hl7_fhir_agreement.py", "--data", str(DATA)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "differences without an explanation: 0" in done.stdout
    for field in ("code", "value", "patient"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{field} ")]
        assert line.split()[1] == line.split()[3] and int(line.split()[1]) > 50
