"""LateClock: the wall clock for what cannot be undone, as the least that it has told for a day.

The rule: a clock that is set back is believed at once, one that is set forward after a day in which
nobody has set it back. One that is set wrong is noticed sooner: by its operator, or by NTP.
"""

import time
from collections.abc import Callable
from typing import Final

__all__ = ["LateClock"]

DAY_SECONDS: Final = 86_400.0


class LateClock:
    """Called, it tells seconds since the epoch. What it remembers is one figure a call and day.

    ``timer`` is monotonic. What was set before the first call is not known to be wrong.
    """

    def __init__(
        self, clock: Callable[[], float], timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._timer = timer
        self._ahead: dict[float, float] = {}
        """Of the wall clock before the timer, by the timer."""

    def __call__(self) -> float:
        now = self._timer()
        self._ahead = {at: by for at, by in self._ahead.items() if now - at < DAY_SECONDS}
        self._ahead[now] = self._clock() - now
        return now + min(self._ahead.values())
