"""Lookout: what follows soon is waited for away from the loop, and nothing else waits for that."""

import select
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.hub import get_hub
from gevent.monkey import get_original
from websockets.frames import Opcode
from wire_support import SECONDS, Open, Peer, compiled, tcp_pair

from relay_app.wire.express import Express, PythonExpress
from relay_app.wire.frames import Run, xor
from relay_app.wire.link import LinkEnded
from relay_app.wire.lookout import lookout_of

Lookout = compiled("Lookout")
pytestmark = pytest.mark.skipif(Lookout is None, reason="the compiled parts are not built")

Thread = get_original("threading", "Thread")
PLAIN = b'{"type":"plain"}'
OTHER = b'{"type":"other"}'


def skim(data: Any, frames: Any, begin: int) -> int:
    """Runs over the plain messages."""
    for index in range(begin, len(frames)):
        if xor(data[frames[index].payload : frames[index].end], frames[index].key) != PLAIN:
            return index
    return len(frames)


class Line:
    """A direction between two Links. Its far ends belong to a thread, so that they say something
    while the hub is away. ``on_left`` is called with what the Express leaves to the pump."""

    def __init__(self, opened: Open, on_left: Callable[[Run], None] = lambda run: None) -> None:
        pairs = [tcp_pair(), tcp_pair()]
        self.source, _ = opened(pair_=(pairs[0][0], _Nobody))
        self.sink, _ = opened(pair_=(pairs[1][0], _Nobody), name="target")
        self._client, self._target = (
            get_original("socket", "socket")(fileno=theirs.detach()) for _, theirs in pairs
        )
        self.client = Peer(self._client, masks=True)
        self.target = Peer(self._target, masks=False)
        self.express = Express(self.source, self.sink)
        self.express.skim = skim
        self.on_left = on_left
        self.stopped = False
        self.threads: list[Any] = []
        self.pump = gevent.spawn(self._run)
        gevent.idle()

    def _run(self) -> None:
        while True:
            run = self.source.receive(self.express)
            data = memoryview(run.data)[run.frames[0].start : run.frames[-1].end]
            sent, self.express.skimmed, self.express.sent = self.express.sent, 0, 0
            self.sink.send(data, sent=sent)
            self.on_left(run)

    def say(self, payload: bytes) -> None:
        """A message, and it has arrived: each comes alone."""
        self.client.send(Opcode.TEXT, payload)
        assert self.target.receive().data == payload

    def begin(self, talk: Callable[[], None]) -> None:
        """Has a thread talk; then the client leaves, and so the pump ends."""

        def run() -> None:
            try:
                talk()
            finally:
                self._client.close()

        self.threads.append(Thread(target=run))
        self.threads[-1].start()

    def ended(self) -> None:
        with pytest.raises(LinkEnded):
            self.pump.get(timeout=SECONDS)

    def dispose(self) -> None:
        self.stopped = True
        self.pump.kill()
        for sock in (self._client, self._target):
            sock.close()
        for thread in self.threads:
            thread.join(SECONDS)


_Nobody = SimpleNamespace(settimeout=lambda seconds: None, close=lambda: None)


@pytest.fixture
def line(opened: Open) -> Iterator[Callable[..., Line]]:
    lines: list[Line] = []

    def make(**options: Any) -> Line:
        lines.append(Line(opened, **options))
        return lines[-1]

    yield make
    for made in lines:
        made.dispose()


# -- on gevent's own loop ------------------------------------------------------------------------


def test_messages_that_follow_soon_take_no_rounds_of_the_loop(line: Callable[..., Line]) -> None:
    on = line()
    lookout, loop = lookout_of(get_hub()), get_hub().loop
    assert lookout is not None
    lingered, rounds = lookout.lingered, loop.iteration
    on.begin(lambda: [on.say(PLAIN) for _ in range(500)] and None)
    on.ended()
    lingered, rounds = lookout.lingered - lingered, loop.iteration - rounds
    assert on.express.messages == 500
    assert lingered > 0
    assert rounds <= 2 * (500 - lingered) + 20


