"""The delimiter grammar of HL7 v2 (chapter 2): files and batches to messages, messages to segments and fields, escapes.

Here: bytes to text and text to fields, whatever the message says. Not here: what a segment means (``results``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

#: MSH-18 (table 0211) to Python's codec.
CHARACTER_SETS = {
    "ASCII": "ascii",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    **{f"ISO-8859-{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "WINDOWS-1252": "cp1252",
    "ISO IR6": "ascii",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_1",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
}
#: No laboratory's report is longer; a flood of empty lines is.
MOST_SEGMENTS = 100_000
_BATCH = (b"FHS", b"BHS", b"BTS", b"FTS")
_LINE = re.compile(rb"[\r\n]+")
_SEGMENT = re.compile(r"[A-Z][A-Z0-9]{2}(?![A-Za-z0-9 ])")
_BREAKS = {".br": "\n", ".sp": "\n", "H": "", "N": "", ".in": "", ".ti": "", ".fi": "", ".nf": "", ".ce": "\n", ".sk": " "}
#: A text hidden by two double quotes: "delete the value", which is not an empty field.
NULL = '""'


class Hl7Error(ValueError):
    """A message that cannot be taken. ``code`` is the acknowledgement: AR refused for ever, AE an error in this message.

    The text names what is wrong and never quotes the message: it may name a patient.
    """

    def __init__(self, text: str, code: str = "AE", condition: str = "207") -> None:
        super().__init__(text)
        self.code, self.condition = code, condition


@dataclass(frozen=True, slots=True)
class Delimiters:
    """The separators a message declares in MSH-1 and MSH-2; a separator it leaves out is the empty text."""

    field: str
    component: str
    repetition: str
    escape: str
    sub: str
    charset: str = "utf-8"


class Message:
    """One message: its delimiters, its header and its segments as fields, index = the standard's field number."""

    __slots__ = ("delimiters", "digest", "header", "segments")

    def __init__(self, delimiters: Delimiters, segments: list[list[str]], digest: str) -> None:
        self.delimiters, self.segments, self.digest = delimiters, segments, digest
        self.header = segments[0]

    def head(self, number: int, component: int = 1) -> str:
        """One component of an MSH field, unescaped; empty where absent."""
        text = self.header[number] if number < len(self.header) else ""
        return part(first(text, self.delimiters), component, self.delimiters)


