"""The files of deploy/ agree with each other, with the settings and with systemd. Not here: running them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lims_platform.automation.clocks import CAN_WAIT
from lims_platform.settings import Settings
from lims_platform_tests.programs import program
from lims_platform_tests.system import services
from lims_platform_tests.system.services import COMMON, ROOT, UNITS, read_environment, read_unit

DEPLOY = ROOT / "deploy"
NAMES = sorted(path.name for path in UNITS.glob("*.service"))


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    analyze = program("systemd-analyze", "systemd")
    shutil.copytree(UNITS, tmp_path / "units")
    for path in (tmp_path / "units").glob("*.service"):
        path.write_text(path.read_text().replace("/opt/lims_platform/.venv/bin", str(Path(sys.executable).parent)))
    units = [str(path) for path in sorted((tmp_path / "units").glob("lims*.*")) if path.is_file()]
    searched = {"SYSTEMD_UNIT_PATH": f"{tmp_path / 'units'}:", "PATH": "/usr/bin:/bin"}
    verdict = subprocess.run([analyze, "verify", "--man=no", *units], env=searched, capture_output=True, text=True)
    assert (verdict.returncode, verdict.stderr) == (0, "")
    # 0 is a locked room, 10 an open field; systemd calls up to 2 safe enough to be exposed
    strict = [analyze, "security", "--offline=true", "--threshold=20", *[u for u in units if u.endswith(".service")]]
    judged = subprocess.run(strict, env=searched, capture_output=True, text=True)
    assert judged.returncode == 0, judged.stdout


def test_the_target_starts_what_others_need_first() -> None:
    order = services.start_order()
    assert set(order) == set(NAMES) - {"lims-hl7.service"}
    assert order.index("lims-mlflow.service") < order.index("lims-code.service")
    assert order.index("lims-code.service") < min(order.index(f"lims-{name}.service") for name in ("daemon", "webserver"))


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_uses_what_exists_and_holds_what_it_should_not_see_away(name: str) -> None:
    unit = read_unit(UNITS / name)
    lines = [line for key in ("ExecStartPre", "ExecStart", "ExecStartPost") for line in unit.get(key, [])]
    example = read_environment(DEPLOY / "lims.env.example")
    assert set(re.findall(r"\$\{(\w+)\}", " ".join(lines))) <= set(example)
    for line in lines:
        for path in re.findall(r"/opt/lims_platform/(?!\.venv)\S+", line):
            assert (ROOT / path.removeprefix("/opt/lims_platform/")).exists(), path
        if "--port" in line:
            assert "--host 127.0.0.1" in line
    reads_the_key = name in ("lims-code.service", "lims-hl7.service")
    assert ("-/etc/lims/secrets" in unit.get("InaccessiblePaths", [])) != reads_the_key
    assert not set(unit) & set(read_unit(COMMON)), "systemd reads the common file last: its value would win"


def test_every_variable_of_the_example_is_read_by_something() -> None:
    files = [*UNITS.glob("*.service"), *DEPLOY.glob("*.yaml"), ROOT / "docs" / "sources.md"]
    text = "\n".join(path.read_text() for path in files)
    known = {f"LIMS_{name.upper()}" for name in Settings.model_fields}
    mine = {name for name in read_environment(DEPLOY / "lims.env.example") if name.startswith("LIMS_")}
    assert {name for name in mine - known if name not in text} == set()
    asked = set(re.findall(r"\{env: (\w+)\}", "\n".join(path.read_text() for path in DEPLOY.glob("*.yaml"))))
    assert asked <= mine


def test_production_runs_by_the_rules_of_the_demo() -> None:
    """What differs is where things are kept, and what only a long life with restarts needs."""
    ours = yaml.safe_load((DEPLOY / "dagster.production.yaml").read_text())
    demo = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    for key in ("concurrency", "retention", "run_retries", "telemetry", "compute_logs", "local_artifact_storage"):
        assert ours[key] == demo[key], key
    limits = ours["concurrency"]["runs"]
    assert limits["tag_concurrency_limits"] == [{"key": next(iter(CAN_WAIT)), "limit": limits["max_concurrent_runs"] - 1}]
    assert ours["run_coordinator"]["class"] == demo["run_coordinator"]["class"]
    assert demo["run_monitoring"].items() <= ours["run_monitoring"].items()
    assert ours["run_monitoring"]["free_slots_after_run_end_seconds"] > 0
