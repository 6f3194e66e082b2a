"""One WebSocket connection as messages: whole ones in, whole ones out.

Laws:
1. One greenlet writes to the socket. ``send`` never waits, so nobody's state is ever caught
   between two events.
2. What waits to be written is bounded because everybody who sends calls ``drain`` soon after:
   at most ``HIGH_WATER_BYTES`` and what each sender emits in one step.
3. Pings are answered and closes are mirrored while ``receive`` is being called.
4. ``close``, ``reset`` and ``hang_up`` come behind what was queued before them.
"""

import fcntl
import struct
import sys
import termios
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

import gevent
from gevent.event import Event
from gevent.socket import (
    IPPROTO_TCP,
    SHUT_RDWR,
    SHUT_WR,
    SO_LINGER,
    SOL_SOCKET,
    TCP_NODELAY,
    socket,
)
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import RemoteProtocolError

from relay_app import codec
from relay_app.errors import Fault, close_reason
from relay_app.simulator.handshake import Handshake

__all__ = ["READ_BYTES", "Channel", "cut"]

HIGH_WATER_BYTES = 1024 * 1024
WRITE_BYTES = 256 * 1024
READ_BYTES = 64 * 1024
STALL_SECONDS = 120
"""A peer that takes nothing for this long is gone; longer than any client's own patience."""
CLOSE_SECONDS = 2
LOOK_SECONDS = 0.001
MAX_MESSAGE_BYTES = 24 * 1024 * 1024
"""An append of 15 MiB is 20 MiB in base64."""
DEAF_SECONDS = 300.0
"""How long a connection is kept that nobody reads: longer than any client's own patience."""


class Habits(Protocol):
    """How a channel goes about its bytes."""

    @property
    def glued(self) -> bool:
        """Whether what is sent first may go out in one piece with the 101."""

    def pieces(self, data: bytearray) -> Iterable[bytes | bytearray]:
        """``data`` as it is handed to the kernel."""

    def before_read(self) -> None:
        """Called before each read; may wait."""


