"""The distribution of relative errors, in memory that does not grow with their number.

The rule: errors are sorted into bins a tenth of a percent wide, so a percentile is exact to
that; an error beyond all bins is "more than 1,000 %".
"""

from typing import Final

__all__ = ["MAX_ERROR", "Errors"]

BINS: Final = 10_000
BINS_PER_ONE: Final = 1000
MAX_ERROR: Final = BINS / BINS_PER_ONE


class Errors:
    """Relative errors of one kind of one model: how many, their mean, their percentiles."""

    __slots__ = ("_bins", "_sum", "count")

    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0
        self._bins: dict[int, int] = {}

    def add(self, error: float) -> None:
        """Takes one in; its sign shows in the mean, its size in the percentiles."""
        self.count += 1
        self._sum += max(-MAX_ERROR, min(MAX_ERROR, error))
        within = min(BINS, round(abs(min(MAX_ERROR, error)) * BINS_PER_ONE))
        self._bins[within] = self._bins.get(within, 0) + 1

    @property
    def mean(self) -> float:
        """With its sign: +0.1 is a tenth too much on the average. Each counts as 10 at most."""
        return self._sum / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """The size that so many percent of the errors do not exceed."""
        wanted, seen = self.count * percent / 100, 0
        for within in sorted(self._bins):
            seen += self._bins[within]
            if seen >= wanted:
                return within / BINS_PER_ONE
        return 0.0
