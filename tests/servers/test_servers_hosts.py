"""A host application keeps what is its own: routes, hooks, teardown, WebSockets."""

import json

import pytest
from servers_support import STOCK, Faces, ask
from support.clients import eventually
from support.relays import RelayProcess
from websockets.sync.client import connect

pytestmark = pytest.mark.not_on("gunicorn", because="relay-app serve runs the relay alone")
own_sockets = pytest.mark.not_on(
    "pywsgi",
    "gevent_pywsgi",
    because="Flask-Sock's threads stop the one if unpatched, and end with a traceback in the other",
)


@pytest.fixture
def host(server: RelayProcess) -> RelayProcess:
    return server


def state(host: RelayProcess) -> dict:
    answer = ask(host, path="/state", Upgrade=None, Connection="close")
    assert (answer.status, answer.headers["x-host"]) == (200, "was here")
    return json.loads(answer.body)


def test_its_request_is_torn_down_before_the_session_begins(host: RelayProcess):
    torn_down = state(host)["journal"].count("teardown /v1/realtime")
    with host.connect("model=echo") as client:
        client.send("hello")
        assert client.recv(10) == "hello"
        during = state(host)
        assert during["journal"].count("teardown /v1/realtime") == torn_down + 1
        # The one that is borrowed is the asking request's own.
        assert during["borrowed"] == 1


def test_its_after_request_hook_sees_sessions_and_refusals(host: RelayProcess):
    with host.connect("model=echo"):
        assert "after /v1/realtime 101" in state(host)["journal"]
    if host.name != STOCK:
        assert ask(host, Authorization=None).headers["x-host"] == "was here"
        assert "after /v1/realtime 401" in state(host)["journal"]


def own_websocket(host: RelayProcess) -> str:
    return "/legacy" if host.name.startswith("geventwebsocket") else "/chat"


@own_sockets
def test_its_own_websocket_goes_on_working(host: RelayProcess):
    with connect(host.ws + own_websocket(host), compression=None, close_timeout=0.5) as client:
        for message in ("one", "two"):
            client.send(message)
            assert client.recv(10) == message


@own_sockets
def test_its_socket_options_are_its_own(host: RelayProcess):
    offered = ["realtime", "host.v1"]
    if own_websocket(host) == "/chat":
        with connect(
            f"{host.ws}/chat", compression=None, subprotocols=offered, close_timeout=0.5
        ) as client:
            assert client.subprotocol == "host.v1"
    with host.connect("model=echo", subprotocols=offered) as client:
        assert client.subprotocol == "realtime"


@pytest.mark.only_on(
    "flask-run", "pywsgi", because="it takes seconds; one of threads and one of greenlets will do"
)
def test_a_hook_that_fails_leaks_no_upstream_connection(host: RelayProcess, faces: Faces):
    assert ask(host, X_Fail="please").status == 500
    assert len(faces.open) == 1
    eventually(lambda: not faces.open, "the upstream connection is given back")
    assert "abandoned session=" in host.output
