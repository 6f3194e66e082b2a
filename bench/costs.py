"""What the pump asks of the kernel and of the allocator: ``python -m bench.costs [--write]``.

A fixed conversation goes through a real Session between real sockets, message by message, in
bursts and in pieces, and what is counted is the same on every machine: calls of recv, send and
epoll_ctl, wake-ups of greenlets, allocations and their bytes. The rule: no clock. Between two
steps everybody waits until the kernel has delivered what was sent, so no figure depends on how
fast anything is.

Both paths are measured, the compiled one and the one of Python alone (``bench/pure``). The figures
that were agreed on are in ``bench/results/pump-costs.json``, and ``tests/bench`` holds to them.
"""

import contextlib
import fcntl
import gc
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import click
import gevent
import greenlet
from gevent.socket import socket as GeventSocket

from bench.counters import Allocations, Calls, Counter, build
from bench.results import FOLDER
from bench.workload import MODEL, Turn, session_created, session_update, session_updated
from relay_app.ledger.outbox import Commit
from relay_app.ledger.price_list import built_in_prices
from relay_app.ledger.pricer import Pricer
from relay_app.meter.meter import Meter
from relay_app.meter.prices import PriceList
from relay_app.meter.usage import UsageRecord
from relay_app.meter.vocabulary import load
from relay_app.session.context import SessionContext
from relay_app.session.session import Session
from relay_app.settings import Server
from relay_app.wire.express import Express, PythonExpress
from relay_app.wire.frames import TEXT, encode
from relay_app.wire.link import Link
from relay_app.wire.rooms import Rooms

__all__ = ["CALLS", "FILE", "PATHS", "PURE", "TOLERANCE", "Figures", "compare", "measure", "table"]

FILE = FOLDER / "pump-costs.json"
PURE = Path(__file__).with_name("pure")
PATHS = ("compiled", "pure")
CALLS = ("recv", "send", "epoll_ctl", "wakeups")
"""What is counted the same by every version of Python; allocations and bytes are not."""
TOLERANCE = 0.05
WRITE = "python -m bench.costs --write"

Figures = dict[str, dict[str, int]]
"""Of each way of delivery what was counted."""

_ROOT = Path(__file__).parents[1]
_RECORDED = _ROOT / "tests" / "transcripts" / "10-multi-response-cached-ga.jsonl"
_KEY = b"\x9a\x1f\x33\xc8"
_BUFFER = 1 << 18
_BURST = 49_152
_PIECE = 16_384
_TURNS = 6
"""Of the hub after each step: reading takes one, and what reads goes back to waiting in one."""
_WARM_UPS = 3
_SECONDS = 20.0
_COUNT = struct.Struct("i")


class Said(NamedTuple):
    """A message on the wire, and by whom."""

    by_client: bool
    frame: bytes


class Ledger:
    """An accountant of the quickest kind: what it is told is durable at once."""

    def record(self, records: Sequence[UsageRecord]) -> Commit:
        commit = Commit(tuple(records))
        commit.settle()
        return commit

    def checkpoint(self, records: Sequence[UsageRecord]) -> None:
        """Costs nothing."""

    def checkpoint_soon(self, make: object) -> None:
        """Likewise."""


class Far:
    """The far end of a Link: says what it is told to, and hears what comes."""

    def __init__(self, *, name: str, masks: bool) -> None:
        self.sock, self._near = _pair()
        self.link = Link(
            self._near, name=name, masks=masks, max_message_bytes=1 << 24, rooms=Rooms(1 << 28)
        )
        self.heard = bytearray()
        self._heard = 0

    def say(self, data: bytes) -> None:
        """Returns when all of it lies ready for the relay, and not before."""
        self.sock.sendall(data)
        deadline = time.monotonic() + _SECONDS
        while _ready(self._near) < len(data):
            assert time.monotonic() < deadline, "the kernel keeps bytes back"

    def listen(self) -> None:
        """Takes what the relay has sent so far, all of it."""
        while self._heard < self.link.bytes_out:
            data = self.sock.recv(self.link.bytes_out - self._heard)
            assert data
            self._heard += len(data)
            self.heard += data

    def close(self) -> None:
        self.sock.close()
        self._near.close()


