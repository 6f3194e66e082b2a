"""Streams: whatever is said, however it is cut and however slowly it is heard, the bytes that come
out are those that went in, and each message is looked at once, in order."""

import random
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import Mock

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_support import MANY, SECONDS, Peer, compiled, link_on, tcp_pair, those_there, tls_pair

from relay_app.meter.kinds import FIRST_TEXT
from relay_app.meter.skim import Notes, Skim
from relay_app.observe.logs import SessionLog
from relay_app.session.greenlet_pool import GreenletPool
from relay_app.session.pump import DROP, Pump
from relay_app.session.reader import Reader
from relay_app.wire import express, frames
from relay_app.wire.frames import CONTINUATION, PING, PONG, TEXT, encode, xor
from relay_app.wire.messages import Message
from relay_app.wire.rooms import Rooms

COMPILED = compiled("Express")
WAYS = those_there({"python": express.PythonExpress, "objects": COMPILED, "direct": COMPILED})
LIMIT = 1_000_000
OURS = '{"type":"ours"}'
PLAIN = b'{"type":"plain","delta":"'
FIN = 0x80
ENDS = ["fin", "cut", "close", "unmasked", "reserved", "too big", "continuation"]
examples = settings(max_examples=max(25, settings.default.max_examples // 20))


class Seen:
    """A skim in Python that counts as the compiled one does."""

    def __init__(self) -> None:
        self._sums = [0, 0]

    def over(self, data: Any, run: Any, begin: int) -> int:
        for index in range(begin, len(run)):
            frame = run[index]
            payload = xor(data[frame.payload : frame.end], frame.key)
            if not (frame.fin and frame.opcode == TEXT and payload.startswith(PLAIN)):
                return index
            self._sums[0] += 1
            self._sums[1] += payload.index(b'"', len(PLAIN)) - len(PLAIN)
        return len(run)

    def take(self) -> list[int]:
        sums, self._sums = self._sums, [0, 0]
        return sums


@dataclass
class Stream:
    """What a client sends, what of it must arrive, and what must be seen of it."""

    sent: bytearray = field(default_factory=bytearray)
    due: bytearray = field(default_factory=bytearray)
    seen: list[Any] = field(default_factory=lambda: [[0, 0]])

    def observed(self, payload: bytes) -> None:
        self.seen += [payload, [0, 0]]

    def add(self, source: random.Random) -> None:
        kind = source.choice(["plain"] * 8 + ["other", "fragments", "binary", "ping", "hold",
                                              "drop", "many", "large"])  # fmt: skip
        if kind == "ping":
            self.sent += encode(source.choice([PING, PONG]), b"", source.randbytes(4))
        elif kind == "fragments":
            self._fragments(source)
        elif kind in ("plain", "large", "many"):
            for _ in range(source.randrange(900, 1_400) if kind == "many" else 1):
                self._plain(source, kind)
        else:
            payload = b'{"type":"%b","pad":"%b"}' % (kind.encode(), b"y" * source.randrange(200))
            frame = encode(2 if kind == "binary" else TEXT, payload, source.randbytes(4))
            self.sent += frame
            self.observed(payload)
            if kind != "drop":
                self.due += frame

    def _plain(self, source: random.Random, kind: str) -> None:
        size = source.choice([0, 10, 125, 600, 3_000, 66_000])
        if kind != "plain":
            size = 0 if kind == "many" else source.randrange(60_000, 200_000)
        delta = b"d" * source.randrange(20)
        payload = b'%b%b","pad":"%b"}' % (PLAIN, delta, b"x" * size)
        frame = encode(TEXT, payload, source.randbytes(4))
        self.sent += frame
        self.due += frame
        self.seen[-1][0] += 1
        self.seen[-1][1] += len(delta)

    def _fragments(self, source: random.Random) -> None:
        parts = [
            b'{"type":"plain"' + b"z" * source.choice([0, 50, 5_000, 70_000])
            for _ in range(source.randrange(2, 5))
        ]
        for index, part in enumerate(parts):
            frame = bytearray(encode(CONTINUATION if index else TEXT, part, source.randbytes(4)))
            if index < len(parts) - 1:
                frame[0] &= ~FIN
            self.sent += frame
            self.due += frame
            if source.random() < 0.3:
                self.sent += encode(PING, b"!", source.randbytes(4))
        self.observed(b"".join(parts))

    def end(self, how: str) -> None:
        self.sent += {
            "fin": b"",
            "cut": encode(TEXT, b'{"type":"plain","delta":""}', b"1234")[:-3],
            "close": encode(8, b"\x03\xe8", b"1234") + encode(TEXT, b"not heard", b"1234"),
            "unmasked": encode(TEXT, b"not heard"),
            "reserved": b"\xff\xff",
            "too big": b"\x81\xff" + (LIMIT + 1).to_bytes(8, "big"),
            "continuation": encode(CONTINUATION, b"not heard", b"1234"),
        }[how]


class _Soon:
    def wait(self, timeout: float) -> bool:
        gevent.sleep(0)
        return True


class Conversation:
    """A pump with an Express between two Links, a client that writes and a target that reads."""

    def __init__(self, way: str, kind: str, source: random.Random) -> None:
        self._random = source
        sizes = source.choice([{}, {"send_buffer": 4_096, "receive_buffer": 4_096}])
        near, self._client = tcp_pair()
        far, self._target = tls_pair(**sizes) if kind == "tls" else tcp_pair(**sizes)
        self._socks = (near, self._client, far, self._target)
        rooms = Rooms(MANY)
        self.source = link_on(near, rooms=rooms, max_message_bytes=LIMIT)
        self.sink = link_on(far, name="target", rooms=rooms)
        made = express.PythonExpress if way == "python" else COMPILED
        self._notes = Notes(lambda: 0.0)
        self._skim: Any = Seen()
        if way == "direct":
            self._skim = Skim({b"plain": FIRST_TEXT}, b"delta", self._notes, sent=True)
        self.express = made(self.source, self.sink)
        self.seen: list[Any] = [[0, 0]]
        self._talkative = True
        self._others: list[Any] = []
        self.pump = Pump(
            self.source,
            self.sink,
            observe=self._observe,
            express=self.express,
            keep_bytes=LIMIT,
            hold_seconds=SECONDS,
            on_unobserved=pytest.fail,
            on_held=lambda seconds, kept: None,
            give_way=lambda: None,
            new_key=lambda: b"\0\0\0\0",
            clock=lambda: 0.0,
        )
        self.pump.look_with(self._skim.over, express=True)

    def _observe(self, message: Message) -> Any:
        payload = message.payload()
        assert payload is not None
        self._take()
        if payload.startswith(PLAIN):  # behind a control frame, where the compiled skim is blind
            self._count(1, payload.index(b'"', len(PLAIN)) - len(PLAIN))
            return None
        self.seen += [payload, [0, 0]]
        if payload.startswith(b'{"type":"hold"'):
            return _Soon()
        return DROP if payload.startswith(b'{"type":"drop"') else None

    def _take(self) -> None:
        if isinstance(self._skim, Seen):
            self._count(*self._skim.take())
        for _, _, pieces, piece_bytes, _, _ in self._notes.take():
            self._count(pieces, piece_bytes)

    def _count(self, pieces: int, piece_bytes: int) -> None:
        self.seen[-1][0] += pieces
        self.seen[-1][1] += piece_bytes

    def play(self, data: bytes) -> tuple[bytes, str]:
        """Sends ``data``: all that was heard of it, and how it ended."""
        hearing = gevent.spawn(self._hear)
        aside = gevent.spawn(self._speak_aside)
        self._others = [hearing, aside]
        self._others += [gevent.spawn(self._say, data), gevent.spawn(Peer(self._client).rest)]
        told = Mock()
        reader = Reader(
            self.pump,
            self.source,
            ends=told.ends,
            vigil=told.vigil,
            pool=GreenletPool(),
            log=SessionLog("rs_1"),
        )
        reader.start()
        reader.join(SECONDS)
        ended = " ".join(name for name, _, _ in told.mock_calls)
        self._take()
        self._talkative = False
        aside.join(SECONDS)  # killed in the middle of a frame it would leave half of it
        if not self.sink.out.torn:
            self.sink.out.finish()
        self.sink.connection.shut_down(1)
        heard = hearing.get(timeout=SECONDS)
        return heard, ended

    def _pause(self) -> None:
        for _ in range(self._random.choice([0, 0, 1, 3])):
            gevent.sleep(0)

    def _say(self, data: bytes) -> None:
        try:
            while data:
                size = self._random.choice([1, 2, 7, 100, 1_000, 9_000, 70_000, 300_000])
                self._client.sendall(data[:size])
                data = data[size:]
                self._pause()
            self._client.shutdown(1)
        except OSError:
            pass  # it broke the protocol, and is heard no more

    def _hear(self) -> bytes:
        heard = bytearray()
        while True:
            try:
                data = self._target.recv(self._random.choice([1_000, 70_000, 300_000]))
            except OSError:
                data = b""
            if not data:
                return bytes(heard)
            heard += data
            if self._random.random() < 0.05:
                gevent.sleep(0.001)  # so long that buffers fill
            self._pause()

    def _speak_aside(self) -> None:
        while self._talkative:
            if self._random.random() < 0.5:
                self.sink.ping()
            else:
                self.sink.send_text(OURS)
            for _ in range(self._random.randrange(1, 20)):
                gevent.sleep(0)

    def close(self) -> None:
        gevent.killall(self._others)
        self.source.dispose()
        self.sink.dispose()
        for sock in self._socks:
            sock.close()


def of_the_client(heard: bytes) -> bytes:
    """What of the bytes on the sink is the client's: without control frames and our messages."""
    run = frames.Scanner(masked=True, max_message_bytes=LIMIT).feed(heard)
    assert run.fault is None
    assert not run.frames or run.frames[-1].end == len(heard)
    out = bytearray()
    for frame in run.frames:
        payload = xor(heard[frame.payload : frame.end], frame.key)
        if frame.opcode < 8 and payload != OURS.encode():
            out += heard[frame.start : frame.end]
    return bytes(out)


@pytest.mark.parametrize("way", WAYS)
@examples
@given(
    kind=st.sampled_from(["tcp"] * 7 + ["tls"]),
    seed=st.integers(0, 1 << 32),
    count=st.integers(0, 40),
    how=st.sampled_from(ENDS),
)
def test_what_goes_in_comes_out_and_is_seen_once(
    way: str, kind: str, seed: int, count: int, how: str
) -> None:
    source = random.Random(seed)
    stream = Stream()
    for _ in range(count):
        stream.add(source)
    stream.end(how)
    conversation = Conversation(way, kind, source)
    try:
        heard, ended = conversation.play(bytes(stream.sent))
        left = how in ("fin", "cut", "close")
        assert ended == ("vigil.ended" if left else "ends.broke_protocol")
        assert of_the_client(heard) == stream.due
        assert conversation.seen == stream.seen
        assert conversation.pump.messages == sum(
            seen[0] if isinstance(seen, list) else 1 for seen in stream.seen
        )
    finally:
        conversation.close()
