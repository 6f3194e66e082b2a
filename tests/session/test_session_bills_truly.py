"""Whatever an upstream and a client do: what was billed is in the ledger, each unit once.

Random sessions over real sockets, with real frames, a real accountant and a real store, against
the account that the upstream kept by itself. ``--hypothesis-profile=thorough`` tries many more.
"""

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import gevent
import pytest
from billing_scripts import Script, Step, Unit, account, cost, scripts
from gevent import socket
from hypothesis import HealthCheck, Phase, given, settings
from session_support import DRAINING, SECONDS, Peer, Stage, until
from websockets.frames import Frame, Opcode

from relay_app import codec
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.journal import Journal
from relay_app.ledger.price_list import built_in_prices
from relay_app.ledger.pricer import Pricer
from relay_app.ledger.stores import Store, open_store
from relay_app.meter.meter import Meter
from relay_app.meter.prices import PriceList
from relay_app.meter.usage import UsageRecord

PRICES = PriceList(built_in_prices().prices)
KEEPER_SECONDS = 10.0
"""Long enough for a checkpoint to be due, too short for anything else."""
EXAMPLES = settings.default.max_examples
pytestmark = pytest.mark.timeout(120 if EXAMPLES <= 100 else 0)


@pytest.fixture(autouse=True)
def _no_test_waits_for_ever() -> None:
    """Here each session has a limit of its own."""


class Side:
    """One peer of a session: says its frames in pieces of any size, and keeps what it hears."""

    def __init__(self, peer: Peer, chunks: Iterator[int]) -> None:
        self.peer = peer
        self.said: list[Frame] = []
        self.heard: list[Frame] = []
        self.ends: list[int] = []
        """How many bytes had to go for each message to be whole."""
        self.answers = True
        self._chunks = chunks
        self._waiting = bytearray()
        self.reader = gevent.spawn(self._hear)

    def say(self, step: Step, *, cut: int = 0) -> None:
        """The message of ``step`` in frames, the last ``cut`` bytes of them not sent."""
        payload = step.said.payload
        opcode = Opcode.TEXT if step.said.text else Opcode.BINARY
        edges = [0, *step.cuts, len(payload)]
        data = b""
        for position, (begin, end) in enumerate(pairwise(edges), start=2):
            fin = position == len(edges)
            data += self.peer.frame(opcode, payload[begin:end], fin=fin)
            self.said.append(Frame(opcode, payload[begin:end], fin))
            opcode = Opcode.CONT
            if step.ping and not fin:
                data += self.peer.frame(Opcode.PING, b"?")
        self.ends.append((self.ends[-1] if self.ends else 0) + len(data))
        self._waiting += data[: len(data) - cut]

    def flush(self) -> None:
        """Sends what waits, in pieces, each with a turn for the others behind it."""
        while self._waiting:
            size = next(self._chunks)
            self.peer.sock.sendall(self._waiting[:size])
            del self._waiting[:size]
            gevent.sleep(0)

    def close(self) -> None:
        with suppress(OSError):
            self.peer.close(1000)
            self.peer.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.reader.kill()
        linger = struct.pack("ii", 1, 0)
        self.peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.peer.sock.close()

    def _hear(self) -> None:
        with suppress(OSError, EOFError):
            while True:
                frame = self.peer.receive()
                if frame.opcode is Opcode.CLOSE:
                    break
                if frame.opcode not in (Opcode.PING, Opcode.PONG):
                    self.hear(frame)
            until(lambda: self.answers)
            self.close()
        until(lambda: self.answers)
        with suppress(OSError):
            self.peer.sock.shutdown(socket.SHUT_WR)

    def hear(self, frame: Frame) -> None:
        self.heard.append(frame)


class Listener(Side):
    """A client that looks into the ledger each time it learns of an end."""

    def __init__(self, peer: Peer, chunks: Iterator[int], play: "Play", store: Store) -> None:
        self.missed: list[str] = []
        self._said = iter(play.script.said)
        self._session_id = play.session_id
        self._message = bytearray()
        self._store = store
        super().__init__(peer, chunks)

    def hear(self, frame: Frame) -> None:
        super().hear(frame)
        self._message += frame.data
        if not frame.fin:
            return
        said, message = next(self._said, None), bytes(self._message)
        self._message.clear()
        entry = said.entry if said is not None and said.payload == message else None
        if entry is not None and entry.deed == "ends":
            records = self._store.records(session_id=self._session_id)
            record = next((r for r in records if r.unit_id == entry.unit), None)
            if record is None or (entry.figures is not None and record.source != "reported"):
                self.missed.append(entry.unit)


