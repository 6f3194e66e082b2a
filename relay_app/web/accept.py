"""RelaySock: a Flask-Sock whose 101 is sent late and whose socket is handed over.

The rules:

* the view decides; only what it returns answers the client, with a 101 or with an HTTP error;
* the session runs inside the response iterable, after Flask has torn down its request, so that
  a host application's database connection is not pinned for an hour;
* what a client sends before its 101 is dropped: it has no answer to speak to yet;
* afterwards the socket is shut down and the server is told in the way it understands, so that
  it neither writes a body nor takes bytes left on the socket for a new request.
"""

import errno
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Protocol

import simple_websocket
from flask import Response, request
from flask_sock import Sock
from simple_websocket.ws import Base

from relay_app import codec
from relay_app.errors import Fault, RelayFault
from relay_app.observe.logs import logger
from relay_app.web.handshake import Handshake

__all__ = ["Carrier", "RelaySock", "Serve", "carrier_of", "http_refusal", "select_subprotocol"]

MAX_EARLY_BYTES = 1_048_576
"""How much is dropped of what comes before the 101; who sends more is not worth one."""
_READ_BYTES = 65_536


class Serve(Protocol):
    """What to do with a socket whose 101 is out, and what if there never is one."""

    def run(self, sock: Any, early: bytes) -> None:
        """Runs a session; ``early`` is what the client sent behind its request."""

    def abandon(self) -> None:
        """Gives back what was opened for a client that has gone before the 101."""


_SERVER_KEYS = ("werkzeug.socket", "gunicorn.socket", "SERVER_SOFTWARE", "wsgi.input")
"""Where simple-websocket finds the socket of the server at hand."""


class RelaySock(Sock):  # type: ignore[misc]  # flask_sock has no annotations
    """Flask-Sock with the connection still unanswered when the view is called.

    The view gets a :class:`Carrier` in the place of an open socket and returns a Response:
    ``carrier.accept(handshake, serve)`` or any other.
    """

    def route(self, path: str, bp: Any = None, **options: Any) -> Callable[[Any], None]:
        """Like Flask-Sock's: registers a WebSocket rule for ``path``."""

        def decorator(view: Callable[..., Response]) -> None:
            @wraps(view)
            def websocket_route(*args: Any, **kwargs: Any) -> Response:
                try:
                    carrier = carrier_of(request.environ)
                except RelayFault as fault:
                    logger.warning("%s", fault.message)
                    return http_refusal(fault)
                return view(carrier, *args, **kwargs)

            (bp or self.app).route(path, websocket=True, **options)(websocket_route)

        return decorator


def select_subprotocol(app: Any, path: str, subprotocol: str) -> None:
    """Lets gevent-websocket's stock handler select ``subprotocol`` on ``path``, and only there.

    It asks the application, by this attribute, before any view has been called.
    """
    host: Callable[[str], str | None] | None = getattr(app, "app_protocol", None)

    def app_protocol(asked: str) -> str | None:
        if asked == path:
            return subprotocol
        return host(asked) if host is not None else None

    app.app_protocol = app_protocol


class Carrier:
    """How the server at hand carries a WebSocket."""

    def __init__(self, environ: dict[str, Any], *, ends_with: type[Exception]) -> None:
        self._environ = environ
        self._ends_with = ends_with

    def accept(self, handshake: Handshake, serve: Serve) -> Response:
        """The response that sends the 101 and then runs ``serve`` with the socket."""
        return _SessionResponse(self, handshake, serve)

    def refuse(self, fault: Fault, handshake: Handshake | None, last_words: Serve) -> Response:
        """The response that refuses: by HTTP, or by ``last_words`` where it is too late."""
        return http_refusal(fault)

    def open(self, handshake: Handshake | None) -> tuple[Any, bytes, Callable[[], None]]:
        """Sends the 101: the socket, the bytes behind the request, and how to give it back.

        Raises OSError if the client has gone.
        """
        assert handshake is not None
        server = _Answer(self._environ, handshake)
        return server.sock, b"", server.give_back

    def end(self) -> Exception:
        """What tells the server that the connection is over."""
        if self._ends_with is StopIteration:
            return StopIteration()
        return BrokenPipeError(errno.EPIPE, "the WebSocket session is over")


