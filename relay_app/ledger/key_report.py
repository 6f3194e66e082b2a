"""Keys as text: whose they are, what they may use, never their digest.

The rule: nothing here asks a store or prints; what has no limit is a dash.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from relay_app import codec
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.usage_report import align, printable
from relay_app.settings import Key

__all__ = ["ListedKey", "as_json", "as_table", "limits_text", "listed"]

State = Literal["active", "revoked", "unused"]


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key and where it is kept. ``unused`` is one of the store whose name the settings have."""

    key: Key
    source: Literal["settings", "store"]
    state: State
    created_at: float | None = None
    revoked_at: float | None = None


def listed(settings: Iterable[Key], store: Iterable[StoredKey]) -> list[ListedKey]:
    """All keys by name, those of the settings before those of the store."""
    found = [ListedKey(key, "settings", "active") for key in settings]
    taken = {key.key.name for key in found}
    for stored in store:
        state: State = "unused" if stored.key.name in taken else "active"
        if stored.revoked_at is not None:
            state = "revoked"
        found.append(ListedKey(stored.key, "store", state, stored.created_at, stored.revoked_at))
    return sorted(found, key=lambda one: (one.key.name, one.source))


def as_table(keys: Sequence[ListedKey]) -> str:
    """For people; "no keys" if there are none."""
    if not keys:
        return "no keys"
    rows = [["name", "source", "state", "models", "budget USD", "sessions", "tokens/min",
             "created", "revoked"]]  # fmt: skip
    for one in keys:
        key = one.key
        rows.append(
            [
                printable(key.name),
                one.source,
                one.state,
                printable(",".join(key.models)),
                _budget(key),
                _or_dash(key.max_sessions),
                _or_dash(key.max_tokens_per_minute),
                _when(one.created_at),
                _when(one.revoked_at),
            ]
        )
    return align(rows, left=4)


def as_json(keys: Iterable[ListedKey]) -> str:
    """For programs: an array of objects, times in seconds since the epoch, money as text."""
    return codec.dumps([_values(one) for one in keys])


def limits_text(key: Key) -> str:
    """What ``key`` may use, in one line."""
    return (
        f"budget {_budget(key, ' USD')}, sessions {_or_dash(key.max_sessions)}, "
        f"tokens a minute {_or_dash(key.max_tokens_per_minute)}"
    )


def _values(one: ListedKey) -> dict[str, Any]:
    key = one.key
    return {
        "name": key.name,
        "source": one.source,
        "state": one.state,
        "models": list(key.models),
        "budget_usd": None if key.budget_usd is None else format(key.budget_usd, "f"),
        "budget_period": key.budget_period,
        "max_sessions": key.max_sessions,
        "max_tokens_per_minute": key.max_tokens_per_minute,
        "created_at": one.created_at,
        "revoked_at": one.revoked_at,
    }


def _budget(key: Key, unit: str = "") -> str:
    if key.budget_usd is None:
        return "-"
    per = "" if key.budget_period == "total" else f" a {key.budget_period}"
    return f"{key.budget_usd:f}{unit}{per}"


def _or_dash(value: int | None) -> str:
    return "-" if value is None else str(value)


def _when(moment: float | None) -> str:
    if moment is None:
        return "-"
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
