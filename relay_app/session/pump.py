"""Pump: moves whole frames from one Link to the other; knows no direction and no money.

The rules:

* it reads again only after its bytes were taken by the other side;
* a run of untouched frames goes out in one send, verbatim;
* while it rests, an Express forwards what needs no thought, on the hub; the pump comes in for what
  is left, at the point where the Express has got to;
* every message is looked at before its last frame goes out: ``skim`` runs over as many as need
  no more than that, and the one at which it stops is shown to ``observe``. If ``observe`` answers
  with a Hold, that frame and what follows it wait, the other direction does not. If it answers
  ``DROP``, the message is not forwarded, and if it answers with an Instead, that goes out in its
  place, unless its beginning has gone out with an earlier run: a link is never left in the middle
  of a message;
* if ``observe`` raises, the frame goes out all the same and is counted;
* to observe takes long beside what others wait for: before it does, it gives way to them;
* what was read is observed, also when the pump is killed while something before it waits.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, Protocol

from gevent import GreenletExit

from relay_app.wire.express import Express, Skim
from relay_app.wire.frames import TEXT, Buffer, Frame, Run, encode, remask
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.messages import Assembler, Message

__all__ = ["DROP", "Hold", "Instead", "Observe", "Pump", "Verdict"]


class Hold(Protocol):
    """Something a frame waits for; ``wait`` says whether it came within ``timeout`` seconds."""

    def wait(self, timeout: float) -> bool: ...


class _Drop(Enum):
    DROP = "drop"


DROP: Final = _Drop.DROP
"""The message is to go nowhere."""


@dataclass(frozen=True, slots=True)
class Instead:
    """A text that goes out in the place of the message, once ``hold`` is over."""

    payload: bytes
    hold: Hold | None = None


Verdict = Hold | Instead | Literal[_Drop.DROP] | None
Observe = Callable[[Message], Verdict]


def skim_nothing(data: Buffer, frames: Sequence[Frame], begin: int) -> int:
    """Leaves every message to ``observe``."""
    return begin


def _to_nobody(*news: object) -> None:
    """Nobody is to be told."""


class Pump:
    """One direction of a session. Counters are plain attributes, read by whoever likes.

    ``give_way`` lets others have their turn on the hub. ``new_key`` makes masking keys for a sink
    that must not carry masks chosen by somebody else. ``on_held`` is told how many seconds a Hold
    took and whether what it waited for came. ``fragments`` counts frames that ended no message.
    ``busy`` is True from the reading of a run to its last byte being taken; ``after_run`` is called
    then, and neither waits nor raises.
    """

    __slots__ = ("_amid", "_assembler", "_clock", "_express", "_give_way", "_hold_seconds",
                 "_messages", "_new_key", "_observe", "_on_held", "_on_unobserved", "_remask",
                 "_sent", "_sink", "_skim", "_source", "after_run", "busy", "fragments",
                 "unobserved")  # fmt: skip

    def __init__(
        self,
        source: Link,
        sink: Link,
        *,
        observe: Observe,
        express: Express | None = None,
        keep_bytes: int,
        hold_seconds: float,
        on_unobserved: Callable[[Exception], None],
        on_held: Callable[[float, bool], None],
        give_way: Callable[[], None],
        new_key: Callable[[], bytes],
        clock: Callable[[], float],
    ) -> None:
        self.unobserved = 0
        self.fragments = 0
        self.busy = False
        self.after_run: Callable[[], None] | None = None
        self._source = source
        self._sink = sink
        self._observe = observe
        self._skim: Skim = skim_nothing
        self._messages = 0
        self._assembler = Assembler(keep_bytes)
        self._hold_seconds = hold_seconds
        self._on_unobserved = on_unobserved
        self._on_held = on_held
        self._give_way = give_way
        self._new_key = new_key
        self._clock = clock
        self._amid = False
        self._sent = 0
        self._remask = sink.masks and not sink.verbatim
        self._express = None if self._remask else express

    @property
    def messages(self) -> int:
        """Messages seen so far."""
        return self._messages + (self._express.messages if self._express is not None else 0)

    def look_with(self, skim: Skim, *, express: bool = False) -> None:
        """From now on ``skim`` runs over messages before ``observe`` sees them. If it neither
        waits nor raises it may do so on an ``express``."""
        self._skim = skim
        if self._express is not None:
            self._express.skim = skim if express else None

    @property
    def express(self) -> Express | None:
        """What forwards while the pump rests; None if all is for the pump."""
        return self._express

    def run(self) -> None:
        """Pumps what there is to read, until the source is to be waited for again.

        Raises LinkEnded for the source and FrameError for what it did wrong. When the sink
        ends first, the source is read on, observed, and its bytes dropped: what a provider still
        reports after a client left is still to be counted. How the sink ended is found out by
        the pump that reads from it.
        """
        source = self._source
        while True:
            run = source.receive(self._express)
            if run is not None:
                self.busy = True
                self._forward(run)
                del run  # or it would be kept while a large frame comes in
                self.busy = False
            if self.after_run is not None:
                self.after_run()
            if not source.ready:
                return

    def close(self) -> None:
        """Nothing is pumped any more: lets go of all that were to be told. The counters stay."""
        self._observe = _to_nobody
        self._on_unobserved = self._on_held = _to_nobody
        self.after_run = None
        self.look_with(skim_nothing)

    def _forward(self, run: Run) -> None:
        end = len(run.frames)
        begin = 0
        express = self._express
        if express is None or not express.skimmed:
            index = self._skimmed(run, 0)
        else:
            # So many frames it has looked at, and so many bytes of them it has sent.
            index, sent = express.skimmed, express.sent
            express.skimmed = express.sent = 0
            self._messages += index
            if sent == run.frames[index - 1].end:
                begin = index
            else:
                self._sent = sent
        if index < end:
            begin = self._observe_from(run, begin, index, end)
        self._send(run, begin, end)

    def _skimmed(self, run: Run, begin: int) -> int:
        """The first frame from ``begin`` on that is to be shown to ``observe``."""
        try:
            index = self._skim(run.data, run.frames, begin)
        except Exception as error:  # noqa: BLE001 - as with observe
            self._failed(error)
            return begin
        self._messages += index - begin
        return index

    def _observe_from(self, run: Run, begin: int, index: int, end: int) -> int:
        """Observes what ``skim`` leaves of a run of which the frames from ``begin`` on are still to
        be sent, and sends what a verdict comes behind: the first frame that is still to be sent."""
        data, frames = run.data, run.frames
        # Where the message began; negative: in an earlier run.
        first = -1 if self._amid and not index else index
        try:
            if self._sent:
                # Amid a frame nobody else may write, and whoever observes may let others in.
                self._send(run, begin, index)
                begin = index
            while index < end:
                self._give_way()
                message = self._assembler.add(data, frames[index])
                index += 1
                if message is None:
                    self.fragments += 1
                    continue
                self._messages += 1
                verdict = self._observed(message)
                if verdict is DROP:
                    if first >= 0:
                        self._send(run, begin, first)
                        begin = index
                elif isinstance(verdict, Instead):
                    begin = self._replace(run, begin, first, index, verdict)
                elif verdict is not None and not self._sink.silent:
                    if begin < index - 1:
                        self._send(run, begin, index - 1)
                        begin = index - 1
                    self._wait(verdict)
                if index < end:
                    index = self._skimmed(run, index)
                first = index
        except BaseException:
            # Killed while it waits: it forwards no more, but what was read counts all the same.
            for frame in frames[index:]:
                rest = self._assembler.add(data, frame)
                if rest is not None:
                    self._messages += 1
                    with suppress(GreenletExit):  # killed again while others had their turn
                        self._observed(rest)
            raise
        return begin

    def _replace(self, run: Run, begin: int, first: int, index: int, instead: Instead) -> int:
        """Sends what stands before the message, and then ``instead``; the first frame that is still
        to be sent."""
        if first < 0:
            first = index - 1  # its beginning went out: only its end can wait
        self._send(run, begin, first)
        if instead.hold is not None and not self._sink.silent:
            self._wait(instead.hold)
        if self._amid:
            return first
        key = self._new_key() if self._sink.masks else b""
        try:
            self._sink.send(encode(TEXT, instead.payload, key))
        except LinkEnded:
            pass  # as in _send()
        return index

    def _wait(self, hold: Hold) -> None:
        try:
            begun = self._clock()
            kept = hold.wait(self._hold_seconds)
            self._on_held(self._clock() - begun, kept)
        except Exception as error:  # noqa: BLE001 - the frame was kept back long enough
            self._failed(error)

    def _observed(self, message: Message) -> Verdict:
        try:
            return self._observe(message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the audio goes on
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        self.unobserved += 1
        self._on_unobserved(error)

    def _send(self, run: Run, begin: int, end: int) -> None:
        """Sends the frames from ``begin`` to before ``end``, but for what the Express has sent of
        them."""
        if begin == end:
            return
        sent, self._sent = self._sent, 0
        frames = run.frames
        last = frames[end - 1]
        self._amid = not last.fin
        try:
            if self._remask:
                out = remask(run.data, frames[begin:end], self._new_key())
                self._sink.send(out, ends_message=last.fin)
            elif run.has_control:
                self._send_pieces(run, frames[begin:end])
            else:
                start = frames[begin].start if begin else 0
                data = memoryview(run.data)[start : last.end]
                self._sink.send(data, ends_message=last.fin, sent=sent)
        except LinkEnded:
            pass  # its own pump reads how it ended; here there is only nobody to send to

    def _send_pieces(self, run: Run, frames: Sequence[Frame]) -> None:
        # Control frames were taken out of the run, so what is left may have gaps.
        view = memoryview(run.data)
        start = end = frames[0].start
        fin = False
        for frame in frames:
            if frame.start != end:
                self._sink.send(view[start:end], ends_message=fin)
                start = frame.start
            end, fin = frame.end, frame.fin
        self._sink.send(view[start:end], ends_message=fin)
