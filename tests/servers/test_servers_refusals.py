"""Before the 101 a client is told what is wrong, on every server in the same words."""

import json

import pytest
from servers_support import STOCK, Faces, ask, dial, read_answer, request_bytes
from support.clients import Peer
from support.relays import RelayProcess
from support.secrets import KEY, PROVIDER_KEY

CLOSE_CODES = {502: 1011, 504: 1011, 503: 1013, 500: 1011}


def refused(server: RelayProcess, status: int, query: str = "model=echo", **options) -> dict:
    """The error of a refusal: in an HTTP body, or in an event where a 101 came before us."""
    if server.name == STOCK:
        return _refused_after_101(server, CLOSE_CODES.get(status, 1008), query, **options)
    answer = ask(server, query, **options)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json")
    assert set(answer.error) == {"message", "type", "code", "param"}
    return answer.error


def _refused_after_101(server: RelayProcess, code: int, query: str, **options) -> dict:
    with dial(server) as sock:
        sock.sendall(request_bytes(server, query, **options))
        assert read_answer(sock).status == 101
        peer = Peer(sock, masks=True, head=b"")
        event = json.loads(peer.hear())
        assert event["type"] == "error"
        closed = peer.hear_close()
        assert closed[0] == code
        assert event["error"]["message"].startswith(closed[1])
        peer.hear_end()
        return event["error"]


def test_no_key_is_401(server: RelayProcess):
    assert refused(server, 401, Authorization=None)["code"] == "missing_api_key"


def test_a_wrong_key_is_401(server: RelayProcess):
    error = refused(server, 401, key="rk-wrong-key-000000")
    assert error["code"] == "invalid_api_key"
    assert "rk-wrong" not in error["message"]


def test_a_key_in_the_query_is_401(server: RelayProcess):
    error = refused(server, 401, "model=echo&api_key=rk-elsewhere", Authorization=None)
    assert error["code"] == "credential_in_query"


def test_an_unknown_model_is_404_and_the_allowed_ones_are_named(server: RelayProcess):
    error = refused(server, 404, "model=gpt-5")
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "echo" in error["message"]


def test_a_call_id_is_404(server: RelayProcess):
    assert refused(server, 404, "call_id=rtc_1")["code"] == "call_id_not_supported"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_the_upstreams_refusal_is_passed_on_without_our_key(server: RelayProcess, status: int):
    error = refused(server, status, f"model=refuse-{status}")
    assert error == {
        "message": "no, [redacted]",
        "type": "t",
        "code": f"c{status}",
        "param": None,
    }


def test_an_upstream_that_is_down_is_502(server: RelayProcess):
    assert refused(server, 502, "model=down")["code"] == "upstream_unreachable"


def test_a_silent_upstream_is_504_within_the_dial_deadline(server: RelayProcess):
    assert refused(server, 504, "model=silent")["code"] == "upstream_timeout"


def test_plain_http_is_426_with_a_hint(server: RelayProcess):
    answer = ask(server, Upgrade=None, Connection=None)
    assert answer.status == 426
    assert answer.headers["upgrade"] == "websocket"
    assert "WebSocket" in answer.error["message"]


late_101 = pytest.mark.not_on(STOCK, because="its handler answers a bad handshake itself")


@late_101
@pytest.mark.parametrize("key", [None, "", "c2hvcnQ=", "not base64", "Zm9ydHktdHdvIGJ5dGVz" * 3])
def test_a_bad_websocket_key_is_400(server: RelayProcess, key: str | None):
    answer = ask(server, Sec_WebSocket_Key=key)
    assert (answer.status, answer.error["code"]) == (400, "websocket_key")


@late_101
@pytest.mark.parametrize("version", [None, "8", "12", "13, 14"])
def test_a_wrong_websocket_version_is_426_and_names_ours(server: RelayProcess, version: str | None):
    answer = ask(server, Sec_WebSocket_Version=version)
    assert (answer.status, answer.error["code"]) == (426, "websocket_version")
    assert answer.headers["sec-websocket-version"] == "13"


@late_101
def test_no_answer_repeats_a_key(server: RelayProcess):
    answers = [ask(server, Upgrade=None), ask(server, Sec_WebSocket_Version="7")]
    told = b"".join(a.body + repr(a.headers).encode() for a in answers)
    assert KEY.encode() not in told
    assert PROVIDER_KEY.encode() not in told


def test_intent_transcription_needs_no_model(server: RelayProcess, faces: Faces):
    with server.connect("intent=transcription") as client:
        client.send("hello")
        assert client.recv(10) == "hello"
    assert faces.asked[-1].path.endswith("?intent=transcription")
