"""The arithmetic of leases: what one ask is given, from what is known of its key. Pure.

The rule: this is the one place where it is decided; a store loads what is asked for here, calls
it inside one transaction and keeps what it changed. (Redis says the same in its own language.)
"""

from collections.abc import MutableMapping
from dataclasses import dataclass

from relay_app.ledger.stores.leases import Ask, Lease, Limits, Refusal

__all__ = ["KEEP_SECONDS", "MINUTE_SECONDS", "Held", "answer"]

KEEP_SECONDS = 3_600.0
"""How long a lapsed lease is remembered: a worker that was suspended finds it as it was."""

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

    def outstanding(self, since: str, now: float) -> int:
        """What others may not use because of it."""
        if self.lapses_at <= now or self.since != since:
            return 0
        return max(0, self.microusd - self.recorded)


def answer(
    ask: Ask,
    leases: MutableMapping[str, Held],
    *,
    spent: int,
    tokens: int,
    now: float,
    seconds: float,
) -> Lease:
    """What ``ask`` is given, and its lease in ``leases``, those of its key by session.

    ``spent`` is what the ledger shows of the key since the limits' day, ``tokens`` what its
    sessions used in the last minute, this ask's included. Forgets leases that lapsed long ago.
    """
    for session_id, held in list(leases.items()):
        if held.lapses_at + KEEP_SECONDS <= now:
            del leases[session_id]
    limits = ask.limits
    others = [held for session_id, held in leases.items() if session_id != ask.session_id]
    sessions = sum(held.open and held.lapses_at > now for held in others)
    mine = leases.get(ask.session_id)
    recorded = mine.recorded if mine is not None and mine.since == limits.since else 0

    left: int | None = None
    granted = max(0, ask.want_microusd)
    if limits.budget_microusd is not None:
        left = limits.budget_microusd - spent
        left -= sum(held.outstanding(limits.since, now) for held in others)
        left -= max(0, ask.spent_microusd - recorded)
        granted = max(0, min(granted, left))

    if mine is None and not ask.ends:
        refusal = _refusal(limits, sessions=sessions, tokens=tokens, left=left)
        if refusal:
            return Lease(0, left if left is None else max(0, left), sessions, tokens, refusal)

    if ask.ends:
        granted = 0
    leases[ask.session_id] = Held(
        since=limits.since,
        microusd=ask.spent_microusd + granted,
        recorded=recorded,
        lapses_at=now + seconds,
        open=not ask.ends,
    )
    return Lease(
        held_microusd=ask.spent_microusd + granted,
        left_microusd=None if left is None else max(0, left - granted),
        sessions=sessions + (not ask.ends),
        tokens=tokens,
    )


def _refusal(limits: Limits, *, sessions: int, tokens: int, left: int | None) -> Refusal:
    if limits.max_sessions is not None and sessions >= limits.max_sessions:
        return "sessions"
    if limits.max_tokens_per_minute is not None and tokens >= limits.max_tokens_per_minute:
        return "tokens"
    return "budget" if left is not None and left <= 0 else ""
