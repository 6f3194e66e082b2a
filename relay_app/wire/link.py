"""Link: one end of the relay, a WebSocket connection whose frames go through whole.

The rules:

1. One writer at a time, and every send is whole or the Link is dead.
2. Control frames never wait for the lock. A Link keeps one pending pong, ping and close; whoever
   holds the lock sends them at the next frame boundary. A pong that waited for a lock held by a
   blocked send would deadlock both directions.
3. Nothing is read before it was asked for: back-pressure is left to TCP.
4. The socket is non-blocking and all waiting is done here, on the hub, so any kind of socket
   will do: gevent's, the standard library's, TLS over either.
"""

import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Final

import gevent
from gevent.event import Event
from gevent.hub import get_hub
from gevent.lock import Semaphore

from relay_app.wire.frames import (
    ABNORMAL,
    CLOSE,
    NO_STATUS,
    PING,
    PONG,
    TEXT,
    Buffer,
    Close,
    Frame,
    FrameError,
    Run,
    Scanner,
    encode,
    encode_close,
    parse_close,
    xor,
)
from relay_app.wire.rooms import SMALL_BYTES, Rooms

__all__ = ["Link", "LinkEnded"]

READ_BYTES = 65_536
LARGE_READ_BYTES = 262_144

_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class LinkEnded(Exception):
    """The peer of ``link`` closed or vanished; ``link.end`` says how."""

    def __init__(self, link: "Link") -> None:
        super().__init__(f"{link.name} ended")
        self.link = link


