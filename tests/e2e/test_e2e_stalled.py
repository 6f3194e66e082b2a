"""Fifty peers at once that stop reading while the others flood: memory has its bound, and a session
beside them costs what it did."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.clients import TEXT, Peer, Provider, eventually, knock, provider
from support.relays import RelayProcess, relay
from support.workers import metric, resident_bytes, worker

STALLED = 50
SMALL_BUFFER = 65_536
"""What the kernel is to take for a peer that does not read; what it takes is not the relay's."""
QUIET_SECONDS = 0.5
"""Without a byte taken of anybody: then all that can be buffered is."""

MIB = 1 << 20
MAX_BUFFERED = 16 * MIB
SESSION_BYTES = 2 * 65_536
"""A read of each side: what a session holds, besides ``max_buffered_bytes``, of messages that come
whole. docs/design.md, "Memory"."""
TURNS = 2_000
RUNS = 3
"""A busy machine has the same turns take twice the time, or half of it."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[Provider]:
    with provider(receive_bytes=SMALL_BUFFER) as listening:
        yield listening


@contextmanager
def started(folder: Path, upstream: Provider, limits: str) -> Iterator[RelayProcess]:
    limits = f"max_message_bytes = {4 * MIB}\nmax_buffered_bytes = {MAX_BUFFERED}\n{limits}"
    with relay(folder, upstream.url, limits=limits) as running:
        yield running
    assert "Traceback" not in running.output


def open_sessions(
    stack: ExitStack, running: RelayProcess, upstream: Provider, count: int
) -> list[tuple[Peer, Peer]]:
    """Clients, each with its upstream."""
    return [
        (
            stack.enter_context(knock(running, receive_bytes=SMALL_BUFFER)),
            stack.enter_context(upstream.meet()),
        )
        for _ in range(count)
    ]


def flood(peers: list[Peer], message_bytes: int) -> None:
    """All of them send, until of none is anything taken any more."""
    message = peers[0].frame(TEXT, b"x" * message_bytes)
    data = memoryview(message * (4 * MIB // len(message) or 1))
    sent = dict.fromkeys((peer.sock for peer in peers), 0)
    while True:
        _, writable, _ = select.select([], list(sent), [], QUIET_SECONDS)
        if not writable:
            return
        for sock in writable:
            begin = sent[sock] % len(data)
            sent[sock] += sock.send(data[begin : begin + MIB], socket.MSG_DONTWAIT)
        assert max(sent.values()) < 200 * MIB, "nobody presses back"


def turns(client: Peer, target: Peer, count: int) -> None:
    for number in range(count):
        client.say(f"ask {number}")
        assert target.hear() == b"ask %d" % number
        target.say(f"answer {number}")
        assert client.hear() == b"answer %d" % number


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def seconds_for_turns(pid: int, client: Peer, target: Peer) -> float:
    before = processor_seconds(pid)
    turns(client, target, TURNS)
    return processor_seconds(pid) - before


@pytest.mark.parametrize("message_bytes", [32_000, MIB], ids=["32kB", "1MiB"])
@pytest.mark.parametrize("stuck", ["clients", "upstreams"])
def test_fifty_that_read_nothing_take_their_bound_and_no_time_of_others(
    tmp_path: Path, upstream: Provider, stuck: str, message_bytes: int
):
    with (
        started(tmp_path, upstream, "stall_seconds = 600\nping_seconds = 600") as running,
        ExitStack() as stack,
    ):
        pid = worker(running)
        sessions = open_sessions(stack, running, upstream, STALLED)
        ((client, target),) = open_sessions(stack, running, upstream, 1)
        turns(client, target, TURNS)
        idle_bytes = resident_bytes(pid)
        alone = max(seconds_for_turns(pid, client, target) for _ in range(RUNS))

        flood([pair[stuck == "clients"] for pair in sessions], message_bytes)
        grown = resident_bytes(pid) - idle_bytes
        beside = min(seconds_for_turns(pid, client, target) for _ in range(RUNS))
        print(
            f"{STALLED} {stuck}, messages of {message_bytes} bytes: {grown / MIB:.1f} MiB more, "
            f"{TURNS} turns beside them {beside:.2f} s of CPU, alone {alone:.2f} s"
        )
        large = message_bytes > 65_536
        assert metric(running, "relay_buffered_bytes") <= MAX_BUFFERED * large
        assert grown <= STALLED * SESSION_BYTES + MAX_BUFFERED * large
        # By its own clock, which counts in hundredths of a second.
        assert beside <= 2 * alone + 0.1
        assert metric(running, "relay_sessions_open") == STALLED + 1


@pytest.mark.parametrize("stuck", ["clients", "upstreams"])
def test_each_of_them_is_cut_off_and_who_reads_goes_on(
    tmp_path: Path, upstream: Provider, stuck: str
):
    by = "client" if stuck == "clients" else "upstream"
    with (
        started(tmp_path, upstream, "stall_seconds = 1\nping_seconds = 600") as running,
        ExitStack() as stack,
    ):
        sessions = open_sessions(stack, running, upstream, STALLED)
        ((client, target),) = open_sessions(stack, running, upstream, 1)
        flood([pair[stuck == "clients"] for pair in sessions], 32_000)
        for pair in sessions:
            other = pair[stuck == "clients"]
            if stuck == "upstreams":
                assert other.told()["error"]["code"] == "upstream_stalled"
            assert other.hear_close() == (1013, f"the {by} read nothing for 1 seconds")
            other.sock.close()
        turns(client, target, 10)
        eventually(lambda: metric(running, "relay_sessions_open") == 1, "they have ended")
        assert metric(running, "relay_buffered_bytes") == 0
