"""String fields of a message that is not parsed, found from its two ends.

The rule: work is bounded by the ends that are looked at, never by the payload. In JSON a quoted
key followed by a colon is a key; that it is one of the first level is taken on trust, for the
messages asked about are flat in every dialect, and they decide estimates only.
"""

import re
from typing import Final

from relay_app.meter.audio import base64_bytes
from relay_app.meter.events import HEAD_BYTES, TAIL_BYTES
from relay_app.meter.message import Message

__all__ = ["audio_bytes", "response_id", "text_bytes"]

SHORT_TAIL_BYTES: Final = 64
"""Enough where the audio comes last, as it does in clients and at OpenAI: no id is as long."""

_SPACE: Final = rb"[ \t\n\r]*+"
_WHITESPACE: Final = b" \t\n\r"
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_\\="
"""With the URL-safe letters, and the backslash some encoders put before a slash."""


def _opening(field: bytes) -> re.Pattern[bytes]:
    return re.compile(rb'(?<!\\)"' + field + rb'"' + _SPACE + rb":" + _SPACE + rb'"')


_OPENINGS: Final = {field: _opening(field) for field in (b"audio", b"delta")}
_RESPONSE_ID: Final = re.compile(
    rb'(?<!\\)"response_id"' + _SPACE + rb":" + _SPACE + rb'"([^"\\]{1,256})"'
)
_STRING: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


def response_id(message: Message, head: bytes) -> str | None:
    """The value of ``response_id``, if it stands at either end of the message."""
    match = _RESPONSE_ID.search(head)
    if match is None and message.length > HEAD_BYTES:
        match = _RESPONSE_ID.search(message.tail(TAIL_BYTES))
    return None if match is None else match[1].decode("utf-8", "replace")


def audio_bytes(message: Message, head: bytes, field: bytes) -> int:
    """Bytes of the audio that ``field`` (``audio`` or ``delta``) holds as base64; 0 if it is not
    there.

    Exact where nothing longer than a tail follows it, whatever the order of fields. Else all
    that follows counts as audio: too much, never too little.
    """
    start = _start(head, field)
    if start < 0:
        return 0
    end = head.find(b'"', start)
    if end >= 0 or message.length <= len(head):
        end = end if end >= 0 else len(head)
        return base64_bytes(end - start, head.count(b"=", max(start, end - 2), end))
    for size in (SHORT_TAIL_BYTES, TAIL_BYTES):
        tail = message.tail(size)
        quote = tail.find(b'"')
        # The string that goes on beyond the head ends here if all before can be of it. A short
        # tail may begin within another string, unless there is no room for one.
        alone = size == TAIL_BYTES or tail[quote + 1 :].strip(_WHITESPACE) == b"}"
        if alone and quote > 0 and not tail[:quote].translate(None, _BASE64):
            characters = message.length - len(tail) + quote - start
            return base64_bytes(characters, tail.count(b"=", max(0, quote - 2), quote))
    return base64_bytes(message.length - start)


def text_bytes(message: Message, head: bytes) -> int:
    """Bytes of the JSON string ``delta``, up to the head's end if it goes on beyond."""
    start = _start(head, b"delta")
    if start < 0:
        return 0
    match = _STRING.match(head, start)
    end = match.end() if match is not None else start
    return (message.length if end == HEAD_BYTES else end) - start


def _start(head: bytes, field: bytes) -> int:
    """Where the value of ``field`` begins, behind its quote; -1 if it is not in ``head``."""
    plain = head.find(b'"' + field + b'":"')
    if plain >= 0:
        return plain + len(field) + 4
    match = _OPENINGS[field].search(head)
    return -1 if match is None else match.end()
