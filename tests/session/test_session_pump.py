"""Pump: bytes as they came, a hold cuts before the last frame, and metering never stops audio."""

import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event
from websockets.frames import Frame, Opcode

from relay_app.session.pump import DROP, Instead, Pump, Verdict
from relay_app.wire.frames import FrameError, Run, xor
from relay_app.wire.link import LinkEnded
from relay_app.wire.messages import Message
from relay_app.wire.scanner import Scanner


class Source:
    """Hands out runs, and then ends as it is told."""

    def __init__(self, chunks: Sequence[bytes], *, masked: bool, end: Exception | None) -> None:
        self.name = "source"
        self._scanner = Scanner(masked=masked, max_message_bytes=1_000_000)
        self._chunks: Iterator[bytes] = iter(chunks)
        self._end = end or LinkEnded(self)  # type: ignore[arg-type]

    ready = True

    def receive(self, express: object = None) -> Run:
        for chunk in self._chunks:
            run = self._scanner.feed(chunk)
            if run.has_control:
                run = run._replace(frames=[frame for frame in run.frames if frame.opcode < 8])
            if run.frames:
                return run
        raise self._end


class Sink:
    """Keeps what it is sent."""

    def __init__(self, *, masks: bool = False, verbatim: bool = True) -> None:
        self.masks = masks
        self.verbatim = verbatim
        self.silent = False
        self.name = "sink"
        self.failing = False
        self.sent: list[tuple[bytes, bool]] = []

    def send(self, data: Any, *, ends_message: bool = True, sent: int = 0) -> None:
        if self.failing:
            raise LinkEnded(self)  # type: ignore[arg-type]
        self.sent.append((bytes(data)[sent:], ends_message))


def frame(
    payload: bytes, opcode: int = Opcode.TEXT, *, fin: bool = True, mask: bool = False
) -> bytes:
    return Frame(Opcode(opcode), payload, fin).serialize(mask=mask)


class Bench:
    """A pump between fakes, and what it was told."""

    def __init__(
        self,
        chunks: Sequence[bytes],
        observe: Callable[[Message], Verdict] = lambda message: None,
        *,
        sink: Sink | None = None,
        masked: bool = False,
        end: Exception | None = None,
        hold_seconds: float = 10.0,
        on_held: Callable[[float, bool], None] | None = None,
        express: Any = None,
        give_way: Callable[[], None] = lambda: None,
    ) -> None:
        self.sink = sink or Sink()
        self.errors: list[Exception] = []
        self.held: list[bool] = []
        self.pump = Pump(
            Source(chunks, masked=masked, end=end),  # type: ignore[arg-type]
            self.sink,  # type: ignore[arg-type]
            observe=observe,
            express=express,
            keep_bytes=1_000,
            hold_seconds=hold_seconds,
            on_unobserved=self.errors.append,
            on_held=on_held or (lambda seconds, kept: self.held.append(kept)),
            give_way=give_way,
            new_key=lambda: b"\x01\x02\x03\x04",
            clock=lambda: 0.0,
        )

    def run(self) -> "Bench":
        with pytest.raises(LinkEnded):
            self.pump.run()
        return self


def test_an_untouched_run_goes_out_in_one_send_verbatim() -> None:
    data = frame(b"a") + frame(b"b", Opcode.BINARY) + frame(b"c", fin=False)
    bench = Bench([data, frame(b"d", Opcode.CONT)]).run()
    assert bench.sink.sent == [(data, False), (frame(b"d", Opcode.CONT), True)]
    assert bench.pump.messages == 3


def test_control_frames_leave_gaps_and_boundaries_are_told_truly() -> None:
    data = (
        frame(b"a")
        + frame(b"?", Opcode.PING)
        + frame(b"b", fin=False)
        + frame(b"?", Opcode.PONG)
        + frame(b"c", Opcode.CONT)
        + frame(b"d")
    )
    bench = Bench([data]).run()
    assert bench.sink.sent == [
        (frame(b"a"), True),
        (frame(b"b", fin=False), False),
        (frame(b"c", Opcode.CONT) + frame(b"d"), True),
    ]


def test_a_hold_cuts_the_run_before_the_last_frame_of_the_held_message() -> None:
    durable = Event()
    parts = [
        frame(b"before"),
        frame(b"un", fin=False),
        frame(b"it", Opcode.CONT),
        frame(b"behind"),
    ]
    bench = Bench([b"".join(parts)], lambda m: durable if m.payload() == b"unit" else None)
    pumping = gevent.spawn(bench.run)
    gevent.idle()
    assert bench.sink.sent == [(parts[0] + parts[1], False)]
    assert bench.pump.busy
    durable.set()
    pumping.get(timeout=5)
    assert bench.sink.sent[1:] == [(parts[2] + parts[3], True)]
    assert bench.held == [True]


