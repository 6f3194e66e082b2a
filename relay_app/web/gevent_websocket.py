"""For host applications served by gevent-websocket, whose handler answers 101 before any view.

Two ways to keep its hands off the relay's path: serve with the worker here
(``gunicorn -k relay_app.web.gevent_websocket.Worker``), or set
``server.pre_start_hook = leave_to_relay`` on a ``pywsgi.WSGIServer``.
"""

from typing import Any

from geventwebsocket.gunicorn.workers import GeventWebSocketWorker
from geventwebsocket.handler import WebSocketHandler
from gunicorn.workers.ggevent import PyWSGIHandler

from relay_app.web.realtime import PATH

__all__ = ["Handler", "Worker", "leave_to_relay"]


def leave_to_relay(handler: Any) -> bool:
    """A ``pre_start_hook``: True keeps gevent-websocket from answering the relay's requests."""
    return str(handler.environ.get("PATH_INFO", "")) == PATH


class Handler(WebSocketHandler, PyWSGIHandler):  # type: ignore[misc]  # no annotations
    """gevent-websocket's handler, which leaves the relay's path to the relay.

    It logs to gunicorn's access log, sessions included; the stock one logs no 101.
    """

    response_headers = ()  # until there are some; gunicorn's log takes no None

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
