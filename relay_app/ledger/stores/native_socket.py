"""A client's socket for native threads, in clear or through TLS.

The rule: nothing here is what gevent patches. TLS runs over memory (``SSLContext.wrap_bio``),
because the socket class that ``ssl`` offers is gevent's in a patched process.
"""

import socket
import ssl
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from relay_app.ledger.stores.native import getaddrinfo, make_socket

__all__ = ["TLSSocket", "dial"]

_READ_BYTES = 65_536
_T = TypeVar("_T")


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """A TCP connection to ``host``, each address tried until one answers, ``seconds`` in all.

    Raises OSError, TimeoutError among them. The system has a bound of its own on resolving.
    """
    found = getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    deadline = monotonic() + seconds
    failure: OSError = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        connection = make_socket(family, kind, protocol)
        try:
            connection.settimeout(max(0.001, deadline - monotonic()))
            connection.connect(address)
            _tune(connection)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


def _tune(connection: socket.socket) -> None:
    """Send at once, and notice a peer that vanished in 25 s, or 10 s with data on the way."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 10_000),
    ):
        if hasattr(socket, name):  # Linux has them all
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class TLSSocket:
    """The few methods of a socket that a client of request and answer needs, through TLS.

    The handshake is done when the constructor returns. A time-out is for one call as a whole,
    None is none, and 0 asks what is there, as with sockets.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._connection = connection
        self._timeout = connection.gettimeout()
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._do(self._tls.do_handshake)

    def recv(self, size: int) -> bytes:
        try:
            return self._do(lambda: self._tls.read(size))
        except ssl.SSLZeroReturnError:
            return b""

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._do(lambda: self._tls.write(view)) :]  # noqa: B023 - called at once

    def settimeout(self, seconds: float | None) -> None:
        self._timeout = seconds

    def gettimeout(self) -> float | None:
        return self._timeout

    def fileno(self) -> int:
        return self._connection.fileno()

    def getpeername(self) -> object:
        return self._connection.getpeername()

    def shutdown(self, how: int) -> None:
        self._connection.shutdown(how)

    def close(self) -> None:
        self._connection.close()

    def _do(self, step: Callable[[], _T]) -> _T:
        """The result of ``step``, with what it wants to say sent and what it needs received."""
        deadline = None if self._timeout is None else monotonic() + self._timeout
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._send(deadline)
                self._receive(deadline)
            except ssl.SSLError:
                self._send(deadline)  # the alert that tells the server why
                raise
            else:
                self._send(deadline)
                return result

    def _send(self, deadline: float | None) -> None:
        while data := self._outgoing.read():
            self._bound(deadline)
            self._connection.sendall(data)

    def _receive(self, deadline: float | None) -> None:
        self._bound(deadline)
        data = self._connection.recv(_READ_BYTES)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def _bound(self, deadline: float | None) -> None:
        if deadline is None or self._timeout == 0:
            self._connection.settimeout(self._timeout)
        else:
            remaining = deadline - monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(remaining)
