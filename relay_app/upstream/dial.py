"""Dial: one deadline over DNS, TCP, TLS and the WebSocket handshake; then a Link.

The rules: every address is tried; TLS is verified, with SNI; bytes behind the provider's 101
belong to the session; whatever goes wrong is an UpstreamFault, mapped here and nowhere else.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gevent
import gevent.ssl
from gevent import socket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, RejectData, Request
from wsproto.utilities import ProtocolError

from relay_app.errors import UpstreamFault
from relay_app.settings import Server
from relay_app.upstream.dialects import UpstreamRequest
from relay_app.upstream.refusal import refusal
from relay_app.wire.link import Link
from relay_app.wire.rooms import Rooms

__all__ = ["Dial", "Dialled", "Dialler"]

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 65_536
SHORTEST_TRY_SECONDS = 0.25
_END_OF_HEAD = b"\r\n\r\n"
_REQUEST_ID_HEADERS = (b"x-request-id", b"apim-request-id", b"x-ms-request-id")


@dataclass(frozen=True, slots=True)
class Dialled:
    """An upstream that has answered 101. ``close`` gives back its socket."""

    link: Link
    request_id: str
    close: Callable[[], None]


Dial = Callable[[UpstreamRequest], Dialled]


class Dialler:
    """Opens upstream connections within ``dial_seconds``, whatever has to be waited for."""

    def __init__(self, limits: Server, rooms: Rooms) -> None:
        self._limits = limits
        self._rooms = rooms

    def __call__(self, request: UpstreamRequest) -> Dialled:
        """Connects and shakes hands. Raises UpstreamFault: 502, 504 or the refusal's own."""
        seconds = self._limits.dial_seconds
        timer = gevent.Timeout.start_new(seconds)
        try:
            sock = self._connect(request, seconds)
            try:
                return self._shake_hands(sock, request)
            except BaseException:
                sock.close()
                raise
        except gevent.Timeout as timeout:
            if timeout is not timer:
                raise
            raise _fault(
                request, f"did not answer within {seconds:g} seconds", "timeout", status=504
            ) from None
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or "handshake failed"
            raise _fault(request, f"failed TLS: {reason}", "tls_error") from error
        except socket.gaierror as error:
            raise _fault(request, "has a host name that does not resolve", "unreachable") from error
        except OSError as error:
            reason = error.strerror or "connection lost"
            raise _fault(request, f"cannot be reached: {reason}", "unreachable") from error
        except ProtocolError as error:
            raise _fault(request, f"broke the WebSocket handshake: {error}", "handshake") from error
        finally:
            timer.close()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Once for the process: loading the certificate store takes tens of milliseconds.
        return gevent.ssl.create_default_context()

    def _connect(self, request: UpstreamRequest, seconds: float) -> Any:
        addresses = socket.getaddrinfo(request.host, request.port, 0, socket.SOCK_STREAM)
        failure: OSError = OSError(0, "no address")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            # An address that swallows packets may not eat the whole deadline of its siblings.
            share = max(seconds / (len(addresses) - tried + 1), SHORTEST_TRY_SECONDS)
            last = tried == len(addresses) - 1
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(None if last else share)
                sock.connect(address)
                if request.tls:
                    sock = self._tls.wrap_socket(sock, server_hostname=request.host)
                return sock
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure

    def _shake_hands(self, sock: Any, request: UpstreamRequest) -> Dialled:
        websocket = WSConnection(ConnectionType.CLIENT)
        sock.settimeout(None)
        sock.sendall(
            websocket.send(
                Request(
                    host=request.authority,
                    target=request.target,
                    extra_headers=[(k.encode(), v.encode()) for k, v in request.headers],
                )
            )
        )
        head, early = self._read_head(sock, request)
        # The head alone: wsproto would keep the frames behind it to itself.
        websocket.receive_data(head)
        answer = next(websocket.events(), None)
        if isinstance(answer, AcceptConnection):
            link = Link(
                sock,
                name="target",
                masks=True,
                max_message_bytes=self._limits.max_message_bytes,
                rooms=self._rooms,
                early=early,
                user_timeout_seconds=self._limits.stall_seconds + self._limits.ping_seconds,
            )
            headers = dict(answer.extra_headers)
            return Dialled(link, _request_id(headers), sock.close)
        if isinstance(answer, RejectConnection):
            body = _read_body(sock, websocket, answer, early)
            fields = {k.decode("latin-1"): v.decode("latin-1") for k, v in answer.headers}
            raise refusal(request.upstream, answer.status_code, fields, body, request.secret)
        raise _fault(request, "broke the WebSocket handshake", "handshake")

    def _read_head(self, sock: Any, request: UpstreamRequest) -> tuple[bytes, bytes]:
        head = bytearray()
        while (end := head.find(_END_OF_HEAD)) < 0:
            data = sock.recv(16_384)
            if not data:
                raise _fault(request, "closed before it answered", "closed")
            head += data
            if len(head) > MAX_HEAD_BYTES:
                raise _fault(request, "sent an endless response head", "handshake")
        end += len(_END_OF_HEAD)
        return bytes(head[:end]), bytes(head[end:])


def _read_body(sock: Any, websocket: WSConnection, answer: RejectConnection, early: bytes) -> bytes:
    if not answer.has_body:
        return b""
    body = bytearray()
    data = early
    try:
        while True:
            if data:
                websocket.receive_data(data)
            event: Event
            for event in websocket.events():
                if isinstance(event, RejectData):
                    body += event.data
                    if event.body_finished:
                        return bytes(body)
            if len(body) > MAX_BODY_BYTES:
                return bytes(body)
            data = sock.recv(16_384)
            if not data:
                return bytes(body)
    except (OSError, ProtocolError):
        return bytes(body)  # the status is what matters; a torn body only costs its message


def _request_id(headers: dict[bytes, bytes]) -> str:
    for name in _REQUEST_ID_HEADERS:
        if name in headers:
            return headers[name].decode("latin-1")[:128]
    return "-"


def _fault(request: UpstreamRequest, what: str, code: str, *, status: int = 502) -> UpstreamFault:
    return UpstreamFault(
        f"The upstream {request.upstream} {what}.", status=status, code=f"upstream_{code}"
    )
