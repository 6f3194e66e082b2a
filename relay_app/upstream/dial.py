"""Dial: one deadline over DNS, TCP, a proxy, TLS and the WebSocket handshake; then a Link.

The rules: every address is tried; TLS is verified, with SNI; bytes behind the provider's 101
belong to the session; whatever goes wrong is an UpstreamFault, mapped here and nowhere else, and
leaves no socket behind.
"""

import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gevent
from gevent import socket
from gevent.monkey import get_original
from wsproto import ConnectionType, WSConnection
from wsproto.events import Event, RejectConnection, RejectData, Request
from wsproto.utilities import ProtocolError, generate_nonce

from relay_app.errors import UpstreamFault
from relay_app.settings import Server
from relay_app.upstream.dialects import UpstreamRequest
from relay_app.upstream.opening import accepted, ask, is_switch
from relay_app.upstream.proxy import ProxyRefused, open_tunnel
from relay_app.upstream.refusal import refusal, scrubbed
from relay_app.upstream.trust import trust_also, verifying_context
from relay_app.wire.link import Link
from relay_app.wire.rooms import Rooms

__all__ = ["Dial", "Dialled", "Dialler"]

MAX_HEAD_BYTES = 65_536
MAX_BODY_BYTES = 65_536
SHORTEST_TRY_SECONDS = 0.25
MAX_REASON_CHARACTERS = 200
BODY_SECONDS = 1.0
"""For the body of a refusal: its status says enough to answer a client who waits."""
_INTERIM = re.compile(rb"HTTP/1\.[0-9] 1(?!01)[0-9][0-9] ")
"""100 and 103 may come before any answer (RFC 9110 section 15.2)."""
_END_OF_HEAD = b"\r\n\r\n"
_REQUEST_ID_HEADERS = (b"x-request-id", b"apim-request-id", b"x-ms-request-id")


@dataclass(frozen=True, slots=True)
class Dialled:
    """An upstream that has answered 101. ``close`` gives back its socket."""

    link: Link
    request_id: str
    close: Callable[[], None]


Dial = Callable[[UpstreamRequest], Dialled]


_getaddrinfo = get_original("socket", "getaddrinfo")


def look_up(host: str, port: int, *kind: int) -> list[Any]:
    """``getaddrinfo``. What is an address already costs no thread of the resolver's."""
    try:
        return list(_read_address(host, port, *kind))
    except socket.gaierror:
        return socket.getaddrinfo(host, port, *kind)


@lru_cache(maxsize=64)
def _read_address(host: str, port: int, *kind: int) -> tuple[Any, ...]:
    # No answer of DNS is remembered: what is no address raises, and is asked again.
    return tuple(_getaddrinfo(host, port, *kind, flags=socket.AI_NUMERICHOST))


class _Attempt:
    """A request under way, and who is being waited for: its proxy or the upstream."""

    __slots__ = ("_at_proxy", "_request")

    def __init__(self, request: UpstreamRequest) -> None:
        self._request = request
        self._at_proxy = request.proxy is not None

    def is_through(self) -> None:
        """The proxy has done its part."""
        self._at_proxy = False

    def fault(self, what: str, code: str, *, status: int = 502) -> UpstreamFault:
        if not self._at_proxy:
            return _fault(self._request, what, code, status=status)
        return UpstreamFault(
            f"The proxy of upstream {self._request.upstream} {what}.",
            status=status,
            code=f"upstream_proxy_{code}",
        )


