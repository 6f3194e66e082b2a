"""Asks and leases, as the scripts take and give them.

The rule: figures go in and come out as whole numbers, and a limit that is none as no text.
"""

from collections.abc import Sequence
from typing import Any

from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.redis_scripts import key_names

__all__ = ["BATCH_ASKS", "asked", "leases_of"]

BATCH_ASKS = 500
"""How many are answered in one moment. The server does nothing else meanwhile, for
about 15 ms."""

_ACCOUNT = ("spending", "leases", "lapses", "sums", "tokens")

_ANSWERS = 5
"""Figures of each lease that LEASE returns."""


def asked(prefix: str, asks: Sequence[Ask]) -> tuple[list[str], list[object]]:
    """The keys and the arguments that LEASE takes for ``asks``, after the seconds."""
    first: dict[str, int] = {}  # the place of an account among KEYS, which Lua counts from 1
    names: list[str] = []
    arguments: list[object] = []
    for ask in asks:
        if ask.key not in first:
            first[ask.key] = len(names) + 2
            names += [f"{kind}:{ask.key}" for kind in _ACCOUNT]
        limits = ask.limits
        arguments += (
            first[ask.key],
            ask.session_id,
            _or_empty(limits.budget_microusd),
            limits.since,
            _or_empty(limits.max_sessions),
            _or_empty(limits.max_tokens_per_minute),
            ask.spent_microusd,
            ask.want_microusd,
            ask.tokens,
            int(ask.ends),
        )
    return key_names(prefix, *names), arguments


def leases_of(answers: Sequence[Any]) -> list[Lease]:
    """What LEASE returned."""
    return [
        Lease(held, left, sessions, tokens, refusal.decode())
        for held, left, sessions, tokens, refusal in (
            answers[start : start + _ANSWERS] for start in range(0, len(answers), _ANSWERS)
        )
    ]


def _or_empty(limit: int | None) -> int | str:
    return "" if limit is None else limit
