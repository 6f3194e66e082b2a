"""The simulator's listener: connections in, sessions out, and a record of what they did.

The rule: everything it remembers is bounded (the oldest goes first), and it is a provider for
tests, so it says what it saw and what it billed.
"""

from collections import deque
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import gevent
from gevent.pool import Group, Pool
from gevent.server import StreamServer
from gevent.socket import AF_INET, AF_INET6, SO_REUSEADDR, SOL_SOCKET, socket
from wsproto.utilities import RemoteProtocolError

from relay_app import codec
from relay_app.errors import ClientFault, Fault
from relay_app.simulator import transcript as recordings
from relay_app.simulator.channel import Channel
from relay_app.simulator.conversation import Conversation
from relay_app.simulator.faults.door import Gone
from relay_app.simulator.faults.normal import Event, Normal, Step
from relay_app.simulator.handshake import Handshake, Wanted, admit, http_answer, read_handshake
from relay_app.simulator.scenarios import scenario_named
from relay_app.simulator.usage import Billed

__all__ = ["Simulator"]

MAX_CONNECTIONS = 10_000
BACKLOG = 1024
HANDSHAKES_KEPT = 1000
BILLED_KEPT = 100_000
RECORDED_SESSIONS_KEPT = 100
RECEIVED_KEPT = 10_000
"""Client messages kept of each session that plays a transcript."""
GOODBYE_SECONDS = 2


