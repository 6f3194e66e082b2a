"""From a message to its event, parsing only what is counted.

The rule: a message is made out or it is opaque; there is no third answer and no exception.
"""

from collections.abc import Set
from typing import Any, Final

from relay_app import codec
from relay_app.meter.events import (
    BRACE_BYTES,
    HEAD_BYTES,
    TAIL_BYTES,
    looks_whole,
    peek,
    peek_end,
    peek_usual,
)
from relay_app.meter.message import Message, WholeText
from relay_app.meter.names import AUDIO

__all__ = ["read", "read_noted"]

MAX_PARSED_BYTES: Final = 262_144
"""What a client says is advisory: beyond this it is not worth the time it takes to parse (12 MB
of small objects hold the interpreter for 0.37 s)."""

CLIENT_VALUES: Final = 16_384
SERVER_VALUES: Final = 65_536
"""Messages that may hold more values are not parsed either, whoever says them: a server repeats
what its client said. Ten minutes transcribed with the probability of each token are some 20,000."""

MAX_MENDED_BYTES: Final = 1_048_576
"""What is no UTF-8 is read all the same up to this: it takes 14 ns a byte, and the longest report
of a provider's is some kB."""

NEAR_BYTES: Final = 128
"""How much of a client's message is unmasked at first: the head of most is their audio, and
taking the mask off all of it would be half of what metering them costs."""

_OPAQUE: Final = (None, None, b"")
_AUDIO_BEGINS: Final = (b'"audio":', b'"delta":')


def read(
    message: Message,
    known: Set[str],
    counted: Set[str] = frozenset(),
    *,
    near_bytes: int = HEAD_BYTES,
    parsed_bytes: int | None = None,
    parsed_values: int = SERVER_VALUES,
) -> tuple[str | None, dict[str, Any] | None, bytes]:
    """A message's event type, the event itself if its type is among ``counted``, and its head.

    No type for an opaque message: binary, not JSON, not an object, without a type that
    is a string, or of a type not ``known``. A message of a known type that is not counted is
    judged by its two ends; one of audio by its head alone, unless it is short enough for the
    head to be all of it, and if audio is what the first ``near_bytes`` end in, by these. One
    longer than ``parsed_bytes`` has no event. One that would be parsed and may hold more than
    ``parsed_values`` is opaque.
    """
    if not message.text:
        return _OPAQUE
    head = message.head(near_bytes)
    name = peek_usual(head)
    if near_bytes < HEAD_BYTES:
        far = message.length > HEAD_BYTES and name in AUDIO and name in known
        if far and head.endswith(_AUDIO_BEGINS, 0, head.rfind(b'"')):
            return name, None, head
        head = message.head(HEAD_BYTES)
        name = peek_usual(head)
    name = name or peek(head)
    if name is None and message.length > HEAD_BYTES:
        at_end = peek_end(message.tail(TAIL_BYTES))
        name = at_end if at_end in AUDIO else None
    if name is not None:
        if name not in known:
            return _OPAQUE
        if message.length <= HEAD_BYTES:
            whole = looks_whole(head, head)
        else:
            whole = name in AUDIO or looks_whole(head, message.tail(BRACE_BYTES))
        if not whole:
            return _OPAQUE
        if name not in counted:
            return name, None, head
    if parsed_bytes is not None and message.length > parsed_bytes:
        return name, None, head
    payload = message.payload()
    if payload is None:
        return name, None, head
    if codec.is_dense(payload, parsed_values):
        return _OPAQUE
    event = _object(payload)
    if event is None:
        return _OPAQUE
    said = event.get("type")
    if not isinstance(said, str) or said not in known:
        return _OPAQUE
    return said, event, head


def read_noted(
    payload: bytes, known: Set[str], counted: Set[str]
) -> tuple[str | None, dict[str, Any] | None]:
    """What :func:`read` says of a short text message all of which is ``payload``, but for its head,
    and sooner if its type is counted and written as nearly all do."""
    if peek_usual(payload[:HEAD_BYTES]) not in counted:
        return read(WholeText(payload), known, counted)[:2]
    event = _object(payload)
    said = None if event is None else event.get("type")
    return (said, event) if isinstance(said, str) and said in known else (None, None)


def _object(payload: bytes) -> dict[str, Any] | None:
    """The JSON object in ``payload``; bytes that are no UTF-8 are read as U+FFFD, for a provider
    that cuts a transcript in the middle of a character still says what it costs."""
    try:
        return codec.loads_object(payload)
    except ValueError:
        if len(payload) > MAX_MENDED_BYTES:
            return None
        text = payload.decode("utf-8", "replace")
    if "\ufffd" not in text:
        return None
    try:
        return codec.loads_object(text)
    except ValueError:
        return None
