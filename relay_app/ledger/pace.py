"""Pace: how fast a session spends, and so how much it should hold of its key's budget.

The rule: enough for the next seconds of its answer, and never a large part of what is left, so
that many sessions can share the end of a small budget; an idle session holds next to nothing.
"""

from math import ceil
from typing import Final

__all__ = ["Pace"]

IDLE_MICROUSD: Final = 10_000
"""What an idle session holds at most: a cent, or a hundredth of a budget below a dollar."""
AHEAD_SECONDS: Final = 20.0
"""How much of its answer a running session holds, at the pace at which it comes."""
SHARE: Final = 8
"""A slice is at most this part of what is left..."""
LEAST_SECONDS: Final = 1.0
"""... but never less than this much of an answer, lest the end of a budget be a call a delta."""
MEASURED_SECONDS: Final = 0.1
"""Over how long the pace of an answer is measured at least."""


class Pace:
    """Of one session. ``as_heard`` is what a second of an answer costs, in micro-dollars, at the
    pace at which it is heard; ``now`` is by a monotonic clock."""

    def __init__(self, as_heard: float, now: float) -> None:
        self._as_heard = as_heard
        self._running = 0.0
        self._grown = 0.0
        self._since = now
        self._per_second = 0.0

    def follow(self, running: float, now: float) -> None:
        """The open responses have cost ``running`` so far. What one reads at its begin is not
        counted: it is spent at once."""
        if running > self._running > 0:
            self._grown += running - self._running
        elif running > 0 and not self._running:
            self._since = now
        self._running = running

    def measure(self, now: float) -> None:
        """Takes what was spent since the last time for the pace from now on."""
        if now - self._since >= MEASURED_SECONDS:
            self._per_second = self._grown / (now - self._since)
            self._grown, self._since = 0.0, now

    def wish(self, budget: int, left: float, need: float) -> int:
        """Micro-dollars to hold beyond what is spent: of a ``budget`` of which ``left`` are left,
        with ``need`` for the input of a response that is about to begin."""
        idle = min(IDLE_MICROUSD, max(1, budget // 100))
        if not self._running and not need:
            return idle
        per_second = max(self._per_second, self._as_heard)
        share = max(per_second * LEAST_SECONDS, left / SHARE)
        return max(idle, ceil(need + min(per_second * AHEAD_SECONDS, share)))
