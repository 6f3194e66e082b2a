"""Nothing that a client says changes where its upstream is, or what else it is asked."""

from http.client import parse_headers
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st
from realtime_support import app_with
from support.clients import KEY as NONCE
from support.relays import KEY, PROVIDER_KEY

from relay_app.errors import UpstreamFault
from relay_app.upstream.dialects import UpstreamRequest
from relay_app.upstream.opening import ask as opening_bytes

ALWAYS = {"host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version",
          "user-agent"}  # fmt: skip
KNOWN = {"authorization", "api-key", "openai-safety-identifier"}
ACCOUNT = {"openai-organization", "openai-project"}
CARRIED = [
    "HTTP_OPENAI_SAFETY_IDENTIFIER", "HTTP_OPENAI_ORGANIZATION", "HTTP_OPENAI_PROJECT",
    "HTTP_SEC_WEBSOCKET_PROTOCOL", "HTTP_HOST", "HTTP_USER_AGENT", "HTTP_ORIGIN", "HTTP_COOKIE",
    "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_FORWARDED", "HTTP_OPENAI_BETA",
]  # fmt: skip

hostile = st.one_of(
    st.text(max_size=40),
    st.sampled_from(
        [
            "a\r\nHost: evil.example", "a\nX: y", "a\rb", "a\0b", "a&model=b", "a?b#c",
            "../../evil", "//evil.example/", "http://evil.example/", "@evil.example", "a b",
            "%0d%0aX: y", "169.254.169.254", "openai-organization.a\r\nX: y",
            "realtime, openai-project.p q", "x" * 600, "\u0130\u2028", "a\tb",
        ]
    ),
)  # fmt: skip


class Asked:
    """A dial that keeps what it is asked, and never gets through."""

    def __init__(self) -> None:
        self.requests: list[UpstreamRequest] = []

    def __call__(self, request: UpstreamRequest) -> Any:
        self.requests.append(request)
        raise UpstreamFault("down", code="upstream_unreachable")


def upgrade(
    app: Flask, asked: Asked, query: str, environ: dict[str, str]
) -> UpstreamRequest | None:
    """What goes upstream for a client's request, if it gets so far."""
    asked.requests.clear()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": NONCE,
        "Authorization": f"Bearer {KEY}",
    }
    overrides = {"gunicorn.socket": None, "wsgi.multithread": True, **environ}
    answer = app.test_client().get(
        f"/v1/realtime?{query}", headers=headers, environ_overrides=overrides
    )
    assert answer.status_code in (400, 401, 404, 502), answer.text
    assert len(asked.requests) == (answer.status_code == 502)
    return asked.requests[0] if asked.requests else None


def lines(request: UpstreamRequest) -> tuple[str, dict[str, str]]:
    """Target and header fields, as whoever receives the bytes reads them."""
    file = BytesIO(opening_bytes(request, b"k" * 24))
    method, target, version = file.readline().decode().split(" ")
    assert (method, version) == ("GET", "HTTP/1.1\r\n")
    fields = parse_headers(file)
    assert file.read() == b""
    assert len(fields) == len(fields.keys()) == len({name.lower() for name in fields})
    return target, {name.lower(): value for name, value in fields.items()}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Flask, Asked]:
    asked = Asked()
    return app_with(asked, tmp_path_factory.mktemp("own")), asked


@pytest.fixture(scope="module")
def passthrough(tmp_path_factory: pytest.TempPathFactory) -> tuple[Flask, Asked]:
    asked = Asked()
    return app_with(asked, tmp_path_factory.mktemp("passthrough"), mode="passthrough"), asked


@given(
    model=hostile,
    more=st.dictionaries(st.sampled_from(["host", "path", "deployment", "x"]), hostile, max_size=2),
    carried=st.dictionaries(st.sampled_from(CARRIED), hostile.filter(bool), max_size=3),
)
def test_a_client_cannot_break_out_of_what_it_may_say(
    own: tuple[Flask, Asked], model: str, more: dict[str, str], carried: dict[str, str]
):
    query = "&".join(f"{name}={quote(value)}" for name, value in {"model": model, **more}.items())
    request = upgrade(*own, query, carried)
    if request is None:
        return
    assert (request.host, request.port, request.tls) == ("unused.invalid", 80, False)
    target, fields = lines(request)
    assert urlsplit(target).path == "/v1/realtime"
    assert parse_qsl(urlsplit(target).query, strict_parsing=True) == [("model", model)]
    assert fields["host"] == "unused.invalid"
    assert fields["authorization"] == f"Bearer {PROVIDER_KEY}"
    assert set(fields) <= ALWAYS | KNOWN


@given(
    carried=st.dictionaries(st.sampled_from(CARRIED), hostile.filter(bool), max_size=3),
    secret=hostile,
)
def test_nor_where_it_brings_its_own_key(
    passthrough: tuple[Flask, Asked], carried: dict[str, str], secret: str
):
    request = upgrade(*passthrough, "model=m", carried | {"HTTP_AUTHORIZATION": f"Bearer {secret}"})
    if request is None:
        return
    target, fields = lines(request)
    assert (request.host, target) == ("unused.invalid", "/v1/realtime?model=m")
    assert fields["authorization"] == f"Bearer {secret.strip()}"
    assert set(fields) <= ALWAYS | KNOWN | ACCOUNT


def test_what_may_be_said_is_carried_on(own: tuple[Flask, Asked]):
    request = upgrade(*own, "model=a%20b%26c", {"HTTP_OPENAI_SAFETY_IDENTIFIER": "user-1"})
    assert request is not None
    target, fields = lines(request)
    assert target == "/v1/realtime?model=a+b%26c"
    assert fields["openai-safety-identifier"] == "user-1"
