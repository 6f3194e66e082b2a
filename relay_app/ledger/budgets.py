"""Budgets: the limits of keys, kept for all sessions of a worker through the store they share.

The rules:

* One greenlet asks for all sessions, one call at a time, on a thread of its own: the hub never
  waits, and what comes up during a call goes into the next one.
* A lease is renewed well before it lapses, and given back when its session ends. What a worker
  that dies held is free again after ``lease_seconds``.
* A session whose key has limits is not admitted blind: without the store's answer there is no
  session. A key without limits costs nothing here.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

import gevent
from gevent.event import AsyncResult, Event
from gevent.threadpool import ThreadPool

from relay_app.ledger.agenda import Agenda
from relay_app.ledger.allowance import Allowance, Minute
from relay_app.ledger.backoff import backoff_seconds
from relay_app.ledger.jitter import between
from relay_app.ledger.limit_faults import budget_unavailable, refused
from relay_app.ledger.periods import is_limited
from relay_app.ledger.stores.base import Store, redact
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.threads import call
from relay_app.settings import Key

__all__ = ["LEASE_SECONDS", "Budgets"]

LEASE_SECONDS: Final = 35.0
"""Three renewals may fail or be late; then the worker is taken for dead."""
RENEWALS: Final = 3.5
"""How often a lease is renewed in its time: every 10 s."""
RUNNING_DRY_SECONDS: Final = 1.0
"""How often a running session asks while nothing is left, and a key while it is too fast."""
RESERVE_SECONDS: Final = 3.0
"""How long a client waits for its lease: its own patience is 10 s, and dialling takes some."""
CLOSE_SECONDS: Final = 1.0
MAX_BACKOFF_SECONDS: Final = 1.0
MAX_ASKS: Final = 100
"""Of one call: with SQLite some ten milliseconds, in which no record is committed."""

_log = logging.getLogger(__name__)


class Budgets:
    """Leases of one worker's sessions.

    Construction is free and may precede a fork: the greenlet and its thread come with the first
    session of a key that has limits. All methods belong to one hub.

    ``on_refused`` is told the limit that a refusal was for; ``on_leased`` the seconds that each
    answer of the store took, None if it did not answer.
    """

    def __init__(
        self,
        store: Store,
        *,
        lease_seconds: float = LEASE_SECONDS,
        on_leased: Callable[[float | None], None] = lambda seconds: None,
        on_refused: Callable[[str], None] = lambda limit: None,
        backoff: Callable[[int], float] = backoff_seconds,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._on_leased = on_leased
        self._on_refused = on_refused
        self._backoff = backoff
        self._clock = clock
        self._timer = timer
        self._pid: int | None = None
        self._asker: gevent.Greenlet[[], None] | None = None
        self._failing = False
        self._reset()

    def _reset(self) -> None:
        """Begin with nothing: at birth, and in a forked child, whose parent keeps its own."""
        self._agenda: Agenda[Allowance] = Agenda()
        self._allowances: set[Allowance] = set()
        self._opening: dict[Allowance, AsyncResult[Lease]] = {}
        self._minutes: WeakValueDictionary[str, Minute] = WeakValueDictionary()
        self._wakened = Event()
        self._empty = Event()
        self._empty.set()

    def __len__(self) -> int:
        """Leases that are held, or not given back yet."""
        return len(self._allowances)

    def reserve(self, session_id: str, key: Key, *, pace: float = 0.0) -> Allowance | None:
        """The slice and the slot of a session that begins, None for a key without limits.

        ``pace`` is what a second of an answer costs, in micro-dollars. Waits at most
        ``RESERVE_SECONDS``. Raises ClientFault 402 or 429 for a limit that is reached, and
        RelayFault 503 if the store does not answer. Whatever comes of the session,
        :meth:`release` is to follow.
        """
        if not is_limited(key):
            return None
        self._start()
        minute = self._minutes.setdefault(key.name, Minute())
        allowance = Allowance(
            session_id,
            key,
            minute,
            wake=self._wake,
            pace=pace,
            clock=self._clock,
            timer=self._timer,
        )
        opening = self._opening[allowance] = AsyncResult()
        self._allowances.add(allowance)
        self._empty.clear()
        self._wake(allowance)
        try:
            opening.wait(RESERVE_SECONDS)
            if not opening.ready():
                raise budget_unavailable()
            lease = opening.get()
            assert lease is not None
        except BaseException:
            # It may have been granted, or be granted yet.
            self.release(allowance)
            raise
        finally:
            del self._opening[allowance]
        if lease.refusal:
            self._on_refused(lease.refusal)
            self._forget(allowance)
            raise refused(key, lease.refusal, lease.tokens, self._clock())
        return allowance

    def release(self, allowance: Allowance) -> None:
        """The session ended, all of its records being charged. Never blocks. Idempotent."""
        if not allowance.ended:
            allowance.ended = True
            self._wake(allowance)

    def update(self, find: Callable[[str], Key | None]) -> None:
        """Limits may have changed: open sessions live by those that ``find`` gives for the name
        of their key, and by what they have if it gives none. Never blocks."""
        for allowance in self._allowances:
            key = find(allowance.key.name)
            if key is not None and key != allowance.key:
                allowance.key = key
                self._wake(allowance)

    def close(self, timeout: float) -> bool:
        """Gives back what is held, for at most ``timeout`` seconds and one more, and ends the
        greenlet; whether all was given back. What was not, lapses."""
        for allowance in self._allowances:
            self.release(allowance)
        if self._pid != os.getpid():
            return True
        given_back = bool(self._empty.wait(timeout))
        if self._asker is not None:
            self._asker.kill()
            gevent.with_timeout(CLOSE_SECONDS, self._pool.kill, timeout_value=None)
        self._pid = None
        return given_back

    # How it is done.

    def _start(self) -> None:
        if self._pid != os.getpid():
            if self._pid is not None:
                self._reset()
            self._pid = os.getpid()
            self._pool = ThreadPool(1)
            self._asker = None
        if self._asker is None or self._asker.ready():
            self._asker = gevent.spawn(self._ask_forever)

    def _wake(self, allowance: Allowance) -> None:
        if allowance in self._allowances and self._agenda.put(allowance, self._timer()):
            self._wakened.set()

    def _forget(self, allowance: Allowance) -> None:
        allowance.forget()
        self._allowances.discard(allowance)
        if not self._allowances:
            self._empty.set()

    def _ask_forever(self) -> None:
        failures = 0
        while True:
            self._wakened.clear()
            due = self._agenda.next_due()
            now = self._timer()
            if due is None or due > now:
                self._wakened.wait(None if due is None else due - now)
                continue
            waiting = [a for a in self._agenda.take(now, MAX_ASKS) if a in self._allowances]
            if not waiting:
                continue
            if self._asked(waiting):
                failures = 0
            else:
                failures += 1
                # Clients wait for it, and a store that hangs takes its time anyway.
                gevent.sleep(min(self._backoff(failures), MAX_BACKOFF_SECONDS))

    def _asked(self, waiting: list[Allowance]) -> bool:
        try:
            return self._ask(waiting)
        except Exception:  # noqa: BLE001 - the leases of all depend on this greenlet
            _log.exception("asking about budgets failed")
            for allowance in waiting:
                allowance.asking = False
                self._agenda.put(allowance, self._timer())
            return False

    def _ask(self, waiting: list[Allowance]) -> bool:
        """Puts the questions of all who are ``waiting``; whether they were answered."""
        asked_at = self._timer()
        asks = [allowance.ask() for allowance in waiting]
        try:
            leases = call(self._pool, self._store.lease, asks, seconds=self._lease_seconds)
            answers = list(zip(waiting, asks, leases, strict=True))
        except Exception as error:  # noqa: BLE001 - a store of somebody else's may raise anything
            self._failed(error)
            for allowance, ask in zip(waiting, asks, strict=True):
                self._unanswered(allowance, ask, asked_at)
            return False
        self._on_leased(self._timer() - asked_at)
        if self._failing:
            self._failing = False
            _log.warning("the store answers about budgets again")
        for allowance, ask, lease in answers:
            self._answered(allowance, ask, lease, asked_at)
        return True

    def _answered(self, allowance: Allowance, ask: Ask, lease: Lease, asked_at: float) -> None:
        if ask.ends:
            allowance.answer(ask, lease, asked_at)
            self._forget(allowance)
            return
        opening = self._opening.get(allowance)
        if opening is not None and lease.refusal:
            opening.set(lease)
            return
        allowance.answer(ask, lease, asked_at)
        if opening is not None:
            opening.set(lease)
        self._agenda.put(allowance, asked_at + self._interval(allowance, asked_at))

    def _interval(self, allowance: Allowance, asked_at: float) -> float:
        """How long after this question the next one is due, if nothing comes up before."""
        minute = allowance.minute
        if allowance.too_fast and asked_at - minute.polled_at > RUNNING_DRY_SECONDS / 2:
            minute.polled_at = asked_at  # one session asks for all
            return RUNNING_DRY_SECONDS
        if allowance.dry and allowance.running:
            return RUNNING_DRY_SECONDS
        # Not all of a worker's leases at the same moment.
        return self._lease_seconds / RENEWALS * between(0.8, 1.0)

    def _unanswered(self, allowance: Allowance, ask: Ask, asked_at: float) -> None:
        allowance.failed(ask)
        opening = self._opening.get(allowance)
        if opening is not None:
            if not opening.ready():
                opening.set_exception(budget_unavailable())
        elif ask.ends and asked_at - allowance.heard_at > self._lease_seconds:
            self._forget(allowance)  # it has lapsed by itself
        else:
            self._agenda.put(allowance, asked_at)

    def _failed(self, error: Exception) -> None:
        self._on_leased(None)
        if not self._failing:
            self._failing = True
            why = redact(f"{type(error).__name__}: {error}")
            _log.error("the store does not answer about budgets: %s", why)
