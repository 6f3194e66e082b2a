"""Peers that do exactly what a test says, byte by byte, on either side of a relay.

The rule: nothing here is shared with the relay. Frames are built and read by the RFC, so that a
fault in the relay's own frames cannot hide itself.
"""

import json
import queue
import select
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from typing import NamedTuple, Self

from support.relays import RelayProcess
from support.upstreams import read_head

__all__ = ["CLOSED", "Frame", "Peer", "Provider", "eventually", "frame", "knock", "provider"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
CLOSED = None
"""What ``Peer.receive`` returns once the other side has ended the connection."""

PATIENCE_SECONDS = 30
MASK = b"\x5a\xc3\x0f\x96"
KEY = b64encode(b"sixteen bytes !!").decode()


class Frame(NamedTuple):
    """A frame as it came, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes = b"",
    length: int | None = None,
) -> bytes:
    """A frame's bytes, also a wrong one. ``length`` is what the header says, if not the truth."""
    length = len(payload) if length is None else length
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    bit = 0x80 if mask else 0
    if length < 126:
        head = struct.pack("!BB", first, bit | length)
    elif length < 65_536:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, bit | 127, length)
    return head + mask + (_masked(payload, mask) if mask else payload)


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    pad = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
    return (int.from_bytes(payload, "little") ^ pad).to_bytes(size, "little")


class Peer:
    """One end of a WebSocket connection whose handshake is done.

    ``masks`` is True for a client. Nothing is answered by itself: no pong, no close.
    """

    def __init__(
        self, sock: socket.socket, *, masks: bool, head: bytes, early: bytes = b""
    ) -> None:
        self.sock = sock
        self.head = head
        self._mask = MASK if masks else b""
        self._buffer = bytearray(early)
        sock.settimeout(PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    # -- saying ------------------------------------------------------------------------------

    def frame(self, opcode: int, payload: bytes = b"", **options) -> bytes:
        """A frame's bytes as this side sends them."""
        return frame(opcode, payload, **{"mask": self._mask, **options})

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def say(self, message: str | bytes) -> None:
        """A text message; of bytes, which need not be UTF-8, or of a string."""
        data = message.encode() if isinstance(message, str) else message
        self.send(self.frame(TEXT, data))

    def tell(self, **event) -> None:
        """A realtime event."""
        self.say(json.dumps(event))

    def say_close(self, code: int | None = 1000, reason: str = "") -> None:
        payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
        self.send(self.frame(CLOSE, payload))

    def send_until_stuck(self, data: bytes, stuck_seconds: float = 0.5) -> int:
        """Sends until nobody has taken a byte for ``stuck_seconds``; returns how much went."""
        view = memoryview(data)
        sent = 0
        while sent < len(data):
            _, writable, _ = select.select([], [self.sock], [], stuck_seconds)
            if not writable:
                break
            sent += self.sock.send(view[sent : sent + 262_144], socket.MSG_DONTWAIT)
        return sent

    def hang_up(self) -> None:
        """Ends the connection with FIN: no more of us, though we still read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Ends the connection with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # -- hearing -----------------------------------------------------------------------------

    def receive(self) -> Frame | None:
        """The next frame, or :data:`CLOSED` after a FIN or a reset between two frames."""
        head = self._take(2, may_end=True)
        if not head:
            return CLOSED
        first, second = head
        assert first & 0x70 == 0, "reserved bits"
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(self._take(2 if length == 126 else 8), "big")
        masked = bool(second & 0x80)
        assert masked != bool(self._mask), "only clients mask"
        mask = self._take(4) if masked else b""
        payload = self._take(length)
        payload = _masked(payload, mask) if masked else payload
        return Frame(first & 0x0F, payload, bool(first & 0x80))

    def hear(self) -> bytes:
        """The payload of the next message, which must be text in one frame; skips pings."""
        while (got := self.receive()) is not CLOSED and got.opcode == PING:
            pass
        assert got is not CLOSED, "ended instead"
        assert got.opcode == TEXT, got
        assert got.fin, got
        return got.payload

    def told(self) -> dict:
        """The next event."""
        return json.loads(self.hear())

    def hear_close(self) -> tuple[int | None, str]:
        """Code and reason of the close frame that must come next; skips pings, and the cancels of
        responses that still run."""
        while (got := self.receive()) is not CLOSED:
            if got.opcode not in (PING, PONG) and b'"response.cancel"' not in got.payload:
                break
        assert got is not CLOSED, "ended without a close frame"
        assert got.opcode == CLOSE, got
        if not got.payload:
            return None, ""
        return int.from_bytes(got.payload[:2], "big"), got.payload[2:].decode()

    def hear_end(self) -> None:
        """Nothing but the end of the connection must come."""
        got = self.receive()
        assert got is CLOSED, got

    def _take(self, size: int, *, may_end: bool = False) -> bytes:
        while len(self._buffer) < size:
            try:
                data = self.sock.recv(min(max(size - len(self._buffer), 65_536), 1 << 20))
            except ConnectionResetError:
                data = b""
            if not data:
                assert may_end, f"ended in mid-frame: {bytes(self._buffer[:100])!r}"
                assert not self._buffer, f"ended in mid-frame: {bytes(self._buffer[:100])!r}"
                return b""
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def knock(
    running: RelayProcess,
    query: str = "model=gpt-realtime",
    *,
    behind: bytes = b"",
    receive_bytes: int | None = None,
) -> Peer:
    """A client that was let in. ``behind`` is sent in one packet with the request;
    ``receive_bytes`` limits what the kernel takes for a client that does not read."""
    host, port = running.url.removeprefix("http://").rsplit(":", 1)
    sock = socket.socket()
    sock.settimeout(PATIENCE_SECONDS)
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((host, int(port)))
    request = (
        f"GET /v1/realtime?{query} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
        f"Authorization: Bearer {running.key}\r\n\r\n"
    )
    sock.sendall(request.encode() + behind)
    head, _, early = read_head(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return Peer(sock, masks=True, head=head, early=early)


class Provider:
    """An upstream that lets everybody in and leaves the talking to the test."""

    def __init__(self, listener: socket.socket, behind: bytes) -> None:
        host, port = listener.getsockname()
        self.url = f"ws://{host}:{port}/v1"
        self._listener = listener
        self._behind = behind
        self._arrived: queue.Queue[Peer] = queue.Queue()

    def meet(self) -> Peer:
        """The provider's end of the session that was opened last."""
        return self._arrived.get(timeout=PATIENCE_SECONDS)

    def _admit(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            head = read_head(sock)
            key = next(
                line.partition(b":")[2].strip()
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"sec-websocket-key:")
            )
            magic = sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            answer = (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {b64encode(magic).decode()}\r\n\r\n"
            )
            sock.sendall(answer.encode() + self._behind)
            self._arrived.put(Peer(sock, masks=False, head=head))


@contextmanager
def provider(*, behind: bytes = b"", receive_bytes: int | None = None) -> Iterator[Provider]:
    """A listening Provider; ``behind`` is glued to each of its 101s."""
    with socket.socket() as listener:
        if receive_bytes is not None:  # inherited by what it accepts
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        listening = Provider(listener, behind)
        thread = threading.Thread(target=listening._admit, daemon=True)
        thread.start()
        try:
            yield listening
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            while not listening._arrived.empty():
                listening._arrived.get().sock.close()


_never = threading.Event()


def eventually(condition, what: str, seconds: float = PATIENCE_SECONDS):
    """The first true value of ``condition()``, asked again and again; fails the test in time."""
    for _ in range(int(seconds * 50)):
        value = condition()
        if value:
            return value
        _never.wait(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")
