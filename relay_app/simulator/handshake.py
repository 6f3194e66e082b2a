"""The HTTP side of a connection: one request head, answered with a 101 or as HTTP.

The rule: everything a provider refuses at the door it refuses here, before the 101, with a
status and an OpenAI-shaped JSON body.
"""

import re
from collections.abc import Collection
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import gevent
from gevent.socket import socket

from relay_app import codec
from relay_app.errors import ClientFault

__all__ = ["Handshake", "Wanted", "admit", "http_answer", "read_handshake"]

MAX_HEAD_BYTES = 32 * 1024
HEAD_SECONDS = 10
KEY_PROTOCOL = "openai-insecure-api-key."

SCENARIO_PATH = re.compile(r"/scenario/([^/]*)(/.*)")
"""A client that adds to a base URL by itself can have the scenario in front of the path."""
REALTIME_PATHS = ("/v1/realtime", "/openai/realtime", "/openai/v1/realtime")


class Handshake(NamedTuple):
    """A request as it was seen: the target with its query, header names in lower case.

    A header that came several times is joined with ``", "``.
    """

    path: str
    headers: dict[str, str]

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; of repeated ones the last."""
        return dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))

    @property
    def route(self) -> str:
        """The path alone, without the scenario in front of it."""
        path = urlsplit(self.path).path.rstrip("/")
        named = SCENARIO_PATH.fullmatch(path)
        return named[2] if named else path

    @property
    def scenario(self) -> str | None:
        """The scenario that is asked for; the query's wins."""
        named = SCENARIO_PATH.fullmatch(urlsplit(self.path).path)
        return self.query.get("scenario", unquote(named[1]) if named else None)

    @property
    def subprotocols(self) -> list[str]:
        """The WebSocket subprotocols offered."""
        offered = self.headers.get("sec-websocket-protocol", "")
        return [token.strip() for token in offered.split(",") if token.strip()]

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks for an upgrade."""
        return self.headers.get("upgrade", "").lower() == "websocket"

    @property
    def wants_beta(self) -> bool:
        """Whether it opts into the retired beta dialect."""
        return (
            self.headers.get("openai-beta") == "realtime=v1"
            or "openai-beta.realtime-v1" in self.subprotocols
        )


class Wanted(NamedTuple):
    """What an admitted handshake asked for: ``realtime`` or ``transcription``, and a model."""

    kind: str
    model: str


def read_handshake(sock: socket) -> tuple[Handshake, bytes, bytes] | None:
    """The next request as (what it says, its head, the bytes after it).

    None when the peer left, took over ``HEAD_SECONDS``, or sent no HTTP head of at most
    ``MAX_HEAD_BYTES``.
    """
    data = gevent.with_timeout(HEAD_SECONDS, _read_head, sock, timeout_value=b"")
    head, found, rest = data.partition(b"\r\n\r\n")
    request, *lines = head.decode("latin-1").split("\r\n")
    words = request.split(" ")
    if not found or len(words) != 3 or words[0] != "GET":
        return None
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Handshake(words[1], headers), head + found, rest


def _read_head(sock: socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and len(data) <= MAX_HEAD_BYTES:
        received = sock.recv(8192)
        if not received:
            break
        data += received
    return data


def admit(handshake: Handshake, *, api_key: str | None, models: Collection[str] | None) -> Wanted:
    """Check path, key and model as the provider does. Raises ClientFault."""
    path, query = handshake.route, handshake.query
    if path not in REALTIME_PATHS:
        raise ClientFault(f"Invalid URL (GET {path or '/'})", status=404)
    if api_key is not None and api_key not in _keys(handshake):
        raise ClientFault(
            "Incorrect API key provided. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            status=401,
            code="invalid_api_key",
        )
    if not handshake.wants_websocket:
        raise ClientFault("This endpoint speaks WebSocket only.", status=426)
    kind = query.get("intent", "realtime")
    if kind not in ("realtime", "transcription"):
        raise ClientFault(f"Invalid intent: {kind}", code="invalid_value", param="intent")
    model = query.get("model") or query.get("deployment") or ""
    if kind == "transcription":
        if model:
            raise ClientFault(
                "A transcription session takes no model in its URL.",
                code="invalid_model",
                param="model",
            )
        return Wanted(kind, "")
    if not model:
        raise ClientFault(
            "You must provide a model parameter.", code="missing_model", param="model"
        )
    if models is not None and model not in models:
        raise ClientFault(
            f"The model `{model}` does not exist or you do not have access to it.",
            status=404,
            code="model_not_found",
            param="model",
        )
    return Wanted(kind, model)


def _keys(handshake: Handshake) -> list[str]:
    """The credentials offered in any of the places where the providers look."""
    headers = handshake.headers
    scheme, _, token = headers.get("authorization", "").partition(" ")
    keys = [token.strip()] if scheme.lower() == "bearer" else []
    keys += [headers[name] for name in ("api-key",) if name in headers]
    return keys + [
        offered.removeprefix(KEY_PROTOCOL)
        for offered in handshake.subprotocols
        if offered.startswith(KEY_PROTOCOL)
    ]


def http_answer(status: int, body: object, headers: dict[str, str] | None = None) -> bytes:
    """A whole HTTP response with ``body`` as JSON, after which the connection closes."""
    payload = codec.dumps(body).encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(payload)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload
