"""Observations and DiagnosticReports as rows of lab_results.

Here: which element says what, components, the key a result keeps. Not here: JSON (``documents``), versions and days
(``sources.versioned``). Every element may be absent or of a wrong type: then it says nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from lims_platform.sources.fhir.documents import Entry, Index, Json, listing, local_name, mapping, text
from lims_platform.sources.hl7.values import LONGEST_VALUE, marked

LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"
#: Observation.status to the contract's P, F, C, X.
STATUS = {
    "registered": "P", "preliminary": "P", "final": "F", "appended": "F", "amended": "C", "corrected": "C",
    "cancelled": "X", "entered-in-error": "X", "partial": "P",
}  # fmt: skip
_PRIORITY = {"routine": "ROUTINE", "urgent": "URGENT", "asap": "ASAP", "stat": "STAT"}
_SEX = {"male": "M", "female": "F"}
Row = dict[str, str | None]


def concept(value: Any) -> tuple[str, str, str]:
    """A CodeableConcept as code, LOINC code and words; the laboratory's own code goes before LOINC."""
    codings = [mapping(one) for one in listing(mapping(value).get("coding"))]
    coded = [one for one in codings if text(one.get("code"))]
    loinc = next((text(one.get("code")) for one in coded if text(one.get("system")) == LOINC), "")
    own = next((text(one.get("code")) for one in coded if text(one.get("system")) != LOINC), "")
    words = next((text(one.get("display")) for one in codings if text(one.get("display"))), "")
    return own or loinc, loinc, words or text(mapping(value).get("text"))


def quantity(value: Any) -> tuple[str, str]:
    """A Quantity's number with its comparator, and its unit: the UCUM code if there is one, else as written."""
    given = mapping(value)
    code, unit = text(given.get("code")), text(given.get("unit"))
    unit = code if code and (text(given.get("system")) == UCUM or not unit) else unit
    number = text(given.get("value"))
    return (f"{text(given.get('comparator'))}{number}" if number else ""), unit


def _range(value: Json) -> tuple[str, str]:
    low, unit = quantity(value.get("low"))
    high, other = quantity(value.get("high"))
    if low and high:
        return f"{low}-{high}", unit or other
    return (f">={low}" if low else f"<={high}" if high else ""), unit or other


def _ratio(value: Json) -> tuple[str, str]:
    over, unit = quantity(value.get("numerator"))
    under, per = quantity(value.get("denominator"))
    if over and under == "1" and per:
        return over, f"{unit or '1'}/{per}"
    if unit or per:  # two quantities, no plain ratio
        return (f"{over} {unit} : {under} {per}" if over or under else ""), ""
    return (f"{over}:{under}" if over and under else over), ""


def value_of(holder: Json) -> tuple[str | None, str | None]:
    """value[x] of an Observation or component as text and unit; why there is none where dataAbsentReason tells."""
    value, unit = "", ""
    if "valueQuantity" in holder:
        value, unit = quantity(holder["valueQuantity"])
    elif "valueCodeableConcept" in holder:
        code, _, words = concept(holder["valueCodeableConcept"])
        value = words or code
    elif "valueRange" in holder:
        value, unit = _range(mapping(holder["valueRange"]))
    elif "valueRatio" in holder:
        value, unit = _ratio(mapping(holder["valueRatio"]))
    elif "valueSampledData" in holder or "valueAttachment" in holder:
        name = "SampledData" if "valueSampledData" in holder else "Attachment"
        value = marked(f"encapsulated {name}", json.dumps(holder[f"value{name}"], sort_keys=True))
    elif "valuePeriod" in holder:
        period = mapping(holder["valuePeriod"])
        value = f"{text(period.get('start'))} to {text(period.get('end'))}"
    elif isinstance(holder.get("valueBoolean"), bool):
        value = str(holder["valueBoolean"]).lower()
    else:
        names = ("valueString", "valueInteger", "valueTime", "valueDateTime")
        value = next((text(holder[name]) for name in names if name in holder), "")
    if len(value) > LONGEST_VALUE:
        value = marked("too long for a result", value)
    if not value:
        code, _, words = concept(holder.get("dataAbsentReason"))
        reason = code or words
        # in words the grammar reads as no result at all; "negative-infinity" must not become NEGATIVE
        value = f"[no value: {reason[:100].lower()}]" if reason else ""
    return value or None, unit or None


