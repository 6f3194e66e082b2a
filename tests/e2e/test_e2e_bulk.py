"""Much, large, in pieces and late: every byte arrives in order, memory stays bounded, and a peer
that never reads harms nobody but itself."""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import pytest
from support.clients import (
    BINARY,
    CLOSED,
    CONTINUATION,
    PATIENCE_SECONDS,
    PING,
    PONG,
    TEXT,
    Frame,
    Peer,
    Provider,
    eventually,
    knock,
    provider,
)
from support.relays import RelayProcess, relay
from support.workers import metric, resident_bytes, worker

MIB = 1 << 20
SMALL_BUFFER = 65_536
"""What the kernel is to take for a peer that does not read, so that it matters that it does not."""

LIMITS = {
    "patient": "stall_seconds = 60\nping_seconds = 3",
    "hasty": "stall_seconds = 1\nping_seconds = 60",
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with provider(receive_bytes=SMALL_BUFFER) as listening:
        yield listening


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, upstream: Provider) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("patient")
    with relay(folder, upstream.url, limits=LIMITS["patient"]) as process:
        yield process
    assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, upstream: Provider) -> Iterator[RelayProcess]:
    folder = tmp_path_factory.mktemp("hasty")
    with relay(folder, upstream.url, limits=LIMITS["hasty"]) as process:
        yield process
    assert "Traceback" not in process.output


@contextmanager
def pair(
    running: RelayProcess, upstream: Provider, receive_bytes: int | None = SMALL_BUFFER
) -> Iterator[tuple[Peer, Peer]]:
    """Both ends of a session: its client, its upstream."""
    with (
        knock(running, receive_bytes=receive_bytes) as client,
        upstream.meet() as target,
    ):
        yield client, target


@contextmanager
def meanwhile(work, *arguments) -> Iterator[None]:
    """Runs ``work`` on a thread; its failure is the test's."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work(*arguments)
        except BaseException as error:  # noqa: BLE001 - told below
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive(), "still at it"
    if failures:
        raise failures[0]


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


# -- reading late ----------------------------------------------------------------------------


@pytest.mark.parametrize("late", ["client", "upstream"])
@pytest.mark.parametrize("message_bytes", [1_000, 32_000, 5 * MIB])
def test_twenty_megabytes_reach_a_peer_that_reads_late_whole_and_in_order(
    running: RelayProcess, upstream: Provider, late: str, message_bytes: int
) -> None:
    # The kernel's buffers on the way and one large frame of ours may hold 20 MiB together.
    count = max(20 * MIB // message_bytes, 9)
    messages = [noise(i, message_bytes) for i in range(count)]
    with pair(running, upstream) as (client, target):
        speaker, listener = (target, client) if late == "client" else (client, target)
        data = b"".join(speaker.frame(BINARY, message) for message in messages)
        sent = speaker.send_until_stuck(data)
        assert sent < len(data), "nothing pressed back"
        with meanwhile(speaker.send, data[sent:]):
            arrived, expected = sha256(), sha256()
            for message in messages:
                got = listener.receive()
                while got.opcode == PING:
                    got = listener.receive()
                assert (got.opcode, got.fin, len(got.payload)) == (BINARY, True, len(message))
                arrived.update(got.payload)
                expected.update(message)
        assert arrived.digest() == expected.digest()


# -- sizes and shapes ------------------------------------------------------------------------

SIZES = (0, 1, 2, 125, 126, 127, 4_096, 65_535, 65_536, 65_537, MIB, 16 * MIB)


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
def test_messages_of_every_size_go_both_ways(
    running: RelayProcess, upstream: Provider, opcode: int
) -> None:
    with pair(running, upstream, receive_bytes=None) as (client, target):
        for size in SIZES:
            payload = b"\xc3\xa9" * (size // 2) + b"x" * (size % 2)
            for speaker, listener in ((client, target), (target, client)):
                with meanwhile(speaker.send, speaker.frame(opcode, payload)):
                    assert data_frame(listener) == Frame(opcode, payload), size


def data_frame(peer: Peer) -> Frame:
    """The next frame but for the relay's own pings, which are empty."""
    while (got := peer.receive()) == Frame(PING, b""):
        pass
    assert got is not CLOSED
    return got


SHAPES = {
    "two halves": [500, 500],
    "byte by byte": [1] * 300,
    "empty pieces all over": [0, 0, 10, 0, 10, 0, 0],
    "nothing but empty pieces": [0] * 20,
    "a large piece and a small": [3 * MIB, 1],
    "a small piece and a large": [1, 3 * MIB],
    "many of one read": [1_000] * 500,
    "many of two reads": [100_000] * 30,
    "around the lengths' widths": [125, 126, 127, 65_535, 65_536, 65_537],
}


