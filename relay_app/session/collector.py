"""Collector: cancels what runs upstream, and waits for what it has come to.

The rules: one response or all of them are cancelled, each once, by its id; what the upstream
reports is metered by the pump that reads it, and here is only noticed; an upstream that cannot be
told is not waited for, because closing its connection is then the only way to stop it.
"""

from collections.abc import Callable, Set
from time import monotonic
from typing import Any

from gevent.event import Event

from relay_app import codec
from relay_app.meter.events import peek
from relay_app.meter.meter import Meter
from relay_app.meter.units import UNNAMED
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.messages import Message

__all__ = ["Collector"]

MAX_ERROR_BYTES = 16_384
"""Error events are about 300 bytes."""
_NONE: Set[str] = frozenset()


def _nothing(cancel: Callable[[], None]) -> None:
    """Starts nothing."""


class Collector:
    """The end of what one ``target`` is doing. ``event_id`` is what our cancels are sent under;
    ``spawn`` starts a greenlet that ends with the session."""

    __slots__ = ("_cancelled", "_cancelling", "_change", "_deadline", "_event_id", "_meter",
                 "_spawn", "_target", "_unwelcome", "_vain", "begun", "said")  # fmt: skip

    def __init__(
        self,
        meter: Meter,
        target: Link,
        *,
        event_id: str,
        spawn: Callable[[Callable[[], None]], Any],
    ) -> None:
        self.begun = False
        self._meter = meter
        self._target = target
        self._event_id = event_id
        self._spawn = spawn
        self._unwelcome = _NONE
        self._cancelled = _NONE
        self.said = False
        """Whether the upstream was told to cancel something."""
        self._cancelling = False
        self._vain = False
        self._deadline = float("inf")
        self._change = Event()

    @property
    def listens(self) -> bool:
        """Whether it has to be told of every message of the upstream's."""
        return self.begun or self.said

    def begin(self) -> None:
        """Cancels every response that runs, and from now on every one that begins. Never blocks."""
        self.begun = True
        self.notice()

    def cancel(self, unit_id: str) -> None:
        """Cancels this response alone, if it still runs. Never blocks."""
        self._unwelcome |= {unit_id}
        self.notice()

    def notice(self) -> None:
        """The upstream said something, or fell silent for good. Never blocks."""
        self._change.set()
        if not self._cancelling and not self._vain and self._uncancelled():
            self._cancelling = True
            self._spawn(self._cancel)

    def give_up(self) -> None:
        """Nothing is to come any more; who waits need not. Never blocks."""
        self._vain = True
        self._change.set()

    def close(self) -> None:
        """The session is over: nothing is cancelled any more, and nobody asked to."""
        self.give_up()
        self._spawn = _nothing

    def wait(self, seconds: float) -> None:
        """Waits until nothing is open, nothing is to come, or for ``seconds``."""
        self._deadline = min(self._deadline, monotonic() + seconds)
        while self._meter.units_open and not self._vain:
            left = self._deadline - monotonic()
            if left <= 0:
                return
            self._change.clear()
            self._change.wait(left)

    def hurry(self, seconds: float) -> None:
        """Whoever waits is to do so for at most ``seconds`` from now. Never blocks."""
        self._deadline = min(self._deadline, monotonic() + seconds)
        self._change.set()

    def provoked(self, message: Message) -> bool:
        """Whether ``message`` is an error that a cancel of ours was answered with, of which there
        must have been one: its response had just ended. A client takes error events for fatal,
        and this one is none of its own."""
        if not message.text or message.length > MAX_ERROR_BYTES:
            return False
        if peek(message.head()) != "error":
            return False
        return self._event_id.encode() in (message.payload() or b"")

    def _uncancelled(self) -> list[str]:
        running = self._meter.responses()
        self._cancelled &= set(running)
        self._unwelcome &= set(running)
        unwelcome = running if self.begun else self._unwelcome
        return [unit_id for unit_id in unwelcome if unit_id not in self._cancelled]

    def _cancel(self) -> None:
        try:
            while uncancelled := self._uncancelled():
                for unit_id in uncancelled:
                    self._cancelled |= {unit_id}
                    self.said = True
                    if not self._target.send_text(codec.dumps(self._cancellation(unit_id))):
                        self.give_up()
                        return
        except LinkEnded:
            self.give_up()
        finally:
            self._cancelling = False

    def _cancellation(self, unit_id: str) -> dict[str, str]:
        event = {"type": "response.cancel", "event_id": self._event_id}
        # Without an id the response of the conversation is meant: of several that run, or of one
        # outside of it, none may be.
        if not unit_id.startswith(UNNAMED):
            event["response_id"] = unit_id
        return event
