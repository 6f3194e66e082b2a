"""Agenda: what is due when, and the earliest of it. Pure.

The rule: a thing is on it once, at the earliest moment it was put there for.
"""

from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

__all__ = ["Agenda"]

T = TypeVar("T")


class Agenda(Generic[T]):
    """Things (compared by identity) by the moment at which they are due."""

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._order = count()

    def put(self, thing: T, due: float) -> bool:
        """``thing`` is due at ``due``, unless it is earlier already; whether that is news."""
        if self._due.get(id(thing), due + 1) <= due:
            return False
        self._due[id(thing)] = due
        heappush(self._heap, (due, next(self._order), thing))
        return True

    def take(self, now: float, most: int) -> list[T]:
        """Up to ``most`` things that are due at ``now``, the earliest first; they are off it."""
        taken: list[T] = []
        while len(taken) < most and (due := self.next_due()) is not None and due <= now:
            _, _, thing = heappop(self._heap)
            del self._due[id(thing)]
            taken.append(thing)
        return taken

    def next_due(self) -> float | None:
        """When the earliest thing is due; None if there is nothing."""
        while self._heap:
            due, _, thing = self._heap[0]
            if self._due.get(id(thing)) == due:
                return due
            heappop(self._heap)  # it was put forward since, and stands before this
        return None
