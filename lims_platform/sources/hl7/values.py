"""OBX-5 by OBX-2: each data type to the text a laboratory would have written, and its unit.

Here: one observation's value. Not here: what the text means (``laboratory.values``).
"""

from __future__ import annotations

import hashlib

from lims_platform.sources.hl7.message import NULL, Delimiters, part, repetitions, unescape

#: Longer texts are marked, not stored: no grammar reads them as a result, and a lake column is no document store.
LONGEST_VALUE = 32_768
#: A field repeated more often is a series (a waveform), not so many results.
MOST_REPETITIONS = 100
_TEXT = {"TX", "FT"}
_CODED = {"CE", "CWE", "CNE", "CF", "IS", "ID"}
_ENCAPSULATED = {"ED", "RP"}
_SEPARATED = {"-": "-", ":": ":", "/": "/", "+": "+"}


def marked(kind: str, content: str) -> str:
    """The text that stands for content which is no result: its kind, size and fingerprint, so that a change is a version."""
    fingerprint = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
    return f"[{kind}: {len(content):,} characters, sha256 {fingerprint}]"


def structured_numeric(text: str, d: Delimiters) -> str:
    """SN (chapter 2A): comparator, number, separator or suffix, number; ``>^100``, ``^10^-^20``, ``^1^:^128``, ``^2^+``."""
    sign, low, separator, high = (part(text, i, d) for i in (1, 2, 3, 4))
    sign = "" if sign == "=" else sign
    if not low and not high and not sign:
        return ""
    if d.component not in text:  # a bare number where four components belong
        return unescape(text, d).strip()
    return f"{sign}{low}{_SEPARATED.get(separator, separator)}{high}"


def coded(text: str, d: Delimiters) -> str:
    """A coded value's words: its text, the original text, the alternate text, else a code."""
    for component in (2, 9, 5, 1, 4):
        words = part(text, component, d)
        if words:
            return words
    return ""


def values(kind: str, text: str, d: Delimiters) -> list[str | None]:
    """The values of one OBX-5; several where the field repeats. None where the field is empty or deliberately null.

    Args:
        kind: OBX-2, upper case.
        text: OBX-5 as it stands in the message.
        d: the message's delimiters.
    """
    if text in ("", NULL):
        return [None]
    if kind in _ENCAPSULATED:
        return [marked(f"encapsulated {kind}", text)]
    if kind in _TEXT:  # repetitions of a text are its lines
        return [_bounded(kind, "\n".join(unescape(line, d) for line in repetitions(text, d)))]
    parts = repetitions(text, d)
    if len(parts) > MOST_REPETITIONS:
        return [marked(f"series of {len(parts):,} values, {kind or 'no type'}", text)]
    if kind == "SN":
        found = [structured_numeric(one, d) for one in parts]
    elif kind in _CODED:
        found = [coded(one, d) for one in parts]
    else:  # NM, ST, dates, and every type without a rule of its own: as written
        found = [unescape(one, d).strip() for one in parts]
    return [_bounded(kind, one) for one in found]


def _bounded(kind: str, text: str) -> str | None:
    if len(text) > LONGEST_VALUE:
        return marked(f"too long for a result, {kind or 'no type'}", text)
    return text if text.strip() not in ("", NULL) else None
