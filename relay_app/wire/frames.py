"""WebSocket frames as byte spans: found, checked and built, never decoded and re-encoded.

The rules, all from RFC 6455:

* a frame is checked as soon as its header is there, so a frame that is too big or not allowed
  is refused before its payload is buffered;
* what is whole is handed on with its header, mask and payload as they came;
* client frames are masked, server frames are not (section 5.1), lengths use the shortest form
  (5.2), control frames are whole and at most 125 bytes (5.5), extensions are never negotiated
  so the reserved bits are zero (5.2).

Pure: bytes in, values out.
"""

from collections.abc import Sequence, Set
from typing import Final, NamedTuple

__all__ = [
    "BINARY",
    "CLOSE",
    "CONTINUATION",
    "PING",
    "PONG",
    "TEXT",
    "Buffer",
    "Close",
    "Frame",
    "FrameError",
    "Run",
    "Scanner",
    "encode",
    "encode_close",
    "give_back",
    "parse_close",
    "remask",
    "xor",
]

Buffer = bytes | bytearray

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

NO_STATUS, ABNORMAL = 1005, 1006
"""Codes that stand for "no code" and "no close frame"; neither is ever sent (7.1.5)."""

_CONTROL, _RESERVED, _FIN, _MASKED = 0x08, 0x70, 0x80, 0x80
_FRAGMENT = {CONTINUATION, _FIN | CONTINUATION}
_WHOLE_CONTROL = {_FIN | CLOSE, _FIN | PING, _FIN | PONG}
_MAY_BEGIN = {TEXT, BINARY, _FIN | TEXT, _FIN | BINARY} | _WHOLE_CONTROL
_MAY_FOLLOW = _FRAGMENT | _WHOLE_CONTROL
_LEGAL = (_MAY_BEGIN, _MAY_FOLLOW)
"""The first bytes a frame may have outside a fragmented message, and inside one."""
_new = tuple.__new__
_READ_BYTES = 65_536
_SPARE_BYTES = 81_920
"""A read behind the beginning of a frame that is not large."""
_MAX_SPARE = 4
_spare: list[bytearray] = []
"""Room that was given back: its pages are there, and what is read into it finds them in the
processor's caches."""
_XOR_STEP = 65_536
"""Unmasking goes in steps, so that a 16 MiB payload does not need 60 MiB of integers."""


class FrameError(Exception):
    """The peer broke the protocol; ``code`` is the close code that says how."""

    def __init__(self, message: str, code: int = 1002) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Frame(NamedTuple):
    """Where one whole frame lies in its buffer: ``start:end``, payload from ``payload``."""

    opcode: int
    fin: bool
    start: int
    payload: int
    end: int
    key: bytes
    """The masking key, 4 bytes, or empty when the frame is not masked."""


class Run(NamedTuple):
    """Whole frames that arrived together, and what was wrong with the bytes behind them."""

    data: Buffer
    frames: Sequence[Frame]
    fault: FrameError | None
    has_control: bool


class Close(NamedTuple):
    """What a close frame says. ``code`` is 1005 when it carried none."""

    code: int = NO_STATUS
    reason: bytes = b""


