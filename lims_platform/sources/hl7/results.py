"""A message's observations as rows of lab_results: which segment says what, and the key a result keeps for life.

Here: ORU and OUL messages, OBX under its OBR, ORC and SPM. Not here: the value's text (``values``), times to UTC and which
version of a result is current (``sources.versioned``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lims_platform.sources.hl7.message import NULL, Delimiters, Hl7Error, Message, first, part, repetitions
from lims_platform.sources.hl7.values import values

#: Messages that carry results; anything else is refused.
MESSAGE_TYPES = frozenset({"ORU", "OUL"})

#: OBX-11 (table 0085) to the contract's P, F, C, X. D and W withdraw a result: it was never this patient's, or never was.
STATUS = {"F": "F", "V": "F", "B": "F", "U": "F", "P": "P", "S": "P", "R": "P", "I": "P", "C": "C", "A": "C", "K": "C"}
STATUS |= dict.fromkeys(("X", "D", "W", "N", "O"), "X")
#: OBR-25 (table 0123) where OBX-11 is empty.
ORDER_STATUS = {"F": "F", "C": "C", "X": "X", "P": "P", "A": "P", "I": "P", "R": "P", "S": "P", "O": "P"}
PRIORITY = {"S": "STAT", "A": "ASAP", "R": "ROUTINE"}
PATIENT_CLASS = {"I": "inpatient", "O": "outpatient", "E": "emergency", "P": "preadmission", "R": "outpatient"}

#: Columns of a row, all text; times as the message writes them. ``birth`` and the two last never leave this room.
COLUMNS = (
    "result_id", "patient_id", "test_code", "result_value", "result_unit", "device_id", "collected_timestamp",
    "resulted_timestamp", "technician_id", "specimen_id", "specimen_type", "received_timestamp", "result_status", "priority",
    "facility_id", "location_class", "sex", "loinc_code", "test_name", "birth", "status_letter",
)  # fmt: skip
Row = tuple[str | None, ...]


@dataclass(slots=True)
class _Order:
    """An OBR with what surrounds it."""

    obr: list[str] = field(default_factory=list)
    orc: list[str] = field(default_factory=list)
    priority: str = ""
    specimen: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Patient:
    pid: list[str] = field(default_factory=list)
    pv1: list[str] = field(default_factory=list)


def check_type(message: Message) -> None:
    """Raise Hl7Error (AR) unless the message carries results."""
    kind, event = message.head(9, 1), message.head(9, 2)
    if kind not in MESSAGE_TYPES:
        shown = "^".join(p for p in (kind, event) if p.isalnum() and len(p) <= 3) or "none"
        raise Hl7Error(f"message type {shown} carries no results; this door takes ORU and OUL", "AR", "200")
    if not message.head(10):
        raise Hl7Error("MSH-10, the message control id, is empty", "AE", "101")


def result_rows(message: Message, identifier_type: str = "MR") -> list[Row]:
    """One row per value of each OBX, in the order of COLUMNS; raises Hl7Error for a message of another type.

    Args:
        message: parsed.
        identifier_type: the PID-3 repetition of this type (table 0203) is the patient; else the first one with a number.
    """
    check_type(message)
    observations = _walk(message)
    d, seen = message.delimiters, dict[str, int]()
    sender = message.head(4) or message.head(3)
    rows: list[Row] = []
    cache: dict[int, Row] = {}
    for obx, order, patient in observations:
        if id(order) not in cache:
            cache[id(order)] = _order_part(order, patient, sender, message.head(10), d, identifier_type)
        rows.extend(_rows(obx, cache[id(order)], d, seen))
    return rows


def _walk(message: Message) -> list[tuple[list[str], _Order, _Patient]]:
    """Each OBX with its order and patient.

    In ORU and OUL^R24 a specimen follows the observations of its order; in OUL^R22 and R23 it precedes its orders.
    """
    before = message.head(9, 1) == "OUL" and message.head(9, 2) in ("R22", "R23")
    order, patient, orc = _Order(), _Patient(), list[str]()
    found: list[tuple[list[str], _Order, _Patient]] = []
    specimen: list[str] = []
    for segment in message.segments:
        name = segment[0]
        if name == "OBX":
            found.append((segment, order, patient))
        elif name == "OBR":
            order = _Order(segment, orc, specimen=specimen if before else [])
            orc = []
        elif name == "SPM":
            if before:
                specimen, order = segment, _Order(specimen=segment)
            elif not order.specimen:
                order.specimen = segment
        elif name == "ORC":
            # in OUL the ORC follows its OBR, in ORU it comes first
            if message.head(9, 1) == "OUL" and order.obr and not order.orc:
                order.orc = segment
            else:
                orc = segment
        elif name == "TQ1":
            order.priority = order.priority or _get(segment, 9)
        elif name == "PID":
            patient, order, orc, specimen = _Patient(segment), _Order(), [], []
        elif name == "PV1":
            patient.pv1 = segment
    return found


def _get(segment: list[str], number: int) -> str:
    return segment[number] if number < len(segment) else ""


def _patient_id(pid: list[str], d: Delimiters, identifier_type: str) -> str:
    """PID-3: the repetition of the wanted type, else the first with a number; PID-2 in old messages."""
    listed = [one for one in repetitions(_get(pid, 3), d) if part(one, 1, d)]
    chosen = next((one for one in listed if part(one, 5, d) == identifier_type), listed[0] if listed else "")
    return part(chosen, 1, d) or part(first(_get(pid, 2), d), 1, d)


def _number(text: str, sender: str, d: Delimiters) -> str:
    """An order number with who assigned it, so that two systems' number 1 are two orders."""
    number = part(first(text, d), 1, d)
    return f"{number}^{part(first(text, d), 2, d) or sender}" if number else ""


