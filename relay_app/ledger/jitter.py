"""Chance for timers, lest all workers do the same at the same moment.

The rule: never the global generator, which a host application may have seeded for its own ends.
"""

from random import SystemRandom
from typing import Final

__all__ = ["between"]

_chance: Final = SystemRandom()


def between(low: float, high: float) -> float:
    """A number from ``low`` to ``high``, any as likely as any other."""
    return _chance.uniform(low, high)
