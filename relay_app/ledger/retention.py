"""Records older than they are to be kept, forgotten.

The rules: only whole UTC days that ended before yesterday began are ever forgotten, so no unit of a
session that may still be open is; and it happens on a thread that no commit waits for.

What is forgotten is gone, and nobody knows that the clock is right. So one that was set forward is
believed a day later, and if it was wrong from the start, no more than ``MOST_DAYS`` of records go
at a time: the log has told before the next.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import gevent

from relay_app.ledger.chore import Chore
from relay_app.ledger.jitter import between
from relay_app.ledger.late_clock import LateClock
from relay_app.ledger.stores.base import Store, redact

__all__ = ["Retention", "first_day_kept"]

FIRST_SECONDS = 60.0
HOUR_SECONDS = 3_600.0
MOST_DAYS = 7
"""Behind the day of the oldest record: years of them are forgotten within days."""

_log = logging.getLogger(__name__)


def first_day_kept(days: int, now: float) -> str:
    """The UTC day that is ``days`` before that of ``now``: never later than yesterday."""
    return _day(now, -max(1, days))


def _day(moment: float, days: int) -> str:
    """The UTC day that is ``days`` after that of ``moment``."""
    return (datetime.fromtimestamp(moment, UTC) + timedelta(days=days)).date().isoformat()


def _pause(first: bool) -> float:
    """Seconds to wait, at random, for the workers of a host start and would ask together."""
    return between(0, FIRST_SECONDS) if first else HOUR_SECONDS * between(0.75, 1.25)


class Retention:
    """Asks ``store`` once an hour to forget what ended more than ``days`` days before today.

    Every worker does, since none knows of the others: who comes second finds nothing.
    """

    def __init__(
        self,
        store: Store,
        days: int,
        *,
        clock: Callable[[], float] = time.time,
        pause: Callable[[bool], float] = _pause,
    ) -> None:
        self.forgotten = 0
        self._store = store
        self._days = days
        self._clock = LateClock(clock)
        self._pause = pause
        self._fails = False
        self._chore = Chore(self._forget_forever)

    def start(self) -> None:
        """Begins, if it has not begun yet."""
        self._chore.start()

    def stop(self) -> None:
        """Asks no more."""
        self._chore.stop()

    def _forget_forever(self) -> None:
        first = True
        while True:
            gevent.sleep(self._pause(first))
            first = False
            self._forget()

    def _forget(self) -> None:
        try:
            kept = first_day_kept(self._days, self._clock())
            count, day = self._chore.call(self._forget_some, kept)
        except Exception as error:  # noqa: BLE001 - a store of somebody else's may raise anything
            if not self._fails:
                _log.error("old usage records cannot be forgotten: %s", redact(str(error)))
            self._fails = True
            return
        self._fails = False
        self.forgotten += count
        if count:
            _log.info("forgot %d usage records that ended before %s", count, day)

    def _forget_some(self, kept: str) -> tuple[int, str]:
        """How many records went, and before which day they ended. Runs on the thread."""
        oldest = next(self._store.records(), None)  # which lets go of the view, too
        if oldest is None:
            return 0, kept
        day = min(kept, _day(oldest.ended_at, MOST_DAYS))
        return self._store.forget(day), day
