"""Charges: what the records of one session have cost, by the period of a budget.

The rule: it adds up what the ledger gets, so a record in place of another of its id changes the
sum by their difference, and one belongs to the period in which its unit ended.
"""

from relay_app.ledger.stores.base import microusd
from relay_app.ledger.stores.totals import day_of
from relay_app.meter.units import MAX_ENDED
from relay_app.meter.usage import UsageRecord

__all__ = ["Charges"]


class Charges:
    """Micro-dollars by the first day of a period: of the one that counts, and around midnight of
    the next one too."""

    def __init__(self, since: str) -> None:
        self._charged = {since: 0}
        self._records: dict[str, tuple[str, int, int]] = {}

    def begin(self, since: str) -> None:
        """A period may have begun: what ends in it is added up from now on."""
        self._charged.setdefault(since, 0)

    def of(self, since: str) -> int:
        """What was charged in the period that began then."""
        return self._charged[since]

    def forget_before(self, since: str) -> None:
        """Earlier periods do not count any more."""
        self._charged = {s: cost for s, cost in self._charged.items() if s >= since}

    def add(self, record: UsageRecord) -> int:
        """Charges ``record``; the tokens it has more than the one it replaces."""
        cost = 0 if record.cost_usd is None else microusd(record.cost_usd)
        day, tokens = day_of(record.ended_at), record.usage.tokens
        day_before, cost_before, tokens_before = self._records.pop(record.id, (day, 0, 0))
        for since in self._charged:
            self._charged[since] += cost if day >= since else 0
            self._charged[since] -= cost_before if day_before >= since else 0
        self._records[record.id] = (day, cost, tokens)
        if len(self._records) > MAX_ENDED:  # which the meter does not replace any more
            del self._records[next(iter(self._records))]
        return max(0, tokens - tokens_before)
