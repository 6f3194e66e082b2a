"""Pricer: gives records their cost, and remembers what it had no price for.

The rules: pricing neither waits nor logs nor raises, for it happens while a message is observed;
what there is to say is said later, by :meth:`Pricer.tell`. A record that cannot be priced keeps a
cost of None and is counted, and its model is named in the log, once.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from relay_app.meter.price import Price
from relay_app.meter.prices import PriceList
from relay_app.meter.usage import UsageRecord

__all__ = ["Pricer"]

MAX_TOLD: Final = 1_000
"""Models named in the log. Clients can make names up; a catalogue has a few dozen."""
MAX_FOUND: Final = 1_000
"""Names whose row is remembered."""

_log = logging.getLogger(__name__)


class Pricer:
    """Prices the records of all sessions; called with a record, it returns it priced.

    ``prefixes`` is what to put before the model names of an upstream's records, by its name.
    ``unpriced`` counts the records returned without a cost by why: ``unknown_usage`` (the
    provider did not say what was used), ``no_price`` (no row for the model), ``no_rate`` (the
    row has no rate for a kind of token that was used). A ``residual`` is not counted: the end of
    its unit will be.
    """

    def __init__(self, prices: PriceList, prefixes: Mapping[str, str]) -> None:
        self.unpriced: Counter[str] = Counter()
        self._prices = prices
        # Written out once; the list keeps its rows, so that no other gets the id of one.
        self._rows = {id(price): price.as_dict() for price in prices.prices}
        self._prefixes = prefixes
        self._told: set[tuple[str, str]] = set()
        self._untold: dict[tuple[str, str], str] = {}
        self._found: dict[tuple[str, str, str], Price | None] = {}

    def __call__(self, record: UsageRecord) -> UsageRecord:
        """``record`` with its cost and the row it was priced by, or as it is."""
        if record.source == "unknown":
            self._count(record, "unknown_usage")
            return record
        price = self.find(record.upstream, record.upstream_model, record.model)
        if price is None:
            return self._without(record, "no_price", "no row for this model")
        cost = price.cost(record.usage)
        if cost is None:
            missing = price.missing(record.usage)
            return self._without(record, "no_rate", f"its row {price.model!r} has no {missing}")
        return record.priced(cost, dict(self._rows[id(price)]))

    def find(self, upstream: str, upstream_model: str, model: str) -> Price | None:
        """The row by which an upstream's units are priced, None if there is none."""
        named = (upstream, upstream_model, model)
        if named not in self._found:
            if len(self._found) == MAX_FOUND:
                self._found.clear()
            self._found[named] = self._find(*named)
        return self._found[named]

    def _find(self, upstream: str, upstream_model: str, model: str) -> Price | None:
        prefix = self._prefixes.get(upstream, "")
        # What the upstream runs decides; what the client asked for serves where that is a name
        # the operator made up, such as an Azure deployment's.
        return self._prices.find(prefix + upstream_model, prefix + model)

    def tell(self) -> None:
        """Logs the models that had no price since the last time."""
        while self._untold:
            (model, upstream), why = self._untold.popitem()
            _log.warning(
                "no price for model %r of upstream %s: %s; its usage is recorded without a cost",
                model,
                upstream,
                why,
            )

    def _without(self, record: UsageRecord, reason: str, why: str) -> UsageRecord:
        self._count(record, reason)
        named = (record.upstream_model, record.upstream)
        if named not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(named)
            self._untold[named] = why
        return record

    def _count(self, record: UsageRecord, reason: str) -> None:
        self.unpriced[reason] += record.kind != "residual"
