"""Which limits a key has at a moment, and when its budget renews. Pure.

The rule: days and months are UTC, and a unit belongs to the period in which it ended, as it does
to the day of the reports.
"""

from datetime import UTC, datetime, timedelta
from math import ceil

from relay_app.ledger.stores.base import microusd
from relay_app.ledger.stores.leases import Limits
from relay_app.settings import Key

__all__ = ["is_limited", "limits_of", "seconds_to_renewal"]


def is_limited(key: Key) -> bool:
    """Whether ``key`` has any limit that its sessions share."""
    limits = (key.budget_usd, key.max_sessions, key.max_tokens_per_minute)
    return any(limit is not None for limit in limits)


def limits_of(key: Key, now: float) -> Limits:
    """The limits of ``key`` at the epoch time ``now``."""
    return Limits(
        budget_microusd=None if key.budget_usd is None else microusd(key.budget_usd),
        since=_first_day(key.budget_period, now),
        max_sessions=key.max_sessions,
        max_tokens_per_minute=key.max_tokens_per_minute,
    )


def seconds_to_renewal(key: Key, now: float) -> int | None:
    """Whole seconds from ``now`` to the next period of the budget; None if there is none."""
    if key.budget_period == "total":
        return None
    moment = datetime.fromtimestamp(now, UTC)
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if key.budget_period == "day":
        begin = midnight + timedelta(days=1)
    else:
        begin = (midnight.replace(day=28) + timedelta(days=4)).replace(day=1)
    return max(1, ceil(begin.timestamp() - now))


def _first_day(period: str, now: float) -> str:
    if period == "total":
        return ""
    day = datetime.fromtimestamp(now, UTC).date()
    return (day if period == "day" else day.replace(day=1)).isoformat()