class Play:
    """One performance of a script."""

    def __init__(self, script: Script, accountant: Accountant, store: Store) -> None:
        self.script = script
        self.session_id = f"rs_{uuid4().hex}"
        self.stage = Stage(
            accountant=accountant,
            before_forward=script.before_forward,
            meter=Meter(
                self.session_id,
                key="k",
                upstream="u",
                model=script.asked,
                upstream_model=script.asked,
                clock=time.time,
                price=Pricer(PRICES, {}),
            ),
            hold_seconds=SECONDS,
            drain_seconds=0.02 if script.ending == "silent" else SECONDS,
        )
        watch = script.before_forward and accountant.journal is None
        chunks = cycle(script.chunks)
        self.client = (
            Listener(self.stage.client, chunks, self, store)
            if watch
            else Side(self.stage.client, chunks)
        )
        self.upstream = Side(self.stage.target, chunks)
        self.upstream.answers = False

    def perform(self) -> None:
        script = self.script
        last = max(n for n, step in enumerate(script.steps) if step.who == "upstream")
        for position, step in enumerate(script.steps):
            if step.who == "upstream":
                cut = script.cut if script.ending == "cut" and position == last else 0
                self.upstream.say(step, cut=cut)
            elif step.who == "client":
                self.client.say(step)
            else:
                self._flush()
                if step.who == "leaves":
                    self._leave()
                else:
                    self.stage.tick(KEEPER_SECONDS)
            if step.turns:
                self._flush()
                for _ in range(step.turns - 1):
                    gevent.sleep(0)
        self._flush()
        self._end()
        self.stage.runner.get(timeout=SECONDS)

    def _flush(self) -> None:
        self.client.flush()
        try:
            self.upstream.flush()
        except OSError:
            if not self.killed:
                raise

    def _leave(self) -> None:
        how = self.script.leaving
        if how == "close":
            self.stage.client.close(1000)
        elif how == "fin":
            self.stage.client.sock.shutdown(socket.SHUT_WR)
        elif how == "reset":
            self.client.reset()
        elif how == "cancel":
            self.stage.session.cancel(DRAINING)
        else:
            self.stage.runner.kill(block=False)

    def _end(self) -> None:
        how = self.script.ending
        if how == "close":
            self.upstream.close()
        elif how == "reset":
            self.upstream.reset()
        elif how in ("fin", "cut"):
            with suppress(OSError):
                self.stage.target.sock.shutdown(socket.SHUT_WR)
        self.upstream.answers = True

    def leave(self) -> None:
        self.client.reader.kill()
        self.upstream.reader.kill()
        self.stage.leave()

    # -- what must be true afterwards --------------------------------------------------------

    @property
    def stays(self) -> bool:
        """Whether the client is there to the end."""
        return not any(step.who == "leaves" for step in self.script.steps)

    @property
    def killed(self) -> bool:
        return self.script.leaving == "kill" and not self.stays

    @property
    def reached(self) -> int:
        """How many of the upstream's messages reached the relay: all that were sent, unless a
        reset or a kill may have come before them; then as many as it has read the bytes of."""
        if self.killed or self.script.ending == "reset":
            read = self.stage.session.tally().bytes_received
            return sum(end <= read for end in self.upstream.ends)
        return len(self.script.said) - (self.script.ending == "cut")

    def check_conversation(self) -> None:
        """Each side heard what the other said, frame by frame, and nothing but it."""
        own = _own(self.client, self.upstream.said)
        assert all(event["type"] == "error" for event in own), own
        own = _own(self.upstream, self.client.said)
        assert all(event["type"] == "response.cancel" for event in own), own
        if self.stays:
            assert sum(frame.fin for frame in self.client.heard) >= self.reached

    def check_ledger(self, records: list[UsageRecord]) -> None:
        said = self.script.said[: self.reached]
        billed = account(said)
        failed = {entry.unit for _, entry, _ in said if entry is not None and entry.deed == "fails"}
        # A transcription may have had a checkpoint by the time it failed; its record says so then.
        traces = [r for r in records if r.unit_id in failed - billed.keys()]
        for record in traces:
            assert (record.kind, record.status) == ("transcription", "failed")
            assert (record.source, record.cost_usd) == ("unknown", None)
        records = [record for record in records if record not in traces]
        assert sorted(record.unit_id for record in records) == sorted(billed)
        for record in records:
            _check(record, billed[record.unit_id], self.script.asked)
        if isinstance(self.client, Listener):
            assert self.client.missed == []


