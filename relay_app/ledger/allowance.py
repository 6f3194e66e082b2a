"""Allowance: one session's slice of its key's budget, and what the session has used of it.

The rules:

* Whether something fits is arithmetic on what is known here: no call to a store and no yield, so
  it may be asked at every delta. Only :meth:`Allowance.may_begin` and
  :meth:`Allowance.catch_up` wait, and not for long.
* A slice is renewed ahead of need; ``pace`` says how large it is to be.
* A session that has used its slice goes on while the store is asked for more, at most for
  ``PATIENCE_SECONDS``: it is not ended early because the store is slow, nor does it spend without
  end because the store is down.

Money is in micro-dollars; what runs is a float, for it is an estimate anyway.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import ceil, inf
from typing import Final

from gevent.event import Event

from relay_app.ledger.charges import Charges
from relay_app.ledger.pace import Pace
from relay_app.ledger.periods import limits_of
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.meter.usage import UsageRecord
from relay_app.settings import Key

__all__ = ["Allowance", "Minute", "Standing"]

PATIENCE_SECONDS: Final = 1.0
"""How long a session waits or goes on for the store's answer when its slice is used up."""
FRESH_SECONDS: Final = 1.0
"""How long "nothing is left" and what others used are believed without being asked again."""
NEED_SECONDS: Final = 5.0
"""How long the input of a response is kept ready for it to begin."""


class Standing(Enum):
    """GOOD: go on. SPENT: nothing is left. UNKNOWN: the slice is used up, and no store to ask."""

    GOOD = "good"
    SPENT = "spent"
    UNKNOWN = "unknown"


@dataclass(slots=True, weakref_slot=True)
class Minute:
    """What the sessions of a key used in the last minute, as far as this worker knows.

    ``tokens`` is what the store said when it was asked at ``heard_at``, ``untold`` what sessions of
    this worker used since. At ``polled_at`` one of them was chosen to ask for all.
    """

    tokens: int = 0
    untold: int = 0
    heard_at: float = -inf
    polled_at: float = -inf