def test_a_held_message_at_the_head_of_a_run_holds_all_of_it() -> None:
    durable = Event()
    parts = [frame(b"unit"), frame(b"x"), frame(b"unit"), frame(b"y")]
    bench = Bench([b"".join(parts)], lambda m: durable if m.payload() == b"unit" else None)
    pumping = gevent.spawn(bench.run)
    gevent.idle()
    assert bench.sink.sent == []
    durable.set()
    pumping.get(timeout=5)
    assert bench.sink.sent == [(parts[0] + parts[1], True), (parts[2] + parts[3], True)]


PAYLOADS = (b"plain", b"plainer", b"unit", b"behind")
PARTS = [*map(frame, PAYLOADS)]


def left_behind(sent: int) -> Any:
    """An Express that has skimmed the first two of PARTS and sent so many bytes of them."""
    return SimpleNamespace(skimmed=2, sent=sent, messages=0, run=None, skim=None)


@pytest.mark.parametrize("sent", range(len(PARTS[0] + PARTS[1]) + 1))
def test_what_an_express_has_skimmed_goes_out_once_and_is_not_looked_at_again(sent: int) -> None:
    durable, seen = Event(), []

    def observe(message: Message) -> Verdict:
        seen.append(message.payload())
        return durable if message.payload() == b"unit" else None

    bench = Bench([b"".join(PARTS), PARTS[0]], observe, express=left_behind(sent))
    pumping = gevent.spawn(bench.run)
    gevent.idle()
    begun = b"".join(PARTS[:2])
    assert bench.sink.sent == ([(begun[sent:], True)] if sent < len(begun) else [])
    assert seen == [b"unit"]
    durable.set()
    pumping.get(timeout=5)
    assert b"".join(data for data, _ in bench.sink.sent[-2:]) == PARTS[2] + PARTS[3] + PARTS[0]
    assert seen == [b"unit", b"behind", b"plain"]
    assert bench.pump.messages == 5


def test_a_frame_that_an_express_has_begun_is_finished_before_anything_is_observed() -> None:
    sent_before: list[int] = []
    bench = Bench(
        [b"".join(PARTS)],
        lambda message: sent_before.append(len(bench.sink.sent)),  # type: ignore[func-returns-value]
        express=left_behind(3),
    )
    bench.run()
    assert sent_before == [1, 1]
    assert b"".join(data for data, _ in bench.sink.sent) == b"".join(PARTS)[3:]


def test_what_comes_behind_is_observed_although_a_sink_takes_nothing_of_what_was_begun() -> None:
    class Blocked(Sink):
        def send(self, data: Any, *, ends_message: bool = True, sent: int = 0) -> None:
            gevent.sleep(1_000)

    seen: list[bytes | None] = []
    bench = Bench(
        [b"".join(PARTS)],
        lambda message: seen.append(message.payload()) or Event(),
        sink=Blocked(),
        express=left_behind(3),
    )
    pumping = gevent.spawn(bench.pump.run)
    gevent.idle()
    pumping.kill()
    assert seen == [b"unit", b"behind"]


def test_others_have_their_turn_before_each_message_that_is_observed() -> None:
    happened: list[bytes | None] = []
    bench = Bench(
        [b"".join(PARTS)],
        lambda message: happened.append(message.payload()),  # type: ignore[func-returns-value]
        give_way=lambda: happened.append(b"the others"),
    )
    bench.run()
    assert happened == [thing for part in PAYLOADS for thing in (b"the others", part)]


@pytest.mark.parametrize("which", range(4))
def test_who_is_killed_while_others_have_their_turn_has_observed_what_was_read(which: int) -> None:
    turns, observed = iter(range(4)), list[bytes | None]()

    def give_way() -> None:
        if next(turns) == which:
            gevent.sleep(1_000)

    def observe(message: Message) -> Verdict:
        observed.append(message.payload())
        return None

    bench = Bench([b"".join(PARTS)], observe, give_way=give_way)
    pumping = gevent.spawn(bench.pump.run)
    gevent.idle()
    assert observed == list(PAYLOADS[:which])
    pumping.kill()
    assert observed == list(PAYLOADS)
    assert bench.sink.sent == []
    assert bench.pump.messages == len(PAYLOADS)


def test_a_second_kill_does_not_keep_what_was_read_from_being_observed() -> None:
    observed: list[bytes | None] = []

    def observe(message: Message) -> Verdict:
        observed.append(message.payload())
        gevent.sleep(1_000)  # as long as others have their turn
        return None

    pumping = gevent.spawn(Bench([b"".join(PARTS)], observe).pump.run)
    gevent.idle()
    for _ in PAYLOADS:
        pumping.kill(block=False)
        gevent.idle()
    assert observed == list(PAYLOADS)
    assert isinstance(pumping.get(timeout=5), gevent.GreenletExit)


