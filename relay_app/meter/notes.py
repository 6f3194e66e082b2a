"""Notes: what skims have noted for the meter, in the order in which it came.

The rule: a message stands behind all that was added up before it came and before all that came
after, so that whoever goes through the notes comes to what he would have come to at the time.
"""

from collections.abc import Callable
from typing import Final

from relay_app.meter.kinds import FIRST_TEXT

__all__ = ["MAX_MESSAGE_BYTES", "Line", "PythonNotes", "Told"]

MAX_MESSAGES: Final = 16
MAX_MESSAGE_BYTES: Final = 2_048

Told = tuple[bool, float, bytes]
"""A message that was noted: whether the client sent it, when it came, and its payload."""

Line = tuple[int, int, int, int, int, Told | None]
"""What was added up, and the message that came behind it. The sums are bytes of audio that the
client sent; of the response that is skimmed bytes of audio, deltas of text, their bytes, and a
bit for each kind of text that was among them."""


class PythonNotes:
    """What the skims of both directions have noted. ``clock`` says when a message came.

    ``on_message`` is called when there is a message that is to be looked at soon; without it no
    message is noted. It should see to it that somebody takes the notes.
    """

    __slots__ = ("_appended", "_clock", "_lines", "_piece_bytes", "_pieces", "_spoken", "_texts",
                 "_untold", "on_message", "pending")  # fmt: skip

    def __init__(self, clock: Callable[[], float]) -> None:
        self.on_message: Callable[[], None] | None = None
        self.pending = False
        """Whether there is something to take."""
        self._clock = clock
        self._lines: list[Line] = []
        self._untold = False
        self._appended = self._spoken = self._pieces = self._piece_bytes = self._texts = 0

    @property
    def messages(self) -> int:
        """How many messages are noted."""
        return len(self._lines)

    def add(self, kind: int, size: int, sent: bool) -> None:
        """Adds so many bytes of audio, that the client has ``sent`` or the response has spoken, or
        a delta of text."""
        if kind >= FIRST_TEXT:
            self._pieces += 1
            self._piece_bytes += size
            self._texts |= 1 << kind - FIRST_TEXT
        elif sent:
            self._appended += size
        else:
            self._spoken += size
        self.pending = True

    def add_message(self, sent: bool, payload: bytes, *, soon: bool) -> bool:
        """Notes a message as it is, if there is room for it."""
        lines = self._lines
        if self.on_message is None or len(lines) == MAX_MESSAGES:
            return False
        if len(payload) > MAX_MESSAGE_BYTES:
            return False
        lines.append(self._line((sent, self._clock(), payload)))
        self._untold = self._untold or soon
        return True

    def _line(self, told: Told | None) -> Line:
        line = (self._appended, self._spoken, self._pieces, self._piece_bytes, self._texts, told)
        self._appended = self._spoken = self._pieces = self._piece_bytes = self._texts = 0
        self.pending = True
        return line

    def tell(self) -> None:
        """Calls ``on_message``, if that is still to be done."""
        if self._untold:
            self._untold = False
            if self.on_message is not None:
                self.on_message()

    def take(self) -> list[Line]:
        """What was noted since it was last taken, in the order in which it came."""
        lines = self._lines
        last = self._line(None)
        if any(last):
            lines.append(last)
        self._lines = []
        self.pending = self._untold = False
        return lines
