"""The listener's promises, in process: every frame one answer, in order, and nothing acknowledged before it is stored."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.sources.hl7.mllp import END, START, Listener, MllpLimits, _Connection
from lims_platform_tests.hl7_messages import oru


class Disk:
    """Stores, or fails; remembers what is safe."""

    def __init__(self, fails: int = 0) -> None:
        self.safe: list[bytes] = []
        self.fails = fails

    def store(self, messages: Sequence[bytes]) -> None:
        if self.fails:
            self.fails -= 1
            raise OSError(28, "No space left on device")
        self.safe += messages


async def talk(disk: Disk, chunks: Sequence[bytes], answers: int, limits: MllpLimits | None = None) -> list[bytes]:
    """Send ``chunks`` over one real connection and read so many answers."""
    listener = Listener(disk.store, limits or MllpLimits())
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(listener), "127.0.0.1", 0)
    committer = asyncio.create_task(listener.commit_forever())
    try:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for chunk in chunks:
            writer.write(chunk)
            await asyncio.sleep(0)
        found = [await asyncio.wait_for(reader.readuntil(END), 10) for _ in range(answers)]
        writer.close()
        return found
    finally:
        committer.cancel()
        server.close()


_GOOD = st.integers(1, 9).map(lambda n: oru(f"C{n}"))
_BAD = st.binary(max_size=60) | st.binary(max_size=60).map(lambda b: b"MSH|^~\\&|" + b)
_FRAMES = st.lists((_GOOD | _BAD).filter(lambda b: b"\x1c" not in b and b"\x0b" not in b), min_size=1, max_size=8)


@settings(max_examples=80, deadline=None)
@given(frames=_FRAMES, cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_each_frame_is_answered_once_in_order_and_stored_if_acknowledged(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(START + frame + END for frame in frames)
    edges = sorted({0, len(stream), *(cut % len(stream) for cut in cuts)})
    disk = Disk()
    chunks = [stream[a:b] for a, b in itertools.pairwise(edges)]
    answers = asyncio.run(talk(disk, chunks, len(frames)))
    taken = [frame for frame, answer in zip(frames, answers, strict=True) if b"MSA|AA|" in answer]
    assert taken == disk.safe
    assert all(frame in taken for frame in frames if frame.startswith(b"MSH|^~\\&|ANALYSER"))


def test_a_full_disk_is_told_and_the_next_try_is_taken() -> None:
    disk = Disk(fails=1)

    async def twice() -> list[bytes]:
        frame = START + oru("C1") + END
        return [*await talk(disk, [frame], 1), *await talk(disk, [frame], 1)]

    first, second = asyncio.run(twice())
    assert b"MSA|AE|C1|the message could not be stored" in first and b"MSA|AA|C1" in second
    assert disk.safe == [oru("C1")]


def test_an_answer_uses_the_senders_separators_and_turns_its_names_round() -> None:
    message = oru("C1").translate(bytes.maketrans(b"|^~\\&", b"!:;?@"))
    (answer,) = asyncio.run(talk(Disk(), [START + message + END], 1))
    assert answer.startswith(START + b"MSH!:;?@!LIMS!HOSPITAL!ANALYSER!LAB!")
    assert b"\rMSA!AA!C1!" in answer


@pytest.mark.parametrize("size", [5_000, 500_000])
def test_a_message_beyond_the_limit_is_refused_whether_or_not_it_ends(size: int) -> None:
    limits = MllpLimits(message_bytes=2_000)
    frame = START + oru("C1", [f"OBX|1|ST|T^T^L||{'9' * size}|U|||||F"])
    for end in (b"", END):
        disk = Disk()
        (answer,) = asyncio.run(talk(disk, [frame + end], 1, limits))
        assert b"MSA|AR|C1|the message is longer than 2,000 bytes" in answer and not disk.safe
