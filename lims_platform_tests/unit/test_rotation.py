"""Key rotation, look-back and the audit trail: pseudonyms stay linkable, nobody is looked up without a trace."""

from __future__ import annotations

import json
import multiprocessing
import stat
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lims_platform.privacy import rotation
from lims_platform.privacy.audit import GENESIS, AuditError, AuditTrail
from lims_platform.privacy.lookback import find
from lims_platform.privacy.pseudonyms import KeyFileError, Pseudonymiser, load_pseudonymiser, next_key_path

OLD, NEW, NEWER = (bytes([n]) * 32 for n in (1, 2, 3))
NAMES = st.lists(st.text("abc123", min_size=1, max_size=6), min_size=1, max_size=8)


@given(names=NAMES)
def test_what_is_stored_rotates_to_what_the_door_will_make(names: list[str]) -> None:
    raw = pl.Series("raw", names)
    before, after = Pseudonymiser(OLD), Pseudonymiser(OLD, rotated=[NEW])
    assert after.rotate(before.pseudonyms(raw, "patient")).to_list() == after.pseudonyms(raw, "patient").to_list()
    twice = Pseudonymiser(OLD, rotated=[NEW, NEWER])
    assert twice.rotate(after.pseudonyms(raw, "patient")).to_list() == twice.pseudonyms(raw, "patient").to_list()
    assert twice.pseudonyms(raw, "patient").n_unique() == raw.n_unique(), "linkable as before"


def test_pseudonyms_alone_and_in_sentences_are_rotated_once() -> None:
    before, after = Pseudonymiser(OLD), Pseudonymiser(OLD, rotated=[NEW])
    one, two = (before.pseudonym(name, "patient") for name in ("P1", "P2"))
    frame = pl.DataFrame({"hash": [one, None, two], "text": [f"see {two}, {one}!", "nothing", None], "n": [1, 2, 3]})
    done = rotation.rotated(frame, after)
    assert done["hash"].to_list() == [after.pseudonym("P1", "patient"), None, after.pseudonym("P2", "patient")]
    assert done["text"][0] == f"see {after.pseudonym('P2', 'patient')}, {after.pseudonym('P1', 'patient')}!"
    assert done.select("n").equals(frame.select("n")) and done["text"].to_list()[1:] == ["nothing", None]
    assert rotation.rotated(done, after).equals(done)


def test_what_was_sealed_before_a_rotation_opens_after_it() -> None:
    before, after, salt = Pseudonymiser(OLD).sealer(), Pseudonymiser(OLD, rotated=[NEW]).sealer(), bytes(16)
    old, kept, fresh = before.box(salt, before.key_id), after.box(salt, before.key_id), after.box(salt, after.key_id)
    assert old is not None and kept is not None and fresh is not None
    sealed = old.seal(0, b"message")
    assert kept.open(0, sealed) == b"message" and fresh.open(0, sealed) is None


def test_an_interrupted_rotation_shuts_the_door_and_keeps_its_new_key(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    first = load_pseudonymiser(path, "demo")
    begun = rotation.begin(path, "demo")
    assert begun.key_ids[0] == first.key_id and len(begun.key_ids) == 2
    with pytest.raises(KeyFileError, match="a rotation is under way"):
        load_pseudonymiser(path, "demo")
    assert rotation.begin(path, "demo").key_ids == begun.key_ids, "the second start makes no third key"
    rotation.finish(path)
    assert not next_key_path(path).exists() and load_pseudonymiser(path, "demo").key_ids == begun.key_ids
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(KeyFileError, match="a demo key"):
        load_pseudonymiser(path, "production")


def test_the_re_mapping_grows_and_is_private(tmp_path: Path) -> None:
    path, after = tmp_path / "k", Pseudonymiser(OLD, rotated=[NEW])
    olds = [Pseudonymiser(OLD).pseudonym(name, "patient") for name in ("A", "B", "C")]
    rotation.remember(path, rotation.mapping(pl.Series(olds[:2]), after), after.key_id)
    kept = rotation.remember(path, rotation.mapping(pl.Series(olds[1:]), after), after.key_id)
    assert set(pl.read_parquet(kept)["old"]) == set(olds) and stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_look_back_finds_the_patient_by_a_pseudonym_of_any_key() -> None:
    now = Pseudonymiser(OLD, rotated=[NEW])
    people = {"patient": {"P1", "P2"}, "technician": {"P1"}}
    assert find(now.pseudonym("P1", "patient"), people, now) == [("patient", "P1")]
    assert find(Pseudonymiser(OLD).pseudonym("P2", "patient"), people, now) == [("patient", "P2")]
    assert find(now.pseudonym("P3", "patient"), people, now) == []
    with pytest.raises(KeyFileError, match="is not in the key file"):
        find(Pseudonymiser(NEWER).pseudonym("P1", "patient"), people, now)


def trail_of(path: Path, entries: int) -> AuditTrail:
    trail = AuditTrail(path / "audit.jsonl")
    for number in range(entries):
        trail.append("reidentify", f"k{number}", "complaint", "shown", actor="anna")
    return trail


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("field", ["actor", "reason", "at", "sequence", "previous"])
def test_a_changed_entry_breaks_the_chain_at_its_line(tmp_path: Path, line: int, field: str) -> None:
    trail = trail_of(tmp_path, 3)
    lines = trail.path.read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | {field: "other"})
    trail.path.write_text("\n".join(lines) + "\n")
    verdict = trail.verify()
    assert verdict.entries == line and f"line {line + 1} was changed" in str(verdict.problem)
    with pytest.raises(AuditError, match="broken trail"):
        trail.append("x", "x", "x", "x")


def test_a_removed_entry_is_seen_and_the_head_tells_a_cut_end(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 3)
    assert AuditTrail(tmp_path / "none").verify().head == GENESIS
    head, lines = trail.verify().head, trail.path.read_text().splitlines(keepends=True)
    trail.path.write_text(lines[0] + lines[2])
    assert "line 2 does not follow" in str(trail.verify().problem)
    trail.path.write_text("".join(lines[:2]))
    assert trail.verify().problem is None and trail.verify().head != head


def test_a_torn_last_line_was_never_acknowledged_and_goes(tmp_path: Path) -> None:
    trail = trail_of(tmp_path, 2)
    with trail.path.open("a") as file:
        file.write('{"sequence": 3, "at"')
    trail.append("reidentify", "k", "r", "o")
    assert trail.verify().entries == 3 and trail.verify().problem is None


def _append(path: Path) -> None:
    trail_of(path, 15)


def test_writers_of_several_processes_make_one_chain(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(tmp_path,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    verdict = AuditTrail(tmp_path / "audit.jsonl").verify()
    assert (verdict.entries, verdict.problem) == (30, None)
