"""Only the relay's path is kept from gevent-websocket's handler."""

from types import SimpleNamespace

import pytest

from relay_app.web.gevent_websocket import Handler, Worker, leave_to_relay


@pytest.mark.parametrize(
    ("path", "left"),
    [("/v1/realtime", True), ("/v1/realtime/", False), ("/chat", False), ("", False)],
)
def test_the_relays_path_is_left_to_the_relay(path: str, left: bool):
    assert leave_to_relay(SimpleNamespace(environ={"PATH_INFO": path})) is left


def test_the_worker_uses_that_handler():
    assert Worker.wsgi_handler is Handler