def split_messages(data: bytes) -> Iterator[bytes]:
    """The messages of a file or batch, in order: envelopes (FHS, BHS, BTS, FTS), BOM and MLLP framing left out.

    Bytes before the first MSH are delivered as a message of their own, so that the caller refuses them with a reason.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    held: list[bytes] = []
    for line in _LINE.split(data):
        line = line.strip(b"\x0b\x1c").removeprefix(b"\xef\xbb\xbf")
        if line[:3] == b"MSH" and held:
            yield b"\r".join(held)
            held = []
        if line[:3] in _BATCH and not line[3:4].isalnum():
            continue
        if line.strip():
            held.append(line)
    if held:
        yield b"\r".join(held)


def parse(data: bytes, default_charset: str = "utf-8") -> Message:
    """One message; raises Hl7Error for whatever is no message, and nothing else.

    Args:
        data: from MSH to the last segment; segments end with CR, LF or both.
        default_charset: Python codec where MSH-18 is empty.
    """
    data = data.lstrip(b"\r\n\x0b").removeprefix(b"\xef\xbb\xbf")
    if data[:3] != b"MSH" or len(data) < 8:
        raise Hl7Error("not HL7: the message does not begin with MSH", "AR", "100")
    head = _LINE.split(data[:4096], maxsplit=1)[0].decode("latin-1")
    delimiters = _delimiters(head, default_charset)
    try:
        text = data.decode(delimiters.charset)
    except (UnicodeDecodeError, LookupError) as error:
        place = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise Hl7Error(f"the text is not {delimiters.charset}{place}; MSH-18 names the character set", "AE", "102") from None
    lines = text.replace("\r\n", "\r").replace("\n", "\r").split("\r")
    segments = _segments(lines, delimiters.field)
    digest = hashlib.sha256("\r".join(lines).rstrip("\r").encode("utf-8", "replace")).hexdigest()
    return Message(delimiters, segments, digest)


@lru_cache(maxsize=256)
def _declared(sign: str, encoding: str, charset: str) -> Delimiters:
    every = sign + encoding
    if not encoding or len(set(every)) != len(every) or any(c.isalnum() or c in ' "\r\n\t' for c in every):
        raise Hl7Error("MSH-1 and MSH-2 do not declare usable separators", "AR", "100")
    padded = [*encoding, "", "", ""]
    return Delimiters(sign, padded[0], padded[1], padded[2], padded[3], charset)


def _delimiters(head: str, default_charset: str) -> Delimiters:
    fields = head[3:].split(head[3])
    encoding = fields[1] if len(fields) > 1 else ""
    if len(encoding) > 5:
        raise Hl7Error("MSH-1 and MSH-2 do not declare usable separators", "AR", "100")
    declared = fields[17] if len(fields) > 17 else ""
    repetition = encoding[1:2] or "~"
    name = declared.split(repetition)[0].split(encoding[:1] or "^")[0].strip().upper()
    charset = default_charset if name in ("", NULL) else CHARACTER_SETS.get(name)
    if charset is None:
        raise Hl7Error("MSH-18 names a character set this door does not know", "AE", "102")
    return _declared(head[3], encoding[:4], charset)


def _segments(lines: list[str], sign: str) -> list[list[str]]:
    """Fields of each segment. A line that begins like no segment belongs to the field before it: a bare line feed."""
    if len(lines) > MOST_SEGMENTS:
        raise Hl7Error(f"the message has more than {MOST_SEGMENTS:,} lines", "AR", "207")
    whole: list[list[str]] = []
    for line in lines:
        if not line:
            continue
        if whole and (line[3:4] != sign or not _SEGMENT.match(line)) and not _bare(line):
            whole[-1].append(line)
        else:
            whole.append([line])
    segments = [(parts[0] if len(parts) == 1 else "\n".join(parts)).split(sign) for parts in whole]
    segments[0].insert(1, sign)
    return segments


def _bare(line: str) -> bool:
    return len(line) == 3 and _SEGMENT.match(line) is not None


def first(text: str, d: Delimiters) -> str:
    """The first repetition of a field."""
    return text.split(d.repetition, 1)[0] if d.repetition and d.repetition in text else text


def repetitions(text: str, d: Delimiters) -> list[str]:
    """All repetitions of a field."""
    return text.split(d.repetition) if d.repetition else [text]


def part(text: str, component: int, d: Delimiters, sub: int = 1) -> str:
    """One component (counted from 1), of it one subcomponent, unescaped and stripped; empty where absent or null."""
    if not text:  # most fields of most segments
        return ""
    if d.component in text:
        pieces = text.split(d.component, component)
        text = pieces[component - 1] if component <= len(pieces) else ""
    elif component > 1:
        return ""
    if d.sub and d.sub in text:
        pieces = text.split(d.sub, sub)
        text = pieces[sub - 1] if sub <= len(pieces) else ""
    elif sub > 1:
        return ""
    return "" if text == NULL else unescape(text, d).strip()


@lru_cache(maxsize=16)
def _escape_pattern(sign: str) -> re.Pattern[str]:
    e = re.escape(sign)
    return re.compile(f"{e}([^{e}\r\n]{{0,200}}){e}")


def unescape(text: str, d: Delimiters) -> str:
    r"""Escape sequences resolved: \F\ \S\ \T\ \R\ \E\, \Xdd..\ bytes of the message's character set, \.br\ and its kin.

    A sequence the standard does not know stays as it is written.
    """
    if not d.escape or d.escape not in text:
        return text
    known = {"F": d.field, "S": d.component, "T": d.sub, "R": d.repetition, "E": d.escape}

    def resolved(match: re.Match[str]) -> str:
        body = match.group(1)
        if body in known:
            return known[body]
        if body[:1] == "X" and len(body) > 1:
            try:
                return bytes.fromhex(body[1:]).decode(d.charset, "replace")
            except (ValueError, LookupError):
                return match.group(0)
        command = body.rstrip("0123456789+-")
        return _BREAKS.get(command, match.group(0))

    return _escape_pattern(d.escape).sub(resolved, text)
