"""Link: one end of the relay, a WebSocket connection whose frames go through whole.

The rules:

1. Nothing is read before it was asked for: back-pressure is left to TCP.
2. What the peer said last is heard, even if our own writing failed before: the reader alone
   decides how a connection ended.
3. A peer is given up only for time in which it could have been heard.

How frames go out is in ``outgoing``, what a socket answers in ``connection``.
"""

import socket
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import gevent

from relay_app.wire.connection import Connection, ConnectionLost
from relay_app.wire.frames import (
    ABNORMAL,
    CLOSE,
    NOTHING,
    PING,
    PONG,
    Buffer,
    Close,
    Frame,
    FrameError,
    Run,
    parse_close,
    xor,
)
from relay_app.wire.outgoing import Outgoing
from relay_app.wire.rooms import READ_BYTES, SMALL_BYTES, Rooms
from relay_app.wire.scanner import Scanner

__all__ = ["Link", "LinkEnded"]


class Forwards(Protocol):
    """What forwards on the hub while a Link is waited for, and leaves behind what it cannot."""

    run: Run | None

    def __call__(self, wake: Callable[[], None], /) -> None: ...


class LinkEnded(Exception):
    """The peer of ``link`` closed or vanished; ``link.end`` says how, once it is known."""

    def __init__(self, link: "Link") -> None:
        super().__init__(f"{link.name} ended")
        self.link = link