def _identifier(resource: Json, wanted: str = "") -> str:
    """identifier.value: of the wanted type, else the first that has one."""
    given = [mapping(one) for one in listing(resource.get("identifier"))] or [mapping(resource.get("identifier"))]
    valued = [one for one in given if text(one.get("value"))]
    typed = [one for one in valued if wanted and concept(one.get("type"))[0] == wanted]
    return text((typed or valued)[0].get("value")) if valued else ""


def _referred(reference: Any, index: Index, home: Entry, wanted: str = "") -> str:
    """Who or what a Reference names: the business identifier if it can be known, else the id."""
    given = mapping(reference)
    found = index.find(given, home)
    inside = _identifier(found.resource, wanted) if found is not None else ""
    target = local_name(text(given.get("reference")))
    return inside or _identifier(given, wanted) or target.rpartition("/")[2].removeprefix("urn:uuid:").removeprefix("#")


def _times(resource: Json) -> str:
    """effective[x]: the moment, or the start of the period."""
    for name in ("effectiveDateTime", "effectiveInstant"):
        if text(resource.get(name)):
            return text(resource.get(name))
    period = mapping(resource.get("effectivePeriod"))
    return text(period.get("start")) or text(period.get("end"))


def _specimen(reference: Any, index: Index, home: Entry) -> dict[str, str]:
    found = index.find(reference, home)
    specimen = found.resource if found is not None else {}
    collection = mapping(specimen.get("collection"))
    period = mapping(collection.get("collectedPeriod"))
    code, _, words = concept(specimen.get("type"))
    return {
        "specimen_id": _identifier({"identifier": [specimen.get("accessionIdentifier")]})
        or _referred(reference, index, home),
        "specimen_type": (words or code) if code.isdigit() else (code or words),
        "received_timestamp": text(specimen.get("receivedTime")),
        "collected": text(collection.get("collectedDateTime")) or text(period.get("start")),
    }


def key_of(entry: Entry) -> str:
    """The resource's id, else its business identifier, else its URL, else its content: what stays when it is amended."""
    resource = entry.resource
    kind = text(resource.get("resourceType"))
    first = mapping(next(iter(listing(resource.get("identifier"))), {}))
    number = f"{text(first.get('system'))}#{text(first.get('value'))}" if text(first.get("value")) else ""
    content = json.dumps(resource, sort_keys=True).encode()
    return f"{kind}/{text(resource.get('id')) or number or entry.url or hashlib.sha256(content).hexdigest()[:32]}"


def listed_in(reports: list[Entry], index: Index) -> dict[str, Entry]:
    """The report that lists each observation, by the observation's key: it adds issued, specimen, priority, withdrawal."""
    owners: dict[str, Entry] = {}
    for report in reports:
        for reference in listing(report.resource.get("result")):
            found = index.find(reference, report)
            if found is not None and not text(mapping(reference).get("reference")).startswith("#"):
                owners[key_of(found)] = report
    return owners


def observation_rows(entry: Entry, index: Index, report: Entry | None, identifier_type: str) -> Iterator[Row]:
    """One row for an Observation with a value or none of its own, one for each component."""
    resource, key = entry.resource, key_of(entry)
    shared = _shared(entry, report, index, identifier_type)
    parts = [mapping(one) for one in listing(resource.get("component"))]
    value, unit = value_of(resource)
    if value is not None or not parts:
        yield shared | _measured(resource, value, unit) | {"result_id": key}
    seen: dict[str, int] = {}
    for part in parts:
        value, unit = value_of(part)
        measured = _measured(part, value, unit)
        code = measured["test_code"] or ""
        seen[code] = seen.get(code, 0) + 1
        yield shared | measured | {"result_id": f"{key}|{code}" + (f"|#{seen[code]}" if seen[code] > 1 else "")}


