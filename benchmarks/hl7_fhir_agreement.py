"""HL7 messages of real interfaces against the FHIR bundles another converter makes of them, field by field.

The messages and the expected bundles (Microsoft FHIR-Converter samples, MIT) are looked for in ../shared/data/hl7v2 and
never copied. Every difference needs an explanation, one without makes the exit code 1, and so does their absence where
CI=true. Explanations of status, device and times are checked against OBX-11, 14, 18 and 19; those of units and specimens
look only at the bundle's shape and rest on a reading of HL7 2.5.1 chapter 7.

    python benchmarks/hl7_fhir_agreement.py [--data ../shared/data/hl7v2] [--each]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from lims_platform.contracts.source import LAB_RESULTS
from lims_platform.sources.config import parse_sources
from lims_platform.sources.hl7.message import parse, part
from lims_platform.sources.hl7.results import result_rows
from lims_platform.sources.hl7.values import values
from lims_platform.sources.reader import open_sources

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "hl7v2"
STATUS = {"preliminary": "P", "final": "F", "corrected": "C", "amended": "C", "cancelled": "X", "entered-in-error": "X"}
#: Why a field differs, where it may.
WHY = {
    "status": "the bundle says 'unknown' for OBX-11 I, S and O; table 0085 says pending, partial, no result: P and X here",
    "specimen by order": "in ORU the SPM follows its own OBX (chapter 7); the bundle gives it to the next order",
    "collected": "the bundle's effective time is OBX-14; here OBR-7, else SPM-17, is when the specimen was taken",
    "collected of the specimen": "no OBR-7 in the bundle's report; its specimen has SPM-17, here OBR-7 goes before it",
    "resulted": "the bundle's issued is OBR-22 of the report; OBX-19, when this very result was analysed, comes first here",
    "device": "the bundle takes the device of a PRT segment; OBX-18, the analyser, counts here",
    "unit without a number": "FHIR has no place for the unit of a coded or absent value; it is kept here",
    "unit of a component": "the bundle's components carry no unit; OBX-6 holds for every repetition",
}


@dataclass(frozen=True)
class Difference:
    """One field of one result."""

    message: str
    result: str
    field: str
    ours: Any
    expected: Any
    why: str | None


def ours(path: Path) -> list[dict[str, Any]]:
    """Rows of one message through the source, in the order of its OBX, each with its OBX fields."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "message.hl7").write_bytes(path.read_bytes())
        entry = {"engine": "hl7", "folder": ".", "timezone": "UTC", "tables": {"lab_results": {"files": "*.hl7"}}}
        sources = open_sources(parse_sources({"sources": {"one": entry}}, base=folder), "UTC")
        rows = {row["result_id"]: row for row in sources.fetch(LAB_RESULTS, None)[0].frame.iter_rows(named=True)}
    message = parse(path.read_bytes())
    segments = [
        obx + [""] * (26 - len(obx))
        for obx in message.segments
        if obx[0] == "OBX"
        for _ in values(part(obx[2], 1, message.delimiters), obx[5] if len(obx) > 5 else "", message.delimiters)
    ]
    keys = [row[0] for row in result_rows(message)]
    return [rows[key] | {"obx": obx, "made": message.header[7]} for key, obx in zip(keys, segments, strict=True)]


def expected(bundle: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each Observation, or each of its components, with the resources it refers to."""
    resources = [entry["resource"] for entry in bundle["entry"]]
    by_name = {f"{r['resourceType']}/{r['id']}": r for r in resources}
    patient = next((r for r in resources if r["resourceType"] == "Patient"), {})
    reports = {
        reference["reference"]: report
        for report in resources
        if report["resourceType"] == "DiagnosticReport"
        for reference in report.get("result", [])
    }
    for observation in (r for r in resources if r["resourceType"] == "Observation"):
        report = reports.get(f"Observation/{observation['id']}", {})
        specimen = by_name.get(observation.get("specimen", {}).get("reference", ""), {})
        device = by_name.get(observation.get("device", {}).get("reference", ""), {})
        shared = {"status": observation["status"], "patient": patient, "report": report, "specimen": specimen}
        shared |= {"device": device, "effective": observation.get("effectiveDateTime")}
        for holder in observation.get("component") or [observation]:
            yield shared | {"holder": holder, "component": "component" in observation}


def numbers(resource: dict[str, Any]) -> list[str]:
    """Values of a resource's identifiers."""
    return [i["value"] for i in resource.get("identifier", []) if "value" in i]


def moment(text: str | None) -> datetime | date | None:
    """A FHIR dateTime as an instant, or as a date where it is one."""
    if text is None:
        return None
    return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text).astimezone(UTC)


