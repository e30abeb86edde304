"""Look-back: whose pseudonym is it. Needs the key and the sources; every use is audited by the command that calls it.

Here: the search. Not here: reading the sources, the audit entry (``audit``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import polars as pl

from lims_platform.privacy.pseudonyms import Pseudonymiser

_PSEUDONYM = re.compile(r"^(k[0-9a-f]{8}):[0-9a-f]{32}$")


def key_of(pseudonym: str) -> str:
    """The id of the key a pseudonym was made under; ValueError if it is none."""
    match = _PSEUDONYM.match(pseudonym)
    if match is None:
        raise ValueError(f"{pseudonym!r} is no pseudonym: k, 8 hex digits, a colon, 32 hex digits")
    return match.group(1)


def find(pseudonym: str, identifiers: Mapping[str, Iterable[str]], pseudonymiser: Pseudonymiser) -> list[tuple[str, str]]:
    """Domain and raw identifier behind a pseudonym, made under the key in force or any before it.

    Args:
        pseudonym: as stored, or as it left the house before a rotation.
        identifiers: domain to the raw identifiers of every source.
        pseudonymiser: the key file's.

    Returns:
        One pair; none where no source holds the identifier any more. Two spellings of one identifier (blanks around it)
        give two.
    """
    then = pseudonymiser.as_of(key_of(pseudonym))
    found = []
    for domain, values in identifiers.items():
        raw = pl.Series("raw", sorted(values), dtype=pl.String)
        hits = raw.filter(then.pseudonyms(raw, domain) == pseudonym)
        found += [(domain, value) for value in hits.to_list()]
    return found
