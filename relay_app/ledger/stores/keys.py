"""A relay key that lives in a store instead of the settings."""

from dataclasses import dataclass

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
