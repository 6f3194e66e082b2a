"""Debut: whether an upstream that let a session in then does its work.

The rule: only what a client cannot bring about counts against an upstream: an ``error`` event
about its own trouble or our account, before anything but a greeting, or an end before any word.
"""

from collections.abc import Callable
from typing import Any, Final

from relay_app import codec
from relay_app.meter.events import HEAD_BYTES, peek
from relay_app.session.lifecycle import Cause, Ending
from relay_app.upstream.blame import Blame, blame_of_close, blame_of_event
from relay_app.wire.messages import Message

__all__ = ["Debut"]

MAX_ERROR_BYTES: Final = 16_384
_GREETINGS: Final = {"session.created", "transcription_session.created", "conversation.created"}


class Debut:
    """``tell`` is called at most once: with who is to blame, or with None when the upstream has
    begun to work, and why."""

    __slots__ = ("_greeted", "_tell", "over")

    def __init__(self, tell: Callable[[Blame | None, str], None]) -> None:
        self.over = False
        self._greeted = False
        self._tell = tell

    def heard(self, message: Message) -> None:
        """The upstream said something."""
        name = peek(message.head(HEAD_BYTES))
        if name in _GREETINGS:
            self._greeted = True
            return
        self.over = True
        if name != "error":
            self._tell(None, "")
            return
        error = _error_of(message)
        due_to = blame_of_event(_text(error, "code"), _text(error, "type"))
        self._tell(due_to, f"error_{due_to.value}")

    def ended(self, ending: Ending) -> None:
        """The session is over."""
        its_doing = ending.cause is Cause.TARGET or ending.offender == "target"
        if self.over or self._greeted or not its_doing:
            return
        self.over = True
        due_to = blame_of_close(ending.code)
        if due_to is not None:
            self._tell(due_to, f"closed_{ending.code}")


def _error_of(message: Message) -> dict[str, Any]:
    payload = message.payload() if message.length <= MAX_ERROR_BYTES else None
    try:
        error = codec.loads_object(payload or b"").get("error")
    except ValueError:
        error = None
    return error if isinstance(error, dict) else {}


def _text(error: dict[str, Any], name: str) -> str:
    value = error.get(name)
    return value if isinstance(value, str) else ""
