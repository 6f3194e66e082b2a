"""Faults of delivery: what is said is right, and comes or is taken in an awkward way."""

from collections.abc import Iterable, Iterator

import gevent

from relay_app import codec
from relay_app.simulator.channel import READ_BYTES
from relay_app.simulator.faults.arguments import number
from relay_app.simulator.faults.frames import CONTINUATION, PING, TEXT, frame
from relay_app.simulator.faults.normal import Event, Normal, Step

__all__ = ["Giant", "Glued", "SlowReader", "SlowWriter", "Split"]

MIB = 1024 * 1024


class Glued(Normal):
    """The first event comes in one piece with the 101."""

    glued = True


class SlowWriter(Normal):
    """Everything comes one byte at a time, the 101 as well."""

    def pieces(self, data: bytearray) -> Iterator[bytes]:
        """Single bytes."""
        for byte in data:
            yield bytes((byte,))
            gevent.sleep(0)


class SlowReader(Normal):
    """What the client says is taken at this many bytes a second at most."""

    takes = "BYTES"

    def __init__(self, argument: str = "") -> None:
        self._seconds = READ_BYTES / number(argument, "bytes a second", 1024, 1e9)

    def before_read(self) -> None:
        """Wait for as long as a whole read may take."""
        gevent.sleep(self._seconds)


class Split(Normal):
    """Each message comes in fragments of so many bytes, with a ping behind each."""

    takes = "BYTES"

    def __init__(self, argument: str = "") -> None:
        self._size = int(number(argument, "bytes", 1, MIB))

    def say(self, event: Event) -> Iterator[Step]:
        """Cut it up, through characters of several bytes too."""
        text = codec.dumps(event).encode()
        for start in range(0, len(text), self._size):
            last = start + self._size >= len(text)
            opcode = CONTINUATION if start else TEXT
            yield frame(opcode, text[start : start + self._size], fin=last) + frame(PING, b"?")


class Giant(Normal):
    """Each response.done is so many MiB large, in one frame."""

    takes = "MIB"

    def __init__(self, argument: str = "") -> None:
        self._size = int(number(argument, "MiB", 1, 64) * MIB)

    def say(self, event: Event) -> Iterable[Step]:
        """Pad it with metadata."""
        if event["type"] != "response.done":
            return (event,)
        empty = {**event["response"], "metadata": {"padding": ""}}
        room = self._size - len(codec.dumps({**event, "response": empty}).encode())
        response = {**empty, "metadata": {"padding": "x" * room}}
        return ({**event, "response": response},)
