"""Sealed bytes: what must wait on disk before it is pseudonymised lies there encrypted and authenticated.

Here: AES-256-GCM under a key of its own per file, derived from the pseudonym key. Not here: file formats
(``sources.hl7.spool``), pseudonyms.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE = 12


class Box:
    """AES-256-GCM (NIST SP 800-38D) of the numbered records of one file; the number is the nonce, so none repeats."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, number: int, data: bytes) -> bytes:
        """Ciphertext and tag of record ``number``; a number must be used once only."""
        return self._cipher.encrypt(number.to_bytes(_NONCE, "big"), data, None)

    def open(self, number: int, sealed: bytes) -> bytes | None:
        """The record, or None where it is not what was sealed under that number."""
        try:
            return self._cipher.decrypt(number.to_bytes(_NONCE, "big"), sealed, None)
        except (InvalidTag, ValueError):
            return None


class Sealer:
    """Makes the box of a file from the file's salt. New files are sealed under ``key_id``, others opened under their own."""

    def __init__(self, keys: Mapping[str, bytes], key_id: str) -> None:
        """``keys``: id of each pseudonym key that ever was in force to the spool key derived from it."""
        self._keys, self.key_id = dict(keys), key_id

    def __repr__(self) -> str:
        return f"Sealer({self.key_id})"

    def box(self, salt: bytes, key_id: str) -> Box | None:
        """The box of the file with this salt (HKDF-SHA-256, RFC 5869), random and never reused; None for an unknown key."""
        key = self._keys.get(key_id)
        if key is None:
            return None
        return Box(HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"lims_platform/spool/v1").derive(key))