class Dialler:
    """Opens upstream connections within ``dial_seconds``, or those of the request, whatever has
    to be waited for.

    ``resolve`` is ``getaddrinfo``, ``tls`` makes the context that an upstream's ``ca_file`` is
    added to.
    """

    def __init__(
        self,
        limits: Server,
        rooms: Rooms,
        *,
        resolve: Callable[..., list[Any]] = look_up,
        tls: Callable[[], ssl.SSLContext] = verifying_context,
    ) -> None:
        self._limits = limits
        self._rooms = rooms
        self._resolve = resolve
        self._make_tls = tls
        self._tls: dict[str, ssl.SSLContext] = {}

    def __call__(self, request: UpstreamRequest) -> Dialled:
        """Connects and shakes hands. Raises UpstreamFault: 502, 504 or the refusal's own."""
        seconds = self._limits.dial_seconds if request.seconds is None else request.seconds
        attempt = _Attempt(request)
        deadline = time.monotonic() + seconds
        timer = gevent.Timeout.start_new(seconds)
        try:
            sock = self._connect(request, attempt, seconds)
            try:
                return self._shake_hands(sock, request, deadline)
            except BaseException:
                sock.close()
                raise
        except gevent.Timeout as timeout:
            if timeout is not timer:
                raise
            raise attempt.fault(
                f"did not answer within {round(seconds, 2):g} seconds", "timeout", status=504
            ) from None
        except ProxyRefused as refused:
            raise attempt.fault(refused.what, refused.code) from None
        except ssl.SSLError as error:
            raise attempt.fault(f"failed TLS: {_tls_reason(error)}", "tls_error") from error
        except (socket.gaierror, UnicodeError) as error:
            # A name too long for DNS is a UnicodeError of the codec that encodes it.
            raise attempt.fault("has a host name that does not resolve", "unreachable") from error
        except OSError as error:
            reason = error.strerror or "connection lost"
            raise attempt.fault(f"cannot be reached: {reason}", "unreachable") from error
        except ProtocolError as error:
            # Its text may quote what the upstream sent.
            reason = scrubbed(str(error), request.secret)[:MAX_REASON_CHARACTERS]
            raise attempt.fault(f"broke the WebSocket handshake: {reason}", "handshake") from error
        finally:
            timer.close()

    def _context(self, request: UpstreamRequest) -> ssl.SSLContext:
        # Once for the process: loading the certificate store takes tens of milliseconds.
        ca_file = request.ca_file
        if ca_file not in self._tls:
            context = self._make_tls()
            try:
                if ca_file:
                    trust_also(context, ca_file)
            except OSError as error:
                # It was there when the relay started.
                what = "has a ca_file that cannot be read any more"
                raise _fault(request, what, "tls_error") from error
            self._tls[ca_file] = context
        return self._tls[ca_file]

    def _connect(self, request: UpstreamRequest, attempt: _Attempt, seconds: float) -> Any:
        first = request.proxy or request
        addresses = self._resolve(first.host, first.port, 0, socket.SOCK_STREAM)
        failure: OSError = OSError(0, "no address")
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            # An address that swallows packets may not eat the whole deadline of its siblings.
            share = max(seconds / (len(addresses) - tried + 1), SHORTEST_TRY_SECONDS)
            last = tried == len(addresses) - 1
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(None if last else share)
                sock.connect(address)
                if request.proxy is not None:
                    # From here on there is no other way to the upstream, and time is one.
                    sock.settimeout(None)
                    open_tunnel(sock, request.proxy, request.host, request.port)
                    attempt.is_through()
                    last = True
                if request.tls:
                    # In two steps: a handshake inside wrap_socket() that is interrupted leaves
                    # a socket that nobody can close.
                    sock = self._context(request).wrap_socket(
                        sock, server_hostname=request.host, do_handshake_on_connect=False
                    )
                    sock.do_handshake()
                return sock
            except OSError as error:
                sock.close()
                failure = error
                if last:
                    break
            except BaseException:
                sock.close()
                raise
        raise failure

    def _shake_hands(self, sock: Any, request: UpstreamRequest, deadline: float) -> Dialled:
        key = generate_nonce()
        sock.settimeout(None)
        question = ask(request, key)
        while question:  # sendall() calls three deep, which is a page of stack for each session
            question = question[sock.send(question) :]
        head, early = self._read_head(sock, request)
        if not is_switch(head):
            raise _refused(sock, request, head, early, deadline)
        headers = accepted(head, key)
        link = Link(
            sock,
            name="target",
            masks=True,
            max_message_bytes=self._limits.max_message_bytes,
            rooms=self._rooms,
            early=early,
            carried_on=request.proxy is not None,
            user_timeout_seconds=self._limits.stall_seconds + self._limits.ping_seconds,
        )
        return Dialled(link, _request_id(headers), sock.close)

    def _read_head(self, sock: Any, request: UpstreamRequest) -> tuple[bytes, bytes]:
        """The head of the answer, and what came behind it."""
        head, taken = bytearray(), 0
        while True:
            seen = max(0, len(head) - len(_END_OF_HEAD))
            data = sock.recv(16_384)
            if not data:
                raise _fault(request, "closed before it answered", "closed")
            head += data
            taken += len(data)
            while (end := head.find(_END_OF_HEAD, seen)) >= 0:
                end += len(_END_OF_HEAD)
                if not _INTERIM.match(head):
                    return bytes(head[:end]), bytes(head[end:])
                del head[:end]
                seen = 0
            if taken > MAX_HEAD_BYTES:
                raise _fault(request, "sent an endless response head", "handshake")


