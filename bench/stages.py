"""Where the relay's own time goes in a voice turn, stage by stage: ``python -m bench.stages``.

The same bytes go through more and more of the relay, without a socket, and what each stage adds
is printed: microseconds of CPU a turn, the best of many, so that a busy machine matters little.
The rule: the relay's own parts, put together as it does; nothing of it is rewritten here.
"""

import gc
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import click

from bench.workload import MODEL, Turn, session_created, session_update, session_updated
from relay_app.ledger.price_list import built_in_prices
from relay_app.ledger.pricer import Pricer
from relay_app.meter.meter import Meter
from relay_app.meter.names import ASKED, CLIENT, COUNTED, SERVER
from relay_app.meter.prices import PriceList
from relay_app.meter.reading import MAX_PARSED_BYTES, NEAR_BYTES, read
from relay_app.meter.vocabulary import load
from relay_app.session.pump import Pump
from relay_app.wire.express import Skim
from relay_app.wire.frames import TEXT, Run, encode
from relay_app.wire.messages import Assembler, Message
from relay_app.wire.scanner import Scanner

__all__ = ["metering_seconds", "new_meter", "stages"]

READ_BYTES = 65_536
_KEY = b"\x9a\x1f\x33\xc8"
_MAX = 16 << 20


def _streams(turn: Turn, number: int, read_bytes: int) -> tuple[list[bytes], list[bytes]]:
    """A turn's bytes in both directions, in pieces of at most ``read_bytes``."""
    up = encode(TEXT, turn.append, _KEY) * turn.appends + encode(TEXT, turn.create, _KEY)
    down = b"".join(
        encode(TEXT, bytes(turn.payload(index, 1, number))) for index in range(turn.down_messages)
    )
    return _pieces(up, read_bytes), _pieces(down, read_bytes)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def new_meter(price: Callable[[Any], Any] = lambda record: record) -> Meter:
    """The meter of a session that has begun."""
    meter = Meter(
        "sess_bench", key="k", upstream="u", model=MODEL, upstream_model=MODEL, clock=time.time,
        price=price,
    )  # fmt: skip
    meter.received(_whole(session_created(1)))
    meter.sent(_whole(session_update()))
    meter.received(_whole(session_updated(1)))
    return meter


def _whole(payload: bytes) -> Message:
    return Message(True, payload, 0, len(payload), b"")


class _Source:
    """The reading half of a Link, over pieces that are there already."""

    name = "source"

    def __init__(self, *, masked: bool) -> None:
        self._scanner = Scanner(masked=masked, max_message_bytes=_MAX)
        self.pieces: list[bytes] = []

    @property
    def ready(self) -> bool:
        return bool(self.pieces)

    def receive(self, express: object = None) -> Run | None:
        run = self._scanner.feed(self.pieces.pop(0))
        return run if run.frames else None


class _Sink:
    """The writing half of a Link whose peer takes everything."""

    def __init__(self, *, masks: bool) -> None:
        self.masks = masks
        self.verbatim = True
        self.silent = False
        self.sends = 0

    def send(self, data: object, *, ends_message: bool = True, sent: int = 0) -> None:
        self.sends += 1


