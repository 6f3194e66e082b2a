"""Express: what needs no thought goes through without waking a pump, and the rest is left whole."""

import os
import socket as stdlib_socket
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from support.links import receive
from websockets.frames import Opcode
from wire_support import KINDS, MANY, SECONDS, Open, compiled, those_there

from relay_app.meter.kinds import PLAIN, TOLD_SOON
from relay_app.meter.skim import Notes, Skim
from relay_app.wire import express
from relay_app.wire.frames import Close, FrameError, xor
from relay_app.wire.link import LinkEnded
from relay_app.wire.rooms import Rooms

COMPILED = compiled("Express")
WAYS = those_there({"python": express.PythonExpress, "objects": COMPILED, "direct": COMPILED})
"""The twin in Python, the compiled one, and the same with a skim that offers its C function."""
needs_compiled = pytest.mark.skipif(COMPILED is None, reason="the compiled parts are not built")


@pytest.mark.parametrize("way", WAYS[1:])
def test_the_compiled_one_is_in_use_where_it_is_built(way: str) -> None:
    assert express.Express is COMPILED


def plain(text: str = "", size: int = 0) -> bytes:
    """A message that only adds up."""
    return b'{"type":"plain","text":"%b%b"}' % (text.encode(), b"x" * size)


OTHER = b'{"type":"other"}'


def skim(data: Any, frames: Any, begin: int) -> int:
    """Runs over the plain messages."""
    for index in range(begin, len(frames)):
        frame = frames[index]
        if b'"plain"' not in xor(data[frame.payload : frame.end], frame.key):
            return index
    return len(frames)


class Way:
    """A direction between two Links, with a pump that only takes note of what is left to it."""

    def __init__(self, opened: Open, way: str, kind: str = "tcp", **options: Any) -> None:
        self.rooms = options.setdefault("rooms", Rooms(MANY))
        self.source, self.client = opened(kind, **options)
        self.sink, self.target = opened(kind, name="target", **options)
        made = express.PythonExpress if way == "python" else COMPILED
        self.express = made(self.source, self.sink)
        self.notes = Notes(lambda: 0.0)
        kinds = {b"plain": PLAIN, b"told": TOLD_SOON}
        seen = Skim(kinds, b"delta", self.notes, sent=True)
        self.express.skim = seen.over if way == "direct" else skim
        self.left: list[tuple[int, int, int]] = []
        self.woken = Event()
        self.pump = gevent.spawn(self.run)

    def run(self) -> None:
        while True:
            run = receive(self.source, self.express)
            self.left.append((len(run.frames), self.express.skimmed, self.express.sent))
            data = memoryview(run.data)[run.frames[0].start : run.frames[-1].end]
            sent = self.express.sent
            self.express.skimmed = self.express.sent = 0
            self.sink.send(data, sent=sent)
            self.woken.set()

    def heard(self) -> bytes:
        return bytes(self.target.receive().data)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, opened: Open) -> Iterator[Callable[..., Way]]:
    ways: list[Way] = []

    def make(kind: str = "tcp", **options: Any) -> Way:
        ways.append(Way(opened, request.param, kind, **options))
        return ways[-1]

    yield make
    for made in ways:
        made.pump.kill()


@pytest.mark.parametrize("kind", KINDS)
def test_messages_go_through_without_the_pump(way: Callable[..., Way], kind: str) -> None:
    on = way(kind)
    for n in range(5):
        on.client.send(Opcode.TEXT, plain(f"message {n}"))
        assert on.heard() == plain(f"message {n}")
    assert on.left == []
    assert on.express.messages == 5
    assert on.source.bytes_in == on.sink.bytes_out > 0


@pytest.mark.parametrize("way", WAYS[2:], indirect=True)
def test_what_is_noted_goes_out_before_anybody_is_told(way: Callable[..., Way]) -> None:
    on = way()
    told: list[int] = []
    on.notes.on_message = lambda: told.append(on.sink.bytes_out)
    message = b'{"type":"told"}'
    for _ in range(2):
        on.client.send(Opcode.TEXT, message)
        assert on.heard() == message
    each = on.sink.bytes_out // 2
    assert (told, on.left) == ([each, 2 * each], [])
    assert [line[-1] for line in on.notes.take()] == [(True, 0.0, message)] * 2


