"""docs/laboratory.md: its examples run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_example_runs_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "laboratory.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 8 and sum("assert" in block for block in blocks) >= 7
    session: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/laboratory.md", "exec"), session)
