"""Pseudonyms: the standard's HMAC, the key file, frames and sentences through the door."""

from __future__ import annotations

import hmac
import os
import re
import stat
import threading
import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lims_platform.contracts.source import DEVICE_LOGS, LAB_RESULTS
from lims_platform.privacy.pseudonyms import KeyFileError, Pseudonymiser, _derive, load_pseudonymiser

KEY = bytes(range(32))
FORM = re.compile(r"k[0-9a-f]{8}:[0-9a-f]{32}")


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80)


@given(st.lists(st.one_of(st.none(), TEXT), max_size=20), st.sampled_from(["patient", "technician"]))
def test_it_is_hmac_sha256_under_the_domains_subkey(values: list[str | None], domain: str) -> None:
    maker = Pseudonymiser(KEY)
    done = maker.pseudonyms(pl.Series("id", values, dtype=pl.String), domain)
    for value, made in zip(values, done, strict=True):
        clean = unicodedata.normalize("NFC", (value or "").strip())
        if not clean:
            assert made is None
        else:
            subkey = _derive(KEY, b"domain/" + domain.encode())
            expected = hmac.digest(subkey, clean.encode(), "sha256").hex()[:32]
            assert made == f"{maker.key_id}:{expected}" and FORM.fullmatch(made)


def test_known_answer_of_hkdf() -> None:
    # RFC 5869 with our info string, computed by hand: PRK = HMAC(0^32, key); OKM = HMAC(PRK, info || 1)
    prk = hmac.digest(b"\0" * 32, KEY, "sha256")
    assert _derive(KEY, b"x") == hmac.digest(prk, b"lims_platform/pseudonym/v1/x\x01", "sha256")


def test_domains_keys_and_spellings() -> None:
    maker = Pseudonymiser(KEY)
    assert maker.pseudonym("A1", "patient") != maker.pseudonym("A1", "technician")
    assert maker.pseudonym(" A1\t", "patient") == maker.pseudonym("A1", "patient")
    assert maker.pseudonym("Mu\u0308ller", "patient") == maker.pseudonym("M\u00fcller", "patient")
    other = Pseudonymiser(KEY[::-1])
    assert other.key_id != maker.key_id and other.pseudonym("A1", "patient")[9:] != maker.pseudonym("A1", "patient")[9:]
    assert KEY.hex() not in repr(maker)
    with pytest.raises(ValueError, match="blank"):
        maker.pseudonym(" ", "patient")


def test_the_demo_makes_one_private_key(tmp_path: Path) -> None:
    path = tmp_path / "secrets" / "key"
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(load_pseudonymiser(path, "demo").key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1 and len(made) == 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and [p.name for p in path.parent.iterdir()] == ["key"]
    assert load_pseudonymiser(path, "demo").demo
    with pytest.raises(KeyFileError, match="a demo key; production needs one of its own"):
        load_pseudonymiser(path, "production")


def test_production_refuses_what_is_not_a_private_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(KeyFileError, match="absent; set LIMS_PSEUDONYM_KEY_FILE"):
        load_pseudonymiser(path, "production")
    assert not path.exists()
    path.write_text(KEY.hex())
    path.chmod(0o640)
    for environment in ("demo", "production"):
        with pytest.raises(KeyFileError, match="mode 0640 lets others read it"):
            load_pseudonymiser(path, environment)  # type: ignore[arg-type]
    path.chmod(0o600)
    maker = load_pseudonymiser(path, "production")
    assert maker.key_id == Pseudonymiser(KEY).key_id and not maker.demo
    path.write_text("abc")
    with pytest.raises(KeyFileError, match="64 hex digits"):
        load_pseudonymiser(path, "production")
    path.write_bytes(os.urandom(32) + b"\xff")
    with pytest.raises(KeyFileError):
        load_pseudonymiser(path, "production")


def lab(**columns: list[str | None]) -> pl.DataFrame:
    height = len(next(iter(columns.values())))
    missing = {c: pl.Series(c, [None] * height, dtype=t) for c, t in LAB_RESULTS.schema.items() if c not in columns}
    frame = pl.DataFrame({**missing, **columns})
    return frame.select(list(LAB_RESULTS.schema)).with_columns(source=pl.lit("main"))


def test_a_frame_keeps_its_order_and_loses_its_identifiers() -> None:
    frame = lab(
        result_id=["1", "2", "3"],
        patient_id=["P1", None, "P1"],
        technician_id=["T1", "T2", " "],
        result_value=["5.4", None, "see P1"],
    )
    done = Pseudonymiser(KEY).protect(frame, LAB_RESULTS, {})
    assert done.columns == [*LAB_RESULTS.stored_schema, "source"]
    assert done["result_id"].to_list() == ["1", "2", "3"]
    hashes = done["patient_hash"].to_list()
    assert hashes[0] == hashes[2] and hashes[1] is None and done["technician_hash"][2] is None
    assert done["result_value"].to_list() == ["5.4", None, "see P1"]  # too short to tell from a value


def test_sentences_carry_pseudonyms() -> None:
    maker = Pseudonymiser(KEY)
    patient, tech = maker.pseudonym("P1234567", "patient"), maker.pseudonym("T0042", "technician")
    messages = [
        "sample of patient P1234567 clotted",
        "P1234567,P1234567 by T0042",
        "XP1234567 P12345678",
        "nothing here",
        None,
        "MRN 12345 and patient no. AB-4711",
        "",
    ]
    frame = pl.DataFrame({"message": messages})
    done = maker.protect(frame, DEVICE_LOGS, {"patient": r"\bP\d{7}\b", "technician": r"\b(T)(\d{4})\b"})["message"]
    assert done.to_list() == [
        f"sample of patient {patient} clotted",
        f"{patient},{patient} by {tech}",
        "XP1234567 P12345678",
        "nothing here",
        None,
        f"MRN {maker.pseudonym('12345', 'patient')} and patient no. {maker.pseudonym('AB-4711', 'patient')}",
        "",
    ]


def test_words_equal_to_an_identifier_of_the_frame_go_too() -> None:
    maker = Pseudonymiser(KEY)
    frame = lab(
        result_id=list("1234567"),
        patient_id=["ABC-99", "ABC-9", "12345", "Zoë-Ω7", "P7654321", "P7654321", None],
        result_value=["ABC-99", "xABC-99 ABC-9", "12345", "of Zoë-Ω7.", "(P7654321)", "P76543210", "5.4"],
    )
    done = maker.protect(frame, LAB_RESULTS, {})["result_value"].to_list()
    patient = {v: maker.pseudonym(v, "patient") for v in ("ABC-99", "ABC-9", "Zoë-Ω7", "P7654321")}
    assert done == [
        patient["ABC-99"],
        f"xABC-99 {patient['ABC-9']}",
        "12345",
        f"of {patient['Zoë-Ω7']}.",
        f"({patient['P7654321']})",
        "P76543210",
        "5.4",
    ]


@given(st.lists(st.text(alphabet="P0123456789 ,x\ue0ffk:", max_size=40), min_size=1, max_size=15))
def test_no_match_survives_and_the_rest_is_untouched(messages: list[str]) -> None:
    maker = Pseudonymiser(KEY)
    pattern = r"\bP[0-9]{3}\b"
    done = maker.protect(pl.DataFrame({"message": messages}), DEVICE_LOGS, {"patient": pattern})["message"].to_list()
    for before, after in zip(messages, done, strict=True):
        expected = re.sub(pattern, lambda m: maker.pseudonym(m.group(), "patient"), before, flags=re.ASCII)
        assert after == expected or "\ue0ff" in before
        assert not re.search(pattern, after)
