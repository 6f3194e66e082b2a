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

__all__ = ["BASE64", "SHORT_TAIL_BYTES", "AudioField", "response_id", "text_bytes"]

SHORT_TAIL_BYTES: Final = 64
"""Enough where the audio comes last, as it does in clients and at OpenAI: no id is as long."""

_SPACE: Final = rb"[ \t\n\r]*+"
_WHITESPACE: Final = b" \t\n\r"
BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_\\="
"""With the URL-safe letters, and the backslash some encoders put before a slash."""


def _opening(field: bytes) -> re.Pattern[bytes]:
    return re.compile(rb'(?<!\\)"' + field + rb'"' + _SPACE + rb":" + _SPACE + rb'"')


_DELTA: Final = _opening(b"delta")
_DELTA_PLAIN: Final = b'"delta":"'
_RESPONSE_ID: Final = re.compile(
    rb'(?<!\\)"response_id"' + _SPACE + rb":" + _SPACE + rb'"([^"\\]{1,256})"'
)
_RESPONSE_ID_PLAIN: Final = b'"response_id":"'
_STRING: Final = re.compile(rb'(?>(?:[^"\\]++|\\.)*)', re.DOTALL)


def response_id(message: Message, head: bytes) -> str | None:
    """The value of ``response_id``, if it stands at either end of the message."""
    start = head.find(_RESPONSE_ID_PLAIN)
    if start >= 0:
        start += len(_RESPONSE_ID_PLAIN)
        value = head[start : head.find(b'"', start)]
        if value and b"\\" not in value:
            return value.decode("utf-8", "replace")
    match = _RESPONSE_ID.search(head)
    if match is None and message.length > HEAD_BYTES:
        match = _RESPONSE_ID.search(message.tail(TAIL_BYTES))
    return None if match is None else match[1].decode("utf-8", "replace")


class AudioField:
    """The base64 field ``audio`` or ``delta`` of the messages of one direction.

    Chunks of a stream are alike, so the last answer is kept: a message of the same length whose
    field begins at the same place holds as much audio (to the two bytes that padding
    leaves open), and its tail is not looked at again.
    """

    __slots__ = ("_bytes", "_like", "_opening", "_plain")

    def __init__(self, name: bytes) -> None:
        self._plain = b'"' + name + b'":"'
        self._opening = _opening(name)
        self._like = (0, 0)
        self._bytes = 0

    def bytes_in(self, message: Message, head: bytes) -> int:
        """Bytes of the audio that the field holds; 0 if it is not there.

        Exact where nothing longer than a tail follows it, whatever the order of fields. Else all
        that follows counts as audio: too much, never too little.
        """
        start = _start(head, self._plain, self._opening)
        if start is None:
            return 0
        if message.length <= len(head) or head.find(b'"', start) >= 0:
            end = head.find(b'"', start)
            end = end if end >= 0 else len(head)
            return base64_bytes(end - start, head.count(b"=", max(start, end - 2), end))
        like = (start, message.length)
        if like != self._like:
            self._like = like
            self._bytes = _beyond(message, start)
        return self._bytes


def _start(head: bytes, plain: bytes, opening: re.Pattern[bytes]) -> int | None:
    """Where the value of a field begins. ``plain`` is how all encoders without spaces write what
    is before it, found in a tenth of the time."""
    found = head.find(plain)
    if found >= 0:
        return found + len(plain)
    match = opening.search(head)
    return None if match is None else match.end()


def _beyond(message: Message, start: int) -> int:
    """Bytes of the audio that begins at ``start`` and goes on beyond the head."""
    for size in (SHORT_TAIL_BYTES, TAIL_BYTES):
        tail = message.tail(size)
        before = message.length - len(tail)
        begin = max(0, start - before)
        quote = tail.find(b'"', begin)
        # The string ends at the first quote if all before can be of it. A tail begins within the
        # string, if it does not hold all of it; a short one may begin within another behind it,
        # unless there is no room for one.
        alone = begin or size == TAIL_BYTES or tail[quote + 1 :].strip(_WHITESPACE) == b"}"
        if alone and quote > 0 and not tail[begin:quote].translate(None, BASE64):
            padding = tail.count(b"=", max(begin, quote - 2), quote)
            return base64_bytes(before + quote - start, padding)
    return base64_bytes(message.length - start)


def text_bytes(message: Message, head: bytes) -> int:
    """Bytes of the JSON string ``delta``, up to the head's end if it goes on beyond."""
    start = _start(head, _DELTA_PLAIN, _DELTA)
    if start is None:
        return 0
    end = head.find(b'"', start)
    if end < 0 or head.find(b"\\", start, end) >= 0:
        string = _STRING.match(head, start)
        end = string.end() if string is not None else start
    return (message.length if end == HEAD_BYTES else end) - start