class Link:
    """A WebSocket connection after its handshake. Belongs to one hub.

    ``name`` is "client" or "target"; ``masks`` is True where we are the WebSocket client and so
    mask what we send. ``early`` is what arrived behind the handshake. ``user_timeout_seconds``
    bounds how long the kernel keeps unacknowledged bytes of ours.

    Memory: one frame of at most ``max_message_bytes``, for which ``rooms`` is asked when it is
    large, and one read of 256 kB.
    """

    def __init__(
        self,
        sock: Any,
        *,
        name: str,
        masks: bool,
        max_message_bytes: int,
        rooms: Rooms,
        early: bytes = b"",
        user_timeout_seconds: float = 35.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.masks = masks
        self.end: Close | None = None
        self.closing = False
        self.reading = False
        self.blocked_since: float | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self._sock = sock
        self._clock = clock
        self._early = early
        self._scanner = Scanner(masked=not masks, max_message_bytes=max_message_bytes)
        self._rooms = rooms
        self._room = 0
        self._fault: FrameError | None = None
        self._lock = Semaphore(1)
        self._pending: dict[int, bytes] = {}
        self._residue = b""
        self._torn = False
        self._heard = False
        self._silent_seconds = 0.0
        self._asked = False
        self.mid_message = False
        self._boundary: Event | None = None
        _tune(sock, user_timeout_seconds)
        sock.settimeout(0.0)
        self._hub = get_hub()
        self._readable = self._hub.loop.io(sock.fileno(), 1)
        self._writable = self._hub.loop.io(sock.fileno(), 2)
        self._tls_pending: Callable[[], int] | None = getattr(sock, "pending", None)
        self.verbatim: Final = self._tls_pending is not None or _is_loopback(sock)
        """Whether masks that somebody else chose may go out on this Link (RFC 6455 10.3)."""

    # -- receiving ---------------------------------------------------------------------------

    def receive(self) -> Run:
        """The next whole data frames, at least one; control frames are dealt with here.

        Raises LinkEnded when the peer has closed or vanished and FrameError when it broke the
        protocol, both after everything before that was returned.
        """
        if self._room:
            self._rooms.give_back(self._room)
            self._room = 0
        scanner = self._scanner
        while True:
            if self.end is not None:
                raise LinkEnded(self)
            if self._fault is not None:
                raise self._fault
            if not self._room and scanner.awaiting > SMALL_BYTES:
                self._rooms.take(scanner.awaiting)
                self._room = scanner.awaiting
            run = scanner.feed(self._read())
            self._fault = run.fault
            if run.has_control:
                run = run._replace(frames=self._without_control(run))
            if run.frames:
                return run

    def _read(self) -> bytes:
        if self._early:
            early, self._early = self._early, b""
            return early
        size = LARGE_READ_BYTES if self._scanner.awaiting > SMALL_BYTES else READ_BYTES
        while True:
            # Waiting first, even when bytes may be there, is what keeps one busy peer from
            # holding the hub: every read lets the other greenlets have their turn.
            if self._tls_pending is None or not self._tls_pending():
                self.reading = True
                try:
                    self._hub.wait(self._readable)
                finally:
                    self.reading = False
            try:
                data: bytes = self._sock.recv(size)
            except _WOULD_BLOCK:
                continue
            except (OSError, ValueError):
                data = b""
            if not data:
                self._vanished()
                raise LinkEnded(self)
            self.bytes_in += len(data)
            self._heard = True
            return data

    def _without_control(self, run: Run) -> list[Frame]:
        data_frames = []
        for frame in run.frames:
            if frame.opcode < CLOSE:
                data_frames.append(frame)
            elif frame.opcode == PING:
                self._control(PONG, self._payload(run.data, frame))
            elif frame.opcode == CLOSE:
                try:
                    close = parse_close(self._payload(run.data, frame))
                except FrameError as error:
                    self._fault = error
                else:
                    self._fault = None
                    self.end = close
                    self.close(Close(close.code))
                break
        return data_frames

    def _payload(self, data: Buffer, frame: Frame) -> bytes:
        return xor(data[frame.payload : frame.end], frame.key)

    # -- sending -----------------------------------------------------------------------------

    def send(self, data: Buffer | memoryview, *, ends_message: bool = True) -> None:
        """Whole frames, sent whole; blocks until the kernel has taken every byte.

        After our close frame, or after the peer is gone, bytes are dropped: RFC 6455 section
        5.5.1 allows nothing else. Raises LinkEnded if the peer vanishes under the send.
        """
        with self._lock:
            if self.closing or self.end is not None:
                return
            self.mid_message = not ends_message
            if self._residue or self._pending:
                data = b"".join((self._take_control(), data))
            self._write(data)
            if self._pending:
                self._flush()
        if ends_message and self._boundary is not None:
            self._boundary.set()

    def send_text(self, text: str, *, seconds: float = 1.0) -> bool:
        """A message of our own, between two messages of the peer's.

        False if it did not get its turn within ``seconds``: the other side is inside a
        fragmented message, or this one does not read. If it had begun, the Link is dead.
        """
        frame = encode(TEXT, text.encode("utf-8", "replace"), self._new_key())
        return bool(gevent.with_timeout(seconds, self._send_own, frame, timeout_value=False))

    def _send_own(self, frame: bytes) -> bool:
        while not self.closing and self.end is None:
            with self._lock:
                if not self.mid_message:
                    self._write(b"".join((self._take_control(), frame)))
                    return True
                self._boundary = Event()
            self._boundary.wait()
        return False

    def ping(self) -> None:
        """Asks the peer for a pong. Never blocks."""
        self._control(PING, b"")

    def pulse(self, elapsed_seconds: float, ping_seconds: float) -> bool:
        """The heartbeat, called by the keeper: whether the peer may still be taken for alive.

        Only time in which we were reading counts: under back-pressure the pong of a healthy
        peer cannot reach us, and then the limit on stalled writes rules. A peer that has said
        nothing for ``ping_seconds`` is asked, and given as long again to answer. Never blocks.
        """
        self.nudge()
        if self._heard:
            self._heard = self._asked = False
            self._silent_seconds = 0.0
        elif self.reading:
            self._silent_seconds += elapsed_seconds
            if self._silent_seconds >= ping_seconds and not self._asked:
                self._asked = True
                self.ping()
        return self._silent_seconds < 2 * ping_seconds

    def close(self, close: Close) -> None:
        """Sends our close frame, once, behind what is being sent. Never blocks."""
        if self.closing:
            return
        self.closing = True
        code = NO_STATUS if close.code == ABNORMAL else close.code
        self._pending[CLOSE] = encode_close(Close(code, close.reason), self._new_key())
        self.nudge()

    def nudge(self) -> None:
        """Tries again to send control frames that did not fit in the socket. Never blocks."""
        if (self._pending or self._residue) and self._lock.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._lock.release()

    def _control(self, opcode: int, payload: bytes) -> None:
        if self.closing or self.end is not None:
            return
        self._pending[opcode] = encode(opcode, payload, self._new_key())
        self.nudge()

    def _take_control(self) -> bytes:
        # A close frame was put in last, and it goes out last.
        out = self._residue + b"".join(self._pending.values())
        self._residue = b""
        self._pending.clear()
        return out

    def _flush(self) -> None:
        out = self._take_control()
        if self._torn:
            return
        try:
            sent = self._sock.send(out)
        except _WOULD_BLOCK:
            sent = 0
        except (OSError, ValueError):
            self._vanished()
            return
        self.bytes_out += sent
        self._residue = out[sent:]

    def _write(self, data: Buffer | memoryview) -> None:
        if self._torn:
            raise LinkEnded(self)
        size = len(data)
        done = 0
        try:
            while True:
                try:
                    sent = self._sock.send(memoryview(data)[done:] if done else data)
                except _WOULD_BLOCK:
                    sent = 0
                self.bytes_out += sent
                done += sent
                if done == size:
                    self.blocked_since = None
                    return
                if sent or self.blocked_since is None:
                    self.blocked_since = self._clock()
                self._hub.wait(self._writable)
        except (OSError, ValueError):
            self._torn = True
            self._vanished()
            raise LinkEnded(self) from None
        except BaseException:
            # Killed, or out of time, in the middle of a frame: nothing may follow it.
            self._torn = True
            self._vanished()
            raise

    def _new_key(self) -> bytes:
        return os.urandom(4) if self.masks else b""

    # -- ending ------------------------------------------------------------------------------

    def _vanished(self) -> None:
        if self.end is None:
            self.end = Close(ABNORMAL)

    def abort(self) -> None:
        """Ends the connection with a reset: what the peer did not read is thrown away."""
        self._vanished()
        self._torn = True
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        except (OSError, ValueError):
            pass  # not a TCP socket, or gone already
        self._shutdown(socket.SHUT_RDWR)

    def finish(self, seconds: float) -> None:
        """Ends the connection so that the peer can still read our last words.

        Sends FIN, then reads and drops what comes until the peer's FIN or for ``seconds``: a
        close with unread bytes would be a reset, and a reset takes our close frame with it.
        Nobody may be receiving any more. Afterwards the socket is shut down, not closed.
        """
        if not self._torn:
            self._shutdown(socket.SHUT_WR)
            gevent.with_timeout(seconds, self._drop_unread, timeout_value=None)
        self._shutdown(socket.SHUT_RDWR)

    def _drop_unread(self) -> None:
        while True:
            self._hub.wait(self._readable)
            try:
                if not self._sock.recv(READ_BYTES):
                    return
            except _WOULD_BLOCK:
                continue
            except (OSError, ValueError):
                return  # reset by the peer: as gone as can be

    def dispose(self) -> None:
        """Gives back everything but the socket itself, which belongs to whoever opened it."""
        self._vanished()
        if self._room:
            self._rooms.give_back(self._room)
            self._room = 0
        self._readable.close()
        self._writable.close()

    def _shutdown(self, how: int) -> None:
        try:
            self._sock.shutdown(how)
        except (OSError, ValueError):
            pass  # the peer was faster


def _tune(sock: Any, user_timeout_seconds: float) -> None:
    """Deltas are small and half-open peers must not leak: NODELAY, KEEPALIVE, USER_TIMEOUT."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout_seconds * 1000)
        )
    except OSError:
        pass  # a Unix socket behind a local balancer has none of these


def _is_loopback(sock: Any) -> bool:
    try:
        peer = sock.getpeername()
    except OSError:
        return False
    if not isinstance(peer, tuple):
        return True  # a Unix socket never leaves the machine
    host = str(peer[0])
    return host.startswith("127.") or host in ("::1", "::ffff:127.0.0.1")
