"""Brings what the journal holds into the store: oldest first, in bounded batches.

The rule: a record leaves the journal only once the store has it. A store that fails is tried
again until it works, and whoever records meanwhile neither waits for it nor hears of it.
"""

import logging
from collections.abc import Callable
from time import monotonic

import gevent
from gevent.event import Event

from relay_app.ledger.backlog import Backlog
from relay_app.ledger.entries import best_of_each
from relay_app.ledger.stores.base import Store
from relay_app.ledger.writer import Writer

__all__ = ["Shipper"]

LOOK_SECONDS = 10.0
"""How often the folder is searched for files of workers that died."""

_log = logging.getLogger(__name__)


class Shipper:
    """One greenlet and one thread from ``backlog`` to ``store``, both on one hub."""

    def __init__(
        self,
        backlog: Backlog,
        store: Store,
        *,
        backoff: Callable[[int], float],
        clock: Callable[[], float],
    ) -> None:
        self.writer = Writer("store", store.write, waits="in the journal", clock=clock)
        self._backlog = backlog
        self._backoff = backoff
        self._clock = clock
        self._oldest_at: float | None = None
        self._leaving = False
        self._more = Event()
        self._hurry = Event()
        self._greenlet: gevent.Greenlet[..., None] | None = None

    @property
    def oldest_seconds(self) -> float:
        """How long ago the unit ended whose record has waited longest for the store; 0.0 if
        none waits. It counts across restarts."""
        if self._oldest_at is None or not self._backlog.unshipped_bytes:
            return 0.0
        return max(0.0, self._clock() - self._oldest_at)

    def start(self) -> None:
        """Begin, or begin again after having been killed."""
        if self._greenlet is None or self._greenlet.ready():
            self._greenlet = gevent.spawn(self._ship_forever)

    def wake(self) -> None:
        """There is more in the journal."""
        self._more.set()

    def finish(self, timeout: float) -> None:
        """Ship until nothing is left, the store fails, or ``timeout`` seconds are over."""
        if self._greenlet is None:
            return
        self._leaving = True
        self._more.set()
        self._hurry.set()
        self._greenlet.join(timeout)
        self._greenlet.kill()

    def _ship_forever(self) -> None:
        failures = 0
        looked = float("-inf")
        while True:
            self._more.clear()
            if monotonic() - looked >= LOOK_SECONDS and not self._leaving:
                looked = monotonic()
                self._look()
            if self._ship():
                failures = 0
            elif self._leaving:
                return
            elif self.writer.failing_since is None:
                self._more.wait(LOOK_SECONDS)
            else:
                failures += 1
                self._hurry.wait(self._backoff(failures))

    def _ship(self) -> bool:
        """Ship one batch; False if there was none, or the store fails."""
        batch = self.writer.call(self._backlog.read)
        if batch is None:
            self._oldest_at = None
            return False
        if batch.records:
            self._oldest_at = batch.records[0].ended_at
            if self.writer.write(best_of_each(batch.records)) is None:
                return False
        self.writer.call(self._backlog.shipped, batch)
        return True

    def _look(self) -> None:
        try:
            self.writer.call(self._backlog.adopt)
        except OSError as error:
            _log.error("the journal cannot be searched for files left behind: %s", error)