@pytest.mark.parametrize("pings", [False, True], ids=["alone", "pings between"])
@pytest.mark.parametrize("shape", SHAPES)
def test_fragments_go_both_ways_as_they_are(
    running: RelayProcess, upstream: Provider, shape: str, pings: bool
) -> None:
    sizes = SHAPES[shape]
    pieces = [
        Frame(CONTINUATION if i else TEXT, noise(i, size), i == len(sizes) - 1)
        for i, size in enumerate(sizes)
    ]
    with pair(running, upstream, receive_bytes=None) as (client, target):
        for speaker, listener in ((client, target), (target, client)):
            data = b"".join(
                (speaker.frame(PING, b"%d" % i) if pings else b"")
                + speaker.frame(piece.opcode, piece.payload, fin=piece.fin)
                for i, piece in enumerate(pieces)
            )
            with meanwhile(speaker.send, data):
                for piece in pieces:
                    assert data_frame(listener) == piece
            if pings:
                # A pong may stand for several pings, but the last ping has its own.
                pong = None
                while pong != b"%d" % (len(pieces) - 1):
                    got = speaker.receive()
                    pong = got.payload if got.opcode == PONG else pong


def test_a_frame_may_come_one_byte_at_a_time(running: RelayProcess, upstream: Provider) -> None:
    with pair(running, upstream, receive_bytes=None) as (client, target):
        for speaker, listener in ((client, target), (target, client)):
            for byte in speaker.frame(TEXT, b"x" * 300) + speaker.frame(TEXT, b"behind"):
                speaker.send(bytes((byte,)))
            assert data_frame(listener).payload == b"x" * 300
            assert data_frame(listener).payload == b"behind"


# -- never reading ---------------------------------------------------------------------------


def turn(client: Peer, target: Peer, number: int) -> None:
    """A message each way."""
    client.say(b"ask %d" % number)
    assert data_frame(target).payload == b"ask %d" % number
    target.say(b"answer %d" % number)
    assert data_frame(client).payload == b"answer %d" % number


@pytest.mark.parametrize(
    ("message_bytes", "bound"), [(16_000, 4 * MIB), (8 * MIB, 24 * MIB)], ids=["16kB", "8MiB"]
)
def test_a_flood_for_a_client_that_never_reads_costs_bounded_memory_and_nobody_else(
    tmp_path: Path, upstream: Provider, message_bytes: int, bound: int
) -> None:
    # A relay of its own: what others have made it take from the system it would not give back.
    with (
        relay(tmp_path, upstream.url) as fresh,
        pair(fresh, upstream) as (other_client, other_target),
    ):
        for number in range(200):
            turn(other_client, other_target, number)
        before = resident_bytes(worker(fresh))
        with pair(fresh, upstream) as (_, target):
            data = target.frame(BINARY, noise(7, message_bytes))
            left = 100 * MIB
            while (sent := target.send_until_stuck(data)) == len(data) and left > 0:
                left -= sent
            assert left > 0, "100 MiB went nowhere and nothing pressed back"
            for number in range(200):
                turn(other_client, other_target, number)
            grown = resident_bytes(worker(fresh)) - before
            assert grown < bound
            target.reset()


@pytest.mark.parametrize("message_bytes", [16_000, 2 * MIB], ids=["16kB", "2MiB"])
def test_both_directions_full_and_pings_on_both_sides_is_no_deadlock_and_no_cut(
    running: RelayProcess, upstream: Provider, message_bytes: int
) -> None:
    # More than the buffers of four sockets: Linux lets those that read grow to 32 MiB and more.
    count = 64 * MIB // message_bytes
    with pair(running, upstream) as (client, target):
        floods = []
        for side in (client, target):
            floods.append(
                b"".join(
                    side.frame(PING, b"%d" % i) + side.frame(BINARY, noise(i, message_bytes))
                    for i in range(count)
                )
            )
        sent = [
            side.send_until_stuck(flood)
            for side, flood in zip((client, target), floods, strict=True)
        ]
        assert all(done < len(flood) for done, flood in zip(sent, floods, strict=True))
        heard: dict[str, tuple[int, int]] = {}

        def listen(name: str, side: Peer) -> None:
            messages, last_pong = 0, -1
            while messages < count or last_pong < count - 1:
                got = side.receive()
                assert got is not CLOSED, (messages, last_pong)
                if got.opcode == BINARY:
                    assert got.payload == noise(messages, message_bytes)
                    messages += 1
                elif got.opcode == PONG and got.payload:
                    assert int(got.payload) > last_pong
                    last_pong = int(got.payload)
            heard[name] = (messages, last_pong)

        with (
            meanwhile(client.send, floods[0][sent[0] :]),
            meanwhile(target.send, floods[1][sent[1] :]),
            meanwhile(listen, "client", client),
            meanwhile(listen, "target", target),
        ):
            pass
        assert heard == {"client": (count, count - 1), "target": (count, count - 1)}
        turn(client, target, 1)


