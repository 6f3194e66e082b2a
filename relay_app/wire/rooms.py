"""Room for large frames: one allowance of bytes that all Links of a worker share.

The rule: a reader takes room for a whole frame before it reads on, and gives it back when the
frame has been forwarded. It never holds one room while waiting for another, so the readers that
wait always wait for one that can finish. Frames up to :data:`SMALL_BYTES` need no room: they are
bounded by the read size of their Link.
"""

from collections import deque

from gevent.event import Event

__all__ = ["READ_BYTES", "SMALL_BYTES", "Rooms"]

SMALL_BYTES = 65_536

READ_BYTES = 65_536
"""How much is read at once, unless a large frame is coming in."""


class Rooms:
    """``limit_bytes`` of room, granted whole and in the order asked for."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0
        self._waiting: deque[tuple[int, Event]] = deque()

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def take(self, size: int) -> None:
        """Blocks the greenlet until ``size`` bytes are free.

        A frame larger than the whole allowance gets it when everything else was given back.
        """
        if not self._waiting and self._fits(size):
            self.taken_bytes += size
            return
        granted = Event()
        entry = (size, granted)
        self._waiting.append(entry)
        try:
            granted.wait()
        except BaseException:
            # Killed while waiting, or in the instant after the grant: neither may leak room.
            if granted.is_set():
                self.give_back(size)
            else:
                self._waiting.remove(entry)
                self._grant()
            raise

    def give_back(self, size: int) -> None:
        """Returns room that :meth:`take` granted."""
        self.taken_bytes -= size
        self._grant()

    def _grant(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, granted = self._waiting.popleft()
            self.taken_bytes += size
            granted.set()

    def _fits(self, size: int) -> bool:
        return not self.taken_bytes or self.taken_bytes + size <= self.limit_bytes
