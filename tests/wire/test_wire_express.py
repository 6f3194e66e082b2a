"""Express: what needs no thought goes through without waking a pump, and the rest is left whole."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from websockets.frames import Opcode
from wire_support import KINDS, MANY, SECONDS, Open, compiled, those_there

from relay_app.wire import express
from relay_app.wire.frames import Close, FrameError
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.rooms import Rooms

TWINS = {"python": express.PythonExpress, "compiled": compiled("_express", "Express")}


@pytest.mark.parametrize("twin", those_there(TWINS)[1:])
def test_the_compiled_one_is_in_use_where_it_is_built(twin: str) -> None:
    assert express.Express is TWINS[twin]


class Way:
    """A direction between two Links, with a pump that only takes note of what is left to it."""

    def __init__(self, opened: Open, twin: Any, kind: str = "tcp", **options: Any) -> None:
        self.rooms = options.setdefault("rooms", Rooms(MANY))
        self.source, self.client = opened(kind, **options)
        self.sink, self.target = opened(kind, name="target", **options)
        self.express = twin(self.source, self.sink)
        self.express.skim = self.skim
        self.plain = 1_000_000
        self.left: list[tuple[int, int, int]] = []
        self.woken = Event()
        self.pump = gevent.spawn(self.run)

    def skim(self, data: Any, frames: Any, begin: int) -> int:
        """Says that all but what follows the first ``plain`` messages is plain."""
        taken = min(self.plain, len(frames))
        self.plain -= taken
        return taken

    def run(self) -> None:
        while True:
            run = self.source.receive(self.express)
            self.left.append((len(run.frames), self.express.skimmed, self.express.sent))
            data = memoryview(run.data)[run.frames[0].start : run.frames[-1].end]
            sent = self.express.sent
            self.express.skimmed = self.express.sent = 0
            if sent:
                self.sink.send_rest(data, sent)
            else:
                self.sink.send(data)
            self.woken.set()

    def heard(self) -> bytes:
        return bytes(self.target.receive().data)


@pytest.fixture(params=those_there(TWINS))
def way(request: pytest.FixtureRequest, opened: Open) -> Iterator[Callable[..., Way]]:
    ways: list[Way] = []

    def make(kind: str = "tcp", **options: Any) -> Way:
        ways.append(Way(opened, TWINS[request.param], kind, **options))
        return ways[-1]

    yield make
    for made in ways:
        made.pump.kill()


@pytest.mark.parametrize("kind", KINDS)
def test_messages_go_through_without_the_pump(way: Callable[..., Way], kind: str) -> None:
    on = way(kind)
    for n in range(5):
        on.client.text(f"message {n}")
        assert on.heard() == f"message {n}".encode()
    assert on.left == []
    assert on.express.messages == 5
    assert on.source.bytes_in == on.sink.bytes_out > 0


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_large_messages_arrive_whole_however_they_come(way: Callable[..., Way], kind: str) -> None:
    on = way(kind)
    payload = bytes(range(256)) * 2_000
    sender = gevent.spawn(lambda: [on.client.send(Opcode.TEXT, payload) for _ in range(8)])
    for _ in range(8):
        assert on.heard() == payload
    sender.get(timeout=SECONDS)


def test_a_message_that_is_not_plain_is_left_where_it_was_reached(way: Callable[..., Way]) -> None:
    on = way()
    on.plain = 1
    on.client.sock.sendall(on.client.frame_bytes(1, b"plain") + on.client.frame_bytes(1, b"not"))
    assert (on.heard(), on.heard()) == (b"plain", b"not")
    assert on.left == [(2, 1, 0)]
    assert on.express.messages == 0


def test_without_a_skim_all_is_left(way: Callable[..., Way]) -> None:
    on = way()
    on.express.skim = None
    on.client.text("look")
    assert on.heard() == b"look"
    assert on.left == [(1, 0, 0)]


def test_a_skim_that_breaks_leaves_the_message(way: Callable[..., Way]) -> None:
    on = way()
    on.express.skim = lambda data, frames, begin: 1 // 0
    on.client.text("look")
    assert on.heard() == b"look"
    assert on.left == [(1, 0, 0)]


def test_control_frames_are_the_links(way: Callable[..., Way]) -> None:
    on = way()
    on.client.send(Opcode.PING, b"?")
    assert on.client.receive().opcode is Opcode.PONG
    on.client.sock.sendall(on.client.frame_bytes(9, b"!") + on.client.frame_bytes(1, b"behind"))
    assert on.heard() == b"behind"
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
    payload = b"x" * 60_000
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
    on.client.text("behind")
    assert on.heard() == b"f" * MANY
    assert on.heard() == b"behind"
    filler.get(timeout=SECONDS)
    assert on.express.messages == 0


def test_nothing_goes_out_behind_our_close(way: Callable[..., Way]) -> None:
    on = way()
    on.sink.close(Close(1000))
    on.client.text("too late")
    assert on.woken.wait(SECONDS)
    assert on.target.receive().opcode is Opcode.CLOSE
    assert on.express.messages == 0


def test_a_pong_that_waits_goes_first(way: Callable[..., Way]) -> None:
    on = way()
    filler = gevent.spawn(on.sink.send, on.client.frame_bytes(Opcode.TEXT, b"f" * MANY))
    while on.sink.blocked_since is None:
        gevent.sleep(0)
    on.target.send(Opcode.PING, b"?")
    reader = gevent.spawn(on.sink.receive)
    gevent.idle()
    assert on.heard() == b"f" * MANY
    assert on.target.receive().opcode is Opcode.PONG
    filler.get(timeout=SECONDS)
    on.client.text("clear again")
    assert on.heard() == b"clear again"
    assert on.express.messages == 1
    reader.kill()


def test_a_large_frame_asks_for_room_first(way: Callable[..., Way]) -> None:
    on = way()
    payload = b"y" * 200_000
    sender = gevent.spawn(on.client.send, Opcode.TEXT, payload)
    assert on.heard() == payload
    sender.get(timeout=SECONDS)
    on.client.text("next")
    assert on.heard() == b"next"
    assert on.left == [(1, 0, 0)]
    assert on.express.messages == 1
    assert on.rooms.taken_bytes == 0


def test_it_keeps_nothing_alive(way: Callable[..., Way]) -> None:
    on = way()
    on.client.text("once")
    on.heard()
    held = on.express
    on.pump.kill()
    assert held.run is None
    assert isinstance(held, tuple(filter(None, TWINS.values())))
    gc.collect()
    assert not [each for each in gc.get_referrers(held) if isinstance(each, Link)]