@pytest.mark.parametrize("way", WAYS[2:], indirect=True)
def test_who_looks_otherwise_when_told_is_heeded(way: Callable[..., Way]) -> None:
    on = way()

    def leave_all() -> None:
        on.express.skim = None

    on.notes.on_message = leave_all
    for number, message in enumerate([b'{"type":"told"}', plain("then")]):
        on.client.send(Opcode.TEXT, message)
        assert on.heard() == message
        assert len(on.left) == number


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_large_messages_arrive_whole_however_they_come(way: Callable[..., Way], kind: str) -> None:
    on = way(kind)
    payload = plain(size=500_000)
    sender = gevent.spawn(lambda: [on.client.send(Opcode.TEXT, payload) for _ in range(8)])
    for _ in range(8):
        assert on.heard() == payload
    sender.get(timeout=SECONDS)


def test_a_message_that_is_not_plain_is_left_where_it_was_reached(way: Callable[..., Way]) -> None:
    on = way()
    both = [on.client.frame_bytes(1, payload) for payload in (plain(), OTHER)]
    on.client.sock.sendall(b"".join(both))
    assert (on.heard(), on.heard()) == (plain(), OTHER)
    assert on.left == [(2, 1, len(both[0]))], "what stands before it has gone out"
    assert on.express.messages == 0


def test_without_a_skim_all_is_left(way: Callable[..., Way]) -> None:
    on = way()
    on.express.skim = None
    on.client.send(Opcode.TEXT, plain("look"))
    assert on.heard() == plain("look")
    assert on.left == [(1, 0, 0)]


def test_a_skim_that_breaks_leaves_the_message(way: Callable[..., Way]) -> None:
    on = way()
    on.express.skim = lambda data, frames, begin: 1 // 0
    on.client.send(Opcode.TEXT, plain("look"))
    assert on.heard() == plain("look")
    assert on.left == [(1, 0, 0)]


def test_control_frames_are_the_links(way: Callable[..., Way]) -> None:
    on = way()
    on.client.send(Opcode.PING, b"?")
    assert on.client.receive().opcode is Opcode.PONG
    on.client.sock.sendall(on.client.frame_bytes(9, b"!") + on.client.frame_bytes(1, plain()))
    assert on.heard() == plain()
    assert on.client.receive().data == b"!"
    assert on.left == [(1, 0, 0)]


def test_a_close_and_a_fault_reach_the_pump(way: Callable[..., Way]) -> None:
    closed, broken, gone = way(), way(), way()
    closed.client.close(4000, "bye")
    broken.client.sock.sendall(b"\xff\xff")
    gone.client.sock.close()
    for on, error in ((closed, LinkEnded), (broken, FrameError), (gone, LinkEnded)):
        with pytest.raises(error):
            on.pump.get(timeout=SECONDS)
    assert closed.source.end is not None
    assert closed.source.end.code == 4000


def test_what_the_sink_does_not_take_is_left_with_how_much_went_out(
    way: Callable[..., Way],
) -> None:
    on = way()
    payload = plain(size=60_000)
    sending = gevent.spawn(lambda: [on.client.send(Opcode.TEXT, payload) for _ in range(500)])
    while on.sink.blocked_since is None:
        gevent.sleep(0)
    assert on.left or on.express.messages
    for _ in range(500):
        assert on.heard() == payload
    sending.get(timeout=SECONDS)
    assert all(frames == skimmed for frames, skimmed, _ in on.left)
    assert any(sent for _, _, sent in on.left)


def test_nothing_is_written_between_the_parts_of_another_message(way: Callable[..., Way]) -> None:
    on = way()
    filler = gevent.spawn(on.sink.send, on.client.frame_bytes(Opcode.TEXT, b"f" * MANY))
    while on.sink.blocked_since is None:
        gevent.sleep(0)
    on.client.send(Opcode.TEXT, plain("behind"))
    assert on.heard() == b"f" * MANY
    assert on.heard() == plain("behind")
    filler.get(timeout=SECONDS)
    assert on.express.messages == 0


