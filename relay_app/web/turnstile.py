"""Turnstile: how often one client's address may ask.

The rule: an address is a bucket that holds a minute's requests and is refilled evenly, so a client
that was quiet may open all of its sessions at once. Of IPv6 a bucket is a /64, for that is what one
household or host is given. What is known is bounded; who was quiet longest is forgotten first.
"""

import ipaddress
import time
from collections.abc import Callable
from math import ceil

__all__ = ["Turnstile"]

MAX_ADDRESSES = 10_000
"""About 3 MB. Who has more addresses at hand is for a firewall to stop."""
IPV6_PREFIX = 64


class Turnstile:
    """Buckets of ``per_minute`` requests."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def ask(self, address: str) -> int:
        """Lets a request of ``address`` through, 0, or says in how many seconds there is room."""
        now = self._clock()
        name = _bucket(address)
        left, then = self._buckets.pop(name, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - then) * self._per_minute / 60)
        passes = left >= 1
        self._buckets[name] = (left - 1 if passes else left), now
        if len(self._buckets) > MAX_ADDRESSES:
            del self._buckets[next(iter(self._buckets))]
        return 0 if passes else max(1, ceil(round((1 - left) * 60 / self._per_minute, 3)))


def _bucket(address: str) -> str:
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address, IPV6_PREFIX), strict=False).network_address)
