"""Frames of a byte stream: the scanners, assembler and close frames against wsproto and websockets.

An input is 4 bytes that say how the stream is cut and read, and the stream.
"""

from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

from websockets.exceptions import ProtocolError
from websockets.frames import Close as TheirClose
from wsproto.frame_protocol import FrameDecoder, Header, Opcode, ParseFailed

from fuzz.target import Target
from relay_app.wire import frames, scanner
from relay_app.wire.frames import CLOSE, TEXT, FrameError, Run, encode, parse_close, remask, xor
from relay_app.wire.messages import Assembler, Message

__all__ = ["TARGET", "Reference", "check", "seen"]

SCANNERS = {frames.Scanner, scanner.Scanner}
"""The twin in Python, and the one in use: where it was compiled, it is another."""
LIMITS = [0, 20, 200, 70_000]
LARGE = b"\xff" * 70_000
"""Behind it nothing is a frame."""
HEADER = bytes(14)
"""Behind a header that is cut off, this makes it whole."""
KEEP_BYTES = 600

Seen = tuple[int, bool, bytes]
"""A frame as opcode, FIN and payload."""


class Reference:
    """wsproto's frames, with two rules that it leaves to others: what may follow what, and how
    long a message may be."""

    def __init__(self, *, masked: bool, max_message_bytes: int) -> None:
        self.frames: list[Seen] = []
        self.fault: int | None = None
        """The close code, once something is wrong."""
        self._decoder = FrameDecoder(client=not masked)
        self._limit = max_message_bytes
        self._in_message = False
        self._message_bytes = 0
        self._payload = b""

    def feed(self, data: bytes) -> None:
        """Goes on with ``data``; behind a fault it may not be called."""
        self._decoder.receive_bytes(data)
        try:
            while self._frame():
                pass
        except ParseFailed:
            self.fault = 1002

    def _frame(self) -> bool:
        """Whether there was another frame, or a part of one."""
        if self._decoder.header is None:
            if not self._decoder.parse_header():
                return False
            self.fault = self._judge(self._decoder.header)
            if self.fault is not None:
                return False
        header = self._decoder.header
        found = self._decoder.process_buffer()
        if found is None:
            return False
        self._payload += found.payload
        if found.frame_finished:
            self.frames.append((int(header.opcode), header.fin, self._payload))
            self._payload = b""
        return True

    def _judge(self, header: Header) -> int | None:
        if header.opcode.iscontrol():
            return None
        if self._in_message != (header.opcode is Opcode.CONTINUATION):
            return 1002
        self._message_bytes += header.payload_len
        if self._message_bytes > self._limit:
            return 1009
        self._in_message = not header.fin
        if header.fin:
            self._message_bytes = 0
        return None


class _Way(NamedTuple):
    """How a stream is read."""

    masked: bool
    limit: int
    steps: tuple[int, ...]
    said: bytes
    goes_on: bool
    """Whether so much follows that a large frame ends."""

    @property
    def stream(self) -> bytes:
        return self.said + LARGE if self.goes_on else self.said

    @classmethod
    def of(cls, data: bytes) -> "_Way":
        how, *steps = data[:4]
        return cls(bool(how & 1), LIMITS[how >> 1 & 3], tuple(steps), data[4:], bool(how & 8))

    def pieces(self) -> Iterator[tuple[bytes, bool]]:
        """The stream in pieces, and whether they are put in place or fed."""
        rest = self.said
        for step in cycle(self.steps):
            if not rest:
                break
            size = 1 + (step & 0x7F)
            yield rest[:size], bool(step & 0x80)
            rest = rest[size:]
        if self.goes_on:
            for step, at in zip(cycle(self.steps), range(0, len(LARGE), 20_000)):
                yield LARGE[at : at + 20_000], bool(step & 0x80)


class _Read(NamedTuple):
    """A run, and its frames as anybody sees them."""

    run: Run
    frames: list[Seen]

    def said(self) -> tuple[Any, ...]:
        """All that a scanner says of it."""
        fault = self.run.fault and (self.run.fault.message, self.run.fault.code)
        return [*self.run.frames], self.frames, fault, self.run.has_control


def seen(run: Run) -> list[Seen]:
    """The frames of ``run``, unmasked."""
    return [
        (frame.opcode, frame.fin, xor(run.data[frame.payload : frame.end], frame.key))
        for frame in run.frames
    ]


def check(data: bytes) -> None:
    """Every way to read the stream comes to the same frames and the same fault."""
    if len(data) < 4:
        return
    way = _Way.of(data)
    theirs = Reference(masked=way.masked, max_message_bytes=way.limit)
    theirs.feed(way.stream)
    answers = []
    for kind in SCANNERS:
        ours = kind(masked=way.masked, max_message_bytes=way.limit)
        reads = [_Read(run, seen(run)) for run in _runs(ours, way)]
        answers.append([read.said() for read in reads])
        found = [frame for read in reads for frame in read.frames]
        fault = reads[-1].run.fault if reads else None
        code = fault.code if fault else None
        if code is None and theirs.fault is not None:
            # A header that tells of a fault before its end: we may have read less of it, or they.
            fault = ours.feed(HEADER).fault
            code = fault.code if fault else None
        elif code is not None and theirs.fault is None:
            theirs.feed(HEADER)
        assert found == theirs.frames
        assert code == theirs.fault
        _messages(reads)
        if way.masked:
            _masks(reads)
    assert all(answer == answers[0] for answer in answers)
    _closes(theirs.frames)


