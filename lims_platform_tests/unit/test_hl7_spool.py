"""The sealed spool: what was stored comes back, what was torn or altered does not pass for a message."""

from __future__ import annotations

import io
import secrets
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.contracts.extract import SourceError
from lims_platform.privacy.pseudonyms import Pseudonymiser
from lims_platform.privacy.sealing import Sealer
from lims_platform.sources.hl7.spool import SpoolWriter, read_segment

MESSAGES = [b"MSH|one P0000001", b"", b"\x00" * 20, b"MSH|four"]


@pytest.fixture
def sealer() -> Sealer:
    return Pseudonymiser(secrets.token_bytes(32)).sealer()


def segment(folder: Path, sealer: Sealer, messages: list[bytes] = MESSAGES) -> Path:
    writer = SpoolWriter(folder, sealer, 1 << 20)
    writer.store(messages[:2])
    writer.store(messages[2:])
    writer.close()
    (path,) = folder.glob("*.spool")
    return path


def test_what_was_stored_comes_back_in_order_and_lies_encrypted(tmp_path: Path, sealer: Sealer) -> None:
    path = segment(tmp_path, sealer)
    assert [one.data for one in read_segment(path, sealer)] == MESSAGES
    assert b"P0000001" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0


def test_segments_rotate_by_size_and_never_share_a_key(tmp_path: Path, sealer: Sealer) -> None:
    writer = SpoolWriter(tmp_path, sealer, 1)
    for _ in range(3):
        writer.store([b"same"])
    paths = sorted(tmp_path.glob("*.spool"))
    assert [one.data for path in paths for one in read_segment(path, sealer)] == [b"same"] * 3
    assert len({path.read_bytes().split(b"\n", 1)[1] for path in paths}) == 3


def test_a_torn_end_hides_only_what_was_not_whole(tmp_path: Path, sealer: Sealer) -> None:
    path = segment(tmp_path, sealer)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        found = [one.data for one in read_segment(path, sealer)]
        assert found == MESSAGES[: len(found)]
    path.write_bytes(whole + bytes(64))  # a power cut leaves zeros
    assert [one.data for one in read_segment(path, sealer)] == MESSAGES


def test_an_altered_record_is_reported_and_the_rest_goes_on(tmp_path: Path, sealer: Sealer) -> None:
    path = segment(tmp_path, sealer)
    data = bytearray(path.read_bytes())
    data[data.index(b"\n") + 10] ^= 1
    path.write_bytes(bytes(data))
    assert [one.data for one in read_segment(path, sealer)] == [None, *MESSAGES[1:]]


def test_a_segment_sealed_before_a_rotation_still_opens(tmp_path: Path) -> None:
    path = segment(tmp_path, Sealer({"k1": bytes(32)}, "k1"))
    rotated = Sealer({"k1": bytes(32), "k2": bytes([1] * 32)}, "k2")
    assert [one.data for one in read_segment(path, rotated)] == MESSAGES


def test_another_key_is_named_and_a_damaged_header_too(tmp_path: Path, sealer: Sealer) -> None:
    path = segment(tmp_path, sealer)
    with pytest.raises(SourceError, match=f"sealed with key {sealer.key_id}"):
        list(read_segment(path, Pseudonymiser(secrets.token_bytes(32)).sealer()))
    path.write_bytes(b"not a header\n" + bytes(100))
    with pytest.raises(SourceError, match="header"):
        list(read_segment(path, sealer))


def test_a_failed_write_is_raised_and_nothing_is_appended_behind_it(
    tmp_path: Path, sealer: Sealer, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path, sealer, 1 << 20)
    writer.store([b"safe"])
    monkeypatch.setattr(writer, "_file", io.FileIO("/dev/full", "wb"))
    with pytest.raises(OSError, match="No space left"):
        writer.store([b"lost"])
    writer.store([b"after"])
    found = [one.data for path in sorted(tmp_path.glob("*.spool")) for one in read_segment(path, sealer)]
    assert found == [b"safe", b"after"]


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_any_single_byte_changed_never_yields_another_message(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    sealer = Sealer({"k00000000": bytes(32)}, "k00000000")
    path = segment(tmp_path_factory.mktemp("spool"), sealer)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(bytes(data))
    try:
        found = [one.data for one in read_segment(path, sealer)]
    except SourceError:
        return
    assert all(data is None or data in MESSAGES for data in found)
