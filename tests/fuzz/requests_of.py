"""An upgrade request: it is accepted as h11 and wsproto would, or refused without its secrets.

An input is the request's target and its header lines.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha1
from typing import Any
from urllib.parse import parse_qsl

import h11

from fuzz.target import Target
from relay_app.errors import ClientFault
from relay_app.settings import Key
from relay_app.web.auth import Authenticator, credential_of
from relay_app.web.handshake import Handshake

__all__ = ["TARGET", "check"]

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SECRET = "sk-planted-secret-0123456789"
DOORS = [
    Authenticator("keys", [Key("a", "0" * 64)]),
    Authenticator("passthrough", []),
    Authenticator("open", []),
]


def check(data: bytes) -> None:
    """What is no 101 is a ClientFault that repeats no secret, and a 101 is one to everybody."""
    target, _, lines = data.decode("latin-1").partition("\n")
    environ = _environ(lines.split("\n"))
    names = [name for name, _ in parse_qsl(target.partition("?")[2], keep_blank_values=True)]
    try:
        handshake = Handshake.of(environ)
    except ClientFault as fault:
        _said(fault, {400, 426}, "")
        return
    _answered(handshake.answer(), environ, handshake.subprotocol)
    carried = None
    try:
        carried = credential_of(environ, handshake.subprotocols, names)
    except ClientFault as fault:
        _said(fault, {401}, SECRET)
    secret = carried.secret if carried else ""
    for door in DOORS:
        for peer in ("", "127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", secret):
            try:
                principal = door.principal(carried, peer)
            except ClientFault as fault:
                _said(fault, {401, 403}, secret if len(secret) > 20 else "")
            else:
                assert len(secret) < 12 or secret not in repr(principal)


def _environ(lines: list[str]) -> dict[str, Any]:
    """As a server hands headers on: of a name said twice, both with a comma between."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "SERVER_PROTOCOL": "HTTP/1.1"}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or "\r" in value or "\0" in value:
            continue
        key = "HTTP_" + name.strip().upper().replace("-", "_")
        value = value.strip(" \t")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


def _said(fault: ClientFault, statuses: set[int], secret: str) -> None:
    assert fault.status in statuses
    told = repr((fault.body(), fault.headers))
    assert not secret or secret not in told
    assert len(told) < 1_000
    assert all(value.isprintable() for value in fault.headers.values())


def _answered(answer: bytes, environ: Mapping[str, Any], subprotocol: str | None) -> None:
    """To h11 it is one 101 and nothing behind it, with the token that RFC 6455 asks for."""
    client = h11.Connection(h11.CLIENT)
    upgrade = [("Host", "h"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
    client.send(h11.Request(method="GET", target="/", headers=upgrade))
    client.receive_data(answer)
    switch = client.next_event()
    assert isinstance(switch, h11.InformationalResponse)
    assert switch.status_code == 101
    assert client.trailing_data[0] == b""
    told = dict(switch.headers)
    key = environ["HTTP_SEC_WEBSOCKET_KEY"].strip().encode()
    assert re.fullmatch(rb"[A-Za-z0-9+/]{22}==", key), "16 bytes in base64"
    assert told[b"sec-websocket-accept"] == b64encode(sha1(key + GUID).digest())
    selected = told.get(b"sec-websocket-protocol")
    assert selected == (subprotocol.encode() if subprotocol else None)
    assert selected in (None, b"realtime")


def _seeds() -> Iterator[bytes]:
    head = (
        "/v1/realtime?model=gpt-realtime\nHost: relay\nConnection: keep-alive, Upgrade\n"
        "Upgrade: websocket\nSec-WebSocket-Version: 13\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n"
    )
    yield head.encode()
    for more in (
        f"Authorization: Bearer {SECRET}", f"api-key: {SECRET}", "Authorization: Basic eA==",
        f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{SECRET}",
        f"Authorization: bearer {SECRET}\nApi-Key: another-one", "Sec-WebSocket-Version: 8",
    ):  # fmt: skip
        yield (head + more).encode()
    yield head.replace("?", f"?api_key={SECRET}&").encode()
    yield head.replace("ZQ==", "ZSE=").encode()
    yield head.replace("ZQ==", "ZQ==\xa0").encode("latin-1")
    yield b"/\nHost: x"


TARGET = Target(
    check,
    _seeds,
    max_bytes=800,
    between=b"\n",
    words=(b"\n", b"Upgrade: ", b"Connection: ", b"Host: ", b"Sec-WebSocket-Key: ",
           b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Protocol: ", b"realtime",
           b"openai-insecure-api-key.", b"Authorization: Bearer ", b"api-key: ", b"?token=",
           b",", b"\xa0", b"\x85", b"=="),
)  # fmt: skip
