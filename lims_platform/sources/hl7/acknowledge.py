"""The answer to an HL7 v2 message: taken, or refused and why. Here: the ACK's text. Not here: when it is sent (``mllp``)."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from lims_platform.sources.hl7.message import Hl7Error, Message, parse


def header_only(data: bytes) -> Message | None:
    """The header alone, for the answer to a message that cannot be read whole."""
    try:
        head = data.lstrip(b"\r\n").split(b"\r", 1)[0].split(b"\n", 1)[0][:4096]
        return parse(head.decode("ascii", "replace").encode("ascii", "replace"), "ascii")
    except Hl7Error:
        return None


def acknowledgement(message: Message | None, refusal: Hl7Error | None, number: int) -> bytes:
    """The ACK of a message (chapter 2, original mode): AA when ``refusal`` is None, else its AE or AR with the reason.

    Args:
        message: what is answered; None where not even its header could be read.
        refusal: why it was not taken.
        number: of the answer, unique within the process.
    """
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
    sign, component, rest, charset = "|", "^", "~\\&", "utf-8"
    head = [""] * 20
    if message is not None:
        d = message.delimiters
        sign, component, charset = d.field, d.component, d.charset
        rest = d.repetition + d.escape + d.sub
        head = message.header + [""] * (20 - len(message.header))
    code = "AA" if refusal is None else refusal.code
    reason = "" if refusal is None else str(refusal).replace(sign, " ")
    kind = f"ACK{component}R01"
    line = ["MSH", component + rest, head[5], head[6], head[3], head[4], now, "", kind, f"LIMS{time.time_ns():x}{number:x}"]
    line += [head[11] or "P", head[12] or "2.5.1"]
    if head[18]:
        line += ["", "", "", "", "", head[18]]
    segments = [sign.join(line), sign.join(["MSA", code, head[10], reason])]
    if refusal is not None:
        segments.append(
            sign.join(["ERR", "", "", f"{refusal.condition}{component}{component}HL70357", "E", "", "", "", reason])
        )
    return ("\r".join(segments) + "\r").encode(charset, "replace")
