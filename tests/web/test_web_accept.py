"""Which servers can carry a session, and what is done with a socket before and after it."""

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, request
from support.clients import KEY

from relay_app.errors import ClientFault, RelayFault
from relay_app.web import accept
from relay_app.web.accept import RelaySock, carrier_of, http_refusal
from relay_app.web.handshake import Handshake


class Served:
    """What a session would be: it notes that it ran, or that it never will."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.ran: list[bytes] = []
        self.abandoned = 0
        self._fault = fault

    def run(self, sock: Any, early: bytes) -> None:
        self.ran.append(early)
        if self._fault is not None:
            raise self._fault

    def abandon(self) -> None:
        self.abandoned += 1


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The client's end of a connection, and the server's."""
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(end) for end in socket.socketpair())


def environ_of(sock: socket.socket) -> dict[str, Any]:
    return {
        "gunicorn.socket": sock,
        "wsgi.multithread": True,
        "REQUEST_METHOD": "GET",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "a\x01 strange host",
        "HTTP_CONNECTION": "keep-alive, Upgrade",
        "HTTP_UPGRADE": "websocket",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": KEY,
        "HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate",
    }


def serve(sock: socket.socket, served: Served) -> None:
    """Does what a server does with a response that was accepted."""
    environ = environ_of(sock)
    response = carrier_of(environ).accept(Handshake.of(environ), served)
    started = []
    body = response(environ, lambda *args: started.append(args))
    assert started == [("101 Switching Protocols", [("Connection", "close")])]
    with pytest.raises(BrokenPipeError):
        next(body)


def test_the_101_is_sent_and_the_session_runs(ends):
    client, server = ends
    served = Served()
    serve(server, served)
    head = client.recv(4096)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"extensions" not in head.lower()
    assert served.ran == [b""]


def test_the_socket_is_shut_afterwards_whatever_the_session_did(ends):
    client, server = ends
    served = Served(ZeroDivisionError())
    serve(server, served)
    assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
    assert client.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        server.send(b"HTTP/1.1 500")


def test_what_came_before_the_101_is_not_there_any_more(ends):
    client, server = ends
    client.send(b"too early")
    seen = []

    class Reads(Served):
        def run(self, sock: Any, early: bytes) -> None:
            client.send(b"in time")
            seen.append(sock.recv(100))

    serve(server, Reads())
    assert seen == [b"in time"]


def test_a_client_that_has_gone_gets_no_session(ends):
    client, server = ends
    client.close()
    served = Served()
    serve(server, served)
    assert (served.ran, served.abandoned) == ([], 1)


def test_a_client_that_does_not_wait_gets_no_session(ends, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accept, "MAX_EARLY_BYTES", 1000)
    client, server = ends
    client.send(b"x" * 1000)
    served = Served()
    serve(server, served)
    assert (served.ran, served.abandoned) == ([], 1)
    assert client.recv(100) == b""


@pytest.mark.parametrize(
    "environ",
    [
        {"SERVER_SOFTWARE": "uWSGI", "uwsgi.version": b"2.0", "wsgi.multithread": True},
        {"SERVER_SOFTWARE": "waitress", "wsgi.multithread": True},
        {"SERVER_SOFTWARE": "WSGIServer/0.2 CPython/3.11", "wsgi.multithread": True},
        {"SERVER_SOFTWARE": "gunicorn/27", "gunicorn.socket": object(), "wsgi.multithread": False},
        {},
    ],
)
def test_a_server_that_cannot_carry_a_session_is_told_apart(environ: dict[str, Any]):
    with pytest.raises(RelayFault) as fault:
        carrier_of(environ)
    assert (fault.value.status, fault.value.code) == (501, "server_not_supported")


def test_a_refusal_has_no_header_that_pep_3333_forbids():
    response = http_refusal(ClientFault("no", status=429, headers={"Retry-After": "1"}))
    assert response.headers["Retry-After"] == "1"
    assert "Connection" not in response.headers


def test_the_view_is_given_a_carrier_and_its_arguments():
    app = Flask("host")

    def view(carrier: Any, name: str) -> str:
        return f"{type(carrier).__name__} {name} {request.method}"

    RelaySock(app).route("/<name>")(view)
    with socket.socket() as sock:
        answer = app.test_client().get("/me", environ_overrides=environ_of(sock))
    assert answer.text == "Carrier me GET"
