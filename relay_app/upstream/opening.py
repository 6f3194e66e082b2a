"""Opening: our half of the WebSocket opening handshake. Pure: values in, bytes out, and back.

The rule: only a 101 is judged here, by everything RFC 6455 section 4.1 asks of it. Every session
begins with one, and h11's way to it is a tenth of what a session costs to open. Any other answer
is HTTP, with a body perhaps, and no business of this module.
"""

import re
from functools import lru_cache

from wsproto.utilities import RemoteProtocolError, generate_accept_token

from relay_app.upstream.dialects import UpstreamRequest

__all__ = ["accepted", "ask", "is_switch"]

_SWITCH = re.compile(rb"HTTP/1\.1 101(?: [^\x00\r\n\f\v]*)?\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_FIELD = re.compile(rb"([-!#$%&'*+.^_`|~0-9a-zA-Z]+):([^\x00\r\n\f\v]*)")
_NOT_OFFERED = {b"sec-websocket-protocol": "subprotocol", b"sec-websocket-extensions": "extension"}
_UNSENDABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def ask(request: UpstreamRequest, key: bytes) -> bytes:
    """The request; ``key`` is its Sec-WebSocket-Key. Raises ValueError for a value that would
    break out of its line, without repeating it."""
    lines = [f"{name}: {value}" for name, value in request.headers]
    if " " in request.target or _UNSENDABLE.search("".join((request.target, *lines))):
        raise ValueError("a space in the target, or a control character, of an upstream's request")
    return b"".join(
        (
            b"GET ", request.target.encode("ascii"), b" HTTP/1.1\r\n"
            b"Host: ", _host(request.authority), b"\r\n"
            b"Upgrade: websocket\r\n"
            b"Connection: Upgrade\r\n"
            b"Sec-WebSocket-Key: ", key, b"\r\n"
            b"Sec-WebSocket-Version: 13\r\n",
            *(line.encode() + b"\r\n" for line in lines),
            b"\r\n",
        )
    )  # fmt: skip


@lru_cache(maxsize=64)
def _host(authority: str) -> bytes:
    # Of a handful of upstreams, by a codec in Python.
    return authority.encode("idna")


def is_switch(head: bytes) -> bool:
    """Whether an answer's ``head`` says 101, in HTTP/1.1."""
    return _SWITCH.match(head) is not None


def accepted(head: bytes, key: bytes) -> dict[bytes, bytes]:
    """The header fields of a 101, names in lower case. Raises RemoteProtocolError if it is no
    answer to ``key``; we offer neither subprotocols nor extensions, so none can be selected."""
    fields = {}
    lines = _FOLD.sub(b" ", head.partition(b"\n")[2])
    for line in _LINE_END.split(lines)[:-2]:  # behind the last stand two ends
        field = _FIELD.fullmatch(line)
        if field is None:
            raise RemoteProtocolError("Bad HTTP message")
        fields[field[1].lower()] = field[2].strip(b" \t")
    tokens = fields.get(b"connection", b"").lower().split(b",")
    if b"upgrade" not in (token.strip() for token in tokens):
        raise RemoteProtocolError("Missing header, 'Connection: Upgrade'")
    if fields.get(b"upgrade", b"").lower() != b"websocket":
        raise RemoteProtocolError("Missing header, 'Upgrade: websocket'")
    if fields.get(b"sec-websocket-accept") != generate_accept_token(key):
        raise RemoteProtocolError("Bad accept token")
    for name, what in _NOT_OFFERED.items():
        if name in fields:
            raise RemoteProtocolError(f"unrecognized {what} {fields[name].decode('latin-1')}")
    return fields
