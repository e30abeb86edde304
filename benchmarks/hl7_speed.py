"""HL7 over MLLP: parse, seal, fsync and acknowledge, as a ratio to hl7apy parsing the same messages in memory.

The listener is the real process (``python -m lims_platform hl7``) on loopback; a message counts when its AA has come
back. hl7apy (no dependency of the platform) is installed into a virtual environment of its own below the temporary
folder. Beside it the rate at which the hourly ingest reads the spool back.

    python benchmarks/hl7_speed.py [--messages 20000] [--connections 16] [--in-flight 4] [--seconds 10] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HL7APY = "hl7apy==1.3.5"
START, END = b"\x0b", b"\x1c\r"
ANALYTES = (("2345-7", "Glucose", "mg/dL"), ("2951-2", "Sodium", "mmol/L"), ("2823-3", "Potassium", "mmol/L"))

_BASELINE = """
import sys, time
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
messages = open(sys.argv[1], encoding="utf-8", newline="").read().split("\\n")
begin, done = time.perf_counter(), 0
while time.perf_counter() - begin < float(sys.argv[2]):
    parse_message(messages[done % len(messages)], validation_level=VALIDATION_LEVEL.TOLERANT)
    done += 1
print(done / (time.perf_counter() - begin))
"""


def message(number: int, dice: random.Random) -> str:
    """An ORU^R01 of a chemistry panel: 2 to 12 results, one specimen."""
    day = f"202404{dice.randint(1, 28):02d}"
    lines = [
        f"MSH|^~\\&|ANALYSER|LAB|LIMS|HOSPITAL|{day}110000+0200||ORU^R01^ORU_R01|C{number}|P|2.5.1",
        f"PID|1||P{dice.randint(0, 9_999_999):07d}^^^HOSP^MR||DOE^JANE||19700115|F",
        "PV1|1|I|WARD^101^1^MAIN",
        f"ORC|RE|PL{number}|F{number}^LIS",
        f"OBR|1|PL{number}|F{number}^LIS|PANEL^Panel^L|||{day}083000|||||||||||||||{day}100500|||F",
    ]
    for place in range(dice.randint(2, 12)):
        code, name, unit = ANALYTES[place % 3]
        value = f"{dice.uniform(1, 200):.1f}"
        lines.append(
            f"OBX|{place + 1}|NM|{code}^{name}^LN|{place // 3 + 1}|{value}|{unit}^^UCUM|||||F|||||77^T^A||AU5800|{day}100000"
        )
    lines.append(f"SPM|1|^S{number}||SER^Serum^HL70487|||||||||||||{day}082000|{day}084500")
    return "\r".join(lines) + "\r"


async def load(port: int, messages: list[bytes], connections: int, in_flight: int) -> float:
    """Seconds until every message is acknowledged, ``in_flight`` unanswered at most on each connection."""

    async def one(share: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for at in range(0, len(share), in_flight):
            part = share[at : at + in_flight]
            writer.write(b"".join(START + m + END for m in part))
            for _ in part:
                answer = await reader.readuntil(END)
                if b"MSA|AA|" not in answer:
                    raise RuntimeError("a message was not taken")
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one(messages[start::connections]) for start in range(connections)))
    return time.perf_counter() - begin


def baseline_python() -> Path:
    """The interpreter of the environment that has hl7apy; made on first use."""
    folder = Path(tempfile.gettempdir()) / "lims-benchmark-hl7apy"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", HL7APY], check=True)
    return python


def hl7apy_rate(sample: Path, seconds: float) -> float:
    """Messages a second hl7apy parses; measured before and after the load, the faster counts."""
    command = [baseline_python(), "-c", _BASELINE, sample, str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print messages a second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long hl7apy is measured")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    texts = [message(number, dice) for number in range(given.messages)]
    size = sum(map(len, texts)) / len(texts)
    print(
        f"{given.messages:,} messages, {size:,.0f} bytes and {sum(t.count('OBX|') for t in texts) / len(texts):.1f} OBX each"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = folder / "messages"
        sample.write_text("\n".join(texts[:1000]), newline="")
        before = hl7apy_rate(sample, given.seconds / 2)
        data = {"LIMS_DATA_DIR": str(folder / "data"), "LIMS_ENVIRONMENT": "demo", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "lims_platform", "hl7", "--port", "0"]
        with subprocess.Popen(command, env=os.environ | data, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline().split(",")[0].rpartition(":")[2])
            seconds = asyncio.run(load(port, [t.encode() for t in texts], given.connections, given.in_flight))
            process.terminate()
            process.communicate()
        ours = given.messages / seconds
        how = f"{given.connections} connections, {given.in_flight} in flight on each"
        print(f"listener, acknowledged after fsync ({how}): {ours:,.0f} messages/s")
        theirs = max(before, hl7apy_rate(sample, given.seconds / 2))
        print(f"hl7apy, parsing only: {theirs:,.1f} messages/s")
        print(f"ratio: {ours / theirs:,.0f} x (target: at least 10 x)")
        read_back(folder / "data")


def read_back(data: Path) -> None:
    """How fast the ingest reads the spool: open, parse, times, versions, days."""
    from lims_platform.contracts.source import LAB_RESULTS
    from lims_platform.privacy.pseudonyms import load_pseudonymiser
    from lims_platform.sources.config import parse_sources
    from lims_platform.sources.reader import open_sources

    sealer = load_pseudonymiser(data / "secrets" / "pseudonym.key", "demo").sealer
    entry = {"engine": "hl7", "folder": str(data / "spool" / "hl7"), "timezone": "UTC"}
    config = parse_sources({"sources": {"hl7": entry | {"tables": {"lab_results": {"files": "*.spool"}}}}}, base=data)
    begin = time.perf_counter()
    rows = open_sources(config, "UTC", sealer).fetch(LAB_RESULTS, None)[0].source_rows
    print(f"reading the spool back: {rows / (time.perf_counter() - begin):,.0f} results/s")


if __name__ == "__main__":
    main()
