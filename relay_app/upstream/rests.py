"""Rests: which upstreams and which of their keys are left alone for a while, and how long. Pure.

The rules:

1. A rest says who is asked last, not who is not asked: where all rest, to ask is the only way to
   find out who is well again.
2. It doubles with each failure in a row, is never shorter than a provider wants, and never
   longer than ``MOST_SECONDS``. A share of chance goes on top, lest all workers return at once.
3. When it is over one session tries, and the others wait for what becomes of it.
4. What is learnt counts only against failures that were known when it was asked: of many sessions
   that begin at once the last to get through has not disproved the first that did not.

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
    failed_at: float = 0.0
    on_trial: bool = False
    late: bool = False
    """The failure came after a 101, so another 101 says nothing."""


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
        now = self._clock()
        until = max((rest.until for rest in self._both(upstream, key)), default=now)
        return max(0.0, until - now)

    def resting(self, upstream: str) -> int:
        """How many entries there are of an upstream: what failed, and has not worked since."""
        return sum(name == upstream for name, _ in self._rests)

    def trying(self, upstream: str, key: int) -> float:
        """A key is asked now, which is what is returned. If it has rested, others wait for what
        becomes of it."""
        now = self._clock()
        for rest in self._both(upstream, key):
            if rest.until <= now:
                rest.until = now + TRIAL_SECONDS
                rest.on_trial = True
        return now

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
        # Of many that were asked at once and failed together the first begins the rest; and who is
        # asked although it rests, because all do, does not fail anew.
        in_a_row = rest.on_trial or rest.until <= now
        first, most = _SPANS[due_to]
        seconds = min(most, first * 2.0 ** min(rest.failures, 10)) if in_a_row else 0.0
        seconds = min(max(seconds, asked_seconds or 0.0), MOST_SECONDS)
        seconds *= 1 + self._between(0, CHANCE)
        if in_a_row:
            rest.failures += 1
            rest.until = 0.0
        rest.until = max(rest.until, now + seconds)
        rest.failed_at = now
        rest.on_trial = False
        rest.late = late
        return rest.until - now, in_a_row

    def accepted(self, upstream: str, key: int, asked_at: float) -> None:
        """A key was taken by its upstream."""
        for of in (key, ALL_KEYS):
            self._disproved(upstream, of, asked_at)

    def answered(self, upstream: str, asked_at: float) -> None:
        """An upstream answered, be it with a refusal: whatever it had is over."""
        self._disproved(upstream, ALL_KEYS, asked_at)

    def proved(self, upstream: str, key: int, asked_at: float) -> None:
        """A session with that key has come to work."""
        for of in (key, ALL_KEYS):
            self._disproved(upstream, of, asked_at, late=True)

    def _disproved(self, upstream: str, key: int, asked_at: float, *, late: bool = False) -> None:
        rest = self._rests.get((upstream, key))
        if rest is not None and rest.failed_at <= asked_at and (late or not rest.late):
            del self._rests[upstream, key]

    def _both(self, upstream: str, key: int) -> list[_Rest]:
        """The rests that a key has to keep, its upstream's being one."""
        if not self._rests:
            return []
        found = (self._rests.get((upstream, of)) for of in (key, ALL_KEYS))
        return [rest for rest in found if rest is not None]
