"""A relay key that lives in a store instead of the settings."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from relay_app.settings import Key

__all__ = ["StoredKey"]


@dataclass(frozen=True, slots=True)
class StoredKey:
    """``key`` as the settings would give it: its name, its SHA-256, what it may use.

    Times are seconds since the epoch; a key with ``revoked_at`` opens nothing any more and is
    kept, so that its name in the ledger still means something.
    """

    key: Key
    created_at: float
    revoked_at: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """A flat dict of JSON values; money is text."""
        budget = self.key.budget_usd
        return asdict(self.key) | {
            "models": list(self.key.models),
            "budget_usd": None if budget is None else format(budget, "f"),
            "created_at": self.created_at,
            "revoked_at": self.revoked_at,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StoredKey":
        """The key that :meth:`as_dict` wrote. Raises KeyError or TypeError for any other."""
        values = dict(values)
        created_at, revoked_at = values.pop("created_at"), values.pop("revoked_at")
        budget = values["budget_usd"]
        values["budget_usd"] = None if budget is None else Decimal(budget)
        values["models"] = tuple(values["models"])
        return cls(Key(**values), created_at, revoked_at)
