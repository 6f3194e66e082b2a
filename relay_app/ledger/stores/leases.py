"""What the sessions of one key tell its account, and what it answers.

The rule: every figure of a session is cumulative, so that one that is said twice, late or never
does no harm. What a session holds and the ledger does not show yet is kept from the others:

    left = budget - what the ledger shows - Σ max(0, held - recorded) over the sessions' leases

where ``recorded`` is the part of a session's ``held`` that its records have brought into the
ledger since its lease began. So nothing is counted twice, however late a record arrives.

Money is in micro-dollars, whole: 1,000,000 are a dollar.
"""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Ask", "Lease", "Limits", "Refusal"]

Refusal = Literal["", "budget", "sessions", "tokens"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What all sessions of one key may use together; None is no limit.

    ``since`` is the first UTC day of the budget's period, like ``2026-11-01``, and "" for a
    budget that never renews. What was used before it does not count.
    """

    budget_microusd: int | None = None
    since: str = ""
    max_sessions: int | None = None
    max_tokens_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """What one session has used of its key's account, and what it wants of it.

    ``spent_microusd`` is all that it has cost in this period so far, with what its running
    responses are estimated at; ``want_microusd`` what it would like to hold beyond that;
    ``tokens`` what it has used since its last ask. With ``ends`` it gives back its slot and all
    that it has not spent.
    """

    session_id: str
    key: str
    limits: Limits
    spent_microusd: int = 0
    want_microusd: int = 0
    tokens: int = 0
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """What a session holds of its key's account, until it lapses or is renewed.

    ``held_microusd`` is what it may cost in all in this period: what it has spent and what of
    its wish was left, which may be nothing. ``left_microusd`` is what nobody holds, None without
    a budget. ``sessions`` counts the open sessions of the key and ``tokens`` what they used in
    the last 60 seconds, both with this one.

    A session without a lease is refused one, and then holds nothing, if ``refusal`` says why:
    the key has its ``sessions`` already, its ``tokens`` of the minute are used up, or nothing of
    its ``budget`` is left. One that has a lease keeps it, whatever the limits are by now.
    """

    held_microusd: int
    left_microusd: int | None
    sessions: int
    tokens: int
    refusal: Refusal = ""