class Channel:
    """The server's end of one connection, from the request on.

    ``accept`` or ``reject`` first; ``finish`` in the end, whatever happened.
    """

    def __init__(self, sock: socket, head: bytes) -> None:
        """Raises wsproto's RemoteProtocolError if ``head`` is not a proper upgrade."""
        sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._sock = sock
        self._ws = WSConnection(ConnectionType.SERVER)
        try:
            self._ws.receive_data(head)
        except UnicodeError:  # a Host that is no host name
            raise RemoteProtocolError("Bad HTTP message") from None
        assert isinstance(next(self._ws.events()), Request)
        self._messages: deque[str | bytes] = deque()
        self._incoming: list[str | bytes] = []
        self._incoming_bytes = 0
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._filled = Event()
        self._drained = Event()
        self._drained.set()
        self._ended = False
        self._cut: Callable[[], None] | None = None
        self._deaf = False
        self._gone = Event()
        self._writer: gevent.Greenlet[[], None] | None = None

    def accept(self, handshake: Handshake, rest: bytes, habits: Habits) -> None:
        """Send the 101, selecting ``realtime`` and nothing else; ``rest`` came after the head."""
        subprotocol = "realtime" if "realtime" in handshake.subprotocols else None
        self.post(self._ws.send(AcceptConnection(subprotocol=subprotocol)))
        self._habits = habits
        self._writer = gevent.spawn(self._write)
        if not habits.glued:
            self._flush()
        if rest:
            self._take(rest)

    def reject(self, fault: Fault) -> None:
        """Refuse the upgrade with the fault's status and body."""
        body = codec.dumps(fault.body()).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            *((name.encode(), value.encode()) for name, value in fault.headers.items()),
        ]
        refused = RejectConnection(status_code=fault.status, headers=headers, has_body=True)
        data = self._ws.send(refused) + self._ws.send(RejectData(data=body))
        gevent.with_timeout(CLOSE_SECONDS, self._sock.sendall, data, timeout_value=None)

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return not (self._ended or self._cut) and self._ws.state is ConnectionState.OPEN

    def send(self, message: str) -> None:
        """Queue one text message; dropped if the connection is closing."""
        if self.is_open:
            self.post(self._ws.send(TextMessage(data=message)))

    def drain(self) -> bool:
        """Wait until there is room to send more. False when nothing can be sent any more."""
        self._drained.wait()
        return self.is_open

    def receive(self) -> str | bytes | None:
        """The next whole message, or None when the peer has closed or gone."""
        while not self._messages:
            if self._ended or self._ws.state is not ConnectionState.OPEN:
                return None
            self._read()
        return self._messages.popleft()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye, unless the peer has said so already."""
        if self.is_open:
            told = close_reason(reason).decode() or None
            self.post(self._ws.send(CloseConnection(code=code, reason=told)))

    def reset(self) -> None:
        """End the connection with a RST."""
        self._leave(reset=True)

    def hang_up(self) -> None:
        """End our half of the connection, without a close frame."""
        self._leave(reset=False)

    def deafen(self) -> None:
        """From now on nothing is read."""
        self._deaf = True

    def finish(self) -> None:
        """Write what is left, let the peer close, and release the socket.

        Takes at most twice ``CLOSE_SECONDS``.
        """
        gevent.with_timeout(CLOSE_SECONDS, self._flush, timeout_value=None)
        gevent.with_timeout(CLOSE_SECONDS, self._await_close, timeout_value=None)
        if self._writer is not None:
            self._writer.kill()
        self.abort()

    def abort(self) -> None:
        """Nothing goes in or out any more; whoever waits is woken."""
        self._ended = True
        self._gone.set()
        self._outbox.clear()
        self._outbox_bytes = 0
        self._drained.set()
        try:
            self._sock.shutdown(SHUT_RDWR)
        except OSError:  # it is closed already, which is what we wanted
            pass

    def _flush(self) -> None:
        while self._outbox_bytes and not self._ended:
            self._drained.clear()
            self._drained.wait()

    def _await_close(self) -> None:
        while self._ws.state is ConnectionState.LOCAL_CLOSING and not self._ended:
            self._read()

    def _read(self) -> None:
        self._habits.before_read()
        data = b"" if self._deaf else self._receive()
        if self._deaf:
            self._gone.wait(DEAF_SECONDS)
            data = b""
        if data:
            self._take(data)
        else:
            self.abort()

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(READ_BYTES)
        except OSError:
            return b""

    def _take(self, data: bytes) -> None:
        try:
            self._ws.receive_data(data)
            for message in self._received():
                self._messages.append(message)
        except RemoteProtocolError as error:
            if error.event_hint is not None and self._ws.state is ConnectionState.OPEN:
                self.post(self._ws.send(error.event_hint))
            else:
                self.abort()

    def _received(self) -> Iterator[str | bytes]:
        for event in self._ws.events():
            if isinstance(event, TextMessage | BytesMessage):
                if not self.is_open:
                    continue
                self._incoming.append(
                    event.data if isinstance(event, TextMessage) else bytes(event.data)
                )
                self._incoming_bytes += len(event.data)
                if self._incoming_bytes > MAX_MESSAGE_BYTES:
                    self._incoming = []
                    self.close(1009, "message too big")
                    return
                if event.message_finished:
                    whole = type(self._incoming[0])().join(self._incoming)  # type: ignore[arg-type]
                    self._incoming, self._incoming_bytes = [], 0
                    yield whole
            elif isinstance(event, Ping):
                if self.is_open:
                    self.post(self._ws.send(event.response()))
            elif isinstance(event, CloseConnection):
                if self._ws.state is ConnectionState.REMOTE_CLOSING:
                    self.post(self._ws.send(event.response()))
                return

    def post(self, data: bytes) -> None:
        """Queue bytes as they are, whatever they are."""
        if self._cut:
            return
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        if self._outbox_bytes > HIGH_WATER_BYTES:
            self._drained.clear()
        self._filled.set()

    def _leave(self, *, reset: bool) -> None:
        if self.is_open:
            self._cut = partial(cut, self._sock, reset=reset)
            self._filled.set()

    def _write(self) -> None:
        try:
            while True:
                self._filled.wait()
                if self._cut and not self._outbox:
                    self._cut()
                    return
                data = bytearray()
                while self._outbox and len(data) < WRITE_BYTES:
                    data += self._outbox.popleft()
                with gevent.Timeout(STALL_SECONDS):
                    for piece in self._habits.pieces(data):
                        self._sock.sendall(piece)
                self._outbox_bytes -= len(data)
                if not self._outbox and not self._cut:
                    self._filled.clear()
                if self._outbox_bytes <= HIGH_WATER_BYTES // 2:
                    self._drained.set()
        except (OSError, gevent.Timeout):
            self.abort()


def cut(sock: socket, *, reset: bool) -> None:
    """End a connection with a RST, or our half of it with a FIN.

    A RST throws away what the peer has not got yet, so it waits until there is nothing of the
    kind, for ``CLOSE_SECONDS`` at most.
    """
    if reset:
        with gevent.Timeout(CLOSE_SECONDS, False):  # type: ignore[arg-type]  # False: in silence
            while _unacknowledged(sock):
                gevent.sleep(LOOK_SECONDS)
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    else:
        sock.shutdown(SHUT_WR)


def _unacknowledged(sock: socket) -> int:
    count = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(count, sys.byteorder)
