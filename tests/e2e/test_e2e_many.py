"""Two hundred sessions that end in every way there is: nothing of them is left behind, and each
has settled once."""

import gc
import random
import re
import signal
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import pywsgi
from gevent.event import Event
from support.bills import bills, figures
from support.clients import CLOSED, TEXT, Peer, Provider, eventually, knock, provider
from support.processes import Process
from support.relays import RelayProcess, relay, write_settings
from support.workers import files, metric, metrics, sessions_closed, threads, worker

from relay_app.app import create_app
from relay_app.session.greenlet_pool import Worker
from relay_app.settings_file import settings_from_file

SESSIONS = 200
SEED = 20_260_101
UNHEARD = "drain_seconds = 1"
"""No upstream here answers a cancel."""
POOLED_THREADS = 1 + 10 + 1 + 2 + 1
"""The worker's own, gevent's for name look-ups, the ledger's writer and readers, and that of the
keys in the store."""


class Session:
    """Both ends of one session, and what its upstream has reported in it."""

    def __init__(self, name: str, client: Peer, target: Peer) -> None:
        self.name = name
        self.client = client
        self.target = target
        self.reported: list[dict[str, Any]] = []
        self.unfinished: list[str] = []
        self._units = 0

    def begin(self) -> None:
        """A response begins."""
        self._units += 1
        self.unfinished.append(f"{self.name}_{self._units}")
        response = {"id": self.unfinished[-1], "status": "in_progress", "usage": None}
        self._heard({"type": "response.created", "response": response})

    def finish(self) -> None:
        """The response that runs longest ends."""
        size = self._units
        usage = {
            "total_tokens": 3 * size,
            "input_tokens": 2 * size,
            "output_tokens": size,
            "input_token_details": {"text_tokens": 2 * size, "audio_tokens": 0},
            "output_token_details": {"text_tokens": 0, "audio_tokens": size},
        }
        response = {"id": self.unfinished.pop(0), "status": "completed", "output": [{}]}
        event = {"type": "response.done", "response": {**response, "usage": usage}}
        self.reported.append(event)
        self._heard(event)

    def speak(self) -> None:
        """The client says something."""
        self.client.tell(type="input_audio_buffer.append", audio="AAAA" * 100)
        assert self.target.told()["audio"] == "AAAA" * 100

    def _heard(self, event: dict[str, Any]) -> None:
        self.target.tell(**event)
        assert self.client.told() == event

    @property
    def expected(self) -> dict[str, dict[str, Any]]:
        """What the ledger is to hold: what was reported, and what never ended as dropped."""
        found = bills(self.reported)
        for unit in self.unfinished:
            response = {"id": unit, "status": "dropped", "output": [], "usage": None}
            found |= bills([{"type": "response.done", "response": response}])
        return found


def half_a_frame(peer: Peer) -> None:
    peer.send(peer.frame(TEXT, b"x" * 1_000)[:500])


def half_a_message(peer: Peer) -> None:
    peer.send(peer.frame(TEXT, b"x" * 1_000, fin=False))


WAYS: dict[str, Callable[[Session], None]] = {
    "the client closes": lambda s: s.client.say_close(1000, "bye"),
    "the client closes oddly": lambda s: s.client.say_close(4321),
    "the client hangs up": lambda s: s.client.hang_up(),
    "the client resets": lambda s: s.client.reset(),
    "the client resets in mid-frame": lambda s: (half_a_frame(s.client), s.client.reset()),
    "the client resets in mid-message": lambda s: (half_a_message(s.client), s.client.reset()),
    "the client hangs up in mid-frame": lambda s: (half_a_frame(s.client), s.client.hang_up()),
    "the client breaks the protocol": lambda s: s.client.send(b"\xff" * 50),
    "the upstream closes": lambda s: s.target.say_close(1001, "restart"),
    "the upstream hangs up": lambda s: s.target.hang_up(),
    "the upstream resets": lambda s: s.target.reset(),
    "the upstream resets in mid-frame": lambda s: (half_a_frame(s.target), s.target.reset()),
    "the upstream goes in mid-message": lambda s: (half_a_message(s.target), s.target.hang_up()),
    "the upstream breaks the protocol": lambda s: s.target.send(b"\xff" * 50),
    "both close": lambda s: (s.client.say_close(), s.target.say_close()),
    "both reset": lambda s: (s.client.reset(), s.target.reset()),
    "the client closes and resets": lambda s: (s.client.say_close(), s.client.reset()),
    "the client closes and the upstream resets": lambda s: (s.client.say_close(), s.target.reset()),
}  # fmt: skip


