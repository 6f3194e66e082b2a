"""How far estimates are from reports, in numbers that can be added up.

The rule: the error of a unit is relative to what was reported of its kind. Kinds and steps are
few and fixed, so that this is a handful of integers however many units went by.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from math import inf
from operator import attrgetter
from typing import Final

from relay_app.meter.usage import Usage

__all__ = ["KINDS", "STEPS", "Drift", "relative_errors"]

KINDS: Final = (
    "input_text",
    "input_audio",
    "input_image",
    "output_text",
    "output_audio",
    "transcription_seconds",
)
STEPS: Final[tuple[float, ...]] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Upper ends of what an error counts under; beyond the last it is "more"."""

MORE: Final = "more"

_NAMES: Final = tuple(k if k.endswith("seconds") else f"{k}_tokens" for k in KINDS)
_counts = attrgetter(*_NAMES)
_REASONED: Final = KINDS.index("output_text")

_LABELS: Final = (*map(str, STEPS), MORE)


def relative_errors(estimate: Mapping[str, float], usage: Usage) -> dict[str, float]:
    """The error by kind: +0.1 is a tenth too much. Kinds with no figure on either side are left
    out; one that was estimated and reported as nothing is wrong by infinity.

    Reasoning is left out of the output text: nobody can see it, so nobody can estimate it.
    """
    return dict(_errors((estimate.get(name, 0) for name in _NAMES), usage))


def _errors(guesses: Iterable[float], usage: Usage) -> list[tuple[str, float]]:
    reported = list(_counts(usage))
    reported[_REASONED] -= usage.reasoning_tokens
    return [
        (kind, (guessed - said) / said if said else inf)
        for kind, guessed, said in zip(KINDS, guesses, reported, strict=True)
        if said or guessed
    ]


AT_ONCE: Final = 16
"""So many units are counted together: what one takes by itself is mostly fetching the way to it."""


class Drift:
    """Counts of units by kind and by step of the error: ``("output_audio", "0.05")``."""

    __slots__ = ("_counts", "_uncounted")

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str], int] = {}
        self._uncounted: list[tuple[Usage, Usage]] = []

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """All so far."""
        if self._uncounted:
            self._count()
        return self._counts

    def add(self, estimate: Usage, usage: Usage) -> None:
        """A unit was reported. If there was nothing to estimate from, it counts nowhere."""
        self._uncounted.append((estimate, usage))
        if len(self._uncounted) == AT_ONCE:
            self._count()

    def _count(self) -> None:
        counts = self._counts
        for estimate, usage in self._uncounted:
            for kind, error in _errors(_counts(estimate), usage) if estimate else ():
                named = kind, _LABELS[bisect_left(STEPS, abs(error))]
                counts[named] = counts.get(named, 0) + 1
        self._uncounted.clear()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Drift) and self.counts == other.counts

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __add__(self, other: "Drift") -> "Drift":
        if not other.counts:
            return self
        both = Drift()
        counts = both._counts = dict(self.counts)
        for key, count in other.counts.items():
            counts[key] = counts.get(key, 0) + count
        return both