class Allowance:
    """What one session may still cost, and how fast. Belongs to one hub.

    ``wake`` has the store asked for this session soon; it never blocks. ``pace`` is what a second
    of an answer costs in real time. ``clock`` is in seconds since the epoch, ``timer`` monotonic.
    """

    def __init__(
        self,
        session_id: str,
        key: Key,
        minute: Minute,
        *,
        wake: Callable[["Allowance"], None],
        pace: float,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        self.session_id = session_id
        self.key = key
        self.minute = minute
        self.ended = False
        self.asking = False
        self.heard_at = -inf
        """When the last answered question was asked, by the timer."""
        self._wake = wake
        self._clock = clock
        self._timer = timer
        self._since = limits_of(key, clock()).since
        self._charges = Charges(self._since)
        self._pace = Pace(pace, timer())
        self._untold = 0  # tokens
        self._running = 0.0
        self._held = 0
        self._low = 0.0
        self._left: int | None = None
        self._dry = False
        self._need = 0.0
        self._need_since = -inf
        self._made = self._heard = 0  # questions and answers, by number
        self._over: tuple[int, float] | None = None
        self._news = Event()

    # What the session tells.

    def charge(self, record: UsageRecord) -> None:
        """A record goes to the ledger; in place of one of its id, the difference counts.

        Neither raises nor yields. A ``residual`` is of a response that still runs, which is in
        the estimate of what runs.
        """
        if record.kind == "residual":
            return
        self._charges.begin(limits_of(self.key, self._clock()).since)
        used = self._charges.add(record)
        self._untold += used
        self.minute.untold += used
        if used and self.key.max_tokens_per_minute is not None:
            self._wake(self)

    def standing(self, running: float) -> Standing:
        """Whether the session may go on, its open responses having cost ``running`` so far."""
        if running and not running > self._running > 0:
            self._need = 0.0  # a response has begun
        self._pace.follow(running, self._timer())
        self._running = running
        if self.key.budget_usd is None:
            return Standing.GOOD
        free = self._free()
        if free >= 0:
            self._over = None
            if free < self._low and not self.asking:
                self._wake(self)
            return Standing.GOOD
        return self._used_up()

    def may_begin(self, cost: float) -> Standing:
        """Whether a response whose input costs ``cost`` may be asked for.

        Waits for the store when the slice does not say so, at most ``PATIENCE_SECONDS``.
        """
        cost = max(1.0, cost)
        if self.key.budget_usd is None or self._free() >= cost:
            return Standing.GOOD
        self._need, self._need_since = cost, self._timer()
        heard = self._refresh()
        if self._free() >= cost:
            return Standing.GOOD
        return Standing.SPENT if heard else Standing.UNKNOWN

    def catch_up(self) -> None:
        """Has the store say what others have used, if that is not fresh and there is a limit to
        it. Waits at most ``PATIENCE_SECONDS``, and then takes what is known."""
        limited = self.key.max_tokens_per_minute is not None
        if limited and self._timer() - self.minute.heard_at > FRESH_SECONDS:
            self._refresh()

    @property
    def tokens(self) -> int:
        """What the key's sessions used in the last minute, all of them as far as is known."""
        return self.minute.tokens + self.minute.untold

    @property
    def too_fast(self) -> bool:
        """Whether the tokens of the minute are used up."""
        most = self.key.max_tokens_per_minute
        return most is not None and self.tokens >= most

    # What goes to the store, and what comes back.

    @property
    def running(self) -> bool:
        """Whether a response runs."""
        return self._running > 0

    @property
    def dry(self) -> bool:
        """Whether the store had less than it was asked for."""
        return self._dry

    def ask(self) -> Ask:
        """The question to put to the store now, which is to be followed by its answer or by
        :meth:`failed`."""
        limits = limits_of(self.key, self._clock())
        self._charges.begin(limits.since)
        now = self._timer()
        self._pace.measure(now)
        if now - self._need_since > NEED_SECONDS:
            self._need = 0.0
        self.asking = True
        self._made += 1
        untold, self._untold = self._untold, 0
        return Ask(
            session_id=self.session_id,
            key=self.key.name,
            limits=limits,
            spent_microusd=max(0, self._charges.of(limits.since) + ceil(self._running)),
            want_microusd=0 if self.ended else self._want(limits.budget_microusd),
            tokens=untold,
            ends=self.ended,
        )

    def answer(self, ask: Ask, lease: Lease, asked_at: float) -> None:
        """The store's answer to :meth:`ask`, made at ``asked_at`` by the timer."""
        self.asking = False
        self._heard = self._made
        self.heard_at = asked_at
        minute = self.minute
        minute.untold -= ask.tokens
        minute.tokens, minute.heard_at = lease.tokens, asked_at
        if not lease.refusal or lease.refusal == "budget":
            before = self._held if ask.limits.since == self._since else 0
            granted = max(0, lease.held_microusd - ask.spent_microusd)
            # What is spent is held, whether it was there or not. Only if there is more, it was.
            # (Refused are only those whose lease the store has lost.)
            self._held = ask.spent_microusd + granted
            if not granted:
                self._held = min(before, ask.spent_microusd)
            self._dry = granted < ask.want_microusd
            self._low = -inf if self._dry else granted / 2
            self._left = lease.left_microusd
            self._since = ask.limits.since
            self._charges.forget_before(self._since)
        self._news.set()

    def failed(self, ask: Ask) -> None:
        """The store did not answer; what :meth:`ask` told is told again."""
        self.asking = False
        self._untold += ask.tokens

    def forget(self) -> None:
        """What was not told will never be."""
        self.minute.untold -= self._untold
        self._untold = 0

    # How it is decided.

    def _free(self) -> float:
        return self._held - self._charges.of(self._since) - self._running

    def _used_up(self) -> Standing:
        """More is spent than held: the store has the last word, if it says it in time."""
        now = self._timer()
        if self._dry and now - self.heard_at <= FRESH_SECONDS:
            return Standing.SPENT
        if self._over is None:
            self._over = (self._made, now)
            self._wake(self)
            return Standing.GOOD
        asked_before, since = self._over
        if self._heard > asked_before:
            if self._dry:
                return Standing.SPENT
            # It gave all we wished for, and that is used up too.
            self._over = (self._made, now)
            self._wake(self)
            return Standing.GOOD
        return Standing.UNKNOWN if now - since > PATIENCE_SECONDS else Standing.GOOD

    def _refresh(self) -> bool:
        """Waits for the answer to a question that is put from now on; whether it came in time."""
        asked_before = self._made
        deadline = self._timer() + PATIENCE_SECONDS
        while self._heard <= asked_before and not self.ended:
            self._news.clear()
            self._wake(self)
            seconds = deadline - self._timer()
            if seconds <= 0 or not self._news.wait(seconds):
                return False
        return True

    def _want(self, budget: int | None) -> int:
        """What to hold beyond what is spent."""
        if budget is None:
            return 0
        left = budget if self._left is None else self._left + max(0.0, self._free())
        return self._pace.wish(budget, left, self._need)
