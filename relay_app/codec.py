"""JSON in and out, in one place, so that the library behind it can change in one line.

The rule: nothing else in the package imports a JSON library. ujson is used with
``escape_forward_slashes=False`` because base64 audio is full of slashes, and it is given
bytes as they came: it checks their UTF-8 itself.
"""

from typing import Any

import ujson

__all__ = ["dumps", "is_dense", "loads", "loads_object"]


def loads(payload: bytes | str) -> Any:
    """The value that ``payload`` encodes.

    Raises ValueError for everything that is not one JSON text we can hold: broken syntax,
    invalid UTF-8, nesting deeper than ujson's limit of 1,024. More is let through than RFC 8259
    allows: NaN, infinities, numbers like ``01``, and halves of surrogate pairs.
    """
    try:
        return ujson.loads(payload)
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ValueError(f"not JSON: {error}") from None


def loads_object(payload: bytes | str) -> dict[str, Any]:
    """Like :func:`loads`, and raises ValueError unless the value is a JSON object."""
    value = loads(payload)
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {type(value).__name__}")
    return value


def is_dense(payload: bytes, values: int) -> bool:
    """Whether ``payload`` may encode more than so many values: they, and not bytes, are what takes
    time (``tests/meter/measure_bombs.py``)."""
    return len(payload) > 2 * values and sum(map(payload.count, (b",", b"[", b"{"))) > values


def dumps(value: Any) -> str:
    """``value`` as compact JSON text.

    Raises TypeError for what JSON cannot say: bytes, sets, objects, and containers within
    themselves. NaN, infinities and halves of surrogate pairs come out as they were let in by
    :func:`loads`; the halves make the text one that UTF-8 cannot encode.
    """
    try:
        return ujson.dumps(value, ensure_ascii=False, escape_forward_slashes=False)
    except OverflowError as error:
        raise TypeError(f"not JSON: {error}") from None
