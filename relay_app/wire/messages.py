"""Messages as an observer sees them: where they are, unmasked only as far as one looks.

The rule: looking is lazy. Audio is most of the bytes, and of an audio message only the first
few hundred are ever read; unmasking, copying and joining happen when asked for.
"""

from relay_app.wire.frames import TEXT, Buffer, Frame, xor

__all__ = ["Assembler", "Message"]

HEAD_BYTES = 512
TAIL_BYTES = 256


class Message:
    """One whole message. ``length`` is its payload in bytes; ``text`` is False for binary."""

    __slots__ = ("_data", "_end", "_key", "_start", "length", "text")

    def __init__(self, text: bool, data: Buffer, start: int, end: int, key: bytes) -> None:
        self.text = text
        self.length = end - start
        self._data = data
        self._start = start
        self._end = end
        self._key = key

    def head(self, size: int = HEAD_BYTES) -> bytes:
        """The first ``size`` bytes of the payload (of fragments at most what was kept)."""
        # Asked of every message, so without min(), max() and a call that only copies.
        start = self._start
        end = start + size if size < self.length else self._end
        data = self._data[start:end]
        return xor(data, self._key) if self._key else bytes(data)

    def tail(self, size: int = TAIL_BYTES) -> bytes:
        """The last ``size`` bytes of the payload (at most 256 if it came in fragments)."""
        start = self._end - size if size < self.length else self._start
        data = self._data[start : self._end]
        return xor(data, self._key, start - self._start) if self._key else bytes(data)

    def payload(self) -> bytes | None:
        """The whole payload, or None when it was larger than what is kept of fragments."""
        payload = memoryview(self._data)[self._start : self._end]
        return xor(payload, self._key) if self._key else bytes(payload)


class _Fragmented(Message):
    """A message that came in several frames, kept as far as ``keep_bytes`` allows."""

    __slots__ = ("_keep_bytes", "_kept", "_tail")

    def __init__(self, text: bool, keep_bytes: int) -> None:
        super().__init__(text, b"", 0, 0, b"")
        self._keep_bytes = keep_bytes
        self._kept = bytearray()
        self._tail = b""

    def add(self, data: Buffer, frame: Frame) -> None:
        size = frame.end - frame.payload
        room = max(self._keep_bytes, HEAD_BYTES) - len(self._kept)
        if room > 0 and size:
            piece = memoryview(data)[frame.payload : frame.payload + min(room, size)]
            self._kept += xor(piece, frame.key)
        start = max(frame.payload, frame.end - TAIL_BYTES)
        tail = xor(data[start : frame.end], frame.key, start - frame.payload)
        self._tail = (self._tail + tail)[-TAIL_BYTES:]
        self.length += size

    def head(self, size: int = HEAD_BYTES) -> bytes:
        return bytes(self._kept[:size])

    def tail(self, size: int = TAIL_BYTES) -> bytes:
        return self._tail[-size:]

    def payload(self) -> bytes | None:
        return bytes(self._kept) if self.length <= self._keep_bytes else None


class Assembler:
    """Turns the data frames of one direction into messages.

    Memory: at most ``keep_bytes`` of the message being assembled, and nothing at all of one
    that comes in a single frame. Frames must have passed a Scanner.
    """

    __slots__ = ("_keep_bytes", "_open")

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._open: _Fragmented | None = None

    def add(self, data: Buffer, frame: Frame) -> Message | None:
        """The message that ``frame`` ends, or None while more of it is to come."""
        opened = self._open
        if opened is None:
            text = frame.opcode == TEXT
            if frame.fin:
                return Message(text, data, frame.payload, frame.end, frame.key)
            opened = self._open = _Fragmented(text, self._keep_bytes)
        opened.add(data, frame)
        if not frame.fin:
            return None
        self._open = None
        return opened
