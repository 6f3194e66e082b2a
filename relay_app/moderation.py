"""Moderation: a hub with much to do looks for what has come in at most 2,500 times a second.

The rule: a hub that has time looks at once, and amid longer work too. A look, a read and a send
take what they take however little there is, and a stream that is read as fast as it comes is read
in the smallest pieces. While the hub is busy anyway, a moment between two looks makes them fewer
and the pieces larger, as the interrupts of network cards are moderated for the same reason.
"""

import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Final

from gevent.hub import get_hub

from relay_app.breath import give_way

__all__ = ["Moderation"]

LOOK_SECONDS: Final = 0.0004
"""From one look to the next, while the hub is busy. Its work counts, so a hub that is always at
work does not wait at all; and what passes through one that is busy waits for others anyway, for
several times as long."""

JUDGED_SECONDS: Final = 0.25
"""For so long at least it is watched before it is judged."""

BUSY: Final = 0.5
"""At work for that much of the time, the hub is busy,"""
CALM: Final = 0.3
"""until it is at work for less than that."""

Pace = Callable[[float], None]
"""Sets how many seconds apart the hub's looks are at least."""


class Moderation:
    """Of the hub that it is first asked to look at. ``on`` says whether the hub is moderated."""

    def __init__(
        self,
        pace: Pace | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        self.on = False
        self._pace = pace
        self._clock = clock
        self._worked = worked
        self._before: tuple[float, float] | None = None
        self._due = float("-inf")

    def look(self) -> None:
        """Decides by what was done since the last time; to be called each second or so, on the
        hub's own thread. Never blocks."""
        clock = self._clock()
        if clock < self._due:
            return
        self._due = clock + JUDGED_SECONDS
        now = clock, self._worked()
        before, self._before = self._before, now
        if self._pace is None:
            # Already: it takes 4 ms once, and now hardly anybody is here yet.
            self._pace = pace_of(get_hub().loop)
        if before is None or now[0] <= before[0]:
            return
        share = (now[1] - before[1]) / (now[0] - before[0])
        if share >= BUSY:
            self._turn(True)
        elif share < CALM:
            self._turn(False)

    def give_way(self) -> None:
        """Lets what has come in meanwhile be forwarded first, on a hub that has time for it: on
        one that is busy, to look once more takes longer than the little there is to be found.

        Who has much to do comes by often, so while somebody looks regularly this is where it is
        noticed first."""
        if self._before is not None and self._clock() >= self._due:
            self.look()
        if not self.on:
            give_way()

    def stop(self) -> None:
        """Nobody is going to look for a while."""
        self._before = None
        self._due = float("-inf")
        self._turn(False)

    def _turn(self, on: bool) -> None:
        if on != self.on and self._pace is not None:
            self._pace(LOOK_SECONDS if on else 0.0)
            self.on = on


def pace_of(loop: Any) -> Pace:
    """libev's ``ev_set_io_collect_interval`` for ``loop``, which gevent has no name for; nothing at
    all where the loop is another, or Python cannot call it."""
    try:
        return _of_libev(loop)
    except (ImportError, AttributeError, OSError, TypeError):
        return _leave


def _of_libev(loop: Any) -> Pace:
    # Here, because not every import of this package is that of a relay.
    import ctypes
    import importlib

    compiled: ModuleType = importlib.import_module(type(loop).__module__)
    found = ctypes.CDLL(compiled.__file__).ev_set_io_collect_interval
    found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_double), None
    return partial(found, loop.ptr)


def _leave(seconds: float) -> None:
    """As it is."""
