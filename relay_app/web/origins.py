"""Origins: the web pages from which a browser may connect.

The rule: only browsers send an Origin, and only they are asked for it. A page that may not gets
403 before anything else is looked at, for a browser shows every page's requests to every server.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from relay_app.errors import ClientFault

__all__ = ["check_origin"]

_NO_HOST = frozenset("/@:?#\\")
"""What ends a host, or comes in front of one."""
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_origin(environ: Mapping[str, Any], allowed: Sequence[str] | None) -> None:
    """Raises ClientFault 403 for an Origin that is not ``allowed``: ``*``, ``null``, or
    ``scheme://host[:port]`` in lower case, where ``*.`` in front of a host stands for all below it.

    With None those of this machine are, whatever their port.
    """
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        return
    asked = _plain(str(origin).strip().lower())
    if allowed is None:
        if _is_here(asked):
            return
    elif any(pattern == "*" or _matches(asked, _plain(pattern)) for pattern in allowed):
        return
    raise ClientFault(
        "Pages of this origin may not connect to this relay.",
        status=403,
        code="origin_not_allowed",
    )


def _matches(origin: str, pattern: str) -> bool:
    scheme, star, host = pattern.partition("://*.")
    if not star:
        return origin == pattern
    begins = f"{scheme}://"
    below = origin[len(begins) :].removesuffix(f".{host}")
    return origin.startswith(begins) and origin.endswith(f".{host}") and not _NO_HOST & {*below}


def _plain(origin: str) -> str:
    """Without the port that its scheme has anyway, as browsers send it."""
    scheme = origin.partition("://")[0]
    return origin.removesuffix(_DEFAULT_PORTS.get(scheme, "\0"))


def _is_here(origin: str) -> bool:
    try:
        host = urlsplit(origin).hostname or ""
        return host == "localhost" or host.endswith(".localhost") or _is_loopback(host)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
