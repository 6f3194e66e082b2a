"""Express: from one Link to another on the hub, for what needs no thought.

A greenlet that is woken for every message costs several times what the message itself does. So
while a pump rests, this is called when there is something to read: it reads, skims and sends, and
wakes the pump only for what is not so simple.

The rules:

* It never waits and never raises. It sends only what was skimmed and the kernel takes at once, on
  a Link where nobody else writes and nothing waits to be written.
* What it began and cannot finish it leaves behind, with how far it got: nothing is read twice,
  looked at twice or sent twice.
"""

from collections.abc import Callable, Sequence

from relay_app.wire.frames import Buffer, Frame, Run, give_back
from relay_app.wire.link import Link
from relay_app.wire.rooms import READ_BYTES, SMALL_BYTES

__all__ = ["Express", "Skim"]

Skim = Callable[[Buffer, Sequence[Frame], int], int]
"""Looks at the messages of a run's frames, from one on: the frame that it has not looked at."""


class PythonExpress:
    """One direction, ``source`` to ``sink``.

    With ``skim`` it runs; without, all is left to the pump. ``messages`` counts what it has
    forwarded. What it left behind: ``run``, of which ``skimmed`` frames were looked at and
    ``sent`` bytes went out.
    """

    __slots__ = ("_out", "_pending", "_read_some", "_scanner", "_write_some", "messages", "run",
                 "sent", "skim", "skimmed")  # fmt: skip

    def __init__(self, source: Link, sink: Link) -> None:
        self.skim: Skim | None = None
        self.messages = 0
        self.run: Run | None = None
        self.skimmed = 0
        self.sent = 0
        self._scanner = source.scanner
        self._read_some = source.connection.read_some
        self._pending = source.connection.pending
        self._out = sink.out
        self._write_some = sink.connection.write_some

    def __call__(self, wake: Callable[[], None]) -> None:
        """There is something to read. ``wake`` is called if the pump is needed."""
        try:
            # Nothing overtakes what was left and not fetched yet.
            may = self.skim is not None and self.run is None and self._out.clear
            passed = may and self._pass(self.skim)  # type: ignore[arg-type]
            more = self._pending is not None and self._pending() > 0
        except Exception:  # noqa: BLE001 - who is woken meets it again, and says so
            passed = more = False
        if not passed or more:
            wake()

    def _pass(self, skim: Skim) -> bool:
        scanner = self._scanner
        count = self._read_some(scanner.room(READ_BYTES))
        if not count:
            return False
        run = scanner.took(count)
        frames = run.frames
        simple = run.fault is None and not run.has_control and scanner.awaiting <= SMALL_BYTES
        if simple and not frames:
            give_back(run)
            return True
        self.run = run
        if not simple:
            return False
        self.skimmed = skim(run.data, frames, 0)
        if not self.skimmed:
            return False
        data = memoryview(run.data)[: frames[self.skimmed - 1].end]
        self.sent = self._write_some(data)
        self._out.bytes_out += self.sent
        if self.skimmed < len(frames) or self.sent < len(data):
            return False
        self.messages += self.skimmed
        give_back(run)
        self.run = None
        self.skimmed = self.sent = 0
        return True


try:
    from relay_app.wire._compiled import Express
except ImportError:
    Express = PythonExpress  # type: ignore[misc,assignment]