def test_a_hold_lasts_no_longer_than_it_may() -> None:
    bench = Bench([frame(b"unit")], lambda m: Event(), hold_seconds=0.01).run()
    assert bench.sink.sent == [(frame(b"unit"), True)]
    assert bench.held == [False]


def test_nothing_is_held_for_a_sink_that_is_gone() -> None:
    sink = Sink()
    sink.silent = True
    bench = Bench([frame(b"unit")] * 3, lambda m: Event(), sink=sink, hold_seconds=1_000)
    bench.run()
    assert bench.pump.messages == 3


class Broken:
    def wait(self, timeout: float) -> bool:
        raise RuntimeError("a hold of somebody's")


def drop(message: Message) -> Verdict:
    return DROP if (message.payload() or b"").startswith(b"drop") else None


def test_a_message_can_be_dropped_and_those_around_it_go_out_as_they_came() -> None:
    a, b, c = frame(b"a"), frame(b"b", Opcode.BINARY), frame(b"c")
    dropped = frame(b"drop me") + frame(b"drop ", fin=False) + frame(b"me too", Opcode.CONT)
    ping = frame(b"?", Opcode.PING)
    bench = Bench([a + b + ping + dropped + c, dropped, dropped + a], drop).run()
    assert bench.sink.sent == [(a + b, True), (c, True), (a, True)]
    assert bench.pump.messages == 10


def test_a_fragment_is_dropped_with_its_message_and_an_open_one_behind_it_goes_out() -> None:
    parts = [frame(b"drop", fin=False), frame(b"", Opcode.CONT), frame(b"kept", fin=False)]
    rest = frame(b"and whole", Opcode.CONT)
    bench = Bench([b"".join(parts), rest], drop).run()
    assert bench.sink.sent == [(parts[2], False), (rest, True)]


def test_a_message_whose_beginning_has_gone_out_cannot_be_dropped() -> None:
    begun, end = frame(b"drop", fin=False), frame(b" me", Opcode.CONT)
    bench = Bench([begun, end + frame(b"drop") + frame(b"b")], drop).run()
    assert bench.sink.sent == [(begun, False), (end, True), (frame(b"b"), True)]


def test_what_follows_a_held_message_can_be_dropped() -> None:
    done = Event()
    done.set()

    def observe(message: Message) -> Verdict:
        return done if message.payload() == b"unit" else drop(message)

    data = frame(b"a") + frame(b"unit") + frame(b"drop") + frame(b"b")
    bench = Bench([data], observe).run()
    assert bench.sink.sent == [(frame(b"a"), True), (frame(b"unit"), True), (frame(b"b"), True)]


@pytest.mark.parametrize("verbatim", [True, False])
def test_of_masked_messages_too_only_the_dropped_are_missing(verbatim: bool) -> None:
    a, b, c = (frame(payload, mask=True) for payload in (b"hello", b"drop", b"you"))
    sink = Sink(masks=True, verbatim=verbatim)
    Bench([a + b + c], drop, sink=sink, masked=True).run()
    out = b"".join(data for data, _ in sink.sent)
    run = Scanner(masked=True, max_message_bytes=100).feed(out)
    assert [xor(out[f.payload : f.end], f.key) for f in run.frames] == [b"hello", b"you"]
    assert (sink.sent == [(a, True), (c, True)]) is verbatim


def test_what_is_not_observed_is_forwarded_and_counted() -> None:
    def observe(message: Message) -> Verdict:
        raise KeyError("a meter of somebody's")

    bench = Bench([frame(b"a") + frame(b"b")], observe).run()
    assert bench.sink.sent == [(frame(b"a") + frame(b"b"), True)]
    assert bench.pump.unobserved == 2
    assert [type(error) for error in bench.errors] == [KeyError, KeyError]


def test_a_hold_that_breaks_lets_the_frame_go() -> None:
    bench = Bench([frame(b"a")], lambda m: Broken()).run()
    assert bench.sink.sent == [(frame(b"a"), True)]
    assert bench.pump.unobserved == 1


def test_a_gauge_that_breaks_lets_the_frame_go() -> None:
    def on_held(seconds: float, kept: bool) -> None:
        raise RuntimeError("a histogram of somebody's")

    done = Event()
    done.set()
    bench = Bench([frame(b"a")], lambda m: done, on_held=on_held).run()
    assert bench.sink.sent == [(frame(b"a"), True)]


