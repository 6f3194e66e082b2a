"""What a meter may ask of a WebSocket message.

The rule: the questions cost little unless :meth:`Message.payload` is asked, and it is asked only
for messages that are counted. Whoever carries messages satisfies this without importing it.
"""

from typing import Protocol

__all__ = ["Message", "WholeText"]


class Message(Protocol):
    """One whole data message, its fragments joined and its mask taken off where asked for."""

    @property
    def text(self) -> bool:
        """Whether the opcode said text; binary otherwise."""
        ...

    @property
    def length(self) -> int:
        """Payload length in bytes."""
        ...

    def head(self, n: int, /) -> bytes:
        """The first ``n`` bytes of the payload, or all of it if it is shorter. O(n)."""
        ...

    def tail(self, n: int, /) -> bytes:
        """The last ``n`` bytes of the payload, or all of it if it is shorter. O(n)."""
        ...

    def payload(self) -> bytes | None:
        """All of the payload, or None if it was too large to be kept. O(length)."""
        ...


class WholeText:
    """A text message all of which is at hand."""

    __slots__ = ("_payload",)

    text = True

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    @property
    def length(self) -> int:
        return len(self._payload)

    def head(self, n: int, /) -> bytes:
        return self._payload[:n]

    def tail(self, n: int, /) -> bytes:
        return self._payload[-n:]

    def payload(self) -> bytes:
        return self._payload
