"""The services of deploy/ as systemd would start them, on a machine that may have none: the units' own lines.

Here: reading units and the environment file, their order, start and stop. Not here: sandboxing, what is tested.
"""

from __future__ import annotations

import graphlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lims_platform_tests.system.deployment import ROOT

UNITS = ROOT / "deploy" / "systemd"
COMMON = UNITS / "lims-.service.d" / "common.conf"


def read_unit(path: Path) -> dict[str, list[str]]:
    """Keys of a unit file, each with its values in order; sections do not matter, no key is in two."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def read_environment(path: Path) -> dict[str, str]:
    """An EnvironmentFile."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def start_order() -> list[str]:
    """What lims.target upholds, each after the units it names in After=."""
    wanted = read_unit(UNITS / "lims.target")["Upholds"][0].split()
    after = {name: set(" ".join(read_unit(UNITS / name).get("After", [])).split()) & set(wanted) for name in wanted}
    return list(graphlib.TopologicalSorter(after).static_order())


def _seconds(unit: dict[str, list[str]], key: str, default: float = 90) -> float:
    return float(unit[key][-1]) if key in unit else default


@dataclass
class Services:
    """Units, started. ``places``: path in the units to path here; ``settings``: over those of the environment file."""

    folder: Path
    places: Mapping[str, str]
    settings: Mapping[str, str]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """What a unit's processes see: the environment file of deploy/ and hardly anything else."""
        example = read_environment(ROOT / "deploy" / "lims.env.example")
        mine = {name: self.here(value) for name, value in example.items()} | dict(self.settings)
        # the code under test, wherever the virtual environment's own installation points to
        return {"PATH": os.defpath, "HOME": self.here("/var/lib/lims"), "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)} | mine

    def here(self, text: str) -> str:
        """The text with this machine's paths."""
        for there, place in self.places.items():
            text = text.replace(there, place)
        return text

    def command(self, line: str) -> list[str]:
        """An Exec line as systemd reads it: ${NAME} from the environment, quotes as in a shell."""
        known = self.environment()
        return shlex.split(re.sub(r"\$\{(\w+)\}", lambda name: known[name[1]], self.here(line)))

    def log(self, name: str) -> Path:
        """Everything a unit said."""
        return self.folder / f"{name}.log"

    def start(self, name: str) -> None:
        """ExecStartPre, ExecStart, ExecStartPost; RuntimeError with the unit's last words where one fails."""
        unit = read_unit(UNITS / name)
        deadline = time.monotonic() + _seconds(unit, "TimeoutStartSec")
        with self.log(name).open("ab") as out:
            said = {"env": self.environment(), "cwd": self.here("/opt/lims_platform"), "stdout": out, "stderr": out}
            for line in unit.get("ExecStartPre", []):
                if subprocess.run(self.command(line), timeout=deadline - time.monotonic(), **said).returncode:  # type: ignore[call-overload]
                    raise RuntimeError(f"{name}: {line}: {self.last_words(name)}")
            started = subprocess.Popen(self.command(unit["ExecStart"][0]), start_new_session=True, **said)  # type: ignore[call-overload]
            self.running[name] = started
            for line in unit.get("ExecStartPost", []):
                post = subprocess.Popen(self.command(line), **said)  # type: ignore[call-overload]
                while post.poll() is None:
                    if started.poll() is not None or time.monotonic() > deadline:
                        post.kill()
                        post.wait()
                        raise RuntimeError(f"{name} did not come up: {self.last_words(name)}")
                    time.sleep(0.2)

    def last_words(self, name: str) -> str:
        """The end of a unit's log."""
        return self.log(name).read_text(errors="replace")[-3000:]

    def stop(self, name: str) -> int:
        """SIGTERM as systemd sends it, to the main process (KillMode=mixed) or to all; the main process's exit status.

        RuntimeError if it is not gone after TimeoutStopSec, or if another process of the unit is left behind.
        """
        unit, process = read_unit(UNITS / name), self.running.pop(name)
        try:
            if unit.get("KillMode") == ["mixed"]:
                process.terminate()
            else:
                os.killpg(process.pid, signal.SIGTERM)
            status = process.wait(_seconds(unit, "TimeoutStopSec"))
            for _ in range(50):
                if not _group_lives(process.pid):
                    return status
                time.sleep(0.1)
            raise RuntimeError(f"{name} left processes behind")
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{name} did not stop: {self.last_words(name)}") from None
        finally:
            if _group_lives(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(30)

    def kill(self, name: str) -> None:
        """What a power cut does to a unit."""
        process = self.running.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)

    def kill_all(self) -> None:
        """Leave nothing behind, whatever a test did."""
        for name in list(self.running):
            self.kill(name)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def here(state: Path, etc: Path) -> dict[str, str]:
    """``places`` for this checkout and this Python, with the state and configuration folders given."""
    return {
        "/opt/lims_platform/.venv/bin": str(Path(sys.executable).parent),
        "/opt/lims_platform": str(ROOT),
        "/var/lib/lims": str(state),
        "/etc/lims": str(etc),
    }
