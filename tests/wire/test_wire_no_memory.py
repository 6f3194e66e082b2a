"""Where memory runs out in what is compiled, it says so, and loses and doubles nothing."""

import gc
import sys
from typing import Any

import pytest
from wire_support import compiled

from relay_app.meter.kinds import FIRST_TEXT, TOLD
from relay_app.wire.frames import CONTINUATION, TEXT, encode

_testcapi = pytest.importorskip("_testcapi", reason="this Python cannot run out of memory at will")
Scanner = compiled("Scanner")
pytestmark = pytest.mark.skipif(Scanner is None, reason="the compiled parts are not built")

OPEN = b"\x01" + encode(TEXT, b"begun")[1:]
FRAMES = OPEN + encode(CONTINUATION, b"ended") + encode(TEXT, b"z" * 100) * 70
STEPS = 12
"""More allocations than looking at these takes."""


def without_memory(step: int, function: Any, *args: Any) -> Any:
    """What ``function`` returns, or None if the allocation it makes in this step fails."""
    try:
        _testcapi.set_nomemory(step, step + 1)
        return function(*args)
    except MemoryError:
        return None
    finally:
        _testcapi.remove_mem_hooks()


@pytest.mark.parametrize("cut", [0, 3, 6])
@pytest.mark.parametrize("step", range(STEPS))
def test_what_was_put_into_room_is_looked_at_again(step: int, cut: int) -> None:
    scanner = Scanner(masked=False, max_message_bytes=1_000)
    data = FRAMES + OPEN[:cut]
    room = scanner.room(len(data))
    room[:] = data
    del room
    run = without_memory(step, scanner.took, len(data))
    if run is None:
        run = scanner.took(0)
    assert run.fault is None
    assert [frame.end for frame in run.frames][-1] == len(FRAMES)
    assert len(run.frames) == 72
    rest = scanner.feed(OPEN[cut:] + encode(CONTINUATION, b""))
    assert rest.fault is None
    assert scanner.bytes == len(FRAMES) + len(OPEN) + 2


@pytest.mark.parametrize("step", range(STEPS))
def test_a_large_frame_that_cannot_be_moved_stays(step: int) -> None:
    scanner = Scanner(masked=False, max_message_bytes=1_000)
    data = encode(TEXT, b"z" * 900)
    scanner.feed(data[:10])
    scanner.room(1)[:10] = data[10:20]
    scanner.took(10)
    run = without_memory(step, scanner.feed, data[20:] + OPEN[:3])
    if run is None and scanner.bytes == 20:
        run = scanner.feed(data[20:] + OPEN[:3])
    elif run is None:
        run = scanner.took(0 * len(scanner.room(1)))
    assert run.fault is None
    assert [bytes(run.data[frame.start : frame.end]) for frame in run.frames] == [data]


def test_no_room_is_longer_than_memory() -> None:
    scanner = Scanner(masked=False, max_message_bytes=1_000)
    scanner.feed(OPEN[:1])
    with pytest.raises(MemoryError):
        scanner.room(sys.maxsize)


@pytest.mark.parametrize("limit", [-1, sys.maxsize])
def test_a_limit_is_the_size_of_a_message(limit: int) -> None:
    with pytest.raises(ValueError, match="size"):
        Scanner(masked=False, max_message_bytes=limit)


@pytest.mark.parametrize("step", range(12))
def test_sums_that_cannot_be_handed_out_are_kept(step: int) -> None:
    compiled = pytest.importorskip("relay_app.meter._skim")
    notes = compiled.Notes(lambda: 1.5)
    notes.on_message = gc.isenabled  # which allocates nothing
    skim = compiled.Skim({b"t": FIRST_TEXT, b"told": TOLD}, b"delta", notes, sent=True)
    payloads = [b'{"type":"t","delta":"%b"}' % (b"x" * 400), b'{"type":"told"}']
    run = Scanner(masked=False, max_message_bytes=1_000).feed(
        b"".join(encode(TEXT, payload) for payload in (*payloads, payloads[0]))
    )
    assert skim.over(run.data, run.frames, 0) == 3
    taken = without_memory(step, notes.take)
    sums = (0, 0, 1, 400, 1)
    assert (taken or notes.take()) == [(*sums, (True, 1.5, payloads[1])), (*sums, None)]
    assert notes.take() == []


@pytest.mark.parametrize("step", range(6))
def test_a_message_that_cannot_be_noted_is_left_to_be_looked_at(step: int) -> None:
    compiled = pytest.importorskip("relay_app.meter._skim")
    notes = compiled.Notes(lambda: 1.5)
    notes.on_message = gc.isenabled  # which allocates nothing
    skim = compiled.Skim({b"told": TOLD}, b"delta", notes, sent=True)
    payload = b'{"type":"told","n":"%b"}' % (b"x" * 1_000)
    run = Scanner(masked=False, max_message_bytes=2_000).feed(encode(TEXT, payload))
    looked = without_memory(step, lambda: skim.over(run.data, run.frames, 0))
    assert [told for *_, told in notes.take()] == [(True, 1.5, payload)] * (looked or 0)
