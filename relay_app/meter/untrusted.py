"""JSON values from outside, read without believing them.

The rule: each reader takes any value at all and answers with one we can hold, add up, store and
encode as UTF-8, or with None. None means "not said", never zero.
"""

from hashlib import sha256
from typing import Any, Final

from relay_app import codec

__all__ = ["count", "identifier", "mapping", "name", "raw_json", "seconds"]

MAX_NUMBER: Final = 2**53
"""Beyond this JSON numbers lose units in half of the world's parsers; no bill is that large."""

MAX_NAME_CHARS: Final = 256
"""Provider ids are 20 to 40 characters; what is longer is cut, for memory holds thousands."""

MAX_RAW_BYTES: Final = 4096


def mapping(value: object) -> dict[str, Any]:
    """``value`` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def count(value: object) -> int | None:
    """``value`` if it is a whole number from 0 to 2**53. Not a bool, float or string."""
    return value if type(value) is int and 0 <= value <= MAX_NUMBER else None


def seconds(value: object) -> float | None:
    """``value`` if it is a finite number of seconds, 0 or more. Not a bool or string."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value <= MAX_NUMBER else None
    return None


def name(value: object) -> str | None:
    """``value`` as text fit for any store, at most 256 characters; None if there is none.

    Lone surrogates become ``?``, since no UTF-8 says them; NUL becomes U+FFFD, since SQL
    databases refuse it.
    """
    if not isinstance(value, str) or not value:
        return None
    if len(value) <= MAX_NAME_CHARS and value.isascii() and "\0" not in value:
        return value
    encodable = value[:MAX_NAME_CHARS].encode("utf-8", "replace").decode("utf-8")
    return encodable.replace("\0", "\N{REPLACEMENT CHARACTER}")


def identifier(value: object) -> str | None:
    """Like :func:`name`, and different ids stay different: one we had to alter gets a digest."""
    readable = name(value)
    if readable is None or not isinstance(value, str) or readable == value:
        return readable
    digest = sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{readable[:64]}~{digest[:32]}"


def raw_json(value: object) -> str | None:
    """``value`` as compact JSON text, cut to 4 kB at a character boundary; None for None."""
    if value is None:
        return None
    text = codec.dumps(value)
    if text.isascii():
        return text[:MAX_RAW_BYTES]
    encoded = text.encode("utf-8", "replace")
    return encoded[:MAX_RAW_BYTES].decode("utf-8", "ignore")
