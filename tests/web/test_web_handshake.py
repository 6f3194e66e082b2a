import pytest

from relay_app.errors import ClientFault
from relay_app.web.handshake import Handshake, not_an_upgrade

GOOD = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "relay:8000",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_UPGRADE": "websocket",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
}
REQUIRED = ["HTTP_HOST", "HTTP_CONNECTION", "HTTP_UPGRADE", "HTTP_SEC_WEBSOCKET_VERSION",
            "HTTP_SEC_WEBSOCKET_KEY", "REQUEST_METHOD"]  # fmt: skip


def handshake(**changes: str) -> Handshake:
    return Handshake.of(GOOD | changes)


def refusal(environ: dict[str, str]) -> ClientFault:
    with pytest.raises(ClientFault) as caught:
        Handshake.of(environ)
    return caught.value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"HTTP_CONNECTION": "keep-alive, Upgrade"},
        {"HTTP_CONNECTION": "UPGRADE,keep-alive"},
        {"HTTP_UPGRADE": "WebSocket"},
        {"HTTP_UPGRADE": "h2c, websocket"},
        {"HTTP_SEC_WEBSOCKET_VERSION": " 13 "},
        {"HTTP_SEC_WEBSOCKET_KEY": " dGhlIHNhbXBsZSBub25jZQ== "},
    ],
)
def test_every_form_that_clients_and_proxies_use_is_taken(changes):
    assert handshake(**changes).subprotocol is None


@pytest.mark.parametrize("missing", REQUIRED)
def test_everything_the_101_needs_has_to_be_there(missing):
    fault = refusal({k: v for k, v in GOOD.items() if k != missing})
    assert fault.status in (400, 426)
    assert fault.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"REQUEST_METHOD": "POST"}, 426, "upgrade_required"),
        ({"HTTP_CONNECTION": "keep-alive"}, 426, "upgrade_required"),
        ({"HTTP_CONNECTION": "upgraded"}, 426, "upgrade_required"),
        ({"HTTP_UPGRADE": "h2c"}, 426, "upgrade_required"),
        ({"SERVER_PROTOCOL": "HTTP/1.0"}, 400, "invalid_upgrade"),
        ({"HTTP_HOST": ""}, 400, "invalid_upgrade"),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "8"}, 426, "websocket_version"),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "13, 8"}, 426, "websocket_version"),
        ({"HTTP_SEC_WEBSOCKET_VERSION": "x" * 1000}, 426, "websocket_version"),
        ({"HTTP_SEC_WEBSOCKET_KEY": ""}, 400, "websocket_key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "c2hvcnQ="}, 400, "websocket_key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "not base64 at all!!"}, 400, "websocket_key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "caf\xe9" * 8}, 400, "websocket_key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==,x"}, 400, "websocket_key"),
        ({"HTTP_SEC_WEBSOCKET_KEY": "AAAA" * 10_000}, 400, "websocket_key"),
    ],
)
def test_what_is_no_handshake_is_refused_by_name(changes, status, code):
    fault = refusal(GOOD | changes)
    assert (fault.status, fault.code) == (status, code)
    assert len(fault.message) < 200
    if status == 426:
        assert fault.headers == {"Upgrade": "websocket", "Sec-WebSocket-Version": "13"}


@pytest.mark.parametrize(
    ("offered", "protocols", "selected"),
    [
        ("", (), None),
        (" , ,", (), None),
        ("realtime", ("realtime",), "realtime"),
        (
            "realtime, openai-insecure-api-key.K,openai-beta.realtime-v1",
            ("realtime", "openai-insecure-api-key.K", "openai-beta.realtime-v1"),
            "realtime",
        ),
        ("openai-insecure-api-key.K", ("openai-insecure-api-key.K",), None),
        ("Realtime", ("Realtime",), None),
        ("chat", ("chat",), None),
    ],
)
def test_only_realtime_is_ever_selected(offered, protocols, selected):
    found = handshake(HTTP_SEC_WEBSOCKET_PROTOCOL=offered)
    assert found.subprotocols == protocols
    assert found.subprotocol == selected


def test_plain_http_is_told_how_to_upgrade():
    fault = not_an_upgrade()
    assert fault.status == 426
    assert fault.headers["Upgrade"] == "websocket"
