"""Sums over usage records: what a store answers when asked who used how much.

The rule: money is added exactly, and what is unpriced or unknown is counted beside the sum
instead of being added to it as zero.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Context, Decimal
from functools import lru_cache
from typing import Literal, get_args

from relay_app.meter.usage import Usage, UsageRecord

__all__ = ["By", "Total", "add_money", "add_up", "check_by", "check_day", "day_of"]

By = Literal["key", "model", "day", "session"]

# The default context rounds a sum to 28 digits; a ledger must not round at all. A thousand
# digits hold any sum of costs that could be told from a mistake.
_EXACT = Context(prec=1000)
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Total:
    """The records of one group, added up.

    ``cost_usd`` is the sum over the priced records and None if there is no such record;
    ``unpriced`` is how many are missing from it. ``unknown`` counts records whose usage nobody
    knows (source ``unknown``): they are in ``records`` and not in ``usage``.
    """

    group: str
    records: int = 0
    sessions: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_usd: Decimal | None = None
    unpriced: int = 0
    unknown: int = 0


def check_by(by: str) -> None:
    """Raise ValueError unless ``by`` is a grouping we have."""
    if by not in get_args(By):
        raise ValueError(f"cannot group by {by!r}; accepted: {', '.join(get_args(By))}")


def check_day(day: str) -> None:
    """Raise ValueError unless ``day`` is one as :func:`day_of` writes it."""
    try:
        if date.fromisoformat(day).isoformat() == day:
            return
    except ValueError:
        pass
    raise ValueError(f"a day is written like 2026-01-31, not {day!r}")


def day_of(ended_at: float) -> str:
    """The UTC day of a time, as ``2026-01-31``. Raises ValueError or OverflowError beyond 9999."""
    return _day(int(ended_at // 86_400))


@lru_cache(maxsize=16)
def _day(since_epoch: int) -> str:
    # Records are of today, and each asks several times: found again, a day costs a third.
    return (_EPOCH + timedelta(since_epoch)).isoformat()


def add_money(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    """The exact sum, where None is no price rather than a price of nothing."""
    if left is None or right is None:
        return right if left is None else left
    return _EXACT.add(left, right)


def add_up(records: Iterable[UsageRecord], by: By) -> list[Total]:
    """The totals of ``records``, for stores that have no query language of their own."""
    check_by(by)
    totals: dict[str, Total] = {}
    sessions: dict[str, set[str]] = {}
    for record in records:
        group = _group_of(record, by)
        total = totals.get(group) or Total(group)
        sessions.setdefault(group, set()).add(record.session_id)
        unknown = record.source == "unknown"
        totals[group] = replace(
            total,
            records=total.records + 1,
            sessions=len(sessions[group]),
            usage=total.usage if unknown else total.usage + record.usage,
            cost_usd=add_money(total.cost_usd, record.cost_usd),
            unpriced=total.unpriced + (record.cost_usd is None),
            unknown=total.unknown + unknown,
        )
    return [totals[group] for group in sorted(totals)]


def _group_of(record: UsageRecord, by: By) -> str:
    match by:
        case "key":
            return record.key
        case "model":
            return record.model
        case "day":
            return day_of(record.ended_at)
        case "session":
            return record.session_id
