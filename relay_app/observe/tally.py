"""Tally: what went through, and can be added up.

The rule: adding makes a third; only who is making a sum of thousands writes into it.
"""

from dataclasses import dataclass, field, fields
from operator import add, attrgetter

from relay_app.meter.drift import Drift
from relay_app.meter.usage import Usage

__all__ = ["Tally"]


@dataclass(slots=True)
class Tally:
    """Counts of one session, or of many. ``sent`` is client to upstream, ``received`` back."""

    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    opaque_sent: int = 0
    opaque_received: int = 0
    unobserved: int = 0
    tap_drops: int = 0
    inexact_texts: int = 0
    usage: Usage = field(default_factory=Usage)
    drift: Drift = field(default_factory=Drift)

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*map(add, _counts(self), _counts(other)))


_counts = attrgetter(*(f.name for f in fields(Tally)))