class Scanner:
    """Cuts a byte stream into whole frames.

    Bytes are put where they are to lie: ``took`` says how many of those that ``room`` offered
    were filled. Neither copies more than the beginning of a frame that is not whole yet.

    Memory: at most the frame being received, and what a reader is given room for. ``awaiting`` is
    that frame's size once its header is known, else 0, so that room can be asked for elsewhere.
    ``bytes`` counts all that were ever taken.
    """

    __slots__ = ("_buffer", "_in_message", "_mask_bit", "_max_message_bytes", "_message_bytes",
                 "_tail", "_used", "awaiting", "bytes")  # fmt: skip

    def __init__(self, *, masked: bool, max_message_bytes: int) -> None:
        self._mask_bit = _MASKED if masked else 0
        self._max_message_bytes = max_message_bytes
        self._in_message = False
        self._message_bytes = 0
        self._tail = b""
        self._buffer: bytearray | None = None
        self._used = 0
        self.awaiting = 0
        self.bytes = 0

    def room(self, size: int) -> memoryview:
        """Where the next ``size`` bytes or so are to be put; a large frame's own place."""
        if size < 1:
            raise ValueError("room for at least one byte is to be made")
        if self._buffer is None:
            begun = self._used = len(self._tail)
            needed = max(begun + size, self.awaiting)
            if size >= _READ_BYTES and needed == begun + size <= _SPARE_BYTES:
                self._buffer = _spare.pop() if _spare else bytearray(_SPARE_BYTES)
            else:
                self._buffer = bytearray(needed)
            self._buffer[:begun] = self._tail
            self._tail = b""
        end = len(self._buffer)
        if end == _SPARE_BYTES != self.awaiting:
            end = min(end, self._used + size)
        return memoryview(self._buffer)[self._used : end]

    def feed(self, data: Buffer) -> Run:
        """The frames that ``data`` completes, wherever it lies."""
        if self._buffer is not None and len(self._buffer) - self._used < len(data):
            self._tail, self._buffer = bytes(self._buffer[: self._used]), None
        if not data:
            return NOTHING
        self.room(len(data))[: len(data)] = data
        return self.took(len(data))

    def took(self, count: int) -> Run:
        """The frames that ``count`` bytes complete, which were put where ``room`` said.

        What is wrong with the bytes is not raised but in the run's ``fault``. Raises ValueError
        if there was no room for as many.
        """
        buffer = self._buffer
        if buffer is None or not 0 <= count <= len(buffer) - self._used:
            raise ValueError("more bytes than there was room for")
        self.bytes += count
        size = self._used = self._used + count
        if size < self.awaiting == len(buffer):
            return NOTHING
        frames: list[Frame] = []
        has_control = False
        fault = None
        position = 0
        mask_bit = self._mask_bit
        in_message = self._in_message
        message_bytes = self._message_bytes
        legal = _LEGAL[in_message]
        self.awaiting = 0
        try:
            while size - position >= 2:
                first = buffer[position]
                second = buffer[position + 1]
                payload = position + 2
                length = second & 0x7F
                if first not in legal or second & _MASKED != mask_bit:
                    raise self._illegal(first, legal)
                if length >= 126:
                    if first & _CONTROL:
                        raise FrameError("control frame over 125 bytes")
                    if length == 126:
                        if size - payload < 2:
                            break
                        length = buffer[payload] << 8 | buffer[payload + 1]
                        payload += 2
                        shortest = length >= 126
                    else:
                        if size - payload < 8:
                            break
                        length = int.from_bytes(buffer[payload : payload + 8], "big")
                        payload += 8
                        shortest = length >= 65_536
                    if length >> 63:
                        raise FrameError("frame length with the top bit set")
                    if not shortest:
                        raise FrameError("frame length not in its shortest form")
                if message_bytes + length > self._max_message_bytes and not first & _CONTROL:
                    raise FrameError(f"message over {self._max_message_bytes} bytes", code=1009)
                key = b""
                if mask_bit:
                    key = bytes(buffer[payload : payload + 4])
                    payload += 4
                end = payload + length
                if end > size:
                    self.awaiting = end - position
                    break
                fin = first >= _FIN
                # Frame(...) without the call between: a quarter of what a frame costs.
                frames.append(_new(Frame, (first & 0x0F, fin, position, payload, end, key)))
                position = end
                if first & _CONTROL:
                    has_control = True
                elif not fin:
                    in_message, message_bytes = True, message_bytes + length
                    legal = _MAY_FOLLOW
                elif in_message:
                    in_message, message_bytes = False, 0
                    legal = _MAY_BEGIN
        except FrameError as error:
            fault = error
        self._in_message, self._message_bytes = in_message, message_bytes
        if position or len(buffer) != self.awaiting:
            self._tail, self._buffer = bytes(memoryview(buffer)[position:size]), None
        return Run(buffer, frames, fault, has_control)

    def _illegal(self, first: int, legal: Set[int]) -> FrameError:
        opcode = first & 0x0F
        if first & _RESERVED:
            return FrameError("reserved bits set without an extension")
        if opcode > PONG or BINARY < opcode < CLOSE:
            return FrameError(f"unknown opcode {opcode:#x}")
        if first in legal:
            return FrameError(
                "client frame not masked" if self._mask_bit else "server frame masked"
            )
        if opcode & _CONTROL:
            return FrameError("fragmented control frame")
        if legal is _MAY_FOLLOW:
            return FrameError("new message inside a fragmented one")
        return FrameError("continuation without a message")


