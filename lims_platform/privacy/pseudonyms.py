"""Keyed pseudonyms: patient_id and technician_id become patient_hash and technician_hash before anything is written.

Here: the secret key file, the pseudonym of a value, a frame passed through the door.
Not here: redaction inside sentences (``redaction``), proof that nothing got past (``leakscan``), who may re-identify.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import polars as pl
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lims_platform.contracts.source import SourceTable
from lims_platform.privacy.redaction import redact
from lims_platform.privacy.sealing import Sealer

_DEMO = "# demo key: made by the platform itself, refused in production"
_INFO = b"lims_platform/pseudonym/v1/"
_HEX = 32
_BLOCK = 64
#: A pseudonym wherever it stands in a text, as a regular expression.
PSEUDONYM = rf"k[0-9a-f]{{8}}:[0-9a-f]{{{_HEX}}}"


class KeyFileError(RuntimeError):
    """The pseudonym key cannot be used; the message is one line naming the file and what to do."""

    transient = False
    advice = "Without its key nothing is read: check LIMS_PSEUDONYM_KEY_FILE, then run again."


def _derive(key: bytes, info: bytes) -> bytes:
    """A subkey by HKDF-SHA-256 (RFC 5869), no salt."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO + info).derive(key)


class Pseudonymiser:
    """HMAC-SHA-256 (RFC 2104) of an identifier under its domain's subkey, with the key's id in front.

    A pseudonym is ``k<8 hex>:<32 hex>``: equal identifiers of one domain give equal pseudonyms, those of two domains cannot
    be linked, and the prefix tells which key was in force.

    Rotated keys form a chain: the pseudonym under the newest key is the HMAC of the pseudonym under the key before it. So
    what is stored can be rotated without any identifier, and a new row still meets the patient's old ones.
    """

    def __init__(self, key: bytes, *, demo: bool = False, rotated: Sequence[bytes] = ()) -> None:
        """``key`` is the first key; ``rotated`` are those that came after it, the one in force last."""
        for one in (key, *rotated):
            if len(one) != 32:
                raise KeyFileError(f"a pseudonym key has 32 bytes, not {len(one)}")
        self._key = key
        self._rotated = tuple(rotated)
        self.demo = demo
        self.key_ids = tuple("k" + _derive(one, b"id").hex()[:8] for one in (key, *rotated))
        self.key_id = self.key_ids[-1]
        self._pads: dict[str, tuple[bytes, bytes]] = {}
        self._links = [_pads(_derive(one, b"rotation")) for one in rotated]

    def __repr__(self) -> str:
        return f"Pseudonymiser({self.key_id})"

    def _pad(self, domain: str) -> tuple[bytes, bytes]:
        if domain not in self._pads:
            self._pads[domain] = _pads(_derive(self._key, b"domain/" + domain.encode()))
        return self._pads[domain]

    def pseudonyms(self, values: pl.Series, domain: str) -> pl.Series:
        """Pseudonyms of a column of identifiers.

        Args:
            values: text; surrounding blanks and the Unicode form (NFC) make no difference. Null and blank give null.
            domain: "patient", "technician", …

        Returns:
            Text of the same length and name; each distinct identifier is hashed once.
        """
        raw = values.cast(pl.String).alias("raw")
        distinct = raw.drop_nulls().unique()
        if distinct.len() == raw.len():
            return self._hash(raw, domain).alias(values.name)  # nothing to look up
        table = pl.DataFrame({"raw": distinct, "hash": self._hash(distinct, domain)})
        return raw.to_frame().join(table, on="raw", how="left", maintain_order="left")["hash"].alias(values.name)

    def _hash(self, values: pl.Series, domain: str) -> pl.Series:
        """One pseudonym per value, blank to null; ``values`` has no nulls."""
        clean = values.str.strip_chars()
        if (clean.str.len_bytes() != clean.str.len_chars()).any():
            clean = clean.str.normalize("NFC")
        hashed = _keyed(clean, self._pad(domain), self.key_ids[0])
        for link, key_id in zip(self._links, self.key_ids[1:], strict=True):
            hashed = _keyed(hashed, link, key_id)
        return hashed.zip_with(clean != "", pl.Series([None], dtype=pl.String))

    def pseudonym(self, value: str, domain: str) -> str:
        """The pseudonym of one identifier, for a look-up by someone who holds it."""
        done = self.pseudonyms(pl.Series([value]), domain)[0]
        if done is None:
            raise ValueError("a blank identifier has no pseudonym")
        return str(done)

    def sealer(self) -> Sealer:
        """What seals bytes that wait in front of the door, under a subkey of its own; opens what any key before sealed."""
        keys = zip(self.key_ids, (self._key, *self._rotated), strict=True)
        return Sealer({key_id: _derive(key, b"spool") for key_id, key in keys}, self.key_id)

    def rotate(self, pseudonyms: pl.Series) -> pl.Series:
        """Pseudonyms made under the key before the newest, under the newest; ValueError if there was no rotation."""
        if not self._links:
            raise ValueError("the key was never rotated")
        return _keyed(pseudonyms, self._links[-1], self.key_id).alias(pseudonyms.name)

    def as_of(self, key_id: str) -> Pseudonymiser:
        """The pseudonymiser as it was while ``key_id`` was in force; KeyFileError if the key file does not hold it."""
        if key_id not in self.key_ids:
            raise KeyFileError(f"key {key_id} is not in the key file; it holds {', '.join(self.key_ids)}")
        return Pseudonymiser(self._key, demo=self.demo, rotated=self._rotated[: self.key_ids.index(key_id)])

    def protect(self, frame: pl.DataFrame, table: SourceTable, patterns: Mapping[str, str]) -> pl.DataFrame:
        """The frame after the door: identifying columns hashed, identifiers in free text replaced by their pseudonyms.

        Args:
            frame: columns of the contract before the door, and any others (kept).
            table: tells which columns identify and which are free text.
            patterns: domain to regular expression of identifiers inside sentences.

        Returns:
            The same rows in the same order; ``<domain>_hash`` stands where the identifying column stood.
        """
        known = {c.identifies: frame[c.name] for c in table.columns if c.identifies and c.name in frame.columns}
        contract = {c.name: c for c in table.columns}

        def passed(name: str) -> pl.Series:
            column = contract.get(name)
            if column is not None and column.identifies:
                return self.pseudonyms(frame[name], column.identifies).alias(f"{column.identifies}_hash")
            if column is not None and column.free_text:
                return redact(frame[name], patterns, known, self.pseudonyms)
            return frame[name]

        with ThreadPoolExecutor(2) as pool:  # looking through sentences leaves the interpreter to the hashes
            return pl.DataFrame(list(pool.map(passed, frame.columns)))