def _refused(
    sock: Any, request: UpstreamRequest, head: bytes, early: bytes, deadline: float
) -> UpstreamFault:
    """What an answer other than 101 stands for. Raises ProtocolError if it is no HTTP."""
    websocket = WSConnection(ConnectionType.CLIENT)
    websocket.send(Request(host="upstream", target="/"))  # else it expects no answer
    try:
        websocket.receive_data(head)
    except UnicodeError as error:
        raise ProtocolError("its head is not ASCII") from error
    answer = next(websocket.events(), None)
    if not isinstance(answer, RejectConnection):
        return _fault(request, "broke the WebSocket handshake", "handshake")
    # It ends before the deadline does, which would cost the status.
    seconds = min(BODY_SECONDS, 0.9 * max(0.001, deadline - time.monotonic()))
    body = _read_body(sock, websocket, early, seconds) if answer.has_body else b""
    fields = {k.decode("latin-1"): v.decode("latin-1") for k, v in answer.headers}
    return refusal(request.upstream, answer.status_code, fields, body, request.secret)


def _read_body(sock: Any, websocket: WSConnection, early: bytes, seconds: float) -> bytes:
    """As much of a refusal's body as comes within ``seconds``."""
    body = bytearray()
    data = early
    try:
        # The status is what matters: a torn, slow or endless body only costs its message.
        with gevent.Timeout(seconds, False):  # type: ignore[arg-type]  # False: in silence
            while len(body) <= MAX_BODY_BYTES:
                if data:
                    websocket.receive_data(data)
                event: Event
                for event in websocket.events():
                    if isinstance(event, RejectData):
                        body += event.data
                        if event.body_finished:
                            return bytes(body)
                data = sock.recv(16_384)
                if not data:
                    break
    except (OSError, ProtocolError):
        pass
    return bytes(body)


def _tls_reason(error: ssl.SSLError) -> str:
    reason: str = getattr(error, "verify_message", "") or error.reason or "handshake failed"
    if "not valid for" in reason:
        # OpenSSL says for which name, and that is nothing for a client.
        return "its certificate is for another host"
    return reason.rstrip(".")


def _request_id(headers: dict[bytes, bytes]) -> str:
    for name in _REQUEST_ID_HEADERS:
        if name in headers:
            return headers[name].decode("latin-1")[:128]
    return "-"


def _fault(request: UpstreamRequest, what: str, code: str, *, status: int = 502) -> UpstreamFault:
    return UpstreamFault(
        f"The upstream {request.upstream} {what}.", status=status, code=f"upstream_{code}"
    )
