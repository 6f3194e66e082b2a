"""For host applications served by gevent-websocket, whose handler answers 101 before any view.

Two ways to keep its hands off the relay's path: serve with the worker here
(``gunicorn -k relay_app.web.gevent_websocket.Worker``), or set
``server.pre_start_hook = leave_to_relay`` on a ``pywsgi.WSGIServer``.
"""

from typing import Any

from geventwebsocket.gunicorn.workers import GeventWebSocketWorker
from geventwebsocket.handler import WebSocketHandler
from gunicorn.workers.ggevent import PyWSGIHandler

from relay_app.web.heads import Heads, Overdue
from relay_app.web.realtime import PATH
from relay_app.web.served import count_overdue, heads_for

__all__ = ["Handler", "Worker", "leave_to_relay"]


def leave_to_relay(handler: Any) -> bool:
    """A ``pre_start_hook``: True keeps gevent-websocket from answering the relay's requests."""
    return str(handler.environ.get("PATH_INFO", "")) == PATH


class Handler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]  # no annotations
    """gevent-websocket's handler, which leaves the relay's path to the relay.

    It logs to gunicorn's access log, sessions included; the stock one logs no 101.
    """

    response_headers = ()  # until there are some; gunicorn's log takes no None

    @property
    def heads(self) -> Heads:
        """The connections that wait for their heads."""
        server: Any = self.server
        if not hasattr(server, "relay_heads"):
            server.relay_heads = heads_for(server.application)
        heads: Heads = server.relay_heads
        return heads

    def handle(self) -> None:
        """Serves a connection. Who does not send a whole head in time hears nothing more."""
        try:
            super().handle()
        except Overdue:
            if self.environ is None:  # else it has been served, and wanted nothing more
                count_overdue(self.server.application, "handshake")
        finally:
            self.heads.end()

    def read_requestline(self) -> Any:
        """The first line of a request."""
        self.heads.begin()
        return super().read_requestline()

    def handle_one_response(self) -> None:
        """Answers a request whose head is whole."""
        self.heads.end()
        super().handle_one_response()

    def log_request(self) -> None:
        if self.environ is not None:  # it is None for what was no HTTP
            PyWSGIHandler.log_request(self)

    def run_application(self) -> None:
        if leave_to_relay(self):
            super(WebSocketHandler, self).run_application()
        else:
            super().run_application()


class Worker(GeventWebSocketWorker):  # type: ignore[misc]
    """gevent-websocket's gunicorn worker with that handler."""

    wsgi_handler = Handler