class Conversation:
    """A Session, with a client and a provider that take turns."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self._client = Far(name="client", masks=False)
        self._target = Far(name="target", masks=True)
        meter = Meter(
            "rs_costs", key="bench", upstream="provider", model=MODEL, upstream_model=MODEL,
            clock=time.time, price=Pricer(PriceList(built_in_prices().prices), {}),
        )  # fmt: skip
        self._session = Session(
            self._client.link,
            self._target.link,
            context=SessionContext("rs_costs", "bench", "provider", MODEL, MODEL),
            meter=meter,
            accountant=Ledger(),  # type: ignore[arg-type]
            limits=Server(),
            before_forward=True,
        )
        self._running = gevent.spawn(self._session.run)
        self._hub = gevent.get_hub()
        self._bell, self._rung = socket.socketpair()
        self._rung.send(b"!")
        # Something that is always ready: each wait for it is a turn of the hub, by no clock.
        self._always = self._hub.loop.io(self._bell.fileno(), 1)
        self.steps = 0
        self.turn()  # it begins

    def goes_on(self, steps: Sequence[Said]) -> None:
        """Each is said, relayed and heard before the next."""
        for said in steps:
            speaker, listener = self._client, self._target
            if not said.by_client:
                speaker, listener = listener, speaker
            speaker.say(said.frame)
            self.turn()
            listener.listen()

    def turn(self) -> None:
        """The relay's turn: it does what there is to be done, and what it takes is counted."""
        self.steps += 1
        for counter in self._counters:
            counter.resume()
        for _ in range(_TURNS):
            self._hub.wait(self._always)
        for counter in reversed(self._counters):
            counter.pause()

    def heard(self) -> tuple[bytes, bytes]:
        """What the provider and the client have heard since this was last asked."""
        found = bytes(self._target.heard), bytes(self._client.heard)
        self._target.heard.clear()
        self._client.heard.clear()
        return found

    def end(self) -> None:
        """Nothing of it is left behind."""
        self._running.kill()
        self._always.close()
        self._bell.close()
        self._rung.close()
        self._client.close()
        self._target.close()


def _pair() -> tuple[Any, Any]:
    """A connection over loopback: a far end that waits, and a near one that gevent knows."""
    with socket.socket() as listener:
        # Of a size of their own, before they connect: what the kernel finds right changes.
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            listener.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        far = socket.socket()
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            far.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        far.settimeout(_SECONDS)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    return far, GeventSocket(fileno=near.detach())


def _ready(sock: Any) -> int:
    answer = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(_COUNT.size))
    return int(_COUNT.unpack(answer)[0])


# -- what is said --------------------------------------------------------------------------------


def voice_turn(number: int) -> list[Said]:
    """A voice turn of the workload."""
    turn = Turn()
    up = [turn.append] * turn.appends + [turn.create]
    down = [bytes(turn.payload(index, 1, number)) for index in range(turn.down_messages)]
    return [*(_said(True, payload) for payload in up), *(_said(False, each) for each in down)]


def in_the_midst(number: int) -> tuple[list[Said], list[Said]]:
    """Its beginning, and of its midst what needs no thought: audio both ways, and text."""
    turn = voice_turn(number)
    asks = next(n for n, each in enumerate(turn) if not each.by_client)
    begun, over = asks + 4, -6
    return turn[asks - 1 : begun], [*turn[: asks - 1], *turn[begun:over]]


def opening() -> list[Said]:
    """What comes before the first turn."""
    return [
        _said(False, session_created(1)),
        _said(True, session_update()),
        _said(False, session_updated(1)),
    ]


def recorded() -> list[Said]:
    """A whole session as it was recorded: several responses, a transcription, cached input."""
    lines = [json.loads(line) for line in _RECORDED.read_text().splitlines()]
    return [
        _said(line["dir"] == "c2s", json.dumps(line["frame"], separators=(",", ":")).encode())
        for line in lines
        if "frame" in line
    ]


def _said(by_client: bool, payload: bytes) -> Said:
    return Said(by_client, encode(TEXT, payload, _KEY if by_client else b""))


