"""Outgoing: the writing half of a Link, where frames go out whole and in turn.

The rules:

1. One writer at a time. A send that was begun is finished, or nothing is ever written again.
2. Control frames never wait for the lock. One pong, one ping and one close may be pending;
   whoever holds the lock sends them at the next frame boundary. A pong that waited for a lock
   held by a blocked send would deadlock both directions.
3. Nothing goes out behind our close frame (RFC 6455 section 5.5.1).

Memory: besides what a caller is sending, at most six control frames, however many pings come.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gevent
from gevent.event import Event
from gevent.lock import Semaphore

from relay_app.wire.connection import Connection, ConnectionLost
from relay_app.wire.frames import (
    ABNORMAL,
    CLOSE,
    NO_STATUS,
    TEXT,
    Buffer,
    Close,
    encode,
    encode_close,
)
from relay_app.wire.gate import Gate

__all__ = ["Outgoing"]

TLS_RETRY_SECONDS = 0.01
"""TLS may have to read before it can write, and the socket is writable all the while."""


class Outgoing(Gate):
    """``masks`` is True where we are the WebSocket client.

    ``closing``: our close frame was asked for. ``gone``: there is nobody to write to. ``torn``:
    a frame was left unfinished or the connection failed, so that no byte may follow.
    ``blocked_since``: since when the kernel has taken nothing of what is being sent. As a Gate it
    is clear while nobody writes, nothing waits to be written and nothing forbids it.
    """

    __slots__ = ("_boundary", "_clock", "_connection", "_lock", "_masks", "_pending", "_residue",
                 "blocked_since", "closing", "gone", "mid_message", "torn")  # fmt: skip

    def __init__(self, connection: Connection, *, masks: bool, clock: Callable[[], float]) -> None:
        super().__init__()
        self.clear = True
        self.closing = False
        self.gone = False
        self.torn = False
        self.mid_message = False
        self.blocked_since: float | None = None
        self._connection = connection
        self._masks = masks
        self._clock = clock
        self._lock = Semaphore(1)
        self._pending: dict[int, bytes] = {}
        self._residue = b""
        self._boundary: Event | None = None

    @property
    def silent(self) -> bool:
        """Whether data would be dropped."""
        return self.closing or self.gone or self.torn

    @property
    def waits(self) -> bool:
        """Whether somebody writes, or something is still to be written."""
        return bool(self._pending or self._residue) or self._lock.locked()

    def send(self, data: Buffer | memoryview, *, ends_message: bool, sent: int = 0) -> None:
        """Whole frames, sent whole; blocks until the kernel has taken every byte. ``sent`` of
        them went out just now.

        Dropped when :attr:`silent`. Raises ConnectionLost if the connection fails under it.
        Killed before the first byte it leaves no trace; killed later it leaves us torn.
        """
        if self.clear and not sent:
            try:
                sent = self._connection.send(data)
            except ConnectionLost:
                self.tear()
                raise
            self.bytes_out += sent
        if sent < len(data):
            self._send_rest(data, sent, ends_message)
        else:
            self.mid_message = not ends_message
            if self._boundary is not None and ends_message:
                self._wake()

    def _send_rest(self, data: Buffer | memoryview, sent: int, ends_message: bool) -> None:
        with self._turn():
            if self.silent:
                return
            before, self.mid_message = self.mid_message, not ends_message
            try:
                self._write(data, sent)
            except BaseException:
                if not self.torn:
                    self.mid_message = before
                raise
        self.mid_message = not ends_message
        if ends_message:
            self._wake()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Our turn to write: nobody else does until it is over."""
        try:
            with self._lock:
                self.clear = False
                yield
        finally:
            self._look()

    def _look(self) -> None:
        """Finds out whether the way is clear; to be called whenever something has changed."""
        self.clear = not (self.waits or self.silent)

    def send_text(self, text: str, seconds: float) -> bool:
        """A message of our own between two others; False if it got no turn in ``seconds``."""
        frame = encode(TEXT, text.encode("utf-8", "replace"), self._new_key())
        return bool(gevent.with_timeout(seconds, self._send_between, frame, timeout_value=False))

    def _send_between(self, frame: bytes) -> bool:
        while True:
            with self._turn():
                if self.silent:
                    return False
                if not self.mid_message:
                    self._write(frame)
                    return True
                boundary = self._boundary = self._boundary or Event()
            boundary.wait()

    def control(self, opcode: int, payload: bytes) -> None:
        """A ping or a pong, in place of one that still waits. Never blocks."""
        if self.silent:
            return
        self._pending[opcode] = encode(opcode, payload, self._new_key())
        self.clear = False
        self.nudge()

    def close(self, close: Close) -> None:
        """Our close frame, once, behind what is being sent. Never blocks."""
        if self.closing:
            return
        self.closing = True
        self.clear = False
        self._wake()
        code = NO_STATUS if close.code == ABNORMAL else close.code
        # Last in, so last out: dicts keep their order, and nothing is put in any more.
        self._pending[CLOSE] = encode_close(Close(code, close.reason), self._new_key())
        self.nudge()

    def give_up(self) -> None:
        """There is nobody to write to any more; who waits for a turn need not."""
        self.gone = True
        self.clear = False
        self._wake()

    def tear(self) -> None:
        """No byte may follow what went out."""
        self.torn = True
        self.clear = False

    def nudge(self) -> None:
        """Tries again to send control frames that did not fit in the socket. Never blocks."""
        if (self._pending or self._residue) and self._lock.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._lock.release()
                self._look()

    def finish(self) -> None:
        """Blocks until the kernel has every control frame. Raises ConnectionLost."""
        with self._turn():
            if (self._pending or self._residue) and not self.torn:
                self._write(b"")

    def _wake(self) -> None:
        if self._boundary is not None:
            self._boundary.set()
            self._boundary = None

    def _flush(self) -> None:
        # What is pending is encoded into the residue only when that is empty: a flood of pings
        # replaces the pending pong and grows nothing.
        while (self._residue or self._pending) and not self.torn:
            out = self._residue or self._take_control()
            try:
                sent = self._connection.send(out)
            except ConnectionLost:
                self.tear()
                return
            self.bytes_out += sent
            self._residue = out[sent:]
            if self._residue:
                return

    def _take_control(self) -> bytes:
        out = self._residue + b"".join(self._pending.values())
        self._residue = b""
        self._pending.clear()
        return out

    def _write(self, data: Buffer | memoryview, done: int = 0) -> None:
        """Writes ``data``, of which ``done`` bytes went out before."""
        control = b"" if done else self._take_control()
        if control:
            data = b"".join((control, data))
        size = len(data)
        waited = False
        try:
            while done < size:
                sent = self._connection.send(memoryview(data)[done:] if done else data)
                if sent:
                    self.bytes_out += sent
                    done += sent
                    waited = False
                    if self.blocked_since is not None:
                        self.blocked_since = self._clock()
                    continue
                if self.blocked_since is None:
                    self.blocked_since = self._clock()
                if waited:
                    gevent.sleep(TLS_RETRY_SECONDS)
                self._connection.wait_writable()
                waited = True
        except ConnectionLost:
            self.tear()
            raise
        except BaseException:
            # Killed, or out of time. In the middle of a frame nothing may follow it, and TLS
            # has encrypted the beginning already.
            if done or self._connection.tls:
                self.tear()
            else:
                self._residue = control
            raise
        finally:
            self.blocked_since = None
        self._flush()

    def _new_key(self) -> bytes:
        return os.urandom(4) if self._masks else b""
