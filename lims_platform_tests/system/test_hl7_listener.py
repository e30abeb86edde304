"""The HL7 listener as a process: killed under load, fed with rubbish, then through the hourly job into bronze and silver."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lims_platform.contracts.tables import TABLES
from lims_platform.lakehouse.lake import Lake
from lims_platform.lakehouse.versions import live_rows
from lims_platform_tests.hl7_messages import END, START, MllpClient, oru

ROOT = Path(__file__).resolve().parents[2]
DAY = date.today() - timedelta(days=1)
MESSAGES, KILLS, CONNECTIONS = 1_000, 5, 4


def environment(data: Path, **more: str) -> dict[str, str]:
    home = data.parent / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    parts = ("RUNS", "EVENTS", "SCHEDULES", "LOGS", "ARTIFACTS")
    return os.environ | {
        "LIMS_DATA_DIR": str(data),
        "LIMS_SOURCES": str(data.parent / "sources.yaml"),
        "LIMS_START_DATE": (date.today() - timedelta(days=5)).isoformat(),
        "DAGSTER_HOME": str(home),
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        **{f"LIMS_DAGSTER_{part}": str(data / "dagster" / part.lower()) for part in parts},
        **more,
    }


class ListenerProcess:
    """``python -m lims_platform hl7`` on one port, started again after each kill."""

    def __init__(self, data: Path, **more: str) -> None:
        self._data, self._more = data, more
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "lims_platform", "hl7", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command,
            env=environment(self._data, **self._more),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        assert "HL7 listener on" in self.process.stdout.readline()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[ListenerProcess]:
    (tmp_path / "sources.yaml").write_text(_sources_yaml(tmp_path))
    process = ListenerProcess(tmp_path / "data", LIMS_HL7_MESSAGE_SECONDS="1", LIMS_HL7_MESSAGE_BYTES="2000000")
    process.start()
    yield process
    if process.process is not None and process.process.poll() is None:
        process.kill()


def _sources_yaml(folder: Path) -> str:
    entry = "{{engine: {0}, folder: {0}, timezone: Europe/Berlin, tables: {{lab_results: {{files: '*'}}}}}}"
    for name in ("hl7", "fhir"):
        (folder / name).mkdir(exist_ok=True)
    return "sources:\n" + "".join(f"  drop_{name}: {entry.format(name)}\n" for name in ("hl7", "fhir"))


def glucose(number: int, value: str, status: str = "F", made: str = "110000") -> bytes:
    day = DAY.strftime("%Y%m%d")
    obx = f"OBX|1|NM|2345-7^Glucose^LN||{value}|mg/dL|||||{status}|||||77^Tech^Ann||AU5800|{day}100000"
    return oru(f"C{number}-{status}", [obx], made=f"{day}{made}", order=f"F{number}", patient=f"P{number:07d}")


class Sender(threading.Thread):
    """Sends its share over one connection at a time; what was lost with a connection is sent again, or given up."""

    def __init__(self, port: int, numbers: list[int], seed: int) -> None:
        super().__init__(daemon=True)
        self._port, self._left, self._random = port, list(reversed(numbers)), random.Random(seed)
        self.acknowledged: set[int] = set()
        self.given_up: set[int] = set()

    def run(self) -> None:
        client: MllpClient | None = None
        while self._left:
            if client is None:
                try:
                    client = MllpClient(self._port)
                except OSError:  # being started again
                    time.sleep(0.02)
                    continue
            number = self._left.pop()
            try:
                answer = client.send(glucose(number, str(60 + number % 100)))
                assert f"MSA|AA|C{number}-F".encode() in answer
                self.acknowledged.add(number)
            except OSError:
                client = None
                if self._random.random() < 0.5:
                    self._left.append(number)
                else:
                    self.given_up.add(number)


@pytest.mark.slow
def test_every_acknowledged_message_is_in_bronze_once_after_kills(listener: ListenerProcess, tmp_path: Path) -> None:
    shares = [list(range(start, MESSAGES, CONNECTIONS)) for start in range(CONNECTIONS)]
    senders = [Sender(listener.port, share, seed) for seed, share in enumerate(shares)]
    for sender in senders:
        sender.start()
    dice, kills = random.Random(4), 0
    while any(sender.is_alive() for sender in senders):
        done = sum(len(sender.acknowledged) for sender in senders)
        if kills < KILLS and done >= (kills + dice.random()) * MESSAGES / (KILLS + 1):
            time.sleep(dice.random() * 0.02)
            listener.kill()
            kills += 1
            listener.start()
        time.sleep(0.002)
    assert listener.stop() == 0 and kills == KILLS
    acknowledged = set().union(*(sender.acknowledged for sender in senders))
    given_up = set().union(*(sender.given_up for sender in senders))
    assert len(acknowledged) + len(given_up - acknowledged) == MESSAGES and len(acknowledged) > MESSAGES * 0.9
    _other_doors(tmp_path)
    live = _through_the_job(tmp_path)
    stored = [int(i.removeprefix("F").split("^")[0]) for i in live.filter(pl.col("source") == "hl7_listener")["result_id"]]
    assert len(stored) == len(set(stored))
    assert acknowledged <= set(stored) <= acknowledged | given_up


def _other_doors(folder: Path) -> None:
    """A corrected result and a cancelled one within one hour, a refusal, and a FHIR panel."""
    drop = (
        glucose(1, "95", "P", "100000")
        + glucose(1, "59", "C", "110000")
        + glucose(2, "80", "F")
        + glucose(2, "", "X", "120000")
    )
    (folder / "hl7" / "a.hl7").write_bytes(drop + glucose(3, "70").replace(b"ORU", b"ADT"))
    part = {"code": {"coding": [{"system": "http://loinc.org", "code": "2951-2"}]}}
    observation: dict[str, Any] = {
        "resourceType": "Observation", "id": "o1", "status": "final", "issued": f"{DAY}T10:00:00+02:00",
        "code": {"text": "panel"}, "subject": {"reference": "Patient/FHIRPATIENT1"},
        "performer": [{"reference": "Practitioner/TECHNICIAN9"}],
        "component": [part | {"valueQuantity": {"value": 140, "unit": "mmol/L"}}],
    }  # fmt: skip
    (folder / "fhir" / "a.ndjson").write_text(json.dumps(observation) + "\nnot json\n")


def _through_the_job(folder: Path) -> pl.DataFrame:
    data = folder / "data"
    for command in (["run", "--job", "ingest_hourly"], ["leak-scan"], ["run", "--job", "ingest_hourly"]):
        done = subprocess.run(
            [sys.executable, "-m", "lims_platform", *command],
            env=environment(data),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        if command == ["leak-scan"]:
            assert "hits: 0" in done.stdout and "identifiers looked for: 0" not in done.stdout, done.stdout
            _assert_versions(data)
    return _assert_versions(data)


def _assert_versions(data: Path) -> pl.DataFrame:
    """The same after each run: nothing is appended twice."""
    lake = Lake(data / "lake")
    history = lake.scan(TABLES["lab_results_raw"]).collect()
    versions = history.filter(pl.col("source") == "drop_hl7").sort("result_id", "row_version")
    corrected = versions.filter(pl.col("result_id").str.starts_with("F1^"))
    assert corrected.select("result_value", "result_status", "change").rows() == [
        ("95", "P", "insert"),
        ("59", "C", "update"),
    ]
    assert corrected["known_from"].is_sorted() and corrected["known_from"].n_unique() == 2
    live = live_rows(history.lazy()).collect()
    silver = lake.scan(TABLES["lab_results_standardized"]).collect()
    waiting = lake.scan(TABLES["lab_results_quarantine"]).collect()
    assert silver.height + waiting.height == live.height
    glucose_row = silver.filter((pl.col("source") == "drop_hl7") & (pl.col("value_number") == 59))
    assert glucose_row["analyte"].to_list() == ["Glucose"] and glucose_row["event_date"].to_list() == [DAY]
    assert silver.filter(pl.col("source") == "drop_fhir")["value_number"].to_list() == [140.0]
    reasons = dict(waiting.filter(pl.col("source") == "drop_hl7").select("result_id", "reason").rows())
    assert reasons.pop(next(k for k in reasons if k.startswith("F2^"))) == "cancelled"
    assert [k.split()[0] for k in reasons] == ["refused"]
    return live


def test_rubbish_slow_and_endless_peers_are_answered_or_cut_off_and_the_rest_goes_on(listener: ListenerProcess) -> None:
    good = MllpClient(listener.port)
    assert b"MSA|AA|C1-F" in good.send(glucose(1, "90"))
    noise = MllpClient(listener.port)
    for payload in (b"", b"\xff\x00" * 500, b"MSH|^~\\&|", glucose(1, "9").replace(b"ORU", b"ADT"), b"MSH|^~\\&" * 9000):
        noise.post(payload)
        assert b"MSA|A" in noise.answer()
    assert b"MSA|AE|C2-F|" in noise.send(glucose(2, "9").replace(b"JANE", b"\xff\xff"))
    assert b"MSA|AA|C2-F" in noise.send(glucose(2, "9"))  # the same connection goes on
    endless = MllpClient(listener.port)
    endless.socket.sendall(START + glucose(3, "9" * 2_100_000))
    assert b"MSA|AR|C3-F|the message is longer" in endless.answer()
    with pytest.raises(ConnectionError):
        endless.answer()
    slow = MllpClient(listener.port)
    began = datetime.now()
    with pytest.raises(OSError):  # a byte at a time keeps no connection open
        for byte in START + glucose(4, "9"):
            slow.socket.sendall(bytes([byte]))
            time.sleep(0.1)
    assert datetime.now() - began < timedelta(seconds=15)
    # a busy peer that always has half a message under way is not a slow one
    busy, halves = MllpClient(listener.port), b"".join(START + glucose(n, "9") + END for n in range(100, 140))
    step = len(halves) // 40 + 7
    for at in range(0, len(halves), step):
        busy.socket.sendall(halves[at : at + step])
        time.sleep(0.05)
    assert all(f"MSA|AA|C{number}-F".encode() in busy.answer() for number in range(100, 140))
    silent = MllpClient(listener.port)
    silent.socket.sendall(END)
    for number in range(10, 60):  # pipelined, answered in order
        good.post(glucose(number, "90"))
    assert all(f"MSA|AA|C{number}-F".encode() in good.answer() for number in range(10, 60))
    assert listener.stop() == 0