class _AnsweredCarrier(Carrier):
    """A connection that gevent-websocket's stock handler has answered with 101 already.

    A refusal can only be an error event and a close any more.
    """

    def refuse(self, fault: Fault, handshake: Handshake | None, last_words: Serve) -> Response:
        return _SessionResponse(self, handshake, last_words)

    def open(self, handshake: Handshake | None) -> tuple[Any, bytes, Callable[[], None]]:
        websocket = self._environ["wsgi.websocket"]
        handler = websocket.handler
        handler.socket.settimeout(0.0)
        # What rfile holds is the client's first frames. With the timeout at zero this takes
        # what is buffered, or one read's worth, and never waits.
        early = handler.rfile.read1(65_536) or b""
        # The handler would send a close frame of its own on the way out.
        websocket.closed = True
        return handler.socket, early, _nothing

    def end(self) -> Exception:
        return StopIteration()


def carrier_of(environ: dict[str, Any]) -> Carrier:
    """How the server that made ``environ`` carries a WebSocket.

    Raises RelayFault 501 for a server that cannot: uWSGI, waitress, gunicorn's sync workers.
    """
    if environ.get("wsgi.websocket") is not None:
        return _AnsweredCarrier(environ, ends_with=StopIteration)
    if "werkzeug.socket" in environ:
        return Carrier(environ, ends_with=StopIteration)
    many = environ.get("wsgi.multithread")
    if "gunicorn.socket" in environ and many:
        return Carrier(environ, ends_with=BrokenPipeError)
    if str(environ.get("SERVER_SOFTWARE", "")).startswith("gevent"):
        return Carrier(environ, ends_with=BrokenPipeError)
    raise RelayFault(
        "This server cannot carry WebSocket sessions. Run relay_app under gunicorn with gevent "
        "workers (relay-app serve, or gunicorn -k gevent), gevent's pywsgi, or flask run.",
        status=501,
        code="server_not_supported",
    )


def http_refusal(fault: Fault) -> Response:
    """The fault as an HTTP response."""
    response = Response(status=fault.status, mimetype="application/json")
    response.set_data(codec.dumps(fault.body()) + "\n")
    response.headers.update(fault.headers)
    return response


class _SessionResponse(Response):
    """A response that becomes a session when the server asks for its body."""

    def __init__(self, carrier: Carrier, handshake: Handshake | None, serve: Serve) -> None:
        super().__init__(status=101)
        self._iterable = _SessionIterable(carrier, handshake, serve)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        # The headers are for the server's log; the ones on the wire are simple-websocket's.
        start_response("101 Switching Protocols", [("Connection", "close")])
        return self._iterable


class _SessionIterable:
    __slots__ = ("_carrier", "_handshake", "_serve")

    def __init__(self, carrier: Carrier, handshake: Handshake | None, serve: Serve) -> None:
        self._carrier = carrier
        self._handshake = handshake
        self._serve = serve

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            sock, early, give_back = self._carrier.open(self._handshake)
        except OSError:
            self._serve.abandon()
            raise self._carrier.end() from None
        try:
            self._serve.run(sock, early)
        except Exception:  # noqa: BLE001 - the server behind us knows only how to answer HTTP
            logger.exception("session failed")
        finally:
            _shut(sock)
            give_back()
        raise self._carrier.end()


class _Found(Base):  # type: ignore[misc]  # no annotations either
    """A socket that simple-websocket has found, and nothing of what it would speak there."""

    def __init__(self, sock: Any, **options: Any) -> None:
        self.sock = sock


class _Answer(simple_websocket.Server, _Found):  # type: ignore[misc]
    """simple-websocket as far as it finds the socket of the server at hand.

    The 101 is our own. The request was checked before the upstream was dialled, and reading it
    once more, through h11, was a tenth of what a session costs to open.
    """

    def __init__(self, environ: dict[str, Any], handshake: Handshake) -> None:
        super().__init__({key: environ[key] for key in _SERVER_KEYS if key in environ})
        self.give_back = self.sock.close if self.mode == "gevent" else _nothing
        try:
            self._send_at_once(handshake.answer())
        except BaseException:
            _shut(self.sock)
            self.give_back()
            raise

    def _send_at_once(self, head: bytes) -> None:
        """Answers at once or never. Raises OSError."""
        self.sock.settimeout(0.0)
        _drop_early(self.sock)
        if self.sock.send(head) < len(head):
            raise ConnectionAbortedError(errno.ECONNABORTED, "no room for the answer")


def _drop_early(sock: Any) -> None:
    dropped = 0
    try:
        while dropped < MAX_EARLY_BYTES:
            data = sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the client has gone")
            dropped += len(data)
    except (BlockingIOError, ssl.SSLWantReadError):
        return
    raise ConnectionAbortedError(errno.ECONNABORTED, "the client does not wait for its answer")


def _shut(sock: Any) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is shut already


def _nothing() -> None:
    pass
