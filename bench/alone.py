"""What a message costs that comes alone: ``python -m bench.alone [--instructions]``.

Most messages of a voice session find nobody awake and the processor's caches full of something
else, and then cost several times what they do in a stream. This sends appends of 20 ms through
the pumps of a few sessions, over real sockets, one after another or with a pause between, and
prints the CPU of each, by the way it took: waking its pump; on the hub, in Python or compiled,
as the relay has it. How many instructions that is says valgrind, the same on every run and every
machine.
The rule: the relay's own parts, put together as it does; nothing of it is rewritten here.
"""

import multiprocessing
import os
import re
import resource
import socket
import subprocess
import sys
import time
from typing import Any

import click
import gevent
from gevent import socket as gevent_socket
from gevent.event import Event

from bench.stages import new_meter
from bench.workload import Turn
from relay_app.observe.logs import SessionLog
from relay_app.session.greenlet_pool import GreenletPool
from relay_app.session.pump import Pump
from relay_app.session.reader import Reader
from relay_app.wire.express import Express, PythonExpress
from relay_app.wire.frames import TEXT, encode
from relay_app.wire.link import Link
from relay_app.wire.rooms import Rooms

__all__ = ["WAYS", "each", "instructions"]

WAYS = ("waking its pump", "on the hub, in Python", "on the hub, compiled")
SESSIONS = 8
COUNTED = (200, 2_200)
"""Messages of the two runs whose difference is counted."""
_MASK = b"\x9a\x1f\x33\xc8"


def _peers(address: Any, frame: bytes, rounds: int, pause: float) -> None:
    """The clients and the providers: what each client says is awaited at its provider's end."""
    pairs = [[socket.create_connection(address) for _ in "cu"] for _ in range(SESSIONS)]
    for client, _ in pairs:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    time.sleep(0.5)
    for n in range(rounds):
        # With a pause one session speaks at a time, without one all of them do.
        speaking = pairs if not pause else [pairs[n % SESSIONS]]
        for client, _ in speaking:
            client.sendall(frame)
        for _, upstream in speaking:
            left = len(frame)
            while left:
                left -= len(upstream.recv(left))
        time.sleep(pause)
    for client, _ in pairs:
        client.close()


def _link(sock: Any, name: str, rooms: Rooms) -> Link:
    return Link(sock, name=name, masks=name == "target", max_message_bytes=1 << 24, rooms=rooms)


def _pump(source: Link, sink: Link, way: str, observe: Any, skim: Any) -> Pump:
    made = PythonExpress if way == WAYS[1] else Express
    pump = Pump(
        source,
        sink,
        observe=observe,
        express=None if way == WAYS[0] else made(source, sink),
        keep_bytes=1 << 18,
        hold_seconds=1.0,
        on_unobserved=print,
        on_held=print,
        give_way=lambda: None,
        new_key=lambda: _MASK,
        clock=time.monotonic,
    )
    pump.look_with(skim, express=True)
    return pump


class _Over:
    """What a Reader tells the ends and the vigil of its session: that all is over."""

    def __init__(self) -> None:
        self.over = Event()

    def ended(self, link: Link) -> None:
        """It was the peer's end."""
        self.over.set()

    def fail(self) -> None:
        """It is in the log why."""
        self.over.set()


def _reader(pump: Pump, source: Link, over: _Over, pool: GreenletPool) -> Reader:
    told: Any = over
    reader = Reader(pump, source, ends=told, vigil=told, pool=pool, log=SessionLog("bench"))
    reader.start()
    return reader


def each(way: str, messages: int, pause: float) -> tuple[float, float]:
    """Microseconds of user and of system time that a message took."""
    rooms, turn = Rooms(1 << 28), Turn(append_seconds=0.02)
    frame = encode(TEXT, turn.append, _MASK)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rounds = messages if pause else messages // SESSIONS
        peers = multiprocessing.get_context("spawn").Process(
            target=_peers, args=(listener.getsockname(), frame, rounds, pause)
        )
        peers.start()
        taken = [listener.accept()[0] for _ in range(2 * SESSIONS)]
    socks = [gevent_socket.socket(fileno=sock.detach()) for sock in taken]
    links = [
        (_link(client, "client", rooms), _link(target, "target", rooms))
        for client, target in zip(socks[::2], socks[1::2], strict=True)
    ]
    pool = GreenletPool()
    ups, ends, downs = [], [], []
    for client, target in links:
        meter = new_meter()
        ups.append(_pump(client, target, way, meter.sent, meter.skim_sent))
        ends.append(_Over())
        _reader(ups[-1], client, ends[-1], pool)
        down = _pump(target, client, way, meter.received, meter.skim_received)
        downs.append(_reader(down, target, _Over(), pool))
    gevent.sleep(0.2)
    begun = resource.getrusage(resource.RUSAGE_SELF)
    gevent.wait([end.over for end in ends])
    ended = resource.getrusage(resource.RUSAGE_SELF)
    peers.join()
    for down_reader in downs:
        down_reader.kill()
    for link in (link for both in links for link in both):
        link.dispose()
    for sock in socks:
        sock.close()
    count = sum(pump.messages for pump in ups)
    user, system = ended.ru_utime - begun.ru_utime, ended.ru_stime - begun.ru_stime
    return 1e6 * user / count, 1e6 * system / count


def instructions(way: str) -> float:
    """How many instructions a message took, of which the system's are not counted. Raises OSError
    without valgrind."""
    counts = []
    for messages in COUNTED:
        # By two counts, for a start takes 700 million: with another seed for the hashes of
        # strings, half a million more or less.
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
                *(sys.executable, "-m", "bench.alone", "--one", way, "--messages", str(messages)),
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        found = re.search(r"Collected *: *(\d+)", done.stderr)
        assert found is not None, done.stderr[-500:]
        counts.append(int(found[1]))
    return (counts[1] - counts[0]) / (COUNTED[1] - COUNTED[0])


def _measure(way: str, messages: int, pause: float, out: Any) -> None:
    out.put(each(way, messages, pause))


@click.command()
@click.option("--rounds", default=5, show_default=True, help="Of which the median counts.")
@click.option("--instructions", "counted", is_flag=True, help="Counted by valgrind, instead.")
@click.option("--one", type=click.Choice(WAYS), hidden=True)
@click.option("--messages", default=COUNTED[0], hidden=True)
def main(rounds: int, counted: bool, one: str | None, messages: int) -> None:
    """Prints what a message costs, in a stream and alone, by each way through the relay."""
    if one is not None:
        each(one, messages, 0.005)
        return
    if counted:
        click.echo("| a message that comes alone | instructions |\n|---|---|")
        for way in WAYS:
            click.echo(f"| {way} | {instructions(way):,.0f} |")
        return
    settings = ((20_000, 0.0), (3_000, 0.002))
    found: dict[tuple[str, float], list[tuple[float, float]]] = {}
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        for messages, pause in settings:
            for way in WAYS:
                out = context.Queue()
                process = context.Process(target=_measure, args=(way, messages, pause, out))
                process.start()
                found.setdefault((way, pause), []).append(out.get())
                process.join()
    click.echo("| a message, CPU µs: user + system | in a stream | alone, 2 ms apart |")
    click.echo("|---|---|---|")
    for way in WAYS:
        medians = []
        for _, pause in settings:
            taken = sorted(found[way, pause], key=sum)
            user, system = taken[len(taken) // 2]
            medians.append(f"{user:.1f} + {system:.1f}")
        click.echo(f"| {way} | {' | '.join(medians)} |")


if __name__ == "__main__":
    main()
