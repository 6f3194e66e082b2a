"""Skim: runs over messages that need no answer, and says which is the first to be looked at.

The rule: it adds up what is certain, notes as it is what only tells something, and stops at all
else; whoever reads the notes in their order comes to what he would have come to at the time. So
what a session comes to is the same with a skim that sees much and with one that sees nothing.
The compiled one sees most of a voice session; without it every message is looked at.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

from relay_app.meter.names import ASKED, AUDIO, CLIENT, COUNTED, SERVER, TEXT_DELTAS

__all__ = ["CLIENT_KINDS", "SERVER_KINDS", "TEXTS", "Line", "Notes", "Skim", "Told",
           "kinds_without"]  # fmt: skip

TEXTS: Final = sorted(TEXT_DELTAS)
"""The kinds of text, in the order of their bits."""

Told = tuple[bool, float, bytes]
"""A message that was noted: whether the client sent it, when it came, and its payload."""

Line = tuple[int, int, int, int, int, Told | None]
"""What was added up, and the message that came behind it. The sums are bytes of audio that the
client sent; of the response that is skimmed bytes of audio, deltas of text, their bytes, and a
bit for each of :data:`TEXTS` that was among them."""

PLAIN: Final = 0
AUDIO_BYTES: Final = 1
TOLD: Final = 2
FIRST_TEXT: Final = 3
"""What may become of a type: nothing, a sum of audio, a note, or a sum of the first of TEXTS."""

_AT_ONCE: Final = frozenset(
    {
        # These end units, so records come of them.
        "response.done",
        "transcription.done",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.input_audio_transcription.failed",
        # These are long, and come once.
        "session.created",
        "session.updated",
        "session.update",
        "transcription_session.created",
        "transcription_session.updated",
        "transcription_session.update",
    }
)
_TELLING: Final = (
    COUNTED | ASKED | {"input_audio_buffer.cleared", "input_audio_buffer.commit"}
) - _AT_ONCE


def _kind(name: str) -> int:
    if name in TEXT_DELTAS:
        return FIRST_TEXT + TEXTS.index(name)
    if name in AUDIO:
        return AUDIO_BYTES
    return TOLD if name in _TELLING else PLAIN


CLIENT_KINDS: Final = {name.encode(): _kind(name) for name in CLIENT - _AT_ONCE}
SERVER_KINDS: Final = {name.encode(): _kind(name) for name in SERVER - _AT_ONCE}
"""What becomes of the types of a direction."""


@lru_cache(maxsize=16)
def kinds_without(shown: frozenset[str]) -> Mapping[bytes, int]:
    """Those of the server's, but for the types that are to be ``shown``."""
    return {name: kind for name, kind in SERVER_KINDS.items() if name.decode() not in shown}


class PythonNotes:
    """What the skims of both directions have noted: nothing. ``clock`` says when a message came.

    ``on_message`` is called when there is a message after there was none, behind the sending of
    it; without it no message is noted. It should see to it that somebody takes the notes soon.
    """

    pending = False
    """Whether there is something to take."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.on_message: Callable[[], None] | None = None

    def take(self) -> list[Line]:
        """What was noted since it was last taken, in the order in which it came."""
        return []


class PythonSkim:
    """Sees nothing, so that every message is looked at.

    ``kinds`` says what becomes of each type, ``field`` in which string audio and text are. Unless
    it is the client who ``sent`` them, they count only if their ``response_id`` is :attr:`unit`.
    """

    def __init__(
        self, kinds: Mapping[bytes, int], field: bytes, notes: PythonNotes, *, sent: bool
    ) -> None:
        self.unit: bytes | None = None

    def over(self, data: bytes | bytearray, frames: Any, begin: int) -> int:
        """Notes what there is in the messages of ``frames`` from ``begin`` on: the first to be
        looked at."""
        return begin


try:
    from relay_app.meter._skim import Notes, Skim
except ImportError:
    Notes, Skim = PythonNotes, PythonSkim  # type: ignore[misc,assignment]
