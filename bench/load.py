"""Load: a provider that answers and clients that talk, as cheap as they can be made.

The rule: every message is a send of its own, as from real clients and providers; how many of them
a relay finds in one read is its own doing. Both ends are in this process, so one clock times what
goes from one to the other, and nothing is parsed but the first bytes of small messages.
"""

import asyncio
import contextlib
import random
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable

from picows import (
    WSCloseCode,
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_connect,
    ws_create_server,
)

from bench.workload import MODEL, Turn, session_created, session_update, session_updated

__all__ = ["KEY", "Client", "Load", "LoadError", "Upstream"]

KEY = "rk-bench-0123456789abcdef"
"""The key that clients show; a peer that admits by key is set up with it."""

OPEN_SECONDS = 30.0
SMALL_BYTES = 3_000
_SESSION_ID = b'"sess_'
_TEXT, _CLOSE = WSMsgType.TEXT, WSMsgType.CLOSE


class LoadError(Exception):
    """What went through the peer is not what should have."""


class _Provider(WSListener):
    """The provider's end of one session."""

    def __init__(self, upstream: "Upstream", number: int) -> None:
        self.number = number
        self.turns = 0
        self.sent_at: deque[float] = deque()
        self.done_at: deque[float] = deque()
        self.appended = 0
        self._upstream = upstream
        self._gone = False
        self._asked = self._answered = 0
        self._timer: asyncio.TimerHandle | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        self._upstream.sessions[self.number] = self
        transport.send(_TEXT, session_created(self.number))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
        self._upstream.sessions.pop(self.number, None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        upstream = self._upstream
        if frame.payload_size > SMALL_BYTES:
            upstream.messages += 1
            self.appended += 1
            if upstream.check and frame.get_payload_as_bytes() != upstream.turn.append:
                upstream.mismatched += 1
        elif frame.msg_type is _TEXT:
            upstream.messages += 1
            payload = frame.get_payload_as_bytes()
            head = payload[:60]
            if b"audio_buffer.append" in head:
                self.appended += 1
                if upstream.check and payload != upstream.turn.append:
                    upstream.mismatched += 1
            elif b"response.create" in head:
                self._respond()
            elif b"session.update" in head:
                transport.send(_TEXT, session_updated(self.number))
        elif frame.msg_type is _CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()

    def _respond(self) -> None:
        upstream = self._upstream
        self.turns += 1
        if upstream.check and self.appended != upstream.turn.appends:
            upstream.lost += upstream.turn.appends - self.appended
        self.appended = 0
        if not upstream.paced:
            for index in range(upstream.turn.down_messages):
                self._send(index, self.turns)
            return
        self._asked += 1
        if self._asked == 1:
            self._begin()

    def _begin(self) -> None:
        self._answered += 1
        self._begun = self._upstream.loop.time()
        self._next = 0
        self._tick()

    def _tick(self) -> None:
        # The events of one moment are sent one by one, then the timer is set for the next.
        loop, down = self._upstream.loop, self._upstream.turn.down
        now = loop.time() - self._begun
        while self._next < len(down) and down[self._next].at <= now:
            self._send(self._next, self._answered)
            self._next += 1
        if self._next < len(down):
            self._timer = loop.call_at(self._begun + down[self._next].at, self._tick)
            return
        # One response at a time: what a slow peer let pile up is answered in turn.
        self._asked -= 1
        if self._asked:
            self._begin()

    def _send(self, index: int, number: int) -> None:
        if self._gone:
            return
        turn = self._upstream.turn
        payload = turn.payload(index, self.number, number)
        if self._upstream.timed:
            if turn.down[index].audio:
                self.sent_at.append(time.perf_counter())
            elif turn.down[index].done:
                self.done_at.append(time.perf_counter())
        self._transport.send(_TEXT, payload)


class Upstream:
    """A provider on a port that the system gives. ``paced`` answers in a provider's time."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.paced = False
        self.timed = False
        self.check = False
        self.sessions: dict[int, _Provider] = {}
        self.messages = 0
        self.mismatched = 0
        self.lost = 0
        self.port = 0
        self._opened = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["Upstream"]:
        self.loop = asyncio.get_running_loop()
        server = await ws_create_server(self._listener, "127.0.0.1", 0, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    def _listener(self, request: WSUpgradeRequest) -> WSListener:
        self._opened += 1
        return _Provider(self, self._opened)


class Client(WSListener):
    """A client's end of one session. ``on_done`` is called at each response.done."""

    def __init__(self, load: "Load") -> None:
        self.turns = 0
        self.provider: _Provider | None = None
        self.ready: asyncio.Future[None] = load.loop.create_future()
        self.closed: asyncio.Future[None] = load.loop.create_future()
        self.on_done: Callable[[Client], None] | None = None
        self._load = load
        self._received = 0
        self._timer: asyncio.TimerHandle | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        # At once: simple-websocket's client withholds a session.created that came in one packet
        # with the 101 until more bytes come, here the answer to this.
        transport.send(_TEXT, session_update())

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.ready.done():
            self.ready.set_exception(LoadError("closed before session.created"))
            self.ready.exception()  # seen, if nobody waits any more
        if not self.closed.done():
            self.closed.set_result(None)
        self._load.closed(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        load = self._load
        load.messages += 1
        if frame.payload_size > SMALL_BYTES:
            if load.check:
                self._compare(frame.get_payload_as_bytes())
            if load.timed and self.provider is not None:
                load.audio_seconds.append(time.perf_counter() - self.provider.sent_at.popleft())
            return
        if frame.msg_type is not _TEXT:
            load.messages -= 1
            if frame.msg_type is _CLOSE:
                transport.send_close(WSCloseCode.OK)
                transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        head = payload[:60]
        if self.provider is None:
            if b"session.created" not in head:
                return  # a gateway's own first words
            start = payload.index(_SESSION_ID) + len(_SESSION_ID)
            self.provider = load.upstream.sessions[int(payload[start : start + 20])]
            if not self.ready.done():
                self.ready.set_result(None)
            return
        if b"session.updated" in head:
            return
        if load.check:
            self._compare(payload)
        if load.timed and b"output_audio.delta" in head:
            load.audio_seconds.append(time.perf_counter() - self.provider.sent_at.popleft())
        elif b"response.done" in head:
            if load.timed:
                load.done_seconds.append(time.perf_counter() - self.provider.done_at.popleft())
            self.turns += 1
            load.turns += 1
            if self.on_done is not None:
                self.on_done(self)

    def _compare(self, payload: bytes) -> None:
        assert self.provider is not None
        turn = self._load.turn
        expected = turn.payload(self._received, self.provider.number, self.turns + 1)
        if payload != expected:
            self._load.mismatched += 1
        self._received = (self._received + 1) % turn.down_messages

    # -- talking -----------------------------------------------------------------------------

    def talk(self) -> None:
        """All of a turn's audio at once, and the request for a response."""
        send, append = self.transport.send, self._load.turn.append
        for _ in range(self._load.turn.appends):
            send(_TEXT, append)
        send(_TEXT, self._load.turn.create)

    def talk_paced(self, begin: float, every_seconds: float) -> None:
        """From ``begin`` on a turn each ``every_seconds``, its audio as fast as it is spoken."""
        self._begin, self._every, self._appended = begin, every_seconds, 0
        self._timer = self._load.loop.call_at(begin, self._speak)

    def _speak(self) -> None:
        turn, loop = self._load.turn, self._load.loop
        self.transport.send(_TEXT, turn.append)
        self._appended += 1
        if self._appended == turn.appends:
            self.transport.send(_TEXT, turn.create)
            self._load.asked += 1
            self._appended = 0
            self._begin += self._every
        when = self._begin + self._appended * turn.append_seconds
        self._timer = loop.call_at(when, self._speak)

    def stop(self) -> None:
        """Says nothing more of its own."""
        self.on_done = None
        if self._timer is not None:
            self._timer.cancel()

    async def leave(self) -> None:
        """Closes, and waits until the connection is gone."""
        self.stop()
        self.transport.send_close(WSCloseCode.OK)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                await self.closed
            return
        self.transport.disconnect(False)


class Load:
    """Clients of one peer, and what they saw."""

    def __init__(self, url: str, upstream: Upstream, headers: dict[str, str]) -> None:
        self.loop = asyncio.get_running_loop()
        self.upstream = upstream
        self.turn = upstream.turn
        self.clients: list[Client] = []
        self.turns = 0
        self.asked = 0
        self.messages = 0
        self.mismatched = 0
        self.dropped = 0
        self.timed = False
        self.check = False
        self.audio_seconds = array("d")
        self.done_seconds = array("d")
        self._url = f"{url}/v1/realtime?model={MODEL}"
        self._headers = headers
        self.leaving = False

    async def connect(self) -> Client:
        """A session that is ready to talk."""
        client = Client(self)
        async with asyncio.timeout(OPEN_SECONDS):
            await ws_connect(
                lambda: client,
                self._url,
                extra_headers=self._headers,
                websocket_handshake_timeout=OPEN_SECONDS,
            )
            await client.ready
        return client

    async def open(self, sessions: int, *, at_once: int = 20) -> None:
        """That many more sessions. Raises LoadError if the peer does not take them."""

        async def some(count: int) -> None:
            for _ in range(count):
                self.clients.append(await self.connect())

        at_once = min(at_once, sessions)
        shares = [len(range(n, sessions, at_once)) for n in range(at_once)]
        wanted = len(self.clients) + sessions
        try:
            async with asyncio.TaskGroup() as group:
                for share in shares:
                    group.create_task(some(share))
        except ExceptionGroup as errors:
            opened, first = len(self.clients), errors.exceptions[0]
            why = str(first) or type(first).__name__
            raise LoadError(f"{opened} of {wanted} sessions opened, then: {why}") from errors

    def closed(self, client: Client) -> None:
        if not self.leaving:
            self.dropped += 1

    def talk_in_loop(self) -> None:
        """Every session starts its next turn when the last one is answered."""
        for client in self.clients:
            client.on_done = Client.talk
            client.talk()

    def talk_paced(self, every_seconds: float) -> None:
        """Every session has a turn each ``every_seconds``, from a moment of its own on.

        Moments are drawn, the same for each peer and round. Evenly spread they would fall together
        with the rhythm of a reply: of 100 sessions all audio came at one moment of each 20 ms,
        and the ends of responses, too.
        """
        begin = self.loop.time() + 0.1
        draw = random.Random(len(self.clients)).random
        for client in self.clients:
            client.talk_paced(begin + every_seconds * draw(), every_seconds)

    def time_from_now(self) -> None:
        """Measures how long events take from the provider to the client."""
        self.timed = self.upstream.timed = True

    def forget_times(self) -> None:
        """What was timed so far was the warming up."""
        del self.audio_seconds[:], self.done_seconds[:]

    def fall_silent(self) -> None:
        """No client begins another turn; one that is speaking stops in the middle."""
        for client in self.clients:
            client.stop()

    async def leave(self) -> None:
        """Ends every session."""
        self.leaving = True
        for client in self.clients:
            client.stop()
        clients, self.clients = self.clients, []
        for start in range(0, len(clients), 100):
            await asyncio.gather(*(c.leave() for c in clients[start : start + 100]))
