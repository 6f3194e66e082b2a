"""Keeper: one greenlet a worker that visits every open session once a second.

The rules: no visit blocks, a round holds the hub for a fraction of a millisecond at a time, and of
a session that may rest it touches only what says so. Pings, stalls, idleness, session length and
draining are looked at here, so that no session needs timers of its own and no message pays for any
of it. And it judges nobody for time in which the process itself did not run. While it is at that it
looks at how busy the hub is, which nobody else does regularly.
"""

import time
from collections import Counter
from collections.abc import Callable

import gevent
from gevent.event import Event

from relay_app.breath import Breath
from relay_app.errors import Fault
from relay_app.moderation import Moderation
from relay_app.observe.logs import logger
from relay_app.observe.tally import Tally
from relay_app.session.rest import Rest
from relay_app.session.session import Session

__all__ = ["Keeper"]

TICK_SECONDS = 1.0
LATE_TICKS = 3
ROUNDS_PER_TELL = 5
"""To add up all sessions takes longer than to visit those that rest, and metrics are asked for
rarely."""


class Keeper:
    """The open sessions of a worker, and what the closed ones left behind.

    ``on_rounds`` is called after some rounds, and when the last session has gone.
    The greenlet lives while sessions do.
    """

    def __init__(
        self,
        *,
        tick_seconds: float = TICK_SECONDS,
        on_rounds: Callable[[], None] = lambda: None,
        moderation: Moderation | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.opened = 0
        self.closes: Counter[tuple[str, int]] = Counter()
        self._sessions: dict[Session, Rest | None] = {}
        self._closed = Tally()
        self._tick_seconds = tick_seconds
        self._on_rounds = on_rounds
        self._moderation = moderation or Moderation()
        self._rounds = 0
        self._clock = clock
        self._visitor: gevent.Greenlet[[], None] | None = None
        self._empty = Event()
        self._empty.set()
        self._drain: tuple[Fault, float] | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def run(self, session: Session) -> None:
        """Runs ``session`` to its end under the keeper's eye."""
        self._sessions[session] = session.rest
        self._empty.clear()
        self.opened += 1
        if self._visitor is None or self._visitor.dead:
            self._visitor = gevent.spawn(self._visit)
        try:
            if self._drain is not None:
                session.drain(*self._drain)
            session.run()
        finally:
            del self._sessions[session]
            session.add_to(self._closed)
            if session.ending is not None:
                self.closes[session.ending.cause.value, session.ending.code] += 1
            if not self._sessions:
                self._empty.set()

    def drain(self, fault: Fault, seconds: float) -> None:
        """Ends every session, now or to come: at once if idle, else after its response."""
        self._drain = (fault, seconds)
        for session in list(self._sessions):
            session.drain(fault, seconds)

    def cancel(self, fault: Fault, unless: Callable[[str], bool]) -> None:
        """Ends every session now, unless its key's name is one of those."""
        for session in list(self._sessions):
            if not unless(session.context.key):
                session.cancel(fault)

    def wait_empty(self, seconds: float) -> bool:
        """Whether every session had ended within ``seconds``."""
        return bool(self._empty.wait(seconds))

    def tally(self) -> Tally:
        """What went through all sessions, closed and open, about now: the others have their turn
        meanwhile."""
        breath = Breath()
        tally = self._closed + Tally()  # one of our own, to write into
        for session in list(self._sessions):
            breath.take()
            session.add_to(tally)  # if it has ended by now, it was not among the closed
        return tally

    def _visit(self) -> None:
        before = self._clock()
        was_late = False
        while self._sessions:
            gevent.sleep(self._tick_seconds)
            now = self._clock()
            elapsed, before = now - before, now
            # After a suspended machine or a blocked hub the peers' answers are still unread in
            # the kernel. They are read in the next second; a worker late in every second has
            # to judge all the same.
            late = elapsed > LATE_TICKS * self._tick_seconds
            if not late or was_late:
                self._round(min(elapsed, LATE_TICKS * self._tick_seconds), now)
            was_late = late and not was_late
            self._moderation.look()
            if not self._sessions:
                self._tell()
        self._moderation.stop()

    def _round(self, elapsed_seconds: float, now: float) -> None:
        breath = Breath()
        for session, rest in list(self._sessions.items()):
            breath.take()
            if rest is not None and rest.lasts(elapsed_seconds, now):
                continue
            if session not in self._sessions:
                continue  # it has ended meanwhile
            try:
                session.tick(elapsed_seconds)
            except Exception:  # noqa: BLE001 - one session's fault is not its neighbours'
                logger.exception("keeper: a visit failed")
        self._rounds += 1
        if self._rounds % ROUNDS_PER_TELL == 0:
            self._tell()

    def _tell(self) -> None:
        try:
            self._on_rounds()
        except Exception:  # noqa: BLE001 - nor is a broken gauge the sessions'
            logger.exception("keeper: on_rounds failed")
