"""Skim: runs over messages that need no answer, and says which is the first to be looked at.

The rule: it adds up what is certain, notes as it is what only tells something, and stops at all
else; whoever reads the notes in their order comes to what he would have come to at the time. So
what a session comes to is the same with a skim that sees much and with one that sees nothing.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from relay_app.meter.audio import base64_bytes
from relay_app.meter.events import HEAD_BYTES, peek_usual
from relay_app.meter.fields import BASE64, SHORT_TAIL_BYTES
from relay_app.meter.kinds import AUDIO_BYTES, PLAIN, TOLD, TOLD_SOON
from relay_app.meter.notes import MAX_MESSAGE_BYTES, PythonNotes
from relay_app.meter.reading import NEAR_BYTES

__all__ = ["Notes", "PythonSkim", "Skim"]

Data = bytes | bytearray

_TEXT: Final = 0x1
"""The opcode."""
_BY_TYPE: Final = (PLAIN, TOLD, TOLD_SOON)
"""Of these messages the type is all that counts."""

_AUDIO_ENDS: Final = b'"}'
_BEGINS: Final = b'{"type":"'
_PLAIN_STRING: Final = rb'"[^"\\\x00-\x1f]*+"'


def _pairs(but: bytes) -> bytes:
    """Pairs with simple values whose names begin with none of these letters."""
    pair = rb',"[^%b"\\\x00-\x1f][^"\\\x00-\x1f]*+":(?:%b|[0-9]++)' % (but, _PLAIN_STRING)
    # In an atomic group, not possessive, for the reason in relay_app.meter.events.
    return b"(?>(?:" + pair + b")*)"


def _up_to(field: bytes) -> re.Pattern[bytes]:
    """Up to where the string ``field`` begins: the type, which stands first, the ids of the event
    and of the response.

    Pairs between them have names with other first letters, so each of them is said once.
    """
    pairs = _pairs(b"tr" + field[:1])
    return re.compile(
        rb'\{"type":' + _PLAIN_STRING + rb'(?:,"event_id":"([^"\\\x00-\x1f]*+)")?' + pairs
        + rb'(?:,"response_id":"([^"\\\x00-\x1f]*+)"' + pairs + rb")?"
        + rb',"' + field + rb'":"'
    )  # fmt: skip


_TEXT_ENDS: Final = re.compile(
    rb'((?>(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*))"' + _pairs(b"trd") + rb"\}"
).fullmatch
"""The end of a text, and of the object it is in."""


class _Form(NamedTuple):
    """How a message was written that was added up, for the next is likely to be written alike:
    ``head``, the id of the event, ``middle``, and from ``value_at`` on what is counted."""

    head: bytes
    middle_at: int
    middle: bytes
    value_at: int
    kind: int
    unit: bytes | None
    length: int = 0
    size: int = 0
    """A long one of this length holds so many bytes of audio: to the two that padding leaves open,
    as with :class:`relay_app.meter.fields.AudioField`."""


_NO_FORM: Final = _Form(b"\0", 0, b"", 0, PLAIN, None)


class PythonSkim:
    """Sees messages as nearly all encoders write them: without spaces, the type first, audio last.
    The compiled one sees others as well.

    ``kinds`` says what becomes of each type, ``field`` in which string audio and text are. Unless
    it is the client who ``sent`` them, they count only if their ``response_id`` is :attr:`unit`.
    While messages are noted and there is no unit, the one that a delta names becomes it: its
    beginning is most likely among them. If it is not, nobody finds the unit that the sums are of,
    as if each delta had been looked at.
    """

    __slots__ = ("_kinds", "_long", "_match", "_near_bytes", "_notes", "_sent", "_short", "unit")

    def __init__(
        self, kinds: Mapping[bytes, int], field: bytes, notes: PythonNotes, *, sent: bool
    ) -> None:
        self.unit: bytes | None = None
        self._kinds = kinds
        self._match = _up_to(field).match
        self._near_bytes = NEAR_BYTES if sent else HEAD_BYTES
        self._notes = notes
        self._sent = sent
        self._long = self._short = _NO_FORM

    def over(self, data: Data, frames: Any, begin: int) -> int:
        """Notes what there is in the messages of ``frames`` from ``begin`` on: the first to be
        looked at."""
        index = begin
        try:
            for frame in frames[begin:] if begin else frames:
                if not self._note(data, frame):
                    break
                index += 1
        except Exception:  # noqa: BLE001, S110 - who looks at it has better words for it
            pass
        try:
            self._notes.tell()
        except Exception:  # noqa: BLE001 - they are noted all the same
            sys.excepthook(*sys.exc_info())
        return index

    def _note(self, data: Data, frame: Any) -> bool:
        """Adds a message up or notes it; whether it was certain how. If not, nothing changes."""
        opcode, fin, _, begin, end, key = frame
        if opcode != _TEXT or not fin:
            return False
        length = end - begin
        whole = length <= HEAD_BYTES
        seen = length if whole else self._near_bytes
        # What is seen of the message is text[at:stop], and no mask is on it.
        text, at = data, begin
        if key:
            text, at = _unmasked(data[begin : begin + seen], key), 0
        stop = at + seen
        form = self._short if whole else self._long
        head, middle_at, middle, value_at, kind, unit, like, size = form
        id_at = at + len(head)
        middle_at += at
        value_at += at
        if (
            text.startswith(head, at)
            and text.startswith(middle, middle_at)
            and text.find(b'"', id_at, middle_at) < 0
            and text.find(b"\\", id_at, middle_at) < 0
            and unit == self.unit
        ):
            if whole:
                size = _size(kind, text, value_at, stop)
                if size >= 0:
                    self._notes.add(kind, size, self._sent)
                    return True
            elif length == like and text.find(b'"', value_at, stop) < 0:
                self._notes.add(kind, size, self._sent)
                return True
        return self._look(data, begin, end, key, text, at, stop)

    def _look(
        self, data: Data, begin: int, end: int, key: bytes, text: Data, at: int, stop: int
    ) -> bool:
        """The same for a message that is not like the one before."""
        type_at = at + len(_BEGINS)
        type_ends = text.find(b'"', type_at, stop)
        if not text.startswith(_BEGINS, at) or type_ends < 0:
            return False
        kind = self._kinds.get(bytes(text[type_at:type_ends]))
        if kind is None:
            return False
        if kind in _BY_TYPE:
            return self._pass(kind, data, begin, end, key)
        match = self._match(text, at, stop)
        if match is None or not (self._sent or self._is_of_unit(match[2])):
            return False
        value_at = match.end()
        id_at, id_ends = match.span(1) if match[1] is not None else (value_at, value_at)
        form = _Form(
            head=bytes(text[at:id_at]),
            middle_at=id_ends - at,
            middle=bytes(text[id_ends:value_at]),
            value_at=value_at - at,
            kind=kind,
            unit=self.unit,
        )
        length = end - begin
        if length <= HEAD_BYTES:
            size = _size(kind, text, value_at, stop)
            self._short = form
        elif kind == AUDIO_BYTES and text.find(b'"', value_at, stop) < 0:
            size = _long_size(data, begin, begin + form.value_at, end, key)
            self._long = form._replace(length=length, size=size)
        else:
            return False
        if size < 0:
            self._long = self._short = _NO_FORM
            return False
        self._notes.add(kind, size, self._sent)
        return True

    def _is_of_unit(self, name: bytes | None) -> bool:
        if self.unit is None and self._notes.messages and name and name.isascii():
            self.unit = name
        return name is not None and name == self.unit

    def _pass(self, kind: int, data: Data, begin: int, end: int, key: bytes) -> bool:
        """Whether the message, of which the type alone counts, is one of that type; notes it if it
        is to be told."""
        if end - begin > MAX_MESSAGE_BYTES:
            return False
        payload = _unmasked(data[begin:end], key) if key else bytes(data[begin:end])
        if peek_usual(payload) is None or not payload.endswith(b"}"):
            return False
        return kind == PLAIN or self._notes.add_message(self._sent, payload, soon=kind == TOLD_SOON)


def _size(kind: int, text: Data, start: int, stop: int) -> int:
    """Bytes of the audio or the text that begins at ``start`` in a message that ends at ``stop``;
    -1 if that is not certain."""
    if kind != AUDIO_BYTES:
        match = _TEXT_ENDS(text, start, stop)
        return -1 if match is None else match.end(1) - start
    quote = text.find(b'"', start, stop)
    if quote < 0 or text[quote:stop] != _AUDIO_ENDS:
        return -1
    return base64_bytes(quote - start, text.count(b"=", max(start, quote - 2), quote))


def _long_size(data: Data, begin: int, start: int, end: int, key: bytes) -> int:
    """Bytes of the audio that begins at ``start`` and goes on beyond a message's head; -1 unless
    it is the last field, for which there must be no room for another behind it."""
    if end - SHORT_TAIL_BYTES < start:
        return -1
    tail: Data = data[end - SHORT_TAIL_BYTES : end]
    if key:
        turn = (end - SHORT_TAIL_BYTES - begin) % 4
        tail = _unmasked(tail, key[turn:] + key[:turn])
    if not tail.endswith(_AUDIO_ENDS) or tail.translate(None, BASE64) != _AUDIO_ENDS:
        return -1
    return base64_bytes(end - 2 - start, tail.count(b"=", SHORT_TAIL_BYTES - 4))


def _unmasked(payload: Data, key: bytes) -> bytes:
    """The beginning of a payload as it is meant."""
    size = len(payload)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")


try:
    from relay_app.meter._skim import Notes, Skim
except ImportError:
    Notes, Skim = PythonNotes, PythonSkim  # type: ignore[misc,assignment]
