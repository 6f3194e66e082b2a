"""Rests: which upstreams and which of their keys are left alone for a while, and how long. Pure.

The rules:

1. A rest says who is asked last, never who is not asked: where all rest, one that may be well
   again is a better answer than none.
2. It doubles with each failure in a row, is never shorter than a provider wants, and never
   longer than ``MOST_SECONDS``. A share of chance goes on top, lest all workers return at once.
3. When it is over one session tries, and the others wait for what becomes of it.

Memory: an entry for each key, and one for each upstream.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom
from typing import Final

from relay_app.upstream.blame import Blame

__all__ = ["ALL_KEYS", "Rests"]

ALL_KEYS: Final = -1
"""In place of a key: the upstream itself."""
MOST_SECONDS: Final = 300.0
TRIAL_SECONDS: Final = 10.0
"""How long others wait for the one that tries; a dial rarely takes longer (``dial_seconds``)."""
CHANCE: Final = 0.2
_SPANS: Final = {
    # first, and at most unless the provider wants more
    Blame.KEY: (30.0, MOST_SECONDS),  # somebody has to pay, or to change the settings
    Blame.LIMIT: (5.0, 60.0),
    Blame.UPSTREAM: (2.0, 60.0),
}

_chance: Final = SystemRandom()


@dataclass(slots=True)
class _Rest:
    until: float = 0.0
    failures: int = 0
    on_trial: bool = False
    late: bool = False
    """The failure came after a 101, so another 101 says nothing yet."""


class Rests:
    """``clock`` is monotonic; ``between`` gives a number between two."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        between: Callable[[float, float], float] = _chance.uniform,
    ) -> None:
        self._clock = clock
        self._between = between
        self._rests: dict[tuple[str, int], _Rest] = {}

    def left(self, upstream: str, key: int) -> float:
        """For how many seconds a key is still left alone, for its own sake or its upstream's."""
        if not self._rests:
            return 0.0
        both = (self._rests.get((upstream, of)) for of in (key, ALL_KEYS))
        return max(0.0, *(rest.until - self._clock() if rest else 0.0 for rest in both))

    def resting(self, upstream: str) -> int:
        """How many entries there are of an upstream: what failed, and has not worked since."""
        return sum(name == upstream for name, _ in self._rests)

    def trying(self, upstream: str, key: int) -> None:
        """A key is asked now: if it has rested, others wait for what becomes of it."""
        now = self._clock()
        for of in (key, ALL_KEYS):
            rest = self._rests.get((upstream, of))
            if rest is not None and rest.until <= now:
                rest.until = now + TRIAL_SECONDS
                rest.on_trial = True

    def failed(
        self,
        upstream: str,
        key: int,
        due_to: Blame,
        *,
        asked_seconds: float | None = None,
        late: bool = False,
    ) -> tuple[float, bool]:
        """Has a key, or ``ALL_KEYS``, rest from now on; returns for how many seconds, and whether
        that is news.

        ``asked_seconds`` is what the provider asked for. ``due_to`` is LIMIT, UPSTREAM or KEY.
        ``late`` says that it had accepted before it failed.
        """
        rest = self._rests.setdefault((upstream, key), _Rest())
        now = self._clock()
        # Of many that were asked at once and failed together the first begins the rest.
        in_a_row = rest.on_trial or rest.until <= now
        first, most = _SPANS[due_to]
        seconds = min(most, first * 2.0 ** min(rest.failures, 10)) if in_a_row else 0.0
        seconds = min(max(seconds, asked_seconds or 0.0), MOST_SECONDS)
        seconds *= 1 + self._between(0, CHANCE)
        if in_a_row:
            rest.failures += 1
            rest.until = 0.0
        rest.until = max(rest.until, now + seconds)
        rest.on_trial = False
        rest.late = late
        return rest.until - now, in_a_row

    def accepted(self, upstream: str, key: int) -> None:
        """A key was taken by its upstream."""
        for of in (key, ALL_KEYS):
            self._answered(upstream, of)

    def answered(self, upstream: str) -> None:
        """An upstream answered, be it with a refusal: what it had is over."""
        self._answered(upstream, ALL_KEYS)

    def proved(self, upstream: str, key: int) -> None:
        """A session with that key has come to work."""
        for of in (key, ALL_KEYS):
            self._rests.pop((upstream, of), None)

    def _answered(self, upstream: str, key: int) -> None:
        rest = self._rests.get((upstream, key))
        if rest is None:
            return
        if rest.late:
            rest.until = 0.0
        else:
            del self._rests[upstream, key]