def _pads(key: bytes) -> tuple[bytes, bytes]:
    """Inner and outer block of HMAC-SHA-256."""
    block = key.ljust(_BLOCK, b"\0")
    return bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block)


def _keyed(values: pl.Series, pads: tuple[bytes, bytes], key_id: str) -> pl.Series:
    """``<key id>:<32 hex>`` of every value; ``values`` has no nulls."""
    (inner, outer), sha = pads, hashlib.sha256
    # HMAC written out: two plain hashes take half the time of hmac.digest, which sets up a context each call
    digests = [sha(outer + sha(inner + v).digest()).digest() for v in values.cast(pl.Binary).to_list()]
    return key_id + ":" + pl.Series("hash", digests, dtype=pl.Binary).bin.encode("hex").str.slice(0, _HEX)


def _write_new(path: Path, text: str) -> None:
    """Create the file whole and private, or leave the one another process made first."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600 from the start
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()


def next_key_path(key_path: Path) -> Path:
    """Where the keys of a rotation under way wait; the file exists until every table is rotated (see ``rotation``)."""
    return key_path.with_name(key_path.name + ".next")


def load_pseudonymiser(key_path: Path, environment: Literal["demo", "production"]) -> Pseudonymiser:
    """The pseudonymiser of a key file, mode 0600: 64 hex digits, and 64 more for every rotation; # begins a comment.

    The demo makes an absent key itself and marks it. Production never does.

    Raises:
        KeyFileError: absent (production), readable by others, a demo key (production), not a key, or in rotation.
    """
    if next_key_path(key_path).exists():
        raise KeyFileError(
            f"pseudonym key {key_path}: a rotation is under way; finish it with python -m lims_platform rotate-key"
        )
    if environment == "demo" and not key_path.exists():
        _write_new(key_path, f"{_DEMO}\n{secrets.token_hex(32)}\n")
    try:
        with key_path.open() as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except FileNotFoundError:
        raise KeyFileError(
            f"pseudonym key {key_path}: absent; set LIMS_PSEUDONYM_KEY_FILE to a file of 64 hex digits, mode 0600"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"pseudonym key {key_path}: cannot be read: {error}") from None
    if mode & 0o077:
        raise KeyFileError(f"pseudonym key {key_path}: mode {mode:04o} lets others read it; chmod 600 it")
    demo = _DEMO in text
    if demo and environment == "production":
        raise KeyFileError(f"pseudonym key {key_path}: a demo key; production needs one of its own")
    digits = "".join(line.strip() for line in text.splitlines() if not line.startswith("#"))
    if not re.fullmatch(r"([0-9a-fA-F]{64})+", digits):
        raise KeyFileError(f"pseudonym key {key_path}: must hold 64 hex digits a key, and nothing else but # comments")
    first, *rotated = [bytes.fromhex(digits[at : at + 64]) for at in range(0, len(digits), 64)]
    return Pseudonymiser(first, demo=demo, rotated=rotated)
