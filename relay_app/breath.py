"""Breath: work on the hub, in pieces between which everybody else has a turn.

The rule: what is under way is heard by people, and a piece is short beside that.
"""

from time import perf_counter
from typing import Final

from gevent.hub import get_hub

__all__ = ["Breath", "give_way"]

HOLD_SECONDS: Final = 0.0002
"""As long as three or four messages take that come alone."""

BEHIND_SOCKETS: Final = -1
"""A priority of libev's: of all that it finds in one look, sockets are seen to first."""


def give_way() -> None:
    """Comes back when the hub has looked once for what has come in, and has forwarded it.

    ``gevent.sleep(0)`` may come back before it has looked, and a sleep that is shorter than a look
    before what this found is seen to. (So may this on libev by way of cffi, which nobody gets who
    has not asked for it: then nothing is lost but the way that was to be given.)
    """
    hub = get_hub()
    hub.wait(hub.loop.timer(0, priority=BEHIND_SOCKETS))


class Breath:
    """For one piece of work that begins now."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = perf_counter()

    def take(self) -> None:
        """Lets the others have their turn, if the hub was held for long enough."""
        if perf_counter() - self._since >= HOLD_SECONDS:
            give_way()
            self._since = perf_counter()