def test_other_sockets_are_heard_though_messages_never_stop(line: Callable[..., Line]) -> None:
    on = line()
    ours, theirs = socket.socketpair()
    theirs = get_original("socket", "socket")(fileno=theirs.detach())

    def talk() -> None:
        for n in range(1_000_000):
            if on.stopped:
                return
            if n == 100:
                theirs.send(b"!")
            on.say(PLAIN)

    on.begin(talk)
    assert ours.recv(1) == b"!"
    on.stopped = True
    on.ended()
    assert on.express.messages < 1_000_000
    ours.close()
    theirs.close()


def test_timers_run_though_messages_never_stop(line: Callable[..., Line]) -> None:
    on = line()

    def talk() -> None:
        while not on.stopped:
            on.say(PLAIN)

    on.begin(talk)
    gevent.sleep(0.05)
    on.stopped = True
    on.ended()


def test_what_a_woken_pump_waits_for_is_not_over_early(line: Callable[..., Line]) -> None:
    waited: list[float] = []

    def wait(run: Run) -> None:
        begun = time.monotonic()
        gevent.sleep(0.01)
        waited.append(time.monotonic() - begun)

    on = line(on_left=wait)

    def talk() -> None:
        for _ in range(20):
            for _ in range(5):
                on.say(PLAIN)
            on.say(OTHER)

    on.begin(talk)
    on.ended()
    assert len(waited) == 20
    assert min(waited) >= 0.0099


def test_who_has_stopped_waiting_is_left_alone(line: Callable[..., Line]) -> None:
    on = line()
    on.begin(lambda: [on.say(PLAIN) for _ in range(20)] and None)
    on.ended()
    still = line()
    still.pump.kill()
    still.client.send(Opcode.TEXT, PLAIN)
    gevent.idle()
    assert still.express.messages == 0


def test_there_is_one_for_each_hub(line: Callable[..., Line]) -> None:
    assert lookout_of(get_hub()) is lookout_of(get_hub())
    found: list[Any] = []

    def other() -> None:
        found.append(lookout_of(get_hub()))
        get_hub().destroy(destroy_loop=True)
        found.append(lookout_of(get_hub()))
        get_hub().destroy(destroy_loop=True)

    thread = Thread(target=other)
    thread.start()
    thread.join(SECONDS)
    assert len({id(each) for each in [lookout_of(get_hub()), *found]}) == 3


def test_there_is_none_for_a_loop_that_it_does_not_know() -> None:
    hub: Any = SimpleNamespace(loop=SimpleNamespace(backend="default", fileno=lambda: None))
    assert lookout_of(hub) is None


# -- by itself -----------------------------------------------------------------------------------


