"""What is left of a key's limits, for its holder.

The rule: it is asked as the sessions ask, so both get the same answer; money is decimal text.
"""

from decimal import Decimal
from typing import Any, Final

from relay_app.ledger.periods import limits_of
from relay_app.ledger.stores.base import Store
from relay_app.ledger.stores.leases import Ask
from relay_app.settings import Key

__all__ = ["limits_values"]

NOBODY: Final = "nobody"
"""Asks, and holds nothing: no session's id is like that."""


def limits_values(store: Store, key: Key, now: float) -> dict[str, Any]:
    """The limits that ``key`` has, each with what is used or left of it. Blocks.

    ``budget_left_usd`` is what no session holds. Raises StoreError.
    """
    limits = limits_of(key, now)
    [lease] = store.lease([Ask(NOBODY, key.name, limits, ends=True)], seconds=0.0)
    values: dict[str, Any] = {}
    if key.budget_usd is not None and lease.left_microusd is not None:
        left = Decimal(lease.left_microusd).scaleb(-6)
        values["budget_usd"] = format(key.budget_usd, "f")
        values["budget_period"] = key.budget_period
        values["budget_left_usd"] = format(left, "f")
    if key.max_sessions is not None:
        values["max_sessions"] = key.max_sessions
        values["sessions"] = lease.sessions
    if key.max_tokens_per_minute is not None:
        values["max_tokens_per_minute"] = key.max_tokens_per_minute
        values["tokens_last_minute"] = lease.tokens
    return values