def _own(side: Side, said: list[Frame]) -> list[dict[str, Any]]:
    """The relay's own messages among what ``side`` heard, behind a prefix of what was ``said``."""
    count = next(
        (n for n, pair in enumerate(zip(side.heard, said, strict=False)) if pair[0] != pair[1]),
        min(len(side.heard), len(said)),
    )
    return [codec.loads_object(bytes(frame.data)) for frame in side.heard[count:]]


def _check(record: UsageRecord, unit: Unit, asked: str) -> None:
    model = asked if unit.kind == "response" else unit.model
    told = record.as_dict()
    assert (record.kind, record.status) == (unit.kind, unit.status)
    assert (record.model, record.upstream_model) == (model, unit.model)
    names = [name for name in told if name.endswith("_tokens")] + ["transcription_seconds"]
    figures = {name: told[name] for name in names}
    if unit.figures is not None:
        assert record.source == "reported"
        assert figures == unit.figures
    else:
        assert record.source in ("estimated", "unknown")
        if unit.totals is not None and record.source == "estimated":
            into = sum(figures[f"input_{kind}_tokens"] for kind in ("text", "audio", "image"))
            out = figures["output_text_tokens"] + figures["output_audio_tokens"]
            assert (into, out) == unit.totals
    if record.source == "unknown":
        assert not record.usage
        assert record.cost_usd is None
    else:
        paid = None if record.cost_usd is None else Fraction(record.cost_usd)
        assert paid == cost((unit.model, model), figures)


@contextmanager
def ledger(kind: str, folder: Path) -> Iterator[tuple[Accountant, Store]]:
    """An accountant before a new store: ``memory``, ``sqlite``, or ``journal`` and memory."""
    store = open_store(f"sqlite:///{folder}/relay.db" if kind == "sqlite" else "memory://")
    journal = Journal(folder / "journal") if kind == "journal" else None
    accountant = Accountant(store, journal=journal)
    try:
        yield accountant, store
    finally:
        assert accountant.close(SECONDS)


def shipped(accountant: Accountant, store: Store, session_id: str) -> list[UsageRecord]:
    """All records of a session, once the store has them."""
    assert accountant.flush(SECONDS)
    if accountant.journal is not None:
        backlog = accountant.journal.backlog
        until(lambda: not backlog.unshipped_bytes)
    return accountant.run(lambda: list(store.records(session_id=session_id)))


@pytest.mark.parametrize(("kind", "times"), [("memory", 2), ("sqlite", 0.5), ("journal", 0.5)])
def test_what_was_billed_is_in_the_ledger_each_unit_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, times: float
) -> None:
    # An upstream that falls silent here has said all it will; one that has more to say is slow
    # only because the host is.
    monkeypatch.setattr("relay_app.session.session.LEAST_COLLECT_SECONDS", 0.1)
    monkeypatch.setattr("relay_app.session.parting.CLOSE_SECONDS", SECONDS)

    @settings(
        max_examples=int(EXAMPLES * times),
        deadline=None,
        # A session takes real time: looking for a shorter one would outlive the test's timeout.
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(scripts())
    def bills_truly(script: Script) -> None:
        play = Play(script, accountant, store)
        try:
            with gevent.Timeout(SECONDS):
                play.perform()
                play.check_conversation()
                play.check_ledger(shipped(accountant, store, play.session_id))
        finally:
            play.leave()

    with ledger(kind, tmp_path) as (accountant, store):
        bills_truly()