def talk(sessions: list[Session], dice: random.Random, steps: int) -> None:
    """Random steps of random sessions; of some a response is left running."""
    for _ in range(steps):
        session = dice.choice(sessions)
        step = dice.choice(("begin", "finish", "speak"))
        if step == "finish" and not session.unfinished:
            step = "begin"
        getattr(session, step)()


def part(sessions: list[Session], dice: random.Random) -> None:
    """Ends each session in a way of its own, every way more than once."""
    ways = list(WAYS.values()) * (len(sessions) // len(WAYS) + 1)
    for session, way in zip(dice.sample(sessions, len(sessions)), ways, strict=False):
        way(session)
    # Some of the others answer what they are told, some just go, some stay and say nothing.
    for session in sessions:
        for peer in (session.client, session.target):
            choice = dice.randrange(3)
            if choice == 0:
                answer_the_close(peer)
            elif choice == 1:
                peer.sock.close()


def answer_the_close(peer: Peer) -> None:
    try:
        while (got := peer.receive()) is not CLOSED:
            if len(got.payload) >= 2 and got.opcode == 8:
                peer.say_close(struct.unpack("!H", got.payload[:2])[0])
                peer.hang_up()
    except (OSError, AssertionError):
        pass  # it has ended its own connection, or was cut off in mid-frame


LetIn = Callable[[RelayProcess, range], list[Session]]


@pytest.fixture
def let_in(upstream: Provider) -> Iterator[LetIn]:
    """Opens sessions; what is left of them is closed when the test is over."""
    opened: list[Session] = []

    def open_them(running: RelayProcess, names: range) -> list[Session]:
        new = [Session(f"resp_{name}", knock(running), upstream.meet()) for name in names]
        opened.extend(new)
        return new

    yield open_them
    close_all(opened)


def settled_once(running: RelayProcess, sessions: list[Session]) -> None:
    """Per session exactly the records that its upstream reported, no more and no less."""
    by_session: dict[str, list[dict]] = {}
    for record in running.records():
        by_session.setdefault(record["session_id"], []).append(record)
    found = [figures(records) for records in by_session.values()]
    expected = [session.expected for session in sessions if session.expected]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    assert {unit: bill for one in found for unit, bill in one.items()} == {
        unit: bill for one in expected for unit, bill in one.items()
    }


def one_close_line_for_each_open_line(process: Process, count: int) -> None:
    opened = re.findall(r"session open session=(rs_\w+)", process.output)
    closed = re.findall(r"session close session=(rs_\w+)", process.output)
    assert len(opened) == len(set(opened)) == count
    assert Counter(closed) == Counter(opened)


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with provider() as listening:
        yield listening


def test_two_hundred_sessions_end_in_every_way_and_nothing_is_left(
    tmp_path: Path, upstream: Provider, let_in: LetIn
) -> None:
    dice = random.Random(SEED)
    with relay(tmp_path, upstream.url, limits=UNHEARD) as running:
        pid = worker(running)
        (first,) = let_in(running, range(1))
        first.begin()
        first.finish()  # so that the ledger's files and threads are there
        close_all([first])
        eventually(lambda: metric(running, "relay_sessions_open") == 0, "the first settles")
        before = at_rest(pid)

        sessions = let_in(running, range(1, SESSIONS + 1))
        eventually(lambda: metric(running, "relay_sessions_open") == SESSIONS, "all are open")
        assert at_rest(pid)["socket"] == before["socket"] + 2 * SESSIONS
        talk(sessions, dice, steps=3 * SESSIONS)
        part(sessions, dice)

        eventually(lambda: len(sessions_closed(running)) == SESSIONS + 1, "all settle")
        assert at_rest(pid) == before
        assert threads(pid) <= POOLED_THREADS
        assert metric(running, "relay_sessions_open") == 0
        assert metric(running, "relay_sessions_opened_total") == SESSIONS + 1
        closes = [v for k, v in metrics(running).items() if k.startswith("relay_sessions_closed")]
        assert sum(closes) == SESSIONS + 1
        assert metric(running, "relay_unobserved_messages_total") == 0
        close_all(sessions)
        settled_once(running, [first, *sessions])
        one_close_line_for_each_open_line(running.process, SESSIONS + 1)
    assert "Traceback" not in running.output
    assert "ERROR" not in running.output


def at_rest(pid: int) -> Counter[str]:
    """What a worker has open, by kind, once that has stopped changing."""
    looks: deque[Counter[str]] = deque(maxlen=25)

    def unchanged() -> bool:
        found = files(pid)
        for path in found:
            if path.endswith("relay.db"):
                # What a reader had open SQLite keeps for the next while the writer has a lock.
                found[path] = 1
        looks.append(found)
        return len(looks) == looks.maxlen and all(look == looks[0] for look in looks)

    eventually(unchanged, "its files stop changing")
    return looks[0]


def close_all(sessions: list[Session]) -> None:
    for session in sessions:
        session.client.sock.close()
        session.target.sock.close()


def test_sigterm_ends_the_rest_and_settles_them(
    tmp_path: Path, upstream: Provider, let_in: LetIn
) -> None:
    dice = random.Random(SEED + 1)
    with relay(tmp_path, upstream.url, limits=UNHEARD) as running:
        sessions = let_in(running, range(SESSIONS))
        talk(sessions, dice, steps=3 * SESSIONS)
        gone = dice.sample(sessions, SESSIONS // 2)
        part(gone, dice)
        running.process.signal(signal.SIGTERM)
        stayed = [session for session in sessions if session not in gone]
        for session in stayed:
            error = session.client.told()
            assert error["error"]["code"] == "relay_draining"
            assert session.client.hear_close()[0] == 1001
            assert session.target.hear_close()[0] == 1001
        close_all(sessions)
        assert running.process.wait() == 0
    settled_once(running, sessions)
    one_close_line_for_each_open_line(running.process, SESSIONS)
    assert "Traceback" not in running.output
    assert "ERROR" not in running.output


# -- greenlets -------------------------------------------------------------------------------


@contextmanager
def relay_in_this_process(folder: Path, base_url: str) -> Iterator[RelayProcess]:
    """The relay under pywsgi, on the hub of a thread of this process."""
    config = write_settings(folder, base_url, server=UNHEARD)
    app = create_app(settings_from_file(config))
    listening = threading.Event()
    port: list[int] = []
    stop: list[Callable[[], None]] = []

    def serve() -> None:
        server = pywsgi.WSGIServer(("127.0.0.1", 0), app, log=None)
        server.start()
        port.append(server.server_port)
        stopping = Event()
        waker = gevent.get_hub().loop.async_()
        waker.start(stopping.set)
        stop.append(waker.send)
        listening.set()
        stopping.wait()
        server.stop(10)
        app.extensions["relay_app"].close()
        waker.stop()
        waker.close()
        gevent.get_hub().destroy(destroy_loop=True)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert listening.wait(30)
    try:
        yield RelayProcess(None, config, f"http://127.0.0.1:{port[0]}")
    finally:
        stop[0]()
        thread.join(30)
        assert not thread.is_alive()


def greenlets() -> Counter[str]:
    """The living greenlets of this process, by what they do; of those that the pumps share, only
    who is at work."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, gevent.Greenlet)]
    found = [each for each in found if not isinstance(each, Worker) or hasattr(each, "task")]
    return Counter(re.sub(r" at 0x\w+| of .*", "", repr(each)) for each in found if not each.dead)


def test_no_greenlet_outlives_its_session(
    tmp_path: Path, upstream: Provider, let_in: LetIn
) -> None:
    dice = random.Random(SEED + 2)
    others = greenlets()  # of tests before this one
    with relay_in_this_process(tmp_path, upstream.url) as running:
        (first,) = let_in(running, range(1))
        first.begin()
        first.finish()
        part([first], dice)
        close_all([first])
        eventually(lambda: metric(running, "relay_sessions_open") == 0, "the first ends")
        # The keeper goes a moment after its last session; the flusher of the ledger stays, and
        # who reads the keys of the store.
        before = eventually(
            lambda: len(g := greenlets() - others) == 2 and g, "all but two are gone"
        )
        sessions = let_in(running, range(1, 61))
        assert (greenlets() - others).total() >= before.total() + 60, "we can count"
        talk(sessions, dice, steps=180)
        part(sessions, dice)
        close_all(sessions)
        eventually(lambda: metric(running, "relay_sessions_open") == 0, "all end")
        eventually(lambda: greenlets() - others == before, f"as before: {before}")
        settled_once(running, [first, *sessions])
