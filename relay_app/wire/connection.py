"""Connection: a stream socket of any kind that never blocks the hub.

The rule: a call does what can be done at once and says how much that was; waiting is asked for
by name. gevent's sockets, the standard library's and TLS over either differ in how they say
"not now" and "gone"; here, at one edge, all of it becomes the same answers.
"""

import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Callable
from typing import Any, Final

from gevent.hub import get_hub
from gevent.socket import socket as GeventSocket

from relay_app.wire.frames import Buffer

__all__ = ["Connection", "ConnectionLost"]

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
# A socket that was closed, or a TLS one that was shut down, raises ValueError.
_GONE = (OSError, ValueError)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_COUNT = struct.Struct("i")


class ConnectionLost(Exception):
    """The connection cannot be used in the direction that was tried."""


class Connection:
    """Belongs to the hub it was made on. In each direction at most one waits."""

    __slots__ = ("_hub", "_readable", "_sock", "_writable", "pending", "plain", "private",
                 "read_some", "tls", "write_some")  # fmt: skip

    def __init__(self, sock: Any, *, user_timeout_seconds: float) -> None:
        self._sock = sock
        # Of gevent's own sockets the one within, whose calls do not wait either.
        inner = sock._sock if type(sock) is GeventSocket else sock  # type: ignore[attr-defined]
        _tune(inner, user_timeout_seconds)
        sock.settimeout(0.0)
        self._hub = get_hub()
        self._readable = self._hub.loop.io(sock.fileno(), 1)
        self._writable: Any = None
        self.pending: Final[Callable[[], int] | None] = getattr(sock, "pending", None)
        """Of TLS: how many bytes are decrypted already."""
        self.tls: Final = self.pending is not None
        self.read_some: Final[Callable[[memoryview], int]] = inner.recv_into
        """The socket's own call, which raises whatever it raises."""
        self.write_some: Final[Callable[[Buffer | memoryview], int]] = inner.send
        """Likewise."""
        self.plain: Final = inner if type(sock) in (GeventSocket, socket.socket) else None
        """The socket itself, if its calls are the kernel's and nothing else."""
        self.private: Final = self.tls or _stays_on_this_machine(inner)
        """Whether no intermediary can see what goes out."""

    def receive(self, size: int) -> bytes | None:
        """Up to ``size`` bytes, ``b""`` at the peer's FIN, None if there is nothing now."""
        try:
            data: bytes = self._sock.recv(size)
        except _WOULD_BLOCK:
            return None
        except _GONE:
            raise ConnectionLost from None
        return data

    def receive_into(self, room: memoryview) -> int | None:
        """The same, put into ``room``: how many bytes, 0 at the peer's FIN."""
        try:
            return self.read_some(room)
        except _WOULD_BLOCK:
            return None
        except _GONE:
            raise ConnectionLost from None

    def send(self, data: Buffer | memoryview) -> int:
        """How many bytes of ``data`` the kernel took; 0 if it takes none now.

        After 0, TLS wants the same bytes first in the next call; more may follow them.
        """
        try:
            return self.write_some(data)
        except _WOULD_BLOCK:
            return 0
        except _GONE:
            raise ConnectionLost from None

    def wait_readable(self) -> None:
        """Waits for bytes, a FIN or an error, unless TLS has bytes already decrypted."""
        if self.pending is None or not self.pending():
            self._hub.wait(self._readable)

    def watch(self, call: Callable[..., None], *args: object) -> None:
        """Has ``call`` called on the hub for as long as there are bytes, a FIN or an error, until
        :meth:`unwatch`. Of what TLS has already decrypted it is not told."""
        self._readable.start(call, *args)

    def unwatch(self) -> None:
        """Ends a :meth:`watch`."""
        self._readable.stop()

    def wait_writable(self) -> None:
        """Waits until the kernel may take bytes, or has an error to tell."""
        if self._writable is None:  # most peers take at once what they are sent
            self._writable = self._hub.loop.io(self._sock.fileno(), 2)
        self._hub.wait(self._writable)

    def unacknowledged(self) -> int:
        """How many bytes the kernel keeps because the peer has not acknowledged them."""
        try:
            answer = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, bytes(_COUNT.size))
        except _GONE:
            return 0
        count: int = _COUNT.unpack(answer)[0]
        return count

    def shut_down(self, how: int) -> None:
        """``how`` as for ``socket.shutdown``. Never raises."""
        try:
            self._sock.shutdown(how)
        except _GONE:
            pass  # the peer was faster

    def reset_on_close(self) -> None:
        """Lets the close of the socket throw away what the peer did not read. Never raises."""
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except _GONE:
            pass  # gone already

    def release(self) -> None:
        """Gives back everything but the socket, which belongs to whoever opened it."""
        self._readable.close()
        if self._writable is not None:
            self._writable.close()


def _tune(sock: Any, user_timeout_seconds: float) -> None:
    """Deltas are small and half-open peers must not leak: NODELAY, KEEPALIVE, USER_TIMEOUT."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout_seconds * 1000)
        )
    except OSError:
        pass  # a Unix socket behind a local balancer has none of these


def _stays_on_this_machine(sock: Any) -> bool:
    try:
        peer = sock.getpeername()
    except OSError:
        return False
    if not isinstance(peer, tuple):
        return True  # a Unix socket
    host = str(peer[0]).removeprefix("::ffff:")
    return host.startswith("127.") or host == "::1"