class _Stages:
    """Each method relays one turn, through one stage more than the method before it."""

    def __init__(self, turn: Turn, read_bytes: int) -> None:
        self._turn = turn
        self._read_bytes = read_bytes
        self._numbers = count(1)
        self._scanners = (self._scanner(masked=True), self._scanner(masked=False))
        self._assemblers = (Assembler(262_144), Assembler(_MAX))
        self._meter = new_meter()
        pricer = Pricer(PriceList(built_in_prices().prices), {})
        self._priced = new_meter(pricer)
        self._source = (_Source(masked=True), _Source(masked=False))
        self._pumps = (
            self._pump(
                self._source[0], _Sink(masks=True), self._priced.sent, self._priced.skim_sent
            ),
            self._pump(
                self._source[1],
                _Sink(masks=False),
                self._priced.received,
                self._priced.skim_received,
            ),
        )

    @staticmethod
    def _scanner(*, masked: bool) -> Scanner:
        return Scanner(masked=masked, max_message_bytes=_MAX)

    @staticmethod
    def _pump(source: _Source, sink: _Sink, look: Callable[[Message], object], skim: Skim) -> Pump:
        def observe(message: Message) -> None:
            look(message)

        pump = Pump(
            source,  # type: ignore[arg-type]
            sink,  # type: ignore[arg-type]
            observe=observe,
            keep_bytes=_MAX,
            hold_seconds=1,
            on_unobserved=_raise,
            on_held=lambda seconds, kept: None,
            give_way=lambda: None,
            new_key=lambda: _KEY,
            clock=time.monotonic,
        )
        pump.look_with(skim)
        return pump

    def _prepare(self) -> tuple[list[bytes], list[bytes]]:
        return _streams(self._turn, next(self._numbers), self._read_bytes)

    def _messages(self, streams: tuple[list[bytes], list[bytes]], up: Any, down: Any) -> None:
        for pieces, scanner, assembler, look in zip(
            streams, self._scanners, self._assemblers, (up, down), strict=True
        ):
            for piece in pieces:
                run = scanner.feed(piece)
                for frame in run.frames:
                    message = assembler.add(run.data, frame)
                    if look is not None and message is not None:
                        look(message)

    def scan(self, streams: tuple[list[bytes], list[bytes]]) -> None:
        """finding the frames"""
        for pieces, scanner in zip(streams, self._scanners, strict=True):
            for piece in pieces:
                scanner.feed(piece)

    def assemble(self, streams: tuple[list[bytes], list[bytes]]) -> None:
        """making messages of them"""
        self._messages(streams, None, None)

    def peek(self, streams: tuple[list[bytes], list[bytes]]) -> None:
        """their types, and parsing the few that are counted"""
        self._messages(
            streams,
            lambda message: read(
                message, CLIENT, ASKED, near_bytes=NEAR_BYTES, parsed_bytes=MAX_PARSED_BYTES
            ),
            lambda message: read(message, SERVER, COUNTED),
        )

    def meter(self, streams: tuple[list[bytes], list[bytes]]) -> None:
        """metering: estimates, usage, a record"""
        self._messages(streams, self._meter.sent, self._meter.received)

    def price(self, streams: tuple[list[bytes], list[bytes]]) -> None:
        """pricing the record"""
        self._messages(streams, self._priced.sent, self._priced.received)

    def pump(self, streams: tuple[list[bytes], list[bytes]]) -> None:
        """the pumps around all that, without sockets and holds"""
        for pieces, source, pump in zip(streams, self._source, self._pumps, strict=True):
            source.pieces = pieces
            pump.run()

    def seconds(self, stage: Callable[[Any], None]) -> float:
        """What a turn takes up to and including ``stage``."""
        streams = self._prepare()
        begun = time.perf_counter()
        stage(streams)
        return time.perf_counter() - begun


def _raise(error: Exception) -> None:
    raise error


def stages(turn: Turn, *, times: int = 300, read_bytes: int = READ_BYTES) -> dict[str, float]:
    """Microseconds a turn up to and including each stage, by what it adds."""
    load()
    run = _Stages(turn, read_bytes)
    each = (run.scan, run.assemble, run.peek, run.meter, run.price, run.pump)
    best = {stage: float("inf") for stage in each}
    gc.disable()
    try:
        for _ in range(times):
            for stage in each:
                best[stage] = min(best[stage], run.seconds(stage))
            gc.collect(0)
    finally:
        gc.enable()
    return {str(stage.__doc__): 1e6 * seconds for stage, seconds in best.items()}


def metering_seconds(turn: Turn, *, times: int = 5_000) -> float:
    """Seconds that the meter spends on one audio delta of ``turn``, whatever its size."""
    meter = new_meter()
    sound = b""
    for index, template in enumerate(turn.down):
        if index == 0:
            meter.received(_whole(bytes(turn.payload(index, 1, 1))))
        elif template.audio:
            sound = bytes(turn.payload(index, 1, 1))
    best = float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        for _ in range(times // 20):
            meter.received(_whole(sound))
        best = min(best, time.perf_counter() - begun)
    return best / (times // 20)


@click.command()
@click.option("--times", default=300, show_default=True, help="Of which the best counts.")
@click.option("--read-bytes", default=READ_BYTES, show_default=True, help="How bytes arrive.")
@click.option("--append-ms", default=100, show_default=True)
def main(times: int, read_bytes: int, append_ms: int) -> None:
    """Prints what each stage adds to a voice turn."""
    turn = Turn(append_seconds=append_ms / 1000)
    before = 0.0
    click.echo(f"| a voice turn of {turn.messages} messages, reads of {read_bytes} | µs | so far |")
    click.echo("|---|---|---|")
    for what, microseconds in stages(turn, times=times, read_bytes=read_bytes).items():
        click.echo(f"| {what} | {microseconds - before:.0f} | {microseconds:.0f} |")
        before = microseconds


if __name__ == "__main__":
    main()