def one_by_one(said: Sequence[Said]) -> list[Said]:
    """As most messages come: alone."""
    return list(said)


def in_bursts(said: Sequence[Said]) -> list[Said]:
    """As many whole messages at once as a relay that was busy finds in one read."""
    steps: list[Said] = []
    for each in said:
        last = steps[-1] if steps else Said(not each.by_client, b"")
        if last.by_client == each.by_client and len(last.frame + each.frame) <= _BURST:
            steps[-1] = Said(each.by_client, last.frame + each.frame)
        else:
            steps.append(each)
    return steps


def in_pieces(said: Sequence[Said]) -> list[Said]:
    """As a network cuts them: anywhere."""
    steps = []
    for by_client, group in groupby(said, key=lambda each: each.by_client):
        data = b"".join(each.frame for each in group)
        steps += [Said(by_client, data[at : at + _PIECE]) for at in range(0, len(data), _PIECE)]
    return steps


_DELIVERIES = {"one by one": one_by_one, "in bursts": in_bursts, "in pieces": in_pieces}


# -- what is counted -----------------------------------------------------------------------------


class Wakeups:
    """A Counter of how often a greenlet is woken that is neither the hub nor this one."""

    def __init__(self) -> None:
        self._count = 0
        self._counting = False
        self._others = (gevent.getcurrent(), gevent.get_hub())

    def resume(self) -> None:
        self._counting = True

    def pause(self) -> None:
        self._counting = False

    def take(self) -> dict[str, int]:
        found, self._count = self._count, 0
        return {"wakeups": found}

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        def switched(event: str, args: Any) -> None:
            if self._counting and args[1] not in self._others:
                self._count += 1

        before = greenlet.settrace(switched)
        try:
            yield
        finally:
            greenlet.settrace(before)


def _prepared(kind: str, counters: Sequence[Counter]) -> tuple[Conversation, list[Said]]:
    """A Conversation that is warm, and what is to be said in it."""
    if kind != "recorded session":
        conversation = Conversation(counters)
        conversation.goes_on(opening())
        for number in range(_WARM_UPS):
            for part, way in enumerate(_DELIVERIES.values()):
                conversation.goes_on(way(voice_turn(10 * number + part)))
        if kind == "voice turn":
            return conversation, voice_turn(10 * _WARM_UPS)
        begun, midst = in_the_midst(10 * _WARM_UPS)
        conversation.goes_on(begun)
        return conversation, midst
    for way in _DELIVERIES.values():
        earlier = Conversation(counters)
        earlier.goes_on(way(recorded()))
        earlier.end()
    return Conversation(counters), recorded()


def _taken(counters: Sequence[Counter]) -> dict[str, int]:
    return {name: value for counter in counters for name, value in counter.take().items()}


def _counted(kind: str, delivery: str, counters: Sequence[Counter]) -> dict[str, int]:
    conversation, said = _prepared(kind, counters)
    gc.collect()
    gc.disable()
    try:
        conversation.turn()
        _taken(counters)
        conversation.turn()
        turn = _taken(counters)
        before = conversation.steps
        _goes_on(conversation, said, delivery)
        found = _taken(counters)
    finally:
        gc.enable()
    # Without what the turns of the hub take by themselves.
    steps = conversation.steps - before
    conversation.end()
    return {
        "messages": len(said),
        **{name: value - steps * turn[name] for name, value in found.items()},
    }


def _goes_on(conversation: Conversation, said: Sequence[Said], delivery: str) -> None:
    conversation.heard()
    conversation.goes_on(_DELIVERIES[delivery](said))
    to_target, to_client = conversation.heard()
    assert to_target == b"".join(each.frame for each in said if each.by_client)
    assert to_client == b"".join(each.frame for each in said if not each.by_client)


