"""From a message to its event, parsing only what is counted.

The rule: a message is made out or it is opaque; there is no third answer and no exception.
"""

from collections.abc import Set
from typing import Any, Final

from relay_app import codec
from relay_app.meter.events import AUDIO, HEAD_BYTES, TAIL_BYTES, looks_whole, peek
from relay_app.meter.message import Message

__all__ = ["read"]

_OPAQUE: Final = (None, None)


def read(
    message: Message, known: Set[str], counted: Set[str] = frozenset()
) -> tuple[str | None, dict[str, Any] | None]:
    """A message's event type, and the event itself if its type is among ``counted``.

    ``(None, None)`` for an opaque message: binary, not JSON, not an object, without a type that
    is a string, or of a type not ``known``. A message of a known type that is not counted is
    judged by its two ends; one of audio by its head alone, unless it is short enough for the
    head to be all of it.
    """
    if not message.text:
        return _OPAQUE
    head = message.head(HEAD_BYTES)
    name = peek(head)
    if name is not None and name not in counted:
        if name not in known:
            return _OPAQUE
        if message.length <= HEAD_BYTES:
            whole = looks_whole(head, head)
        else:
            whole = name in AUDIO or looks_whole(head, message.tail(TAIL_BYTES))
        return (name, None) if whole else _OPAQUE
    payload = message.payload()
    if payload is None:
        return _OPAQUE
    try:
        event = codec.loads_object(payload)
    except ValueError:
        return _OPAQUE
    name = event.get("type")
    if not isinstance(name, str) or name not in known:
        return _OPAQUE
    return name, event
