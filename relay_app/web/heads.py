"""Heads: the connections that have not said yet what they want.

The rule: each has so many seconds for its TLS handshake and its whole request head together,
however slowly it sends; and where connections fill a worker, the one that has been silent longest
makes room for the newest.
"""

from typing import Any

import gevent

__all__ = ["Heads", "Overdue"]


class Overdue(gevent.Timeout):
    """Raised in the greenlet of a connection that took too long, or has to make room."""


class Heads:
    """The greenlets that wait for a head, the oldest first.

    Memory: an entry a connection, of which there are as many as the server accepts.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._waiting: dict[Any, Overdue] = {}

    def __contains__(self, greenlet: object) -> bool:
        return greenlet in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, seconds: float | None = None) -> None:
        """Whoever calls this waits for a head from now on; Overdue is raised in it in time."""
        overdue = Overdue(self.seconds if seconds is None else seconds)
        self._waiting[gevent.getcurrent()] = overdue
        overdue.start()

    def end(self) -> None:
        """Whoever calls this has its head, or wants it no more."""
        overdue = self._waiting.pop(gevent.getcurrent(), None)
        if overdue is not None:
            overdue.close()

    def make_room(self) -> None:
        """Gives up the oldest, unless it is the only one. Never blocks."""
        if len(self._waiting) > 1:
            oldest = next(iter(self._waiting))
            gevent.get_hub().loop.run_callback(self._give_up, oldest)

    def give_up(self) -> None:
        """Gives up all. Never blocks."""
        for greenlet in self._waiting:
            gevent.get_hub().loop.run_callback(self._give_up, greenlet)

    def _give_up(self, greenlet: Any) -> None:
        # Not killed from afar: by then its head might have come, and a session be running in it.
        overdue = self._waiting.pop(greenlet, None)
        if overdue is not None:
            overdue.close()
            greenlet.throw(overdue)
