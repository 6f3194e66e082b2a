"""Scanner: the compiled one and its twin in Python give the same answers, byte by byte, and those
of wsproto."""

import random
import sys
from typing import Any

import pytest
from fuzz.frames_of import Reference, seen
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_app.wire import frames, scanner
from relay_app.wire.frames import Frame, FrameError, Run, encode

_compiled = pytest.importorskip(
    "relay_app.wire._compiled", reason="the compiled parts are not built"
)

ROOM = 64


def test_the_compiled_one_is_built_and_in_use() -> None:
    assert scanner.Scanner is _compiled.Scanner


def pair(*, masked: bool, limit: int = 1_000_000) -> tuple[Any, Any]:
    twins = (frames.Scanner, _compiled.Scanner)
    python, compiled = (twin(masked=masked, max_message_bytes=limit) for twin in twins)
    return python, compiled


def said(run: Run) -> tuple[Any, ...]:
    fault = run.fault and (run.fault.message, run.fault.code)
    data = [bytes(run.data[frame.start : frame.end]) for frame in run.frames]
    return [*run.frames], data, fault, run.has_control


def stream(source: random.Random, masked: bool) -> bytes:
    """Frames of all kinds, most of them legal."""
    out = bytearray()
    for _ in range(source.randrange(1, 12)):
        size = source.choice([0, 1, 5, 125, 126, 200, source.randrange(300)])
        if source.random() < 0.1:
            size = source.choice([65_535, 65_536, 70_000])
        opcode = source.choice([0, 1, 1, 1, 2, 8, 9, 10])
        key = source.randbytes(4) if masked else b""
        frame = bytearray(encode(opcode, source.randbytes(size), key))
        if source.random() < 0.2:
            frame[0] &= 0x7F
        if source.random() < 0.1:
            frame[source.randrange(min(len(frame), 14))] ^= 1 << source.randrange(8)
        out += frame
    return bytes(out)


@settings(max_examples=400)
@given(st.integers(0), st.booleans(), st.sampled_from([100, 1_000, 70_000, 1 << 24]))
def test_both_find_the_same_frames_and_the_same_faults(seed: int, masked: bool, limit: int) -> None:
    source = random.Random(seed)
    twins = pair(masked=masked, limit=limit)
    data = stream(source, masked)
    while data:
        size = source.choice([1, 2, 3, 10, 100, 5_000, 65_536, len(data)])
        piece, data = data[:size], data[size:]
        if source.random() < 0.5:
            python, compiled = (twin.feed(piece) for twin in twins)
        else:
            size = fill(twins, piece)
            data = piece[size:] + data
            python, compiled = (twin.took(size) for twin in twins)
        assert said(python) == said(compiled)
        assert twins[0].awaiting == twins[1].awaiting
        if python.fault:
            return


@settings(max_examples=200)
@given(st.integers(0), st.booleans(), st.sampled_from([100, 1_000, 70_000, 1 << 24]))
def test_both_find_the_frames_and_the_faults_that_wsproto_finds(
    seed: int, masked: bool, limit: int
) -> None:
    data = stream(random.Random(seed), masked)
    theirs = Reference(masked=masked, max_message_bytes=limit)
    theirs.feed(data)
    for ours in pair(masked=masked, limit=limit):
        run = ours.feed(data)
        assert seen(run) == theirs.frames
        if run.fault is None and theirs.fault is not None:
            run = ours.feed(bytes(14))  # we have not seen it yet: a header that is cut off
        elif run.fault is not None and theirs.fault is None:
            theirs.feed(bytes(14))
        assert (run.fault and run.fault.code) == theirs.fault


def fill(twins: tuple[Any, Any], data: bytes) -> int:
    """Puts as much of ``data`` as goes in into the room of both."""
    python, compiled = (twin.room(ROOM) for twin in twins)
    assert len(python) == len(compiled) >= ROOM or twins[0].awaiting
    size = min(len(python), len(data))
    python[:size] = compiled[:size] = data[:size]
    return size


@pytest.fixture(params=[0, 1], ids=["python", "compiled"])
def twin(request: pytest.FixtureRequest) -> Any:
    return pair(masked=False)[request.param]


def test_a_large_frame_is_filled_in_place(twin: Any) -> None:
    data = encode(1, bytes(range(256)) * 1_000)
    room = twin.room(ROOM)
    room[:] = data[: len(room)]
    assert not twin.took(len(room)).frames
    rest = twin.room(ROOM)
    assert len(rest) == len(data) - ROOM == twin.awaiting - ROOM
    rest[: ROOM // 2] = data[ROOM : ROOM + ROOM // 2]
    assert not twin.took(ROOM // 2).frames
    room = twin.room(ROOM)
    room[:] = data[-len(room) :]
    run = twin.took(len(room))
    assert bytes(run.data) == data
    assert list(run.frames) == [Frame(1, True, 0, 10, len(data), b"")]


def test_more_than_there_is_room_for_is_refused(twin: Any) -> None:
    with pytest.raises(ValueError, match="room"):
        twin.took(1)
    room = twin.room(ROOM)
    with pytest.raises(ValueError, match="room"):
        twin.took(len(room) + 1)
    with pytest.raises(ValueError, match="room"):
        twin.took(-1)
    with pytest.raises(ValueError, match="room"):
        pair(masked=True)[0].room(0)


def test_room_that_was_not_needed_is_given_back(twin: Any) -> None:
    twin.feed(encode(1, b"0123456789")[:5])
    assert not twin.took(0 * len(twin.room(100_000))).frames
    run = twin.feed(encode(1, b"0123456789")[5:])
    assert [frame.end for frame in run.frames] == [12]
    assert len(run.data) == 12


def test_frames_are_a_sequence_like_any_other() -> None:
    run = pair(masked=True)[1].feed(b"".join(encode(1, b"abc", b"1234") for _ in range(200)))
    listed = [*run.frames]
    assert len(run.frames) == 200
    assert run.frames[-1] == listed[-1] == Frame(1, True, 1_791, 1_797, 1_800, b"1234")
    assert run.frames[3:190:7] == listed[3:190:7]
    assert run.frames[:-1] == listed[:-1]
    assert memoryview(run.frames).nbytes == 200 * 32
    for wrong in (200, -201):
        with pytest.raises(IndexError):
            run.frames[wrong]
    with pytest.raises(TypeError):
        run.frames["first"]


def test_a_fault_is_explained_by_the_rules_in_python() -> None:
    found = frames.fault(b"\x81\x80", False, 100, False, 0)
    assert isinstance(found, FrameError)
    assert found.message == "server frame masked"


def test_neither_keeps_what_it_has_handed_out() -> None:
    for twin in pair(masked=False):
        data = twin.feed(encode(1, b"x" * 1_000) + b"\x81").data
        holders = sys.getrefcount(data) - 1
        assert holders == 1
