"""How long the user spoke: what was appended, and which part of it became an item.

The rule: the server's clock decides. Where it found speech itself (``speech_started``,
``speech_stopped``, counted from the first append) that span is the item; else the item is what
the client had put in the buffer. At most :data:`MAX_ITEMS` items are remembered.
"""

from typing import Any, Final

from relay_app.meter.audio import PCM16
from relay_app.meter.untrusted import seconds

__all__ = ["InputAudio"]

MAX_ITEMS: Final = 128
MAX_SPANS: Final = 64
"""Speech begun and not committed; a server hears one speaker at a time."""


class InputAudio:
    """The input buffer of one session, in milliseconds."""

    __slots__ = ("_appended", "_buffered", "_items", "_spans", "bytes_per_ms")

    def __init__(self) -> None:
        self.bytes_per_ms = PCM16
        self._appended = 0.0
        self._buffered = 0.0
        self._spans: dict[str, tuple[float, float | None]] = {}
        self._items: dict[str, float] = {}

    def append(self, size: int) -> None:
        """The client sent ``size`` bytes of audio."""
        milliseconds = size / self.bytes_per_ms
        self._appended += milliseconds
        self._buffered += milliseconds

    def clear(self) -> None:
        """The buffer was emptied; the server's clock goes on."""
        self._buffered = 0.0

    def start(self, item_id: str | None, at_ms: Any) -> None:
        """Speech began that will be this item."""
        at = seconds(at_ms)
        if item_id and at is not None and item_id not in self._items:
            self._spans[item_id] = (at, None)
            if len(self._spans) > MAX_SPANS:
                del self._spans[next(iter(self._spans))]

    def stop(self, item_id: str | None, at_ms: Any) -> None:
        """The speech of this item ended."""
        at = seconds(at_ms)
        if item_id in self._spans and item_id and at is not None:
            self._spans[item_id] = (self._spans[item_id][0], at)

    def commit(self, item_id: str | None) -> float:
        """The buffer became this item: its length in milliseconds, 0 if it is not known."""
        if item_id in self._items:
            return self._items[item_id or ""]
        begin, end = self._spans.pop(item_id or "", (None, None))
        if begin is None:
            length, self._buffered = self._buffered, 0.0
        else:
            end = self._appended if end is None else end
            length = max(0.0, end - begin)
            self._buffered = max(0.0, self._appended - end)
        if item_id:
            self._items[item_id] = length
            if len(self._items) > MAX_ITEMS:
                del self._items[next(iter(self._items))]
        return length

    def length(self, item_id: str | None) -> float:
        """Milliseconds of an item, committed or being spoken; 0 if it is not known."""
        if item_id in self._items:
            return self._items[item_id or ""]
        begin, end = self._spans.get(item_id or "", (None, None))
        if begin is None:
            return 0.0
        return max(0.0, (self._appended if end is None else end) - begin)
