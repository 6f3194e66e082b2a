"""An endpoint with a dial that succeeds at once, and a client's request to it."""

import socket
from pathlib import Path
from typing import Any

from flask import Flask
from support.clients import KEY as NONCE
from support.relays import write_settings
from support.secrets import KEY
from werkzeug.test import TestResponse

from relay_app.app import create_app
from relay_app.ledger.stores import Store
from relay_app.settings_file import settings_from_file
from relay_app.upstream.dial import Dialled
from relay_app.wire.link import Link
from relay_app.wire.rooms import Rooms


class Upstream:
    """A dial that succeeds at once, over a pair of sockets."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.given_back = 0
        self._ends: list[socket.socket] = []

    def __call__(self, request: Any) -> Dialled:
        self.requests.append(request)
        ours, theirs = socket.socketpair()
        self._ends += [ours, theirs]
        link = Link(
            ours, name="target", masks=True, max_message_bytes=1 << 20, rooms=Rooms(1 << 20)
        )
        return Dialled(link, "-", self._close)

    def _close(self) -> None:
        self.given_back += 1

    def hang_up(self) -> None:
        for end in self._ends:
            end.close()


def app_with(dial: Any, folder: Path, *, store: Store | None = None, **sections: str) -> Flask:
    config = write_settings(folder, "ws://unused.invalid/v1", **sections)
    return create_app(settings_from_file(config), dial=dial, store=store)


def ask(app: Flask, sock: socket.socket, query: str = "model=gpt-realtime", **headers: str):
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": NONCE,
        "Authorization": f"Bearer {KEY}",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    environ = {"gunicorn.socket": sock, "wsgi.multithread": True}
    return app.test_client().get(
        f"/v1/realtime?{query}", headers=headers, environ_overrides=environ
    )


def refused(answer: TestResponse) -> tuple[int, str]:
    assert answer.headers["X-Relay-Session"].startswith("rs_")
    return answer.status_code, answer.json["error"]["code"]
