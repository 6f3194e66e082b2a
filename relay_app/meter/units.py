"""Which units of a session run, and which have ended: each is counted once, in bounded memory.

The rule: at most :data:`MAX_OPEN` running and :data:`MAX_ENDED` ended units are remembered, the
newest of each. An id takes at most 256 characters, so a session holds well under 2 MB here
whatever its provider does, and a few kB in life.
"""

from typing import Final, NamedTuple

from relay_app.meter.usage import Source, Status, Usage
from relay_app.meter.value import maker

__all__ = ["UNNAMED", "Ended", "Units", "made_ended"]

MAX_OPEN: Final = 1024
"""Providers run one response at a time, and a few out of band."""

MAX_ENDED: Final = 32
"""A repeat comes within seconds, if ever: a cancel race, a second final transcript. One that
comes later than this makes the same record id again, which stores take once. All of an hour would
be what a session grows by."""

UNNAMED: Final = "unnamed:"
"""What the ids begin with that we give to units whose provider did not name them."""


class Ended(NamedTuple):
    """What was recorded of an ended unit."""

    started_at: float
    usage: Usage
    source: Source
    status: Status
    estimate: Usage = Usage()


made_ended: Final = maker(Ended)


class Units:
    """Running units with their start (epoch seconds), ended ones with what was recorded."""

    __slots__ = ("_ended", "open")

    def __init__(self) -> None:
        self.open: dict[str, float] = {}
        self._ended: dict[str, Ended] = {}

    def begin(self, unit_id: str, at: float) -> bool:
        """A unit starts; whether it runs now, and has not ended before."""
        if unit_id in self._ended:
            return False
        self.open.setdefault(unit_id, at)
        return True

    @property
    def crowded(self) -> bool:
        """Whether one more runs than we remember: drop the :meth:`oldest`."""
        return len(self.open) > MAX_OPEN

    def oldest(self) -> str:
        """The unit that runs longest."""
        return next(iter(self.open))

    def started(self, unit_id: str, default: float) -> float:
        """When a unit that ends began. An unnamed one ends the oldest unnamed that runs."""
        if unit_id in self.open or not unit_id.startswith(UNNAMED) or unit_id in self._ended:
            return self.open.pop(unit_id, default)
        unnamed = next((other for other in self.open if other.startswith(UNNAMED)), unit_id)
        return self.open.pop(unnamed, default)

    def ended(self, unit_id: str) -> Ended | None:
        """What was recorded of a unit, if it has ended and is still remembered."""
        return self._ended.get(unit_id)

    def end(self, unit_id: str, ended: Ended) -> None:
        """A unit ended, or its record is replaced. It becomes the newest of those remembered."""
        self.open.pop(unit_id, None)
        self._ended.pop(unit_id, None)
        self._ended[unit_id] = ended
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
