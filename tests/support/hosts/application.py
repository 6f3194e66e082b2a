"""A host application of the kind the relay is added to: routes, hooks, WebSockets of its own."""

import logging
from collections import deque

from flask import Flask, Response, g, jsonify, request
from flask_sock import Sock

from relay_app.extension import RealtimeRelay


def create_host() -> Flask:
    logging.basicConfig(level=logging.INFO)
    app = Flask("host")
    # A hook that fails is logged with its traceback; whoever looks for ours need not see it.
    app.logger.disabled = True
    app.config["SOCK_SERVER_OPTIONS"] = {"subprotocols": ["host.v1"]}
    sock = Sock(app)
    borrowed: set[int] = set()
    journal: deque[str] = deque(maxlen=1000)

    @app.before_request
    def borrow() -> None:
        g.resource = object()
        borrowed.add(id(g.resource))

    @app.after_request
    def note(response: Response) -> Response:
        if "X-Fail" in request.headers:
            raise RuntimeError("a hook of the host fails")
        journal.append(f"after {request.path} {response.status_code}")
        response.headers["X-Host"] = "was here"
        return response

    @app.teardown_request
    def give_back(error: BaseException | None) -> None:
        borrowed.discard(id(g.resource))
        journal.append(f"teardown {request.path}")

    @app.get("/state")
    def state() -> Response:
        """``borrowed`` counts the resource of the request that asks, too."""
        return jsonify(borrowed=len(borrowed), journal=list(journal))

    @sock.route("/chat")
    def chat(websocket) -> None:
        while True:
            websocket.send(websocket.receive())

    @app.route("/legacy", websocket=True)
    def legacy() -> str:
        """The same for gevent-websocket, whose sockets Flask-Sock cannot use."""
        websocket = request.environ["wsgi.websocket"]
        while (message := websocket.receive()) is not None:
            websocket.send(message)
        return ""

    RealtimeRelay(app)
    return app