def report_rows(entry: Entry, index: Index, identifier_type: str) -> Iterator[Row]:
    """A report's contained observations, and a marked row for a report that has text or documents only."""
    for inside in entry.contained.values():
        if text(inside.get("resourceType")) == "Observation":
            home = Entry(inside, made=entry.made, contained=entry.contained)
            for row in observation_rows(home, index, entry, identifier_type):
                # a contained resource has no life of its own: its versions are the report's
                whole = {"updated_at": _updated(entry), "version": _version(entry)}
                yield row | whole | {"result_id": f"{key_of(entry)}#{row['result_id']}"}
    forms = listing(entry.resource.get("presentedForm"))
    if forms and not listing(entry.resource.get("result")):
        shared = _shared(entry, entry, index, identifier_type)
        content = json.dumps(forms, sort_keys=True)
        measured = _measured(entry.resource, marked("encapsulated presentedForm", content), None)
        yield shared | measured | {"result_id": f"{key_of(entry)}|presentedForm"}


def _measured(holder: Json, value: str | None, unit: str | None) -> Row:
    code, loinc, words = concept(holder.get("code"))
    return {
        "test_code": code or words or None,
        "loinc_code": loinc or None,
        "test_name": words or None,
        "result_value": value,
        "result_unit": unit,
    }


def _updated(entry: Entry) -> str | None:
    return text(mapping(entry.resource.get("meta")).get("lastUpdated")) or entry.made or None


def _version(entry: Entry) -> str | None:
    return text(mapping(entry.resource.get("meta")).get("versionId")) or None


def _shared(entry: Entry, owner: Entry | None, index: Index, identifier_type: str) -> Row:
    resource, report = entry.resource, owner.resource if owner is not None else {}
    subject = resource.get("subject") or report.get("subject")
    patient = index.find(subject, entry)
    person = patient.resource if patient is not None else {}
    own = mapping(resource.get("specimen"))
    listed = listing(resource.get("specimen")) or listing(report.get("specimen"))
    specimen = _specimen(own or (listed[0] if listed else {}), index, entry if own or owner is None else owner)
    orders = [index.find(one, entry) for one in listing(resource.get("basedOn")) + listing(report.get("basedOn"))]
    priority = next((text(one.resource.get("priority")) for one in orders if one is not None), "")
    withdrawn = text(report.get("status")) in ("cancelled", "entered-in-error")
    status = "X" if withdrawn else STATUS.get(text(resource.get("status")))
    return {
        "patient_id": _referred(subject, index, entry, identifier_type) or None,
        "device_id": _referred(resource.get("device"), index, entry) or None,
        "technician_id": _technician(resource, index, entry),
        "collected_timestamp": _times(resource) or specimen["collected"] or _times(report) or None,
        "resulted_timestamp": text(resource.get("issued")) or text(report.get("issued")) or None,
        "received_timestamp": specimen["received_timestamp"] or None,
        "specimen_id": specimen["specimen_id"] or None,
        "specimen_type": specimen["specimen_type"] or None,
        "result_status": status,
        "priority": _PRIORITY.get(priority, priority) or None,
        "sex": _SEX.get(text(person.get("gender")), text(person.get("gender"))) or None,
        "birth": text(person.get("birthDate")).replace("-", "") or None,
        "updated_at": _updated(entry) or (_updated(owner) if owner is not None else None),
        "version": _version(entry),
    }


def _technician(resource: Json, index: Index, entry: Entry) -> str | None:
    """The first performer who is a person."""
    for reference in listing(resource.get("performer")):
        found = index.find(reference, entry)
        if found is not None and text(found.resource.get("resourceType")) == "PractitionerRole":
            person = _referred(found.resource.get("practitioner"), index, found)
            if person:
                return person
        elif local_name(text(mapping(reference).get("reference"))).startswith("Practitioner/"):
            return _referred(reference, index, entry) or None
    return None