def _runs(ours: Any, way: _Way) -> Iterator[Run]:
    """Up to the first fault."""
    taken = 0
    for piece, in_place in way.pieces():
        while piece:
            if in_place:
                room = ours.room(64)
                assert room, "no way forward"
                size = min(len(room), len(piece))
                room[:size] = piece[:size]
                room.release()
                run = ours.took(size)
            else:
                size = len(piece)
                run = ours.feed(piece)
            piece = piece[size:]
            taken += size
            assert ours.bytes == taken
            yield run
            if run.fault is not None:
                return


def _messages(reads: list[_Read]) -> None:
    """Messages are what their frames hold, from whichever end one looks."""
    assembler = Assembler(KEEP_BYTES)
    payload, text, parts = b"", False, 0
    for run, found in reads:
        for frame, (opcode, fin, piece) in zip(run.frames, found, strict=True):
            if opcode >= CLOSE:
                continue
            text = opcode == TEXT if not parts else text
            payload, parts = payload + piece, parts + 1
            message = assembler.add(run.data, frame)
            assert (message is not None) == fin
            if message is not None:
                _message(message, text, payload, whole=parts == 1)
                payload, parts = b"", 0


def _message(message: Message, text: bool, payload: bytes, *, whole: bool) -> None:
    assert (message.text, message.length) == (text, len(payload))
    for size in (1, 100, 256, 512):
        assert message.head(size) == payload[:size]
        assert message.tail(size) == (payload[-size:] if whole else payload[-min(size, 256) :])
    kept = whole or len(payload) <= KEEP_BYTES
    assert message.payload() == (payload if kept else None)


def _masks(reads: list[_Read]) -> None:
    """Frames that get another mask say the same."""
    again = scanner.Scanner(masked=True, max_message_bytes=1 << 20)
    for run, found in reads:
        masked = again.feed(remask(run.data, run.frames, b"\x01\x80\xfe\x00"))
        assert seen(masked) == found


def _closes(found: Iterable[Seen]) -> None:
    """Close frames say what they say to websockets, or are refused by both."""
    for opcode, _, payload in found:
        if opcode != CLOSE:
            continue
        try:
            close = TheirClose.parse(payload)
            theirs = (int(close.code), close.reason.encode())
        except (ProtocolError, UnicodeDecodeError):
            theirs = None
        try:
            ours = tuple(parse_close(payload))
        except FrameError:
            ours = None
        assert ours == theirs


def _seeds() -> Iterator[bytes]:
    for key, masked in ((b"", 0), (b"\x37\xfa\x21\x3d", 1)):
        hello = encode(TEXT, b'{"type":"ping"}', key)
        begun = bytearray(encode(TEXT, b"abc", key))
        begun[0] &= 0x7F
        parts = bytes(begun) + encode(9, b"!", key) + encode(0, b"def", key)
        cut = bytes([masked | 6, len(begun) - 1, 127, 127])
        yield cut + parts + parts
        closes = b"".join(
            encode(8, text, key) for text in (b"\x03\xe8going", b"", b"\x03", b"\x03\xe8\xe2\x82")
        )
        for limit in range(4):
            how = masked | limit << 1
            yield bytes([how, 0, 5, 0xFF]) + hello + parts
            yield bytes([how, 0x7F, 0x7F, 0x7F]) + encode(2, bytes(130), key) + closes
        for length in (b"\x7e\x00\x05", b"\x7f" + bytes(6) + b"\xff\xff", b"\x7f\x80" + bytes(7)):
            head = bytes([0x82, length[0] | (0x80 if masked else 0)]) + length[1:]
            yield bytes([masked | 6, 3, 0x84, 9]) + hello + head + bytes(20)
        for code in (999, 1000, 1004, 1005, 1006, 1014, 1015, 2999, 3000, 4999, 5000):
            close = code.to_bytes(2, "big") + b"\xe2\x82\xac"
            yield bytes([masked | 6, 0x7F, 0, 0x81]) + encode(CLOSE, close, key)
        yield bytes([masked | 6, 0x83, 0x42, 0xC3]) + encode(2, bytes(400), key) + hello
        yield bytes([masked | 14, 0xC3, 0x42, 0x7F]) + hello + encode(2, LARGE, key)[:14]


TARGET = Target(
    check,
    _seeds,
    max_bytes=450,
    words=(b"\x81\x05", b"\x01\x01", b"\x80\x01", b"\x89\x00", b"\x88\x02\x03\xe8", b"\x81\x85",
           b"\x82\x7e\x00\x7e", b"\x82\x7f\0\0\0\0\0\x01\0\0", b"\x82\xfe", b"\x82\xff"),
    compiled=True,
)  # fmt: skip
