"""JSON as the standard library reads it: the whole of it, with pairs kept in their order."""

import json
from collections.abc import Iterator
from typing import Any

__all__ = ["Pairs", "count", "fields", "is_odd", "parsed", "plain"]


class Pairs(list[tuple[str, Any]]):
    """An object, whose names may repeat."""


def parsed(payload: bytes) -> Any:
    """The value, with :class:`Pairs` for objects. Raises ValueError for what is no JSON; bytes
    that are no UTF-8 are kept as surrogates."""
    try:
        return json.loads(
            payload.decode("utf-8", "surrogateescape"),
            object_pairs_hook=Pairs,
            parse_constant=_is_none,
        )
    except RecursionError:
        raise ValueError("too deep") from None


def _is_none(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def fields(payload: bytes) -> Pairs | None:
    """The pairs of the object that ``payload`` is; None if it is none."""
    try:
        value = parsed(payload)
    except ValueError:
        return None
    return value if isinstance(value, Pairs) else None


def is_odd(value: Any) -> bool:
    """Whether another parser may read it otherwise: bytes that are no UTF-8, halves of surrogate
    pairs, and numbers beyond 64 bits."""
    if isinstance(value, Pairs):
        return any(is_odd(name) or is_odd(inner) for name, inner in value)
    if isinstance(value, list):
        return any(map(is_odd, value))
    if isinstance(value, str):
        return any("\ud800" <= letter <= "\udfff" for letter in value)
    return isinstance(value, int | float) and not -(2.0**63) < value < 2.0**63


def plain(value: Any) -> Any:
    """``value`` with dicts for objects; None if it is odd, or a name is said twice."""
    try:
        return None if is_odd(value) else _with_dicts(value)
    except LookupError:
        return None


def _with_dicts(value: Any) -> Any:
    if isinstance(value, Pairs):
        if len(dict(value)) < len(value):
            raise LookupError("a name is said twice")
        return {name: _with_dicts(inner) for name, inner in value}
    return [_with_dicts(inner) for inner in value] if isinstance(value, list) else value


def count(value: Any) -> int:
    """How many values there are in ``value``, itself included."""
    return sum(1 for _ in _values(value))


def _values(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, Pairs):
            waiting += [inner for _, inner in value]
        elif isinstance(value, list):
            waiting += value