class Loop:
    """What a Lookout wants of a loop, over an epoll set of our own."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.iteration = 1
        self.pendingcnt = 0
        self.updates = 0
        self.errors: list[type] = []

    def fileno(self) -> int:
        return self.epoll.fileno()

    def update_now(self) -> None:
        self.updates += 1

    def handle_error(self, context: object, kind: type, value: object, trace: object) -> None:
        self.errors.append(kind)


class Desk:
    """A Lookout with that loop, before which two directions lie that have been quiet."""

    def __init__(self, opened: Open) -> None:
        self.loop = Loop()
        self.lookout = Lookout(self.loop, 4.0)  # longer than a busy machine may take
        self.woken: list[object] = []
        self.sources, self.numbers, self.expresses = [], [], []
        for name in ("one", "two"):
            source, client = opened()
            sink, _ = opened(name="target")
            express = Express(source, sink)
            express.skim = skim
            number = source.connection.plain.fileno()
            self.loop.epoll.register(number, select.EPOLLIN)
            assert self.lookout.watch(number, express, self.woken.append, name)
            self.sources.append(client)
            self.numbers.append(number)
            self.expresses.append(express)

    def say(self, which: int, payload: bytes = PLAIN) -> None:
        self.sources[which].send(Opcode.TEXT, payload)
        assert select.select([self.numbers[which]], [], [], SECONDS)[0]

    def round(self, which: int) -> None:
        """What the loop does when it finds that there is something to read."""
        self.lookout(self.numbers[which])

    @property
    def messages(self) -> list[int]:
        return [express.messages for express in self.expresses]


@pytest.fixture
def desk(opened: Open) -> Desk:
    """One that has just forwarded a message, and would linger over the next."""
    desk = Desk(opened)
    desk.loop.pendingcnt = 1
    desk.say(0)
    desk.round(0)
    assert desk.messages == [1, 0]
    desk.loop.pendingcnt = 0
    desk.loop.iteration += 1
    return desk


def test_it_lingers_until_somebody_is_woken(desk: Desk) -> None:
    def wake(name: object) -> None:
        desk.woken.append(name)
        desk.say(0)  # which is for the next round: who was woken may have asked for anything

    desk.lookout.unwatch(desk.numbers[1], "two")
    assert desk.lookout.watch(desk.numbers[1], desk.expresses[1], wake, "two")
    desk.say(0)
    desk.say(1, OTHER)
    desk.round(0)
    assert desk.messages == [2, 0]
    assert desk.woken == ["two"]
    assert desk.loop.updates == 1


def test_it_does_not_linger_if_the_loop_has_more_to_do(desk: Desk) -> None:
    desk.loop.pendingcnt = 1
    desk.say(0)
    desk.say(1)
    desk.round(0)
    assert desk.messages == [2, 0]


def test_it_does_not_linger_if_somebody_was_woken_in_the_same_round(desk: Desk) -> None:
    desk.say(1, OTHER)
    desk.round(1)
    desk.say(0)
    desk.expresses[1].run = None
    desk.say(1)
    desk.round(0)
    assert (desk.messages, desk.woken) == ([2, 0], ["two"])


def test_it_does_not_linger_where_little_comes(opened: Open) -> None:
    desk = Desk(opened)
    desk.say(0)
    desk.say(1)
    desk.round(0)
    assert (desk.messages, desk.lookout.lingered) == ([1, 0], 0)


def test_what_is_not_for_an_express_ends_it_and_stays_for_the_loop(desk: Desk) -> None:
    ours, theirs = socket.socketpair()
    desk.loop.epoll.register(ours.fileno(), select.EPOLLIN)
    theirs.send(b"!")
    desk.say(0)
    desk.say(1)
    desk.round(0)
    assert desk.messages == [2, 1]
    assert desk.loop.epoll.poll(0) == [(ours.fileno(), select.EPOLLIN)]
    ours.close()
    theirs.close()


def test_an_interrupt_is_the_hubs_and_the_others_are_looked_after(desk: Desk) -> None:
    def interrupt(data: object, frames: object, begin: int) -> int:
        raise KeyboardInterrupt

    desk.expresses[0].skim = interrupt
    desk.say(0)
    desk.round(0)
    assert desk.loop.errors == [KeyboardInterrupt]
    assert desk.woken == []
    desk.say(1)
    desk.round(1)
    assert desk.messages == [1, 1]


def test_a_number_that_another_has_by_now_stays_with_that_one(desk: Desk) -> None:
    assert desk.lookout.watch(desk.numbers[0], desk.expresses[0], desk.woken.append, "new")
    desk.lookout.unwatch(desk.numbers[0], "one")
    desk.say(0, OTHER)
    desk.round(0)
    assert desk.woken == ["new"]
    desk.lookout.unwatch(desk.numbers[0], "new")
    desk.round(0)
    assert desk.woken == ["new"]


def test_it_takes_no_express_that_is_not_compiled_and_no_closed_socket(opened: Open) -> None:
    desk = Desk(opened)
    source, _ = opened()
    sink, _ = opened(name="target")
    assert not desk.lookout.watch(7, PythonExpress(source, sink), desk.woken.append, "python")
    assert not desk.lookout.watch(-1, desk.expresses[0], desk.woken.append, "closed")
