"""What becomes of a message in a skim, by its type.

The rule: a type that is not here is looked at, by whoever knows what it means.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from relay_app.meter.names import ASKED, AUDIO, CLIENT, COUNTED, SERVER, TEXT_DELTAS

__all__ = ["AUDIO_BYTES", "CLIENT_KINDS", "FIRST_TEXT", "PLAIN", "SERVER_KINDS", "TEXTS", "TOLD",
           "TOLD_SOON", "kinds_without"]  # fmt: skip

TEXTS: Final = sorted(TEXT_DELTAS)
"""The kinds of text, in the order of their bits."""

PLAIN: Final = 0
AUDIO_BYTES: Final = 1
TOLD: Final = 2
TOLD_SOON: Final = 3
FIRST_TEXT: Final = 4
"""What may become of a type: nothing, a sum of audio, a note for whoever looks next, one that is to
be looked at soon, or a sum of the first of TEXTS."""

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
_SOON: Final = frozenset({"response.created"})
"""These begin units, of which there is soon to be a checkpoint."""


def _kind(name: str) -> int:
    if name in TEXT_DELTAS:
        return FIRST_TEXT + TEXTS.index(name)
    if name in AUDIO:
        return AUDIO_BYTES
    if name in _SOON:
        return TOLD_SOON
    return TOLD if name in _TELLING else PLAIN


CLIENT_KINDS: Final = {name.encode(): _kind(name) for name in CLIENT - _AT_ONCE}
SERVER_KINDS: Final = {name.encode(): _kind(name) for name in SERVER - _AT_ONCE}
"""What becomes of the types of a direction."""


@lru_cache(maxsize=16)
def kinds_without(shown: frozenset[str]) -> Mapping[bytes, int]:
    """Those of the server's, but for the types that are to be ``shown``."""
    return {name: kind for name, kind in SERVER_KINDS.items() if name.decode() not in shown}