NOTHING: Final = Run(b"", (), None, False)
"""What bytes that complete no frame come to."""


def give_back(run: Run) -> None:
    """Nobody looks at the bytes of ``run`` any more: the next may lie in their place."""
    data = run.data
    if isinstance(data, bytearray) and len(data) == _SPARE_BYTES and len(_spare) < _MAX_SPARE:
        _spare.append(data)


def fault(
    data: bytes, masked: bool, max_message_bytes: int, in_message: bool, message_bytes: int
) -> FrameError:
    """What is wrong with the frame that begins ``data``, for a scanner that only knows that
    something is."""
    scanner = Scanner(masked=masked, max_message_bytes=max_message_bytes)
    scanner._in_message, scanner._message_bytes = in_message, message_bytes
    return scanner.feed(data).fault or FrameError("illegal frame")


def xor(payload: Buffer | memoryview, key: bytes, offset: int = 0) -> bytes:
    """``payload`` masked, or unmasked, by ``key`` (RFC 6455 section 5.3).

    ``offset`` is where ``payload`` begins within the frame's payload.
    """
    if not key or not payload:
        return bytes(payload)
    if offset % 4:
        turn = offset % 4
        key = key[turn:] + key[:turn]
    size = len(payload)
    if size <= _XOR_STEP:
        # One XOR of two big integers: all its loops run in C, 30 bits at a time.
        mask = int.from_bytes(key * (size // 4) + key[: size % 4], "little")
        return (int.from_bytes(payload, "little") ^ mask).to_bytes(size, "little")
    view = memoryview(payload)
    return b"".join(xor(view[at : at + _XOR_STEP], key) for at in range(0, size, _XOR_STEP))


def encode(opcode: int, payload: Buffer, key: bytes = b"") -> bytes:
    """One whole frame, masked if ``key`` (4 bytes) is given."""
    size = len(payload)
    bit = 0x80 if key else 0
    if size < 126:
        head = bytes((_FIN | opcode, bit | size))
    elif size < 65_536:
        head = bytes((_FIN | opcode, bit | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, bit | 127)) + size.to_bytes(8, "big")
    return head + key + xor(payload, key)


def encode_close(close: Close, key: bytes = b"") -> bytes:
    """A close frame; empty for :data:`NO_STATUS`, as section 7.4.1 forbids sending that code."""
    if close.code == NO_STATUS:
        return encode(CLOSE, b"", key)
    return encode(CLOSE, close.code.to_bytes(2, "big") + close.reason, key)


def parse_close(payload: bytes) -> Close:
    """What a close frame's payload says.

    Raises FrameError for a single byte, a code that may not be on the wire (7.4) or a reason
    that is not UTF-8 (code 1007, section 8.1).
    """
    if not payload:
        return Close()
    if len(payload) == 1:
        raise FrameError("close frame with one byte")
    code = int.from_bytes(payload[:2], "big")
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise FrameError(f"close code {code} may not be sent")
    reason = payload[2:]
    try:
        reason.decode()
    except UnicodeDecodeError:
        raise FrameError("close reason is not UTF-8", code=1007) from None
    return Close(code, reason)


def remask(data: Buffer, frames: Sequence[Frame], key: bytes) -> bytes:
    """The frames with their masks replaced by ``key``: fresh bytes that the sender did not pick.

    Old and new mask are applied in one pass.
    """
    view = memoryview(data)
    out: list[Buffer | memoryview] = []
    for frame in frames:
        both = bytes(old ^ new for old, new in zip(frame.key, key, strict=True))
        out += (
            view[frame.start : frame.payload - 4],
            key,
            xor(view[frame.payload : frame.end], both),
        )
    return b"".join(out)
