"""A whole session between two peers that speak RFC 6455 by themselves, on real sockets."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent import socket
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from relay_app import codec
from relay_app.breath import give_way
from relay_app.errors import RelayFault
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.outbox import Commit
from relay_app.ledger.stores.memory import MemoryStore
from relay_app.meter.meter import Meter
from relay_app.meter.usage import UsageRecord
from relay_app.session.context import SessionContext
from relay_app.session.session import Session
from relay_app.settings import Server
from relay_app.wire.link import Link
from relay_app.wire.rooms import Rooms

SECONDS = 20.0
"""How long anything may take before it counts as a failure."""


def socket_pair(kind: str = "tcp", receive_buffer: int = 0) -> tuple[Any, Any]:
    if kind == "unix":
        return socket.socketpair()
    with socket.socket() as listener:
        if receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


def until(condition: Callable[[], object]) -> None:
    """Lets the others run until ``condition``; the deadline is of failures only."""
    with gevent.Timeout(SECONDS):
        while not condition():
            gevent.sleep(0.001)


class Peer:
    """One end of a conversation; ``masks`` if it is the client."""

    def __init__(self, sock: Any, *, masks: bool) -> None:
        self.sock = sock
        self.masks = masks
        sock.settimeout(SECONDS)
        self._reader = StreamReader()

    def frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        return Frame(Opcode(opcode), payload, fin).serialize(mask=self.masks)

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.sock.sendall(self.frame(opcode, payload, fin=fin))

    def say(self, type: str, **fields: Any) -> None:
        self.send(Opcode.TEXT, codec.dumps({"type": type, **fields}).encode())

    def close(self, code: int, reason: str = "") -> None:
        self.send(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())

    def receive(self) -> Frame:
        """The next frame. Raises EOFError at the end of the stream."""
        parser = Frame.parse(self._reader.read_exact, mask=not self.masks)
        while True:
            try:
                next(parser)
            except StopIteration as done:
                frame: Frame = done.value
                return frame
            data = self.sock.recv(65_536)
            if data:
                self._reader.feed_data(data)
            else:
                self._reader.feed_eof()

    def told(self) -> dict[str, Any]:
        """The next event."""
        frame = self.receive()
        assert frame.opcode is Opcode.TEXT, frame
        return codec.loads_object(bytes(frame.data))

    def cancelled(self) -> str:
        """The response that the next event cancels."""
        event = self.told()
        assert event["type"] == "response.cancel", event
        return str(event["response_id"])

    def part(self) -> tuple[int | None, str]:
        """Code and reason of the close frame that has to be next; answers it."""
        frame = self.receive()
        assert frame.opcode is Opcode.CLOSE, frame
        data = bytes(frame.data)
        try:
            self.send(Opcode.CLOSE, data[:2])
        except OSError:
            pass  # we closed first, and it did not wait for more
        return (int.from_bytes(data[:2], "big") if data else None), data[2:].decode()

    def at_end(self) -> bool:
        """Whether nothing follows but the end of the stream."""
        try:
            self.receive()
        except EOFError:
            return True
        return False


class SlowAccountant(Accountant):
    """Tickets are settled when the test says so."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.tickets: list[Commit] = []
        self.refusals: list[Exception] = []
        self.recorded: list[UsageRecord] = []
        self.checkpoints: list[UsageRecord] = []

    def record(self, records: Sequence[UsageRecord]) -> Commit:
        if self.refusals:
            raise self.refusals[0]
        commit = Commit(tuple(records))
        self.tickets.append(commit)
        self.recorded += records
        return commit

    def checkpoint(self, records: Sequence[UsageRecord]) -> None:
        self.checkpoints += records

    def checkpoint_soon(self, make: Callable[[], Sequence[UsageRecord]]) -> None:
        self.checkpoint(make())


class QuickAccountant(SlowAccountant):
    """Everything is durable at once."""

    def record(self, records: Sequence[UsageRecord]) -> Commit:
        commit = super().record(records)
        commit.settle()
        return commit


DRAINING = RelayFault("the relay restarts", code="draining", close_code=1001)
MANY = 30_000_000
"""More bytes than any socket buffer holds."""
LIMITS: dict[str, Any] = {"stall_seconds": 15, "ping_seconds": 3_000, "hold_seconds": 5}