class Link:
    """A WebSocket connection after its handshake. Belongs to one hub.

    ``name`` is "client" or "target"; ``masks`` is True where we are the WebSocket client and so
    mask what we send. ``early`` is what arrived behind the handshake. ``carried_on`` says that what
    is at the other end of ``sock`` is an intermediary. ``user_timeout_seconds`` bounds how long the
    kernel keeps unacknowledged bytes of ours. ``controls`` counts the peer's control frames.
    ``untaken_since``: since when the peer has acknowledged nothing of what is on its way to it, as
    far as the heartbeat has looked; None if it takes, or has all but a ping of ours.

    Memory: one frame of at most ``max_message_bytes``, for which ``rooms`` is asked when it is
    large, and one read of 64 kB.
    """

    __slots__ = ("_acknowledged", "_asked", "_clock", "_early", "_fault", "_heard_bytes", "_pinged",
                 "_room", "_room_since", "_rooms", "_silent_seconds", "_torn", "connection",
                 "controls", "end", "masks", "name", "out", "reading", "scanner", "untaken_since",
                 "verbatim")  # fmt: skip

    def __init__(
        self,
        sock: Any,
        *,
        name: str,
        masks: bool,
        max_message_bytes: int,
        rooms: Rooms,
        early: bytes = b"",
        carried_on: bool = False,
        user_timeout_seconds: float = 35.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.masks = masks
        self.end: Close | None = None
        self.reading = False
        self.controls = 0
        self._clock = clock
        self._early = early
        self.scanner = Scanner(masked=not masks, max_message_bytes=max_message_bytes)
        self._fault: FrameError | None = None
        self._rooms = rooms
        self._room = 0
        self._room_since = 0.0
        self._heard_bytes = 0
        self._asked = False
        self._silent_seconds = 0.0
        self._acknowledged = 0
        self._pinged = -1
        self._torn = False
        self.untaken_since: float | None = None
        self.connection = Connection(sock, user_timeout_seconds=user_timeout_seconds)
        self.out = Outgoing(self.connection, masks=masks, clock=clock)
        self.verbatim: Final = self.connection.private and (self.connection.tls or not carried_on)
        """Whether masks that somebody else chose may go out on this Link (RFC 6455 10.3)."""

    @property
    def closing(self) -> bool:
        """Whether our close frame was asked for."""
        return self.out.closing

    @property
    def silent(self) -> bool:
        """Whether data would be dropped: we have closed, or there is nobody to send it to."""
        return self.out.silent

    @property
    def mid_message(self) -> bool:
        """Whether the peer has the beginning of a fragmented message without its end."""
        return self.out.mid_message

    @property
    def blocked_since(self) -> float | None:
        """Since when the peer has taken nothing of what is being sent; None if it takes."""
        return self.out.blocked_since

    @property
    def bytes_in(self) -> int:
        """Bytes the peer has sent, as far as we have read."""
        return self.scanner.bytes

    @property
    def bytes_out(self) -> int:
        """Bytes the kernel has taken."""
        return self.out.bytes_out

    # -- receiving ---------------------------------------------------------------------------

    def resume_reading(self, wake: Callable[[], None], forwards: Forwards | None = None) -> None:
        """Has ``wake`` called on the hub whenever there is something to receive, until
        :meth:`pause_reading`; with ``forwards``, whose source this Link must be, only for what that
        leaves. Never blocks. For a Link that is not ``ready``."""
        if self._room:
            self._leave_room()
        self.reading = True
        if forwards is None or self.scanner.awaiting > SMALL_BYTES:
            self.connection.watch(wake)
        else:
            self.connection.watch(forwards, wake)

    def pause_reading(self) -> None:
        """Nobody is told any more that there is something to receive."""
        self.reading = False
        self.connection.unwatch()

    @property
    def ready(self) -> bool:
        """Whether :meth:`receive` has something to tell for which nobody need wait: what came
        early, what TLS has decrypted already, or how the peer ended."""
        if self.end is not None or self._fault is not None or self._early:
            return True
        pending = self.connection.pending
        return pending is not None and pending() > 0

    def receive(self, forwards: Forwards | None = None) -> Run | None:
        """The whole data frames that a read brings, or that ``forwards`` left; None if it brings
        none. Control frames are dealt with here. Blocks only while a large frame comes in.

        Raises LinkEnded when the peer has closed or vanished and FrameError when it broke the
        protocol, both after everything before that was returned.
        """
        if self._room:
            self._leave_room()
        run = None
        if forwards is not None and forwards.run is not None:
            run, forwards.run = forwards.run, None  # first, whatever has happened since
        run = run or self._read()
        while run is not None:
            self._fault = run.fault
            if run.has_control:
                run = run._replace(frames=self._without_control(run))
            if run.frames:
                return run
            run = self._read() if self.ready or self.scanner.awaiting > SMALL_BYTES else None
        return None

    def _read(self) -> Run | None:
        scanner = self.scanner
        if self.end is not None:
            raise LinkEnded(self)
        if self._fault is not None:
            raise self._fault
        if self._early:
            early, self._early = self._early, b""
            return scanner.feed(early)
        if scanner.awaiting > SMALL_BYTES:
            self._wait_for_large(scanner.awaiting)
        try:
            count = self.connection.receive_into(scanner.room(READ_BYTES))
        except ConnectionLost:
            count = 0
        if count == 0:
            self._vanished()
            raise LinkEnded(self)
        if count is None:
            scanner.took(0)  # an idle Link keeps no room
            return NOTHING if self._room else None
        return scanner.took(count)

    def _wait_for_large(self, size: int) -> None:
        if not self._room:
            self._rooms.take(size)
            self._room = size
            self._room_since = self._clock()
        # Even if bytes may be there: every read lets the other greenlets have their turn.
        self.reading = True
        try:
            self.connection.wait_readable()
        finally:
            self.reading = False

    def _without_control(self, run: Run) -> list[Frame]:
        data_frames = []
        for frame in run.frames:
            if frame.opcode < CLOSE:
                data_frames.append(frame)
                continue
            self.controls += 1
            if frame.opcode == PING:
                self.out.control(PONG, _payload(run.data, frame))
            elif frame.opcode == CLOSE:
                # Nothing counts that stands behind it, broken or not.
                self._fault = None
                try:
                    self.end = parse_close(_payload(run.data, frame))
                except FrameError as error:
                    self._fault = error
                else:
                    self.close(Close(self.end.code))
                break
        return data_frames

    def _leave_room(self) -> None:
        # When the frame has been forwarded, which is when the next is asked for.
        if self._room:
            self._rooms.give_back(self._room)
            self._room = 0

    def hoards_room(self, seconds: float) -> bool:
        """Whether a large frame has had room for so long while others wait for it."""
        return self._room > 0 and self._rooms.crowded and self._clock() - self._room_since > seconds

    # -- sending -----------------------------------------------------------------------------

    def send(self, data: Buffer | memoryview, *, ends_message: bool = True, sent: int = 0) -> None:
        """Whole frames, sent whole; blocks until the kernel has taken every byte. ``sent`` of
        them went out just now.

        After our close frame, or after the peer is gone, bytes are dropped: RFC 6455 section
        5.5.1 allows nothing else. Raises LinkEnded if the connection fails under the send; how
        the peer ended is then for the reader to find out. Killed in the middle, the Link is dead.
        """
        try:
            self.out.send(data, ends_message=ends_message, sent=sent)
        except ConnectionLost:
            raise LinkEnded(self) from None
        except BaseException:
            if self.out.torn:
                self._vanished()
            raise

    def send_text(self, text: str, *, seconds: float = 1.0) -> bool:
        """A message of our own, between two messages of the peer's.

        False if it did not get its turn within ``seconds``: the other side is inside a
        fragmented message, or this one does not read. If it had begun, the Link is dead.
        Raises LinkEnded if the connection fails under it.
        """
        try:
            sent = self.out.send_text(text, seconds)
        except ConnectionLost:
            raise LinkEnded(self) from None
        finally:
            if self.out.torn:
                self._vanished()
        return sent

    def ping(self) -> None:
        """Asks the peer for a pong. Never blocks."""
        self.out.control(PING, b"")

    def pulse(self, elapsed_seconds: float, ping_seconds: float) -> bool:
        """The heartbeat, called by the keeper: whether the peer may still be taken for alive.

        A peer that has said nothing for ``ping_seconds`` is asked, and given as long again to
        answer. Only time counts in which we were reading: under back-pressure the pong of a
        healthy peer cannot reach us. Nor does time count in which it acknowledged bytes and
        has more to come: our ping is behind them. Never blocks.
        """
        self.out.nudge()
        taking = self._takes()
        if self.out.torn:
            # Once all it said is read there is no use for it. But a peer that has gone says so at
            # once, and how; so it is given up a beat later.
            torn_before, self._torn = self._torn, True
            return not (torn_before and self.reading)
        if self.scanner.bytes > self._heard_bytes:
            self._heard_bytes = self.scanner.bytes
            self._asked = False
            self._silent_seconds = 0.0
        elif self.reading and not taking:
            self._silent_seconds += elapsed_seconds
            if self._silent_seconds >= ping_seconds:
                if self._asked:
                    return False
                self._asked = True
                self._silent_seconds = 0.0
                self.ping()
                if self.untaken_since is None:
                    self._pinged = self.out.bytes_out
        return True

    @property
    def calm(self) -> bool:
        """Whether the last beat left nothing that another one would look at, but time: the peer is
        being read from and has acknowledged all it was sent, and nothing waits, not for room
        either. So it stays until a byte moves or ``out`` is not clear."""
        out = self.out
        taken = out.bytes_out == self._acknowledged
        return self.reading and taken and out.clear and not self._room

    @property
    def silent_seconds(self) -> float:
        """How much of the beats' time has counted since the peer was last heard, or asked."""
        return self._silent_seconds

    def skip(self, seconds: float) -> None:
        """Makes up for beats that were left out while the Link was calm."""
        self._silent_seconds += seconds

    def untaken_seconds(self) -> float:
        """For how long the peer has acknowledged nothing of what is on its way to it; of a
        connection that has ended, had acknowledged nothing. Less than that by up to the time
        between two beats."""
        self._takes()
        return 0.0 if self.untaken_since is None else self._clock() - self.untaken_since

    def _takes(self) -> bool:
        """Whether the peer has taken bytes since the last call, and has not got all yet."""
        taken = self.out.bytes_out
        if taken == self._acknowledged and self.out.blocked_since is None:
            return False  # it has all of it
        under_way = self.connection.unacknowledged()
        acknowledged = taken - under_way
        advanced = acknowledged > self._acknowledged
        self._acknowledged = acknowledged
        blocked = self.out.blocked_since is not None
        if not under_way or taken == self._pinged:
            self.untaken_since = None
        elif advanced or self.untaken_since is None:
            self.untaken_since = self._clock()
        if advanced and blocked:
            # The kernel wakes a writer only when a third of its buffer is free again: on a slow
            # line that takes longer than a stall may.
            self.out.blocked_since = self._clock()
        return advanced and (under_way > 0 or blocked)

    def close(self, close: Close) -> None:
        """Sends our close frame, once, behind what is being sent. Never blocks."""
        self.out.close(close)

    # -- ending ------------------------------------------------------------------------------

    def _vanished(self) -> None:
        if self.end is None:
            self.end = Close(ABNORMAL)
        self.out.give_up()

    def abort(self) -> None:
        """Ends the connection: what the peer did not read is thrown away.

        It is shut down now, and reset when its owner closes the socket.
        """
        self._vanished()
        self.out.tear()
        self.connection.reset_on_close()
        self.connection.shut_down(socket.SHUT_RDWR)

    def finish(self, seconds: float) -> None:
        """Ends the connection so that the peer can still read our last words.

        Sends what is left of them and FIN, meanwhile reads and drops what comes, until the
        peer's FIN or for ``seconds``: a close with unread bytes would be a reset, and a reset
        takes our close frame with it. Nobody may be receiving any more. Afterwards the socket
        is shut down, not closed.
        """
        if self.out.torn or not gevent.with_timeout(
            seconds, self._say_and_drain, timeout_value=False
        ):
            self.connection.shut_down(socket.SHUT_RDWR)

    def _say_and_drain(self) -> bool:
        """Whether both sides have sent FIN, and so nothing is left to be shut down."""
        if not self.out.waits:  # as a rule: all was taken at once
            self.connection.shut_down(socket.SHUT_WR)
            return self._drop_unread()
        # Both at once: a peer blocked in its own writing may read again only when we do.
        drain = gevent.spawn(self._drop_unread)
        try:
            self.out.finish()
            self.connection.shut_down(socket.SHUT_WR)
            return bool(drain.get())
        except ConnectionLost:
            return False  # as gone as can be
        finally:
            drain.kill()

    def _drop_unread(self) -> bool:
        """Reads until the peer's FIN; False if the connection fails before it."""
        try:
            while True:
                self.connection.wait_readable()
                if self.connection.receive(READ_BYTES) == b"":
                    return True
        except ConnectionLost:
            return False

    def dispose(self) -> None:
        """Gives back everything but the socket itself, which belongs to whoever opened it."""
        self._vanished()
        self._leave_room()
        self.connection.release()


def _payload(data: Buffer, frame: Frame) -> bytes:
    return xor(data[frame.payload : frame.end], frame.key)
