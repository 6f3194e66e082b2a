"""Price list: the model of a record to the row it is priced by.

The rule: a name is priced by the row that says it, or by the row of the name without its date,
or by the longest pattern that fits, or not at all. Nothing is guessed from likeness.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from relay_app.meter.price import Price

__all__ = ["PriceList"]

_DATE: Final = re.compile(r"-\d{4}-\d\d-\d\d$")
"""A snapshot's date, as in gpt-realtime-2025-08-28: a new one costs what its model costs, unless
it has a row of its own, as gpt-4o-realtime-preview-2024-10-01 has."""


class PriceList:
    """Rows by the names they price. Of two rows with one name the later stands."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self.prices = tuple(prices)
        named = {name: price for price in self.prices for name in _names(price)}
        self._exact = {name: price for name, price in named.items() if "*" not in name}
        self._patterns = sorted(
            ((name.partition("*"), price) for name, price in named.items() if "*" in name),
            key=lambda entry: len(entry[0][0]) + len(entry[0][2]),
            reverse=True,
        )

    def with_own(self, own: Sequence[Price]) -> "PriceList":
        """This list with an operator's rows over it.

        A row of theirs replaces ours whole, by any name it says. If that is the model of one of
        ours, it takes that row's other names too, unless they say those elsewhere: the provider
        may call the model by any of them, and a new price is meant for the model.
        """
        ours = {price.model: price for price in self.prices}
        said = {name for price in own for name in _names(price)}
        kept = [
            replace(price, names=tuple(name for name in price.names if name not in said))
            for price in self.prices
            if price.model not in said
        ]
        heirs = []
        for price in own:
            replaced = [ours[name] for name in _names(price) if name in ours]
            left = {name: None for old in replaced for name in old.names if name not in said}
            heirs.append(replace(price, names=(*price.names, *left)))
        return PriceList((*kept, *heirs))

    def find(self, *names: str) -> Price | None:
        """The row for the first of ``names`` that has one; names go before patterns."""
        for name in names:
            price = self._exact.get(name) or self._exact.get(_DATE.sub("", name))
            if price is not None:
                return price
        for name in names:
            for (before, _, after), price in self._patterns:
                long_enough = len(name) >= len(before) + len(after)
                if long_enough and name.startswith(before) and name.endswith(after):
                    return price
        return None

    def has_prefix(self, prefix: str) -> bool:
        """Whether any row has a name that begins with ``prefix``."""
        return any(name.startswith(prefix) for p in self.prices for name in _names(p))


def _names(price: Price) -> tuple[str, ...]:
    return (price.model, *price.names)
