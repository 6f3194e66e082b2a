"""Whose fault it is: the client's, the upstream's, or ours.

The rule: whatever ends a request or a session is one of these, so every place that has to
answer finds the HTTP status (before the 101), the close code (after it) and the OpenAI-shaped
body on the error itself, and no other module decides them again.

HTTP statuses and OpenAI error types follow what api.openai.com answers; close codes follow
RFC 6455 section 7.4.1.
"""

from collections.abc import Mapping
from typing import Any

__all__ = ["ClientFault", "Fault", "RelayFault", "UpstreamFault", "close_reason"]

MAX_CLOSE_REASON_BYTES = 123
"""RFC 6455 section 5.5: a control frame carries at most 125 bytes, two of them the code."""


class Fault(Exception):
    """Something that ends a request or a session, with what to tell the other party.

    ``status`` is the HTTP status used before the 101, ``close_code`` the WebSocket close code
    used after it. ``headers`` go out with the HTTP answer. ``by`` says whose fault it is, in logs
    and metrics, where a status alone does not: a 401 may be a client's key, or ours upstream.
    """

    by = "relay"
    status = 500
    close_code = 1011
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        status: int | None = None,
        close_code: int | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        if status is not None:
            self.status = status
        if close_code is not None:
            self.close_code = close_code
        if type is not None:
            self.type = type

    def body(self) -> dict[str, Any]:
        """The OpenAI-shaped error object: ``{"error": {message, type, code, param}}``."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "code": self.code,
                "param": self.param,
            }
        }

    def event(self) -> dict[str, Any]:
        """The same as a realtime server event, for a session that is already open."""
        return {"type": "error", **self.body()}


class ClientFault(Fault):
    """The client asked for something it may not have, or broke the protocol."""

    by = "client"
    status = 400
    close_code = 1008
    type = "invalid_request_error"


class UpstreamFault(Fault):
    """The provider refused, vanished, or broke the protocol.

    ``answered`` is the HTTP status with which it refused, None if there was none; ``tried`` says
    which upstreams were asked, and what came of it.
    """

    by = "upstream"
    status = 502
    close_code = 1011
    type = "server_error"
    answered: int | None = None
    tried: str = ""


class RelayFault(Fault):
    """We cannot do our part: full, draining, or broken."""

    status = 503
    close_code = 1011
    type = "server_error"


def close_reason(text: str) -> bytes:
    """``text`` as UTF-8, cut to the 123 bytes of a close frame at a character boundary."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= MAX_CLOSE_REASON_BYTES:
        return encoded
    return encoded[:MAX_CLOSE_REASON_BYTES].decode("utf-8", "ignore").encode()
