"""Proxy: the way to an upstream through an HTTP proxy, by CONNECT (RFC 9110 section 9.3.6).

The rules: the proxy resolves the upstream's name, and sees nothing of what goes through the
tunnel to a wss upstream; not a byte behind its answer is taken from the tunnel; what goes wrong
here is told as the proxy's doing, without its address and its credentials.
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from gevent import socket

from relay_app import __version__

__all__ = ["Proxy", "ProxyRefused", "open_tunnel"]

MAX_HEAD_BYTES = 16_384
MAX_HEADS = 8
"""Of which all but the last may be interim (RFC 9110 section 15.2)."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_LONGEST_END = 4


class ProxyRefused(Exception):
    """The proxy did not open the tunnel; the text completes "The proxy of ..."."""

    def __init__(self, what: str, code: str) -> None:
        super().__init__(what)
        self.what = what
        self.code = code


@dataclass(frozen=True, slots=True)
class Proxy:
    """Where a proxy is, and what it is told about who we are: ``authorization``, or ""."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str) -> Self:
        """The proxy of a setting, ``http://user:password@host:port``."""
        parts = urlsplit(url)
        authorization = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = f"Basic {b64encode(pair.encode()).decode()}"
        return cls(parts.hostname or "", parts.port or 80, authorization)


def open_tunnel(sock: Any, proxy: Proxy, host: str, port: int) -> None:
    """Has ``proxy``, at the other end of ``sock``, connect it with ``host``.

    Raises ProxyRefused, and OSError if the connection breaks.
    """
    sock.sendall(_connect(proxy, host, port))
    status = 100
    for _ in range(MAX_HEADS):
        found = _STATUS.match(_read_head(sock))
        if found is None:
            raise ProxyRefused("answered no HTTP", "handshake")
        status = int(found[1])
        if status >= 200:
            break
    if status == 407:
        raise ProxyRefused("wants other credentials than it was given (407)", "refused")
    if not 200 <= status < 300:
        raise ProxyRefused(f"answered {status} to CONNECT", "refused")


def _connect(proxy: Proxy, host: str, port: int) -> bytes:
    name = f"[{host}]" if ":" in host else host
    lines = [
        f"CONNECT {name}:{port} HTTP/1.1",
        f"Host: {name}:{port}",
        f"User-Agent: relay_app/{__version__}",
        *([f"Proxy-Authorization: {proxy.authorization}"] if proxy.authorization else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _read_head(sock: Any) -> bytes:
    """One head, and of what came behind it nothing."""
    head = bytearray()
    while len(head) < MAX_HEAD_BYTES:
        # What is behind the head is TLS's or the upstream's, and has to stay in the kernel.
        seen = sock.recv(MAX_HEAD_BYTES - len(head), socket.MSG_PEEK)
        if not seen:
            raise ProxyRefused("closed before it answered", "closed")
        before = len(head)
        end = _END_OF_HEAD.search(head + seen, max(0, before - _LONGEST_END))
        head += sock.recv(len(seen) if end is None else end.end() - before)
        if end is not None:
            return bytes(head)
    raise ProxyRefused("sent an endless response head", "handshake")
