"""The client's address: the peer's, or what a trusted balancer says it is."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["client_address"]


def client_address(environ: Mapping[str, Any], trusted: Sequence[str]) -> str:
    """The address of the client behind ``environ``.

    X-Forwarded-For is read from its end, and only as far as its entries were written by hosts
    in ``trusted`` (networks in CIDR form): what an untrusted client claims stays unread.
    """
    networks = [ipaddress.ip_network(network) for network in trusted]
    address = str(environ.get("REMOTE_ADDR", ""))
    forwarded = str(environ.get("HTTP_X_FORWARDED_FOR", "")).split(",")
    for claimed in reversed([entry.strip() for entry in forwarded if entry.strip()]):
        if not _is_in(address, networks) or _parsed(claimed) is None:
            break
        address = claimed
    return address or "-"


def _is_in(address: str, networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(address)
    except ValueError:
        return None
