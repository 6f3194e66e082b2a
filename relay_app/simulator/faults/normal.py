"""Normal: a provider with which everything goes well, and the hooks that a fault changes.

The rules: one instance belongs to one session; hooks that are called for each event or each
write never wait.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from gevent.socket import socket

from relay_app.simulator.channel import Channel
from relay_app.simulator.handshake import Handshake

__all__ = ["Do", "Event", "Normal", "Step"]

Event = dict[str, Any]
Step = Event | bytes | Callable[[Channel], object]
"""What is done to a client: an event that is said, bytes as they are, or a method of Channel."""
Do = Callable[[Step], None]


class Normal:
    """Everything goes well."""

    takes: ClassVar[str] = ""
    """What stands behind the colon of its name: ``EVENT``, ``SECONDS``; nothing if empty."""
    glued: ClassVar[bool] = False
    """Whether the first events go out in one piece with the 101."""

    def __init__(self, argument: str = "") -> None:
        """Raises ValueError, which completes "expected ...", for an argument that cannot be."""

    def admit(self, handshake: Handshake, sock: socket) -> None:
        """Called before the 101 and before our own checks. A raised Fault becomes the answer;
        a raised Gone says that nothing is to be answered any more."""

    def say(self, event: Event) -> Iterable[Step]:
        """What is done instead of saying ``event``."""
        return (event,)

    def meanwhile(self, do: Do) -> Iterator[float] | None:
        """A script that runs beside the conversation: it yields milliseconds until its next step,
        at the speed of the simulator."""
        return None

    def pieces(self, data: bytearray) -> Iterable[bytes | bytearray]:
        """``data`` as it is handed to the kernel, piece by piece."""
        return (data,)

    def before_read(self) -> None:
        """Called before each read, and may wait."""

    def now(self) -> float:
        """What the provider's clock shows, in seconds since 1970."""
        return time.time()
