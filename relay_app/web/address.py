"""The client's address: the peer's, or what a trusted balancer says it is."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

__all__ = ["client_address"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT = re.compile(r"([0-9.]+):[0-9]+|\[([0-9a-fA-F:.]+)\](?::[0-9]+)?")
"""Some balancers, Azure's among them, write the port too."""
_LOCAL = ipaddress.IPv4Address("127.0.0.1")


def client_address(environ: Mapping[str, Any], trusted: Sequence[str]) -> str:
    """The address of the client behind ``environ``, "-" if nobody knows.

    X-Forwarded-For is read from its end, and only as far as its entries were written by hosts
    in ``trusted`` (networks in CIDR form): what an untrusted client claims stays unread. A peer
    on a Unix socket has no address and counts as 127.0.0.1.
    """
    peer = str(environ.get("REMOTE_ADDR", ""))
    address = _parsed(peer)
    shown = str(address) if address is not None else "-"
    forwarded = str(environ.get("HTTP_X_FORWARDED_FOR", ""))
    if not forwarded:
        return shown
    networks = [_network(network) for network in trusted]
    writer = address if peer else _LOCAL
    for entry in reversed(forwarded.split(",")):
        if not entry.strip():
            continue
        claimed = _parsed(entry.strip())
        if claimed is None or not any(writer in network for network in networks if writer):
            break
        writer, shown = claimed, str(claimed)
    return shown


@lru_cache(maxsize=256)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


@lru_cache(maxsize=256)  # balancers, and who comes again
def _parsed(text: str) -> Address | None:
    with_port = _WITH_PORT.fullmatch(text)
    try:
        address = ipaddress.ip_address((with_port[1] or with_port[2]) if with_port else text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None  # it may hold any text
        return address.ipv4_mapped or address
    return address