def test_when_the_sink_has_ended_the_source_is_read_on_and_observed() -> None:
    seen: list[bytes | None] = []
    sink = Sink()

    def observe(message: Message) -> None:
        seen.append(message.payload())
        sink.failing = True

    Bench([frame(b"a"), frame(b"b"), frame(b"c")], observe, sink=sink).run()
    assert seen == [b"a", b"b", b"c"]
    assert sink.sent == []


def test_masks_of_somebody_else_are_replaced_where_they_may_be_seen() -> None:
    data = frame(b"hello", mask=True) + frame(b"", mask=True) + frame(b"you", mask=True)
    ping = frame(b"?", Opcode.PING, mask=True)
    sink = Sink(masks=True, verbatim=False)
    Bench([data + ping + frame(b"!", fin=False, mask=True)], sink=sink, masked=True).run()
    ((out, ends_message),) = sink.sent
    run = Scanner(masked=True, max_message_bytes=100).feed(out)
    assert [f.key for f in run.frames] == [b"\x01\x02\x03\x04"] * 4
    assert len(out) == len(data) + 7
    assert not ends_message


def test_masks_stay_where_nobody_can_see_them() -> None:
    data = frame(b"hello", mask=True)
    sink = Sink(masks=True, verbatim=True)
    Bench([data], sink=sink, masked=True).run()
    assert sink.sent == [(data, True)]


def test_a_violation_of_the_source_is_raised_behind_what_preceded_it() -> None:
    bench = Bench([frame(b"a")], end=FrameError("nonsense"))
    with pytest.raises(FrameError):
        bench.pump.run()
    assert bench.sink.sent == [(frame(b"a"), True)]


def test_a_pump_that_waits_keeps_nothing_of_what_it_forwarded() -> None:
    chunk = frame(b"z" * 1_000)
    references: list[int] = []

    class Watched(Source):
        def receive(self, express: object = None) -> Run:
            references.append(sys.getrefcount(chunk))
            return super().receive()

    bench = Bench([])
    bench.pump._source = Watched([chunk], masked=False, end=None)  # type: ignore[assignment]
    bench.run()
    before, waiting = references
    assert waiting == before


# -- instead ---------------------------------------------------------------------------------


def instead_of(payload: bytes, hold: Any = None) -> Callable[[Message], Verdict]:
    """An observer that has ``payload`` replaced by as many letters x."""

    def observe(message: Message) -> Verdict:
        if message.payload() != payload:
            return None
        return Instead(b"x" * len(payload), hold)

    return observe


def sent_bytes(bench: Bench) -> bytes:
    return b"".join(data for data, _ in bench.sink.sent)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_what_is_said_instead_has_the_place_of_the_message(place: int) -> None:
    said = [b"a", b"b", b"c"]
    bench = Bench([b"".join(map(frame, said))], instead_of(said[place])).run()
    said[place] = b"x"
    assert sent_bytes(bench) == b"".join(map(frame, said))
    assert bench.pump.messages == 3


def test_fragments_that_lie_in_one_run_are_replaced_by_one_frame() -> None:
    data = frame(b"a") + frame(b"b", fin=False) + frame(b"c", Opcode.CONT) + frame(b"d")
    bench = Bench([data], instead_of(b"bc")).run()
    assert sent_bytes(bench) == frame(b"a") + frame(b"xx") + frame(b"d")


def test_a_message_whose_beginning_went_out_is_not_replaced() -> None:
    chunks = [frame(b"b", fin=False), frame(b"c", Opcode.CONT) + frame(b"d")]
    bench = Bench(chunks, instead_of(b"bc")).run()
    assert sent_bytes(bench) == b"".join(chunks)


def test_a_sink_that_takes_masks_gets_one_of_ours() -> None:
    bench = Bench([frame(b"ab", mask=True)], instead_of(b"ab"), sink=Sink(masks=True), masked=True)
    bench.run()
    key = b"\x01\x02\x03\x04"
    assert sent_bytes(bench) == b"\x81\x82" + key + xor(b"xx", key)


def test_what_is_said_instead_waits_and_what_stands_before_it_does_not() -> None:
    class Commit:
        def wait(self, timeout: float) -> bool:
            waited.append(sent_bytes(bench))
            return True

    waited: list[bytes] = []
    bench = Bench([frame(b"a") + frame(b"b") + frame(b"c")], instead_of(b"b", Commit()))
    bench.run()
    assert waited == [frame(b"a")]
    assert bench.held == [True]
    assert sent_bytes(bench) == frame(b"a") + frame(b"x") + frame(b"c")


def test_a_sink_that_ended_is_told_nothing_instead() -> None:
    sink = Sink()
    sink.failing = True
    bench = Bench([frame(b"a"), frame(b"b")], instead_of(b"a"), sink=sink).run()
    assert bench.pump.messages == 2
    assert not bench.errors
