"""The arithmetic of leases: what one ask is given, from what is known of its key. Pure.

The rule: this is the one place where it is decided; a store loads what is asked for here, calls
it inside one transaction and keeps what it changed. (Redis says the same in its own language.)
"""

from collections import Counter
from dataclasses import dataclass, field

from relay_app.ledger.stores.leases import Ask, Lease, Limits, Refusal

__all__ = ["KEEP_SECONDS", "MINUTE_SECONDS", "Account", "Held", "answer"]

KEEP_SECONDS = 3_600.0
"""How long a lapsed lease is remembered: a worker that was suspended finds it as it was. None is
given for as long: one that lapses later was given by a clock that has been set back since, and has
lapsed. Who holds it renews it within seconds; else a dead worker's would be held until then."""

MINUTE_SECONDS = 60


@dataclass(slots=True)
class Held:
    """One session's lease, as a store keeps it.

    ``recorded`` is what its records have brought into the ledger since ``since``, a UTC day;
    whoever writes a record adds it here too. ``lapses_at`` is by the store's clock.
    """

    since: str = ""
    microusd: int = 0
    recorded: int = 0
    lapses_at: float = 0.0
    open: bool = True


@dataclass(slots=True)
class Account:
    """One key's leases, added up, so that one ask of thousands does not look at all of them.

    ``leases`` are by session, those of the sessions that ask at least. ``sessions`` counts the
    open ones of all and ``outstanding`` is what others may not use because of all, by ``since``;
    both leave out what has lapsed.
    """

    leases: dict[str, Held] = field(default_factory=dict)
    sessions: int = 0
    outstanding: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, leases: dict[str, Held], now: float) -> "Account":
        """The account with these leases, of which it forgets those that lapsed long ago."""
        account = cls(leases)
        for session_id, held in list(leases.items()):
            if held.lapses_at > now + KEEP_SECONDS:
                held.lapses_at = now
            if held.lapses_at + KEEP_SECONDS <= now:
                del leases[session_id]
            else:
                account._count(held, 1, now)
        return account

    def take(self, session_id: str, now: float) -> Held | None:
        """Take a session's lease out of the sums, and return it unless it lapsed long ago."""
        held = self.leases.pop(session_id, None)
        if held is None:
            return None
        self._count(held, -1, now)
        return None if held.lapses_at + KEEP_SECONDS <= now else held

    def put(self, session_id: str, held: Held, now: float) -> None:
        """Put a lease in, where there is none of its session."""
        self.leases[session_id] = held
        self._count(held, 1, now)

    def _count(self, held: Held, sign: int, now: float) -> None:
        if now < held.lapses_at <= now + KEEP_SECONDS:
            self.sessions += sign * held.open
            self.outstanding[held.since] += sign * max(0, held.microusd - held.recorded)


def answer(
    ask: Ask, account: Account, *, spent: int, tokens: int, now: float, seconds: float
) -> Lease:
    """What ``ask`` is given; its lease is in ``account`` afterwards, unless it is refused.

    ``spent`` is what the ledger shows of the key since the limits' day, ``tokens`` what its
    sessions used in the last minute, this ask's included.
    """
    limits = ask.limits
    mine = account.take(ask.session_id, now)
    sessions = account.sessions
    recorded = mine.recorded if mine is not None and mine.since == limits.since else 0

    left: int | None = None
    granted = max(0, ask.want_microusd)
    if limits.budget_microusd is not None:
        left = limits.budget_microusd - spent - account.outstanding[limits.since]
        left -= max(0, ask.spent_microusd - recorded)
        granted = max(0, min(granted, left))

    if mine is None and not ask.ends:
        refusal = _refusal(limits, sessions=sessions, tokens=tokens, left=left)
        if refusal:
            return Lease(0, left if left is None else max(0, left), sessions, tokens, refusal)

    if ask.ends:
        granted = 0
    held = Held(
        since=limits.since,
        microusd=ask.spent_microusd + granted,
        recorded=recorded,
        lapses_at=now + seconds,
        open=not ask.ends,
    )
    account.put(ask.session_id, held, now)
    return Lease(
        held_microusd=held.microusd,
        left_microusd=None if left is None else max(0, left - granted),
        sessions=sessions + held.open,
        tokens=tokens,
    )


def _refusal(limits: Limits, *, sessions: int, tokens: int, left: int | None) -> Refusal:
    if limits.max_sessions is not None and sessions >= limits.max_sessions:
        return "sessions"
    if limits.max_tokens_per_minute is not None and tokens >= limits.max_tokens_per_minute:
        return "tokens"
    return "budget" if left is not None and left <= 0 else ""
