"""JSON and NDJSON files to FHIR resources that can find one another.

Here: parsing without losing a digit, Bundle entries, contained resources, references. Not here: rows (``results``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
#: Bundles in Bundles deeper than this are refused.
_DEPTH = 8


class FhirError(ValueError):
    """A file or line that is no FHIR; the text never quotes it."""


def mapping(value: Any) -> Json:
    """``value`` if it is a JSON object, else an empty one: a wrong type counts as absent."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """``value`` if it is a JSON array, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """``value`` stripped if it is a JSON string or number (``read_json`` keeps numbers as text), else empty."""
    return value.strip() if isinstance(value, str) else ""


@dataclass(slots=True)
class Entry:
    """One resource: where it was found, when its Bundle was made, and the resources it carries inside."""

    resource: Json
    url: str = ""
    made: str = ""
    contained: dict[str, Json] = field(default_factory=dict)


def read_json(data: bytes | str) -> Any:
    """JSON with every number as the text it is written in: 4.10 keeps its zero and 1e999 is no infinity."""
    try:
        content = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        return _clean(json.loads(content, parse_float=str, parse_int=str, parse_constant=str))
    except UnicodeDecodeError as error:
        raise FhirError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise FhirError(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise FhirError("not FHIR: nested too deeply") from None


def _clean(value: Any) -> Any:
    """Half surrogate pairs, which JSON can write and no text column can hold, replaced."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_clean(k): _clean(v) for k, v in value.items()}
    return [_clean(v) for v in value] if isinstance(value, list) else value


def entries(content: Any, made: str = "", url: str = "", depth: int = 0) -> Iterator[Entry]:
    """The resources of a document: itself, or a Bundle's entries, contained resources at hand.

    Raises:
        FhirError: it is no resource.
    """
    resource = mapping(content)
    kind = text(resource.get("resourceType"))
    if not kind:
        raise FhirError("not FHIR: a JSON object with a resourceType is expected")
    if kind != "Bundle":
        inside = {
            text(one.get("id")): one for one in map(mapping, listing(resource.get("contained"))) if text(one.get("id"))
        }
        yield Entry(resource, url, made, inside)
        return
    if depth >= _DEPTH:
        raise FhirError("not FHIR: Bundles nested too deeply")
    made = text(resource.get("timestamp")) or text(mapping(resource.get("meta")).get("lastUpdated")) or made
    for one in map(mapping, listing(resource.get("entry"))):
        if isinstance(one.get("resource"), dict):
            yield from entries(one["resource"], made, text(one.get("fullUrl")), depth + 1)


class Index:
    """Finds a resource by a reference: Type/id, a full URL, urn:uuid, or #id inside the one that refers."""

    def __init__(self) -> None:
        self._known: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        """Make it findable; of several with one name the last counts."""
        kind, number = text(entry.resource.get("resourceType")), text(entry.resource.get("id"))
        if number:
            self._known[f"{kind}/{number}"] = entry
        if entry.url:
            self._known[entry.url] = entry

    def find(self, reference: Any, home: Entry) -> Entry | None:
        """The resource a Reference names, or None where the file does not hold it."""
        target = text(mapping(reference).get("reference"))
        if target.startswith("#"):
            inside = home.contained.get(target[1:])
            return Entry(inside, made=home.made, contained=home.contained) if inside is not None else None
        if target in self._known:
            return self._known[target]
        return self._known.get(local_name(target))


def local_name(reference: str) -> str:
    """``Type/id`` of an absolute, versioned or relative literal reference."""
    parts = reference.split("/_history/")[0].rstrip("/").split("/")
    return "/".join(parts[-2:])