class Stage:
    """A session, its two peers, and a clock that stands still until it is moved."""

    def __init__(
        self,
        *,
        accountant: Accountant | None = None,
        meter: Meter | None = None,
        before_forward: bool = True,
        guard: Any = None,
        veil: Any = None,
        max_message_bytes: int = 1_000_000,
        rooms: Rooms | None = None,
        kind: str = "tcp",
        receive_buffer: int = 0,
        user_timeout_seconds: float = 3_000.0,
        run: Callable[[Session], None] = Session.run,
        start: bool = True,
        client_early: bytes = b"",
        audit: Any = None,
        on_hold: Callable[[float, bool], None] = lambda seconds, kept: None,
        on_limit: Callable[[str], None] = lambda why: None,
        on_debut: Callable[..., None] = lambda due_to, why: None,
        give_way: Callable[[], None] = give_way,
        **limits: Any,
    ) -> None:
        self.now = 1_000.0
        self.rooms = rooms or Rooms(268_435_456)
        self.accountant = accountant or QuickAccountant()
        self.user_timeout_seconds = user_timeout_seconds
        ours, theirs = socket_pair(kind, receive_buffer)
        self.client = Peer(theirs, masks=True)
        self.sockets = [ours, theirs]
        self.client_link = self._link(ours, "client", max_message_bytes, client_early)
        ours, theirs = socket_pair(kind, receive_buffer)
        self.target = Peer(theirs, masks=False)
        self.sockets += [ours, theirs]
        self.target_link = self._link(ours, "target", max_message_bytes, b"")
        self.meter = meter or Meter(
            "rs_test", key="k", upstream="u", model="m", upstream_model="m", clock=time.time
        )
        self.session = Session(
            self.client_link,
            self.target_link,
            context=SessionContext("rs_test", "k", "u", "m", "m"),
            meter=self.meter,
            accountant=self.accountant,
            limits=Server(**{**LIMITS, **limits}),
            before_forward=before_forward,
            guard=guard,
            veil=veil,
            audit=audit,
            on_hold=on_hold,
            on_limit=on_limit,
            on_debut=on_debut,
            give_way=give_way,
            clock=lambda: self.now,
        )
        self.runner = gevent.Greenlet(run, self.session)
        if start:
            self.runner.start()

    def _link(self, sock: Any, name: str, max_message_bytes: int, early: bytes) -> Link:
        return Link(
            sock,
            name=name,
            masks=name == "target",
            max_message_bytes=max_message_bytes,
            rooms=self.rooms,
            early=early,
            user_timeout_seconds=self.user_timeout_seconds,
            clock=lambda: self.now,
        )

    @property
    def recorded(self) -> list[UsageRecord]:
        assert isinstance(self.accountant, SlowAccountant)
        return self.accountant.recorded

    def tick(self, seconds: float = 1.0, times: int = 1) -> None:
        for _ in range(times):
            self.now += seconds
            self.session.tick(seconds)

    def ended(self) -> None:
        """Waits until the session has settled; raises what it raised. Then the owner closes.

        The peers have said all they will and end their streams, as the relay waits for that.
        """
        for peer in (self.client, self.target):
            try:
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has gone already
        self.runner.get(timeout=SECONDS)
        self.sockets[0].close()
        self.sockets[2].close()

    def leave(self) -> None:
        self.runner.kill()
        for sock in self.sockets:
            sock.close()


def response_done(response: str = "resp_1", output: int = 7) -> dict[str, Any]:
    usage = {
        "total_tokens": 10 + output,
        "input_tokens": 10,
        "output_tokens": output,
        "input_token_details": {"text_tokens": 10, "audio_tokens": 0, "cached_tokens": 0},
        "output_token_details": {"text_tokens": output, "audio_tokens": 0},
    }
    return {
        "type": "response.done",
        "response": {"id": response, "status": "completed", "output": [], "usage": usage},
    }


def greenlets_left() -> int:
    gc.collect()
    return sum(isinstance(thing, gevent.Greenlet) and bool(thing) for thing in gc.get_objects())


SetStage = Callable[..., Stage]
"""What the fixture ``stage`` gives."""


def converse(stage: Stage) -> None:
    """A message each way, so that all is set up."""
    stage.client.say("input_audio_buffer.append", audio="AAAA")
    assert stage.target.told()["audio"] == "AAAA"
    stage.target.say("session.created")
    assert stage.client.told()["type"] == "session.created"


def trickle(stage: Stage, side: str) -> Link:
    """What a conversation is made of goes to ``side``, which reads nothing, until its window is
    shut; nobody of ours has to wait for it yet. Wants small receive buffers."""
    speaker, link = (
        (stage.target, stage.client_link) if side == "client" else (stage.client, stage.target_link)
    )
    while link.connection.unacknowledged() < 20_000:
        speaker.say("response.output_audio.delta", delta="A" * 2_000)
        gevent.sleep(0.001)
    gevent.sleep(0.05)  # until loopback has delivered what fits
    assert link.blocked_since is None
    return link


def leave_amid(stage: Stage, response: str = "resp_open") -> None:
    """The client leaves amid a response; the upstream, told to cancel it, leaves without a word."""
    stage.client.close(1000, "done")
    assert stage.target.cancelled() == response
    stage.target.close(1000)
    stage.target.part()


def was_reset(sock: Any) -> bool:
    try:
        while sock.recv(1_000_000):
            pass
    except ConnectionResetError:
        return True
    return False