class Simulator:
    """A realtime provider on ``bind``; port 0 lets the system choose.

    ``scenario``    what goes wrong, see ``scenarios``; what a request names overrides it
    ``transcript``  a recording to play to every session instead of holding a conversation
    ``speed``       how much faster than the real provider it answers, whose audio comes ten
                    times as fast as it is heard; 0 or infinity: at once
    ``api_key``     the key to demand; None lets everybody in
    ``models``      the models that exist; None for any

    ``handshakes``  every upgrade seen, admitted or not: (path, headers)
    ``billed``      what each response and transcription cost, in the order they ended
    ``received``    for each session that played a transcript, the messages of its client

    It runs on the gevent hub of the thread that starts it, and only while that thread lets
    the hub run; ``background`` gives it a thread of its own.
    """

    def __init__(
        self,
        bind: tuple[str, int] = ("127.0.0.1", 0),
        *,
        scenario: str | None = None,
        transcript: Path | None = None,
        speed: float = 1.0,
        api_key: str | None = None,
        models: Collection[str] | None = None,
    ) -> None:
        scenario_named(scenario)
        if not speed >= 0:
            raise ValueError(f"speed must be 0 or more, not {speed!r}")
        self.handshakes: deque[Handshake] = deque(maxlen=HANDSHAKES_KEPT)
        self.billed: deque[Billed] = deque(maxlen=BILLED_KEPT)
        self.received: deque[deque[str | bytes]] = deque(maxlen=RECORDED_SESSIONS_KEPT)
        self._bind = bind
        self._scenario = scenario
        self._transcript = recordings.load(transcript) if transcript else None
        self._speed = 0.0 if speed == float("inf") else speed
        self._api_key = api_key
        self._models = models
        self._channels: set[Channel] = set()
        self._pool = Pool(MAX_CONNECTIONS)
        self._address: tuple[str, int] | None = None
        self._server: StreamServer | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, with the real port."""
        assert self._address is not None, "the simulator is not started"
        return self._address

    @property
    def url(self) -> str:
        """What clients take as their base URL: ``ws://HOST:PORT/v1``."""
        host, port = self.address
        return f"ws://[{host}]:{port}/v1" if ":" in host else f"ws://{host}:{port}/v1"

    @property
    def sessions_open(self) -> int:
        """How many sessions are open now."""
        return len(self._channels)

    def start(self) -> None:
        """Listen. Returns when connections are accepted; raises OSError if they cannot be."""
        listener = _listen(self._bind)
        host, port, *_ = listener.getsockname()
        self._address = (host, port)
        self._server = StreamServer(listener, self._serve, spawn=self._pool)
        self._server.start()

    def stop(self) -> None:
        """Stop listening and close every session with 1001; takes a few seconds at most."""
        if self._server is None:
            return
        self._server.close()
        for channel in list(self._channels):
            channel.close(1001, "the simulator stops")
        self._pool.join(timeout=GOODBYE_SECONDS)
        for channel in list(self._channels):
            channel.abort()
        self._pool.kill(timeout=GOODBYE_SECONDS)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _serve(self, sock: socket, address: object) -> None:
        try:
            read = read_handshake(sock)
            if read is None:
                return
            handshake, head, rest = read
            if handshake.path == "/healthz":
                sock.sendall(http_answer(200, {"status": "ok"}))
            elif not handshake.wants_websocket:
                self._refuse_http(sock, handshake)
            else:
                self._upgrade(sock, handshake, head, rest)
        except OSError:
            return  # the peer left before its session began

    def _refuse_http(self, sock: socket, handshake: Handshake) -> None:
        try:
            admit(handshake, api_key=self._api_key, models=self._models)
        except Fault as fault:
            sock.sendall(http_answer(fault.status, fault.body(), fault.headers))

    def _upgrade(self, sock: socket, handshake: Handshake, head: bytes, rest: bytes) -> None:
        self.handshakes.append(handshake)
        try:
            channel = Channel(sock, head)
        except RemoteProtocolError as error:
            sock.sendall(http_answer(400, ClientFault(str(error)).body()))
            return
        try:
            try:
                scenario = scenario_named(handshake.scenario or self._scenario)
            except ValueError as error:
                raise ClientFault(str(error), param="scenario") from None
            scenario.admit(handshake, sock)
            wanted = admit(handshake, api_key=self._api_key, models=self._models)
        except Fault as fault:
            channel.reject(fault)
            return
        except Gone:
            return
        self._channels.add(channel)
        try:
            channel.accept(handshake, rest, scenario)
            self._run(channel, handshake, wanted, scenario)
        finally:
            self._channels.discard(channel)
            channel.finish()

    def _run(
        self, channel: Channel, handshake: Handshake, wanted: Wanted, scenario: Normal
    ) -> None:
        scripts = Group()
        beside = scenario.meanwhile(partial(_do, channel))
        if beside is not None:
            scripts.spawn(self._play, channel, beside)
        try:
            if self._transcript is not None:
                received: deque[str | bytes] = deque(maxlen=RECEIVED_KEPT)
                self.received.append(received)
                say = partial(_repeat, channel, scenario)
                recordings.play(self._transcript, channel, self._speed, received, say)
            elif handshake.wants_beta:
                _refuse_beta(channel)
            else:
                self._converse(channel, wanted, scenario, scripts)
        finally:
            scripts.kill()

    def _converse(self, channel: Channel, wanted: Wanted, scenario: Normal, scripts: Group) -> None:
        conversation = Conversation(
            wanted.model,
            kind=wanted.kind,
            send=partial(_say, channel, scenario),
            start=lambda script: scripts.spawn(self._play, channel, script),
            bill=self.billed.append,
            now=scenario.now(),
        )
        try:
            conversation.open()
            while (message := channel.receive()) is not None:
                conversation.receive(message)
                channel.drain()
        except Exception:
            channel.close(1011, "the simulator has a fault of its own")
            raise
        finally:
            scripts.kill()
            conversation.close()

    def _play(self, channel: Channel, script: Iterator[float]) -> None:
        """Run a script of a conversation at our speed, while its client takes what it says."""
        for delay_ms in script:
            gevent.sleep(delay_ms / 1000 / self._speed if self._speed else 0)
            if not channel.drain():
                return


def _say(channel: Channel, scenario: Normal, event: Event) -> None:
    for step in scenario.say(event):
        _do(channel, step)


def _repeat(channel: Channel, scenario: Normal, text: str) -> None:
    """Say an event that was recorded, byte for byte unless the scenario changes it."""
    event = codec.loads_object(text)
    for step in scenario.say(event):
        if step is event:
            channel.send(text)
        else:
            _do(channel, step)


def _do(channel: Channel, step: Step) -> None:
    if isinstance(step, dict):
        channel.send(codec.dumps(step))
    elif isinstance(step, bytes):
        channel.post(step)
    else:
        step(channel)


def _listen(bind: tuple[str, int]) -> socket:
    """A listening socket. Unlike gevent's own, it is closed when it cannot be bound."""
    listener = socket(AF_INET6 if ":" in bind[0] else AF_INET)
    try:
        listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        listener.bind(bind)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _refuse_beta(channel: Channel) -> None:
    """Answer the beta dialect as api.openai.com does since 2026: an error, then close 4000."""
    fault = ClientFault(
        "The Realtime Beta API is no longer supported. Please use the GA API.",
        code="beta_api_shape_disabled",
    )
    channel.send(codec.dumps(fault.event()))
    channel.close(4000, "invalid_request_error.beta_api_shape_disabled")
