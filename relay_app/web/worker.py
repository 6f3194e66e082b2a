"""Worker: gunicorn's gevent worker, for requests that are no HTTP and for a master that dies.

The rules: what could not be parsed is repeated neither to the client nor in the log, for it may
hold a key, and it is refused in the shape of every other refusal. Sessions are not cut short
because the master was killed: the worker stops as after SIGTERM. And a worker that stops takes no
connection that another one could serve.
"""

import os
from functools import partial
from typing import Any

from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http.errors import (
    ConfigurationProblem,
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.ggevent import GeventWorker

from relay_app import codec
from relay_app.errors import ClientFault

__all__ = ["Worker"]

_ANSWERS = {
    LimitRequestLine: ("414 URI Too Long", "The request line is too long."),
    LimitRequestHeaders: ("431 Request Header Fields Too Large", "The headers are too large."),
}
_NOT_THE_CLIENTS = (ConfigurationProblem, InvalidResponseHeader, InvalidResponseHeaderName)
_ANSWER = ("400 Bad Request", "The request is not valid HTTP.")


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no annotations
    """The worker that ``relay-app serve`` and the package's gunicorn configuration use."""

    alive: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._servers: list[StreamServer] = []

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

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answers a request that gunicorn could not parse; leaves all else to gunicorn."""
        if not isinstance(exc, ParseException) or isinstance(exc, _NOT_THE_CLIENTS):
            super().handle_error(req, client, addr, exc)
            return
        kinds = (answer for kind, answer in _ANSWERS.items() if isinstance(exc, kind))
        status, message = next(kinds, _ANSWER)
        self.log.warning(
            "Invalid request from ip=%s: %s", addr[0] if addr else "-", type(exc).__name__
        )
        body = codec.dumps(ClientFault(message, code="invalid_request").body()).encode()
        head = (
            f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            util.write(client, head.encode() + body)
        except OSError:
            self.log.debug("the client did not wait for its refusal")
