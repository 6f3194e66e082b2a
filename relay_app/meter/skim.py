"""Skim: runs over messages that only add up, and says which is the first to be looked at.

The rule: it adds up what is certain and stops at all else, so that what a session comes to is the
same with a skim that sees much and with one that sees nothing. The compiled one sees most of a
voice session; without it every message is looked at.
"""

from collections.abc import Mapping
from typing import Any, Final

from relay_app.meter.names import ASKED, AUDIO, CLIENT, COUNTED, SERVER, TEXT_DELTAS

__all__ = ["CLIENT_KINDS", "SERVER_KINDS", "TEXTS", "Skim"]

TEXTS: Final = sorted(TEXT_DELTAS)
"""The kinds of text, in the order of their bits."""

_PLAIN, _AUDIO, _FIRST_TEXT = 0, 1, 2
_TELLING = COUNTED | ASKED | {"input_audio_buffer.cleared"}
"""Types that mean more than a sum."""


def _kinds(names: frozenset[str]) -> dict[bytes, int]:
    kinds = {name.encode(): _AUDIO if name in AUDIO else _PLAIN for name in names - _TELLING}
    kinds |= {name.encode(): _FIRST_TEXT + n for n, name in enumerate(TEXTS) if name in names}
    return kinds


CLIENT_KINDS: Final[Mapping[bytes, int]] = _kinds(CLIENT)
SERVER_KINDS: Final[Mapping[bytes, int]] = _kinds(SERVER)
"""What becomes of the known types of a direction: nothing, audio, or text."""


class PythonSkim:
    """Sees nothing, so that every message is looked at.

    ``kinds`` says what becomes of each type, ``field`` in which string audio and text are; with
    ``of_units`` they count only if their ``response_id`` is :attr:`unit`.
    """

    seen = False
    """Whether there is something to take."""

    def __init__(self, kinds: Mapping[bytes, int], field: bytes, *, of_units: bool = False) -> None:
        self.unit: bytes | None = None

    def over(self, data: bytes | bytearray, frames: Any, begin: int) -> int:
        """Adds up the messages of ``frames`` from ``begin`` on: the first to be looked at."""
        return begin

    def take(self) -> tuple[int, int, int, int]:
        """What was added up since it was last taken: bytes of audio, deltas of text, their
        bytes, and a bit for each of :data:`TEXTS` that was among them."""
        return 0, 0, 0, 0


try:
    from relay_app.meter._skim import Skim
except ImportError:
    Skim = PythonSkim  # type: ignore[misc,assignment]