def same_time(mine: datetime | None, theirs: str | None) -> bool:
    """Whether both say the same instant, or the same day where one says only that."""
    told = moment(theirs)
    if told is None or mine is None:
        return told is None and mine is None
    return mine == told if isinstance(told, datetime) else mine.date() == told


def compare(name: str, row: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Difference | None]]:
    """Field by field: the field's name, and a difference or None."""
    holder, obx = other["holder"], row["obx"]

    def judged(field: str, mine: Any, theirs: Any, equal: bool, why: str | None) -> tuple[str, Difference | None]:
        result = f"{row['test_code']} ({row['result_value']})"
        return field, None if equal else Difference(name, result, field, mine, theirs, WHY[why] if why else None)

    coding = holder["code"]["coding"][0]
    yield judged("code", row["test_code"], coding.get("code"), row["test_code"] == coding.get("code"), None)
    yield judged("name", row["test_name"], coding.get("display"), row["test_name"] == coding.get("display"), None)
    value, unit = expected_value(holder)
    mine = float(row["result_value"]) if isinstance(value, float) and row["result_value"] else row["result_value"]
    yield judged("value", mine, value, mine == value, None)
    unvalued = "valueQuantity" not in holder
    lost = "unit without a number" if unvalued else "unit of a component" if other["component"] else None
    yield judged("unit", row["result_unit"], unit, row["result_unit"] == unit, lost if unit is None else None)
    status = STATUS.get(other["status"])
    why = "status" if obx[11] in ("I", "S", "O") and other["status"] == "unknown" else None
    yield judged("status", row["result_status"], other["status"], row["result_status"] == status, why)
    people = numbers(other["patient"])
    yield judged("patient", row["patient_id"], people, row["patient_id"] in people, None)
    if row["device_id"] or other["device"]:
        told = numbers(other["device"])
        yield judged(
            "device", row["device_id"], told, row["device_id"] in told, "device" if row["device_id"] in obx[18] else None
        )
    yield from compare_times(row, other, judged)
    yield from compare_specimen(row, other, judged)


def compare_times(row: dict[str, Any], other: dict[str, Any], judged: Any) -> Iterator[tuple[str, Difference | None]]:
    """OBR-7 against the report's effective time, else the specimen's and the observation's; OBR-22 against issued."""
    taken = other["report"].get("effectiveDateTime") or collected(other["specimen"]) or other["effective"]
    if taken or row["collected_timestamp"]:
        equal = same_time(row["collected_timestamp"], taken)
        observed = taken is None or same_time(stamp(row["obx"][14], row["made"]), taken)
        why = "collected" if observed else "collected of the specimen" if taken == collected(other["specimen"]) else None
        yield judged("collected", row["collected_timestamp"], taken, equal, why)
    issued = other["report"].get("issued")
    if issued:
        own = stamp(row["obx"][19], row["made"]) == row["resulted_timestamp"]
        equal = same_time(row["resulted_timestamp"], issued)
        yield judged("resulted", row["resulted_timestamp"], issued, equal, "resulted" if own else None)


def compare_specimen(row: dict[str, Any], other: dict[str, Any], judged: Any) -> Iterator[tuple[str, Difference | None]]:
    """Number, type and receipt of the specimen, where either side has one."""
    specimen = other["specimen"]
    if not specimen and not row["specimen_id"] and not row["specimen_type"]:
        return
    told = numbers(specimen)
    by_order = "specimen by order" if not specimen or "type" not in specimen else None
    if row["specimen_id"] or told:
        yield judged("specimen", row["specimen_id"], told, row["specimen_id"] in told, by_order)
    kind = specimen.get("type", {}).get("coding", [{}])[0].get("code")
    yield judged("specimen type", row["specimen_type"], kind, row["specimen_type"] == kind, by_order)
    received = specimen.get("receivedTime")
    if received or row["received_timestamp"]:
        yield judged(
            "received", row["received_timestamp"], received, same_time(row["received_timestamp"], received), by_order
        )


