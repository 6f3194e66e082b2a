"""Breath: long work on the hub, in pieces between which everybody else has a turn.

The rule: what is under way is heard by people, and a piece is short beside that.
"""

from time import perf_counter
from typing import Final

import gevent

__all__ = ["Breath"]

HOLD_SECONDS: Final = 0.001
PAUSE_SECONDS: Final = 0.001
"""Not 0: gevent may come back from that before it has looked whether there is anything to read."""


class Breath:
    """For one piece of work that begins now."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = perf_counter()

    def take(self) -> None:
        """Lets the others have their turn, if the hub was held for long enough."""
        if perf_counter() - self._since >= HOLD_SECONDS:
            gevent.sleep(PAUSE_SECONDS)
            self._since = perf_counter()
