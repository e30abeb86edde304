"""Sealed bytes: what must wait on disk before it is pseudonymised lies there encrypted and authenticated.

Here: AES-256-GCM under a key of its own per file, derived from the pseudonym key. Not here: file formats
(``sources.hl7.spool``), pseudonyms.
"""

from __future__ import annotations

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
    """Makes the box of a file from the file's salt; ``key_id`` tells which pseudonym key it descends from."""

    def __init__(self, key: bytes, key_id: str) -> None:
        self._key, self.key_id = key, key_id

    def __repr__(self) -> str:
        return f"Sealer({self.key_id})"

    def box(self, salt: bytes) -> Box:
        """The box of the file with this salt (HKDF-SHA-256, RFC 5869); the salt is random and never reused."""
        return Box(HKDF(algorithm=SHA256(), length=32, salt=salt, info=b"lims_platform/spool/v1").derive(self._key))
