"""Handshake: an upgrade request that was checked and that nobody has answered yet.

The rule: everything RFC 6455 section 4.2.1 asks of a client is checked before anything is
dialled, so that the 101, when it is sent, cannot fail any more.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsproto.utilities import generate_accept_token

from relay_app.errors import ClientFault

__all__ = ["Handshake", "not_an_upgrade"]

SUBPROTOCOL = "realtime"


@dataclass(frozen=True, slots=True)
class Handshake:
    """A valid opening handshake. ``subprotocols`` are the ones the client offered."""

    environ: Mapping[str, Any]
    subprotocols: tuple[str, ...]

    @property
    def subprotocol(self) -> str | None:
        """The one we select: ``realtime`` if offered, and never one that bears a key."""
        return SUBPROTOCOL if SUBPROTOCOL in self.subprotocols else None

    def answer(self) -> bytes:
        """The head of the 101. No extension is ever accepted."""
        key = str(self.environ["HTTP_SEC_WEBSOCKET_KEY"]).strip().encode()
        head = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + generate_accept_token(key) + b"\r\n"
        )
        if self.subprotocol is not None:
            head += b"Sec-WebSocket-Protocol: " + self.subprotocol.encode() + b"\r\n"
        return head + b"\r\n"

    @classmethod
    def of(cls, environ: Mapping[str, Any]) -> "Handshake":
        """Checks the request. Raises ClientFault 400 or 426."""
        upgrades = _has_token(environ.get("HTTP_CONNECTION"), "upgrade") and _has_token(
            environ.get("HTTP_UPGRADE"), "websocket"
        )
        if environ.get("REQUEST_METHOD") != "GET" or not upgrades:
            raise not_an_upgrade()
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
            raise ClientFault("A WebSocket upgrade needs HTTP/1.1.", code="invalid_upgrade")
        version = str(environ.get("HTTP_SEC_WEBSOCKET_VERSION", "")).strip()
        if version != "13":
            raise ClientFault(
                f"Sec-WebSocket-Version must be 13, not {version[:20]!r}.",
                status=426,
                code="websocket_version",
                headers={"Sec-WebSocket-Version": "13", "Upgrade": "websocket"},
            )
        if not _is_key(str(environ.get("HTTP_SEC_WEBSOCKET_KEY", "")).strip()):
            raise ClientFault(
                "Sec-WebSocket-Key is missing or not 16 bytes in base64.", code="websocket_key"
            )
        if not environ.get("HTTP_HOST"):
            raise ClientFault("The Host header is missing.", code="invalid_upgrade")
        offered = str(environ.get("HTTP_SEC_WEBSOCKET_PROTOCOL", ""))
        protocols = tuple(p.strip() for p in offered.split(",") if p.strip())
        return cls(environ, protocols)


def not_an_upgrade() -> ClientFault:
    """What a plain HTTP request to the realtime path is told."""
    return ClientFault(
        "This is a WebSocket endpoint. Connect with ws:// or wss:// and the headers "
        "'Connection: Upgrade' and 'Upgrade: websocket'.",
        status=426,
        code="upgrade_required",
        headers={"Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
    )


def _has_token(header: object, token: str) -> bool:
    return token in (part.strip().lower() for part in str(header or "").split(","))


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