def _order_part(order: _Order, patient: _Patient, sender: str, control: str, d: Delimiters, identifier_type: str) -> Row:
    """What all observations of an order share, in the order ``_rows`` unpacks it; first the base of the key, if any."""
    obr, orc, spm, pid, pv1 = order.obr, order.orc, order.specimen, patient.pid, patient.pv1
    filler, placer = _get(spm, 2), first(_get(spm, 2), d)
    specimen_id = part(filler, 2, d) or part(placer, 1, d)
    base = (
        _number(_get(obr, 3) or _get(orc, 3), sender, d)
        or _number(_get(obr, 2) or _get(orc, 2), sender, d)
        or (f"specimen {specimen_id}^{sender}" if specimen_id else "")
    )
    source = _get(obr, 15)
    code, words = part(_get(spm, 4), 1, d), part(_get(spm, 4), 2, d)
    specimen_type = (words or code) if code.isdigit() else (code or words) or part(source, 1, d, 1)
    priority = part(order.priority, 1, d) or part(_get(obr, 27), 6, d) or part(_get(obr, 5), 1, d)
    visit = part(_get(pv1, 2), 1, d)
    return (
        base,
        f"message {control}^{sender}",
        _patient_id(pid, d, identifier_type),
        part(first(_get(obr, 7), d), 1, d) or part(first(_get(spm, 17), d), 1, d),
        part(first(_get(obr, 22), d), 1, d),
        part(first(_get(obr, 34), d), 1, d),
        specimen_id,
        specimen_type,
        part(first(_get(spm, 18), d), 1, d) or part(first(_get(obr, 14), d), 1, d),
        part(_get(obr, 25), 1, d),
        PRIORITY.get(priority, priority),
        part(first(_get(pv1, 3), d), 4, d) or part(first(_get(orc, 21), d), 1, d) or sender,
        PATIENT_CLASS.get(visit, visit),
        part(_get(pid, 8), 1, d),
        part(_get(pid, 7), 1, d),
    )


def _rows(obx: list[str], shared: Row, d: Delimiters, seen: dict[str, int]) -> list[Row]:
    base, lone, patient, collected, resulted, technician, specimen, kind_of_specimen, received = shared[:9]
    order_status, priority, facility, location, sex, birth = shared[9:]
    obx = obx + [""] * (26 - len(obx))
    coding = first(obx[3], d)
    code, name, system = part(coding, 1, d), part(coding, 2, d), part(coding, 3, d)
    other, other_name, other_system = part(coding, 4, d), part(coding, 5, d), part(coding, 6, d)
    loinc = code if system == "LN" else other if other_system == "LN" else None
    # an order number is the stable base; without one the observation's own number (OBX-21), at last the message itself
    own = part(obx[21], 1, d)
    root = base or (f"observation {own}^{part(obx[21], 2, d)}" if own else lone)
    key = f"{root}|{code or other or name or other_name}" + (f"|{obx[4]}" if obx[4] not in ("", NULL) else "")
    letter = part(obx[11], 1, d).upper()
    status = STATUS.get(letter) or (ORDER_STATUS.get(order_status or "") if not letter else None) or letter
    rows: list[Row] = []
    for value in values(part(obx[2], 1, d).upper(), obx[5], d):
        seen[key] = seen.get(key, 0) + 1
        rows.append(
            (
                key if seen[key] == 1 else f"{key}|#{seen[key]}",
                patient or None,
                code or other or None,
                value,
                part(first(obx[6], d), 1, d) or part(first(obx[6], d), 2, d) or None,
                part(first(obx[18], d), 1, d) or None,
                collected or part(first(obx[14], d), 1, d) or None,
                part(first(obx[19], d), 1, d) or resulted or None,
                part(first(obx[16], d), 1, d) or technician or None,
                specimen or None,
                kind_of_specimen or None,
                received or None,
                status or None,
                priority or None,
                facility or None,
                location or None,
                sex or None,
                loinc or None,
                name or other_name or None,
                birth or None,
                letter or None,
            )
        )
    return rows
