"""Peers: what a user would put between clients and a provider, each started the same way.

The rule: a peer that is not installed says how to install it and is skipped.
"""

from bench.peers.base import Missing, Peer, Running
from bench.peers.plain import Direct, HAProxy, Nginx
from bench.peers.python import LiteLLM, Naive, Relay

__all__ = ["DEFAULT_PEERS", "ONLY_IN", "PEERS", "Missing", "Peer", "Running"]

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Direct(),
        Nginx("nginx"),
        Nginx("nginx-large", large=True),
        HAProxy("haproxy"),
        HAProxy("haproxy-large", large=True),
        LiteLLM(),
        Naive(),
        Relay("relay"),
        Relay("relay-pure", pure=True),
        Relay("relay-async", durability="async"),
        Relay("relay-2-workers", workers=2),
    )
}
"""By name, in the order of the table."""

ONLY_IN = {
    "relay-pure": {"closed-loop"},
    "relay-async": set[str](),
    "relay-2-workers": set[str](),
}
"""Variants of ours: the scenarios they take part in unless they are named. Some scenarios start
one that they need themselves."""

DEFAULT_PEERS = [name for name in PEERS if ONLY_IN.get(name) != set()]