@pytest.mark.parametrize("busy", ["client", "upstream"])
def test_a_peer_that_pings_but_reads_only_when_it_has_said_all_is_heard_to_the_end(
    running: RelayProcess, upstream: Provider, busy: str
) -> None:
    """Its pongs cannot leave, for what it does not read stands before them. A relay whose pong
    waits for its turn would stop reading from it, and it would never come to read."""
    count, message_bytes = 500, 32_000
    with pair(running, upstream) as (client, target):
        talker, listener = (client, target) if busy == "client" else (target, client)
        flood = listener.frame(BINARY, b"y" * message_bytes) * count
        sent = listener.send_until_stuck(flood)
        assert sent < len(flood)

        def listen() -> None:
            for number in range(count):
                assert data_frame(listener).payload == noise(number, message_bytes)

        with meanwhile(listen):
            for number in range(count):
                talker.send(talker.frame(PING, b"%d" % number))
                talker.send(talker.frame(BINARY, noise(number, message_bytes)))
        with meanwhile(listener.send, flood[sent:]):
            pongs, messages = [], 0
            while messages < count or pongs[-1:] != [count - 1]:
                got = talker.receive()
                if got.opcode == BINARY:
                    assert got.payload == b"y" * message_bytes
                    messages += 1
                elif got.opcode == PONG:
                    pongs.append(int(got.payload))
        assert pongs == sorted(pongs)


def test_a_client_that_stops_reading_is_cut_and_the_upstream_told_1013(
    hasty: RelayProcess, upstream: Provider
) -> None:
    with pair(hasty, upstream) as (client, target):
        data = b"".join([target.frame(TEXT, b"x" * 16_000)] * 600)
        target.send_until_stuck(data)
        code, reason = target.hear_close()
        assert code == 1013
        assert reason == "the client read nothing for 1 seconds"
        # A reset, not a close frame behind what it does not read.
        got = everything_left(client)
        assert data.startswith(got)
        assert len(got) < len(data)
    eventually(
        lambda: metric(hasty, 'relay_sessions_closed_total{by="failure",code="1013"}'),
        "the close is counted",
    )


def everything_left(peer: Peer) -> bytes:
    """What there still is to read before the connection's end, whatever kind of end it is."""
    got = bytearray()
    try:
        while data := peer.sock.recv(1 << 20):
            got += data
    except ConnectionResetError:
        pass  # the end we expect
    return bytes(got)


def test_an_upstream_that_stops_reading_is_cut_and_the_client_told_why(
    hasty: RelayProcess, upstream: Provider
) -> None:
    with pair(hasty, upstream) as (client, _):
        data = b"".join([client.frame(TEXT, b"x" * 16_000)] * 600)
        client.send_until_stuck(data)
        error = client.told()
        assert error["error"]["code"] == "upstream_stalled"
        assert client.hear_close() == (1013, "the upstream read nothing for 1 seconds")


@pytest.mark.parametrize("message_bytes", [64_000, 12 * MIB], ids=["64kB", "12MiB"])
def test_a_slow_reader_is_no_stalled_one(
    hasty: RelayProcess, upstream: Provider, message_bytes: int
) -> None:
    """It reads a little every third of a second, for longer than a stalled one may live."""
    pause = threading.Event()
    with pair(hasty, upstream) as (client, target):
        message = target.frame(TEXT, b"x" * message_bytes)
        data = message * (12 * MIB // len(message) or 1)
        with meanwhile(target.send, data):
            received = bytearray()
            while len(received) < len(data):
                if len(received) % MIB == 0:
                    pause.wait(0.3)  # what is being tested is time
                most = min(65_536, MIB - len(received) % MIB, len(data) - len(received))
                got = client.sock.recv(most)
                assert got, f"cut after {len(received)} bytes"
                received += got
            assert received == data
        turn(client, target, 1)


@pytest.mark.parametrize("mute", ["client", "upstream"])
def test_a_silent_peer_is_pinged_and_cut_only_if_it_does_not_answer(
    running: RelayProcess, upstream: Provider, mute: str
) -> None:
    with pair(running, upstream) as (client, target):
        silent, healthy = (client, target) if mute == "client" else (target, client)
        answered = 0
        while (got := healthy.receive()).opcode == PING:
            healthy.send(healthy.frame(PONG, got.payload))
            answered += 1
        assert answered
        if mute == "upstream":
            assert b"upstream_connection_lost" in got.payload
            got = healthy.receive()
        assert int.from_bytes(got.payload[:2], "big") == 1011
        assert silent.receive() == Frame(PING, b"")
        silent.hear_end()


def test_a_healthy_relay_is_left_behind(running: RelayProcess) -> None:
    assert metric(running, "relay_buffered_bytes") == 0
    assert metric(running, "relay_unobserved_messages_total") == 0