def stamp(text: str, made: str) -> datetime | None:
    """An HL7 time read without the platform's help; without an offset it has that of MSH-7 (``made``), a date UTC."""
    digits, sign, offset = re.match(r"(\d*)(?:\.\d+)?([+-]?)(\d*)", text).groups()  # type: ignore[union-attr]
    if not digits:
        return None
    if not sign and len(digits) > 8:
        sign, offset = re.match(r"\d*(?:\.\d+)?([+-]?)(\d*)", made).groups()  # type: ignore[union-attr]
    zone = f"{sign}{offset}" if sign else "+0000"
    return datetime.strptime(digits.ljust(14, "0") + zone, "%Y%m%d%H%M%S%z")


def collected(specimen: dict[str, Any]) -> str | None:
    """When a specimen was taken."""
    collection = specimen.get("collection", {})
    return collection.get("collectedDateTime") or collection.get("collectedPeriod", {}).get("start")


def expected_value(holder: dict[str, Any]) -> tuple[Any, str | None]:
    """value[x] and unit of an Observation or component."""
    if "valueQuantity" in holder:
        quantity = holder["valueQuantity"]
        return float(quantity["value"]), quantity.get("code") or quantity.get("unit")
    if "valueCodeableConcept" in holder:
        coding = holder["valueCodeableConcept"]["coding"][0]
        return coding.get("display") or coding.get("code"), None
    return holder.get("valueString"), None


def pairs(
    name: str, path: Path, bundle: dict[str, Any]
) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], list[str], int]:
    """Our rows with their Observation (n-th of a code with n-th of that code), what has no partner, encapsulated rows."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    for one in expected(bundle):
        waiting.setdefault(one["holder"]["code"]["coding"][0].get("code"), []).append(one)
    matched, alone, documents = [], [], 0
    for row in ours(path):
        if str(row["result_value"]).startswith("[encapsulated "):
            documents += 1  # FHIR holds them as documents (presentedForm, DocumentReference), here they are marked rows
        elif waiting.get(row["test_code"]):
            matched.append((row, waiting[row["test_code"]].pop(0)))
        else:
            alone.append(f"{name}: OBX {row['test_code']} = {row['result_value']} has no Observation")
    alone += [f"{name}: Observation {code} has no row" for code, left in waiting.items() for _ in left]
    return matched, alone, documents


def main() -> int:
    """Print agreement per field, and every difference with its explanation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--each", action="store_true", help="print every single difference too")
    given = parser.parse_args()
    if not given.data.is_dir():
        print(f"the messages are not here ({given.data}); NOTHING WAS COMPARED")
        return 1 if os.environ.get("CI") == "true" else 0
    asked, agreed = Counter[str](), Counter[str]()
    differences: list[Difference] = []
    alone: list[str] = []
    results = documents = messages = 0
    for path in sorted((given.data / "expected_fhir").glob("*-expected.json")):
        name = path.name.removesuffix("-expected.json")
        matched, unmatched, encapsulated = pairs(name, given.data / f"{name}.hl7", json.loads(path.read_text()))
        messages, results, documents = messages + 1, results + len(matched), documents + encapsulated
        alone += unmatched
        for row, other in matched:
            for field, difference in compare(name, row, other):
                asked[field] += 1
                agreed[field] += difference is None
                differences += [difference] if difference else []
    print(f"{messages} messages, {results} results with an Observation, {documents} encapsulated ones that have none")
    for field, total in asked.items():
        told = Counter(d.why or "NOT EXPLAINED" for d in differences if d.field == field)
        print(
            f"{field:14} {agreed[field]:4} of {total:4} agree" + "".join(f"\n    {n:3} × {why}" for why, n in told.items())
        )
    for difference in differences if given.each else ():
        shown = f"{difference.ours!s:.40} against {difference.expected!s:.60}"
        print(f"  {difference.message} {difference.result:.40} {difference.field}: {shown}")
    for line in alone:
        print(f"  {line}")
    unexplained = sum(d.why is None for d in differences) + len(alone)
    print(f"{sum(agreed.values())} of {sum(asked.values())} fields agree; differences without an explanation: {unexplained}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
