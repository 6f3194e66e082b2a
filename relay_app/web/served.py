"""Served: the relay in an application, as whoever serves it finds it.

The rule: an application may have none, or hide it behind a middleware; then the defaults hold, and
nothing is counted.
"""

from typing import Any

from relay_app.settings import Server
from relay_app.web.heads import Heads

__all__ = ["count_overdue", "heads_for", "relay_in"]


def relay_in(application: Any) -> Any:
    """The relay in ``application``, None if there is none."""
    return getattr(application, "extensions", {}).get("relay_app")


def heads_for(application: Any) -> Heads:
    """What waits for the heads of requests to ``application``, as patient as its relay is."""
    relay = relay_in(application)
    return Heads((Server() if relay is None else relay.settings.server).handshake_seconds)


def count_overdue(application: Any, limit: str) -> None:
    """Counts a connection that was given up: waiting for its ``handshake``, or with its ``answer``
    not taken."""
    relay = relay_in(application)
    if relay is not None:
        relay.metrics.limit_refused(limit)
        if limit == "handshake":
            relay.metrics.refused("client", 408)