def test_nothing_goes_out_behind_our_close(way: Callable[..., Way]) -> None:
    on = way()
    on.sink.close(Close(1000))
    on.client.send(Opcode.TEXT, plain("too late"))
    assert on.woken.wait(SECONDS)
    assert on.target.receive().opcode is Opcode.CLOSE
    assert on.express.messages == 0


def test_a_pong_that_waits_goes_first(way: Callable[..., Way]) -> None:
    on = way()
    filler = gevent.spawn(on.sink.send, on.client.frame_bytes(Opcode.TEXT, b"f" * MANY))
    while on.sink.blocked_since is None:
        gevent.sleep(0)
    on.target.send(Opcode.PING, b"?")
    reader = gevent.spawn(receive, on.sink)
    gevent.idle()
    assert on.heard() == b"f" * MANY
    assert on.target.receive().opcode is Opcode.PONG
    filler.get(timeout=SECONDS)
    on.client.send(Opcode.TEXT, plain("clear again"))
    assert on.heard() == plain("clear again")
    assert on.express.messages == 1
    reader.kill()


def test_a_large_frame_asks_for_room_first(way: Callable[..., Way]) -> None:
    on = way()
    payload = plain(size=200_000)
    sender = gevent.spawn(on.client.send, Opcode.TEXT, payload)
    assert on.heard() == payload
    sender.get(timeout=SECONDS)
    on.client.send(Opcode.TEXT, plain("next"))
    assert on.heard() == plain("next")
    assert on.left == [(1, 0, 0)]
    assert on.express.messages == 1
    assert on.rooms.taken_bytes == 0


def test_it_keeps_nothing_of_what_it_forwarded(way: Callable[..., Way]) -> None:
    on = way()
    on.client.send(Opcode.TEXT, plain("once"))
    on.heard()
    assert on.express.run is None
    assert on.express.skim is not None
    on.express.skim = None
    assert on.express.skim is None


@needs_compiled
def test_between_plain_sockets_no_object_is_made_and_one_call_reads_and_writes(
    opened: Open,
) -> None:
    on = Way(opened, "direct")
    for n in range(10):
        on.client.send(Opcode.TEXT, plain(f"message {n}"))
        on.heard()
    assert (on.express.reads, on.express.writes) == (10, 10)
    assert on.source.bytes_in == on.sink.bytes_out
    on.pump.kill()


@pytest.mark.parametrize("cut", [1, 2, 5, 7, 20, 30, 61])
def test_frames_may_be_cut_anywhere(way: Callable[..., Way], cut: int) -> None:
    on = way()
    data = on.client.frame_bytes(1, plain("one")) + on.client.frame_bytes(1, plain("two"))
    for piece in (data[:cut], data[cut:]):
        before = on.source.bytes_in
        on.client.sock.sendall(piece)
        while on.source.bytes_in == before:
            gevent.sleep(0)
    assert (on.heard(), on.heard()) == (plain("one"), plain("two"))
    assert on.left == []


def test_many_small_messages_in_one_read_are_left_if_they_are_too_many(
    way: Callable[..., Way],
) -> None:
    on = way()
    payload = b'{"type":"plain"}'
    on.client.sock.sendall(on.client.frame_bytes(1, payload) * 3_000)
    for _ in range(3_000):
        assert on.heard() == payload
    assert on.express.messages + sum(frames for frames, _, _ in on.left) == 3_000


@needs_compiled
def test_a_socket_that_was_closed_beneath_is_not_mistaken_for_another(
    opened: Open,
) -> None:
    on = Way(opened, "direct")
    on.client.send(Opcode.TEXT, plain())
    on.heard()
    number = on.sink.connection.plain.fileno()
    other, mine = stdlib_socket.socketpair()
    on.sink.connection.plain.close()
    os.dup2(other.fileno(), number)
    on.client.send(Opcode.TEXT, plain("not for you"))
    with pytest.raises(LinkEnded):
        on.pump.get(timeout=SECONDS)
    mine.setblocking(False)
    with pytest.raises(BlockingIOError):
        mine.recv(1)
    os.close(number)
    for each in (other, mine):
        each.close()