def measure() -> Figures:
    """What is counted here and now, on whichever path was imported."""
    load()
    # Compiling first: it is Python, and what it leaves behind is not to be counted.
    asked: list[Counter] = [Calls(), Allocations()]
    wakeups = Wakeups()
    figures: Figures = {}
    for kind in ("audio and text", "voice turn", "recorded session"):
        for delivery in _DELIVERIES:
            counted = _counted(kind, delivery, asked)
            with wakeups.counted():  # apart, for a trace allocates
                figures[f"{kind}, {delivery}"] = counted | _counted(kind, delivery, [wakeups])
    return figures


# -- what was agreed on --------------------------------------------------------------------------


def python_version() -> str:
    """By which allocations differ."""
    return ".".join(platform.python_version_tuple()[:2])


def measured(path: str, environment: dict[str, str] | None = None) -> Figures:
    """The figures of ``path``, taken in a process where nothing else has happened."""
    variables = {**os.environ, **(environment or {})}
    folders = [variables.get("PYTHONPATH", ""), str(_ROOT)]
    if path == "pure":
        folders.insert(0, str(PURE))
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        preloaded = (str(build("calls", Path(folder))), variables.get("LD_PRELOAD", ""))
        variables["LD_PRELOAD"] = " ".join(filter(None, preloaded))
        done = subprocess.run(
            [sys.executable, "-m", "bench.costs", "--here", path],
            cwd=_ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    figures: Figures = json.loads(done.stdout)
    return figures


def agreed(path: str, file: Path = FILE) -> Figures:
    """What was written for ``path``; allocations only if they were taken with this Python."""
    stored = json.loads(file.read_text())
    allocations = stored["allocations"].get(python_version(), {}).get(path, {})
    return {
        case: {**counts, **allocations.get(case, {})}
        for case, counts in stored["calls"].get(path, {}).items()
    }


def compare(found: Figures, expected: Figures) -> list[str]:
    """What is off by more than the tolerance, in either direction, a line each."""
    lines = [f"{case}: measured or agreed on, not both" for case in sorted({*found} ^ {*expected})]
    for case in sorted({*found} & {*expected}):
        for name, limit in expected[case].items():
            value = found[case][name]
            if abs(value - limit) > TOLERANCE * limit:
                change = f"{value / limit - 1:+.1%}" if limit else "was none"
                lines.append(f"{case}: {name} {limit:,} -> {value:,} ({change})")
    return lines


def write(figures: dict[str, Figures], file: Path = FILE) -> None:
    """From now on these are agreed on; what other versions of Python allocate stays."""
    stored = json.loads(file.read_text()) if file.exists() else {"allocations": {}}

    def part(names: tuple[str, ...]) -> dict[str, Figures]:
        return {
            path: {case: {name: each[name] for name in names} for case, each in cases.items()}
            for path, cases in figures.items()
        }

    stored["command"] = WRITE
    stored["calls"] = part(("messages", *CALLS))
    stored["allocations"][python_version()] = part(("allocations", "bytes"))
    file.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")


def table(figures: dict[str, Figures]) -> str:
    """All of it, for each message, as Markdown."""
    lines = [
        "| for each message | path | recv | send | epoll_ctl | wake-ups | allocations | bytes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path, cases in figures.items():
        for case, each in cases.items():
            cells = [f"{each[name] / each['messages']:.2f}" for name in CALLS]
            for name, digits in (("allocations", 1), ("bytes", 0)):
                value = each[name] / each["messages"] if name in each else None
                cells.append("" if value is None else f"{value:,.{digits}f}")
            lines.append(f"| {case} | {path} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--write", "writes", is_flag=True, help=f"Agree on these: {FILE.name}.")
@click.option("--here", type=click.Choice(PATHS), hidden=True)
def main(writes: bool, here: str | None) -> None:
    """Prints what the pump asks for, and how far it is from what was agreed on."""
    if here is not None:
        if (Express is PythonExpress) != (here == "pure"):
            raise click.ClickException("the compiled parts are not built: pip install -e .")
        click.echo(json.dumps(measure()))
        return
    figures = {path: measured(path) for path in PATHS}
    click.echo(table(figures), nl=False)
    if writes:
        write(figures)
        return
    for path in PATHS:
        for line in compare(figures[path], agreed(path)) if FILE.exists() else ():
            click.echo(f"{path}: {line}", err=True)


if __name__ == "__main__":
    main()
