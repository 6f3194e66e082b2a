"""The event type of a message from its two ends, without parsing it.

The rule: a type is either exactly what a parse would say or it is None, never a guess. Only the
two ends of a payload are looked at, so that the time does not grow with it.
"""

import re
from typing import Final

from relay_app.meter.names import AUDIO, CLIENT, COUNTED, SERVER

__all__ = [
    "AUDIO",
    "BRACE_BYTES",
    "CLIENT",
    "COUNTED",
    "HEAD_BYTES",
    "SERVER",
    "TAIL_BYTES",
    "looks_whole",
    "peek",
    "peek_end",
    "peek_usual",
]

HEAD_BYTES: Final = 512
"""How much of a payload is looked at. Recorded envelopes of audio events take 50 to 250 bytes;
a type that stands behind more than this is found by parsing."""

TAIL_BYTES: Final = 256
"""How much of a payload's end is looked at where audio stands before other fields: ids of 20 to
40 characters each, the longest envelope made up of known fields takes 240 bytes."""

BRACE_BYTES: Final = 16
"""How much of it otherwise: a brace, and room for a newline or two."""

_WHITESPACE: Final = b" \t\n\r"

_TYPE_FIRST: Final = b'{"type":"'
_AFTER: Final = (b",", b"}")
_NAMES: Final = {name.encode(): name for name in CLIENT | SERVER}


def _pattern(sketch: bytes) -> re.Pattern[bytes]:
    """A verbose regex with JSON's words filled in. Every repeat is possessive, or in an atomic
    group: no byte is tried twice, whatever the input. A repeat of a choice has to be in a group:
    if it is possessive, Python before 3.11.5, as Debian 12 has it, goes on in the midst of what
    did not fit (gh-106052)."""
    words = {
        b"<space>": rb"[ \t\n\r]*+",
        b"<plain>": rb'"[^"\\\x00-\x1f]*+"',
        b"<string>": rb'"(?>(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*)"',
        b"<scalar>": rb"(?:-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?|true|false|null)",
    }
    for word, meaning in words.items():
        sketch = sketch.replace(word, meaning)
    return re.compile(sketch, re.VERBOSE)


_FIRST_TYPE = _pattern(
    rb"""
    <space> \{
    (?> (?: <space> (?! "type" ) <plain> <space> : <space> (?:<string>|<scalar>) <space> , )* )
    <space> "type" <space> : <space> (<plain>) <space> [,}]
    """
)
"""An object's first "type" if only pairs with simple values stand before it."""

_LAST_TYPE = _pattern(
    rb"""
    <space> \{
    (?> (?: <space>
        (?: "type"  <space> : <space> (<string>|<scalar>)
          | <plain> <space> : <space> (?:<string>|<scalar>) )
        <space> (?: , | (?=\}) )
    )* )
    # The pair that stopped us must not be another type: neither by name nor in disguise.
    (?! <space> (?: "type" | "[^"\\]*+\\ ) )
    """
)
"""The last "type" among an object's leading pairs with simple values."""

_END_TYPE = _pattern(
    rb"""
    [A-Za-z0-9+/=_-]++ "
    (?> (?: <space> , <space>
        (?: "type"  <space> : <space> (<plain>)
          | (?! "type" ) <plain> <space> : <space> (?:<string>|<scalar>) )
    )* )
    <space> \} <space> \Z
    """
)
"""The last "type" among the pairs with simple values behind a string of base64."""


def peek_usual(head: bytes) -> str | None:
    """What :func:`peek` says of a known type that is written as nearly all encoders do, first and
    without spaces, in a third of the time; None for any other.

    No other can be meant: no "type" follows before the first value with others in it, neither by
    name nor in disguise.
    """
    if not head.startswith(_TYPE_FIRST):
        return None
    end = head.find(b'"', len(_TYPE_FIRST))
    name = _NAMES.get(head[len(_TYPE_FIRST) : end])
    if name is None or head[end + 1 : end + 2] not in _AFTER:
        return None
    # What nests is outside of strings: an even number of quotes before it, none of them escaped.
    stop = head.find(b"{", end, HEAD_BYTES)
    if stop < 0 or head.count(b'"', 0, stop) % 2:
        stop = HEAD_BYTES
    if head.find(b'"type"', end, stop) >= 0 or head.find(b"\\", end, stop) >= 0:
        return None
    return name


def peek(head: bytes) -> str | None:
    """The value of "type" at the first level of the JSON object that starts with ``head``.

    None if the head does not tell: a nested value comes before the type, the type is cut off,
    is not a string or is written with escapes, or this is no object at all. Of several types
    among the leading pairs the last wins, as in JSON. A type repeated after the head, or after a
    nested value, goes unseen; no server repeats it, and what clients say decides no money.
    """
    match = _FIRST_TYPE.match(head, 0, HEAD_BYTES)
    if match is not None:
        # Scanning on costs five times the match, so it is done only if there can be a second.
        end = match.end()
        if head.find(b'"type"', end, HEAD_BYTES) >= 0 or head.find(b"\\", end, HEAD_BYTES) >= 0:
            match = _LAST_TYPE.match(head, 0, HEAD_BYTES)
    value = match[1] if match is not None else None
    if value is None or value[:1] != b'"' or b"\\" in value:
        return None
    try:
        return value[1:-1].decode()
    except UnicodeDecodeError:
        return None


def peek_end(tail: bytes) -> str | None:
    """The value of "type" where it comes after the audio, as it does if keys are sorted.

    ``tail`` must begin within a string of base64. Nothing opens between that string and the
    last brace, so the pairs there are of the first level, and the last type wins in JSON.
    """
    match = _END_TYPE.match(tail)
    value = match[1] if match is not None else None
    return None if value is None or b"\\" in value else value[1:-1].decode("utf-8", "replace")


def looks_whole(head: bytes, tail: bytes) -> bool:
    """Whether a payload with these ends can be a JSON object: from ``{`` to ``}``.

    Finds the truncated ones without parsing. A tail of nothing but whitespace tells nothing
    and passes.
    """
    if tail.endswith(b"}") and head.startswith(b"{"):
        return True
    end = tail.rstrip(_WHITESPACE)
    return head.lstrip(_WHITESPACE)[:1] == b"{" and (not end or end[-1:] == b"}")
