"""Worker: gunicorn's gevent worker, for requests that are no HTTP, or that never come, and for
a master that dies.

The rules: what could not be parsed is repeated neither to the client nor in the log, for it may
hold a key; it is refused in the shape of every other refusal; a connection that has not sent the
whole head of its first request in ``handshake_seconds`` is told so, and closed; and who does not
take an answer of the relay's own loses it. Sessions are not cut short because the master was
killed: the worker stops as after SIGTERM. And a worker that stops takes no connection that another
one could serve.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http import errors
from gunicorn.http.errors import (
    ConfigurationProblem,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.ggevent import GeventWorker

from relay_app import codec
from relay_app.errors import ClientFault
from relay_app.web.heads import Heads, Overdue
from relay_app.web.paths import OPERATIONS
from relay_app.web.served import count_overdue, heads_for

__all__ = ["Worker"]

ANSWER_SECONDS = 30.0
"""For the whole of an answer that may be larger than the kernel keeps, with the store's time."""

_ANSWERS = {
    LimitRequestLine: ("414 URI Too Long", "The request line is too long."),
    LimitRequestHeaders: ("431 Request Header Fields Too Large", "The headers are too large."),
}
# The application's own faults; older releases of gunicorn do not tell those of its headers apart.
_NOT_THE_CLIENTS = (
    ConfigurationProblem,
    *(
        getattr(errors, name)
        for name in ("InvalidResponseHeader", "InvalidResponseHeaderName")
        if hasattr(errors, name)
    ),
)
_ANSWER = ("400 Bad Request", "The request is not valid HTTP.")


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no annotations
    """The worker that ``relay-app serve`` and the package's gunicorn configuration use."""

    alive: bool

    def init_process(self) -> None:
        """Runs until the worker stops."""
        self._heads: Heads | None = None
        self._servers: list[StreamServer] = []
        self._connections = 0
        super().init_process()

    def server_class(self, listener: Any, *, spawn: Any, **others: Any) -> StreamServer:
        """What gunicorn would make for itself, but known to :meth:`stop_accepting`."""
        tls = {name: others[name] for name in ("ssl_context",) if name in others}
        server = StreamServer(listener, handle=partial(self.handle, listener), spawn=spawn, **tls)
        if self.cfg.workers > 1:
            server.max_accept = 1
        self._servers.append(server)
        return server

    def stop_accepting(self) -> None:
        """Leaves new connections to other workers at once, where gunicorn takes a second."""
        for server in self._servers:
            server.close()

    def notify(self) -> None:
        """Tells the master that this worker lives; without a master the worker drains."""
        if self.ppid == os.getppid():
            super().notify()
        elif self.alive:
            self.log.warning("The master is gone: worker %s drains and stops", self.pid)
            self.alive = False

    @property
    def heads(self) -> Heads:
        """The connections that wait for their heads."""
        if self._heads is None:
            self._heads = heads_for(self.wsgi)
        return self._heads

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serves a connection."""
        self._connections += 1
        self.heads.begin()
        try:
            if self._connections >= self.worker_connections:
                # No more are accepted until one ends.
                self.heads.make_room()
            super().handle(listener, client, addr)
        finally:
            self._connections -= 1
            self.heads.end()

    def timeout_ctx(self) -> AbstractContextManager[None]:
        """What bounds the wait for a request: for those behind the first, in silence."""
        return nullcontext() if gevent.getcurrent() in self.heads else self._next_head()

    @contextmanager
    def _next_head(self) -> Iterator[None]:
        self.heads.begin(self.cfg.keepalive)
        try:
            yield
        except Overdue:
            pass  # it wants nothing more
        finally:
            self.heads.end()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Answers a request."""
        self.heads.end()
        if req.path not in OPERATIONS:
            return super().handle_request(listener_name, req, sock, addr)
        with Overdue(ANSWER_SECONDS):
            return super().handle_request(listener_name, req, sock, addr)

    def handle_http2(self, *args: Any, **options: Any) -> None:
        """Serves a connection of many requests, which nobody gets unless gunicorn is told so."""
        self.heads.end()
        super().handle_http2(*args, **options)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answers a request that gunicorn could not parse, or that did not come; leaves all else
        to gunicorn."""
        if isinstance(exc, Overdue):
            self._too_slow(client, "handshake" if req is None else "answer")
            return
        if not isinstance(exc, ParseException) or isinstance(exc, _NOT_THE_CLIENTS):
            super().handle_error(req, client, addr, exc)
            return
        kinds = (answer for kind, answer in _ANSWERS.items() if isinstance(exc, kind))
        status, message = next(kinds, _ANSWER)
        self.log.warning(
            "Invalid request from ip=%s: %s", addr[0] if addr else "-", type(exc).__name__
        )
        self._answer(client, status, ClientFault(message, code="invalid_request"))

    def _too_slow(self, client: Any, limit: str) -> None:
        count_overdue(self.wsgi, limit)
        # Amid a TLS handshake nothing can be said, and behind half an answer neither.
        amid = isinstance(client, ssl.SSLSocket) and client.version() is None
        if limit == "handshake" and not amid:
            fault = ClientFault("The request did not come in time.", code="request_timeout")
            self._answer(client, "408 Request Timeout", fault)

    def _answer(self, client: Any, status: str, fault: ClientFault) -> None:
        body = codec.dumps(fault.body()).encode()
        head = (
            f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.setblocking(False)  # who takes no answer gets none
            util.write(client, head.encode() + body)
        except OSError:
            self.log.debug("the client did not wait for its refusal")
