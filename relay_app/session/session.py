"""Session: owns two Links and two pumps; the first end wins; settles once.

The rule: ``run()`` returns only when both ends are closed and usage is settled, whatever was
raised on the way, GreenletExit and SystemExit included.
"""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack

import gevent

from relay_app import codec
from relay_app.errors import ClientFault, Fault, RelayFault
from relay_app.ledger.accountant import Accountant
from relay_app.meter.meter import Meter
from relay_app.observe.logs import SessionLog
from relay_app.observe.tally import Tally
from relay_app.session.bill import Bill
from relay_app.session.context import SessionContext
from relay_app.session.ends import Ends
from relay_app.session.lifecycle import Cause, Ending, Farewell, farewells
from relay_app.session.pump import Hold, Observe, Pump
from relay_app.session.tap import AuditSink, Tap
from relay_app.settings import Server
from relay_app.wire.frames import Close, FrameError
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.messages import Message

__all__ = ["Session"]

CLIENT_KEEP_BYTES = 262_144
"""Client events are advisory; a larger one is metered by its length and never parsed."""
CLOSE_SECONDS = 2.0
"""How long a peer may take to answer our close; what a provider reports meanwhile counts."""
LINGER_SECONDS = 1.0
TAP_SECONDS = 2.0
ROOM_SECONDS = 60.0
"""How long a large frame may keep room that other sessions wait for: 16 MiB at 2.2 Mbit/s."""


class Session:
    """One conversation. All of it runs on one hub.

    ``on_hold`` is told the seconds a frame was held for its record, and whether it came.
    """

    def __init__(
        self,
        client: Link,
        target: Link,
        *,
        context: SessionContext,
        meter: Meter,
        accountant: Accountant,
        limits: Server,
        before_forward: bool,
        audit: AuditSink | None = None,
        on_hold: Callable[[float, bool], None] = lambda seconds, kept: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.context = context
        self.log = SessionLog(context.id)
        self.ending: Ending | None = None
        self._client = client
        self._target = target
        self._ends = Ends(client, target)
        self.client_closed = self._ends.client_closed
        self.target_closed = self._ends.target_closed
        self.failed = self._ends.failed
        self.cancelled = self._ends.cancelled
        self._meter = meter
        self._bill = Bill(meter, accountant, log=self.log, on_refused=self._not_recorded)
        self._limits = limits
        self._before_forward = before_forward
        self._on_hold = on_hold
        self._clock = clock
        self._started = self._active = clock()
        self._seen_messages = 0
        self._draining: tuple[Fault, float] | None = None
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._taps: tuple[Tap, ...] = ()
        if audit is not None:
            self._taps = (Tap("sent", context.id, audit), Tap("received", context.id, audit))
        self._up = self._pump(client, target, self._observe_sent, CLIENT_KEEP_BYTES)
        self._down = self._pump(target, client, self._observe_received, limits.max_message_bytes)

    def run(self) -> None:
        """Relays until one side ends; returns when both are closed and usage is settled."""
        with ExitStack() as afterwards:
            # Last in, first out; each happens whatever the others raise.
            afterwards.callback(self._log_close)
            afterwards.callback(self._target.dispose)
            afterwards.callback(self._client.dispose)
            for tap in self._taps:
                afterwards.callback(tap.close, TAP_SECONDS)
            afterwards.callback(self._bill.settle)
            afterwards.callback(self._stop)
            self._log_open()
            for tap in self._taps:
                tap.start()
            pumps = [
                self._spawn(self._run, self._up, self._client),
                self._spawn(self._run, self._down, self._target),
            ]
            self.ending = self._ends.wait()
            self._part(self.ending)
            gevent.joinall(pumps, timeout=CLOSE_SECONDS)
            gevent.killall(pumps)
            gevent.joinall(
                [self._spawn(link.finish, LINGER_SECONDS) for link in (self._client, self._target)]
            )

    # -- asked from outside ------------------------------------------------------------------

    def cancel(self, fault: Fault) -> None:
        """Ends the session for a reason of ours. Never blocks."""
        self._ends.cancel(fault)

    def drain(self, fault: Fault, seconds: float) -> None:
        """Ends the session once no response is running, at the latest in ``seconds``.

        Asked again, the earlier deadline counts: a quick stop overtakes a graceful one.
        """
        deadline = self._clock() + seconds
        if self._draining is None or deadline < self._draining[1]:
            self._draining = (fault, deadline)
        self._check_drain()

    def tick(self, elapsed_seconds: float) -> None:
        """The keeper's visit: liveness, stalls, idleness, length. Never blocks."""
        now = self._clock()
        self._check_peers(elapsed_seconds, now)
        limits = self._limits
        messages = self._up.messages + self._down.messages
        if messages != self._seen_messages:
            self._seen_messages = messages
            self._active = now
        elif now - self._active > limits.idle_seconds:
            text = f"no message in either direction for {limits.idle_seconds:g} seconds"
            self.cancel(ClientFault(text, code="session_idle"))
        if now - self._started > limits.max_session_seconds:
            text = f"the session hit this relay's maximum of {limits.max_session_seconds:g} seconds"
            self.cancel(ClientFault(text, code="session_expired"))
        if self._draining is not None:
            self._check_drain()

    def tally(self) -> Tally:
        """What has gone through so far."""
        meter = self._meter
        return Tally(
            messages_sent=self._up.messages,
            messages_received=self._down.messages,
            bytes_sent=self._client.bytes_in,
            bytes_received=self._target.bytes_in,
            opaque_sent=meter.opaque_sent,
            opaque_received=meter.opaque_received,
            unobserved=self._up.unobserved + self._down.unobserved,
            tap_drops=sum(tap.dropped for tap in self._taps),
            inexact_texts=meter.inexact,
            usage=meter.usage,
            drift=meter.drift,
        )

    def _check_peers(self, elapsed_seconds: float, now: float) -> None:
        stall_seconds = self._limits.stall_seconds
        for link, sink in ((self._client, self._target), (self._target, self._client)):
            if not link.pulse(elapsed_seconds, self._limits.ping_seconds) and link.end is None:
                self.log.warning("gave up a silent peer", side=link.name)
                link.abort()
            blocked = link.blocked_since
            if blocked is not None and now - blocked > stall_seconds:
                self._ends.stalled(link, f"read nothing for {stall_seconds:g} seconds")
            if link.hoards_room(ROOM_SECONDS):
                slow = link if sink.blocked_since is None else sink
                self._ends.stalled(slow, "took too long over a large message")

    def _check_drain(self) -> None:
        assert self._draining is not None
        fault, deadline = self._draining
        # A pump that is busy may be holding the very response.done we wait for.
        running = self._meter.responses_open or self._down.busy
        if not running or self._clock() >= deadline:
            self.cancel(fault)

    # -- observing ---------------------------------------------------------------------------

    def _observe_sent(self, message: Message) -> None:
        self._meter.sent(message)
        if self._taps:
            self._taps[0].offer(message)

    def _observe_received(self, message: Message) -> Hold | None:
        commit = self._bill.received(message)
        if self._taps:
            self._taps[1].offer(message)
        return commit if self._before_forward else None

    def _not_recorded(self, fault: Fault) -> None:
        self.drain(RelayFault(fault.message, code=fault.code), self._limits.drain_seconds)

    def _unobserved(self, error: Exception) -> None:
        if self._up.unobserved + self._down.unobserved == 1:
            self.log.error("metering failed; the message was forwarded", error=repr(error))

    def _held(self, seconds: float, kept: bool) -> None:
        self._on_hold(seconds, kept)
        if not kept:
            self.log.warning("forwarded before its record was durable", held_seconds=seconds)

    # -- the pumps ---------------------------------------------------------------------------

    def _pump(self, source: Link, sink: Link, observe: Observe, keep_bytes: int) -> Pump:
        return Pump(
            source,
            sink,
            observe=observe,
            keep_bytes=keep_bytes,
            hold_seconds=self._limits.hold_seconds,
            on_unobserved=self._unobserved,
            on_held=self._held,
            new_key=lambda: os.urandom(4),
            clock=self._clock,
        )

    def _run(self, pump: Pump, source: Link) -> None:
        try:
            pump.run()
        except LinkEnded:
            self._ends.closed(source)
        except FrameError as error:
            self._ends.broke_protocol(source, error)
        except Exception:
            self.log.exception("pump failed", side=source.name)
            self._ends.fail()
        except BaseException:
            # One pump alone would go on for ever.
            self._ends.fail()
            raise

    def _spawn(self, function: Callable[..., None], *args: object) -> "gevent.Greenlet[..., None]":
        greenlet = gevent.spawn(function, *args)
        self._greenlets.append(greenlet)
        return greenlet

    # -- ending ------------------------------------------------------------------------------

    def _part(self, ending: Ending) -> None:
        to_client, to_target = farewells(ending)
        self._bid(self._target, to_target)
        self._bid(self._client, to_client)

    def _bid(self, link: Link, farewell: Farewell) -> None:
        if farewell.event is not None:
            # The session's id is what a user can quote and an operator can search the log for.
            event = {**farewell.event.event(), "event_id": f"event_{self.context.id}"}
            try:
                link.send_text(codec.dumps(event))
            except LinkEnded:
                pass  # it will hear neither the event nor the close
        if farewell.close is not None:
            link.close(farewell.close)
        if farewell.reset:
            link.abort()

    def _stop(self) -> None:
        """Nothing of ours runs any more; both sides have at least been told."""
        try:
            gevent.killall(self._greenlets)
        finally:
            if self.ending is None:
                # We were killed, and there is no time for more than this.
                fault = RelayFault("the relay is going away", close_code=1001)
                self.ending = Ending(Cause.CANCEL, fault=fault)
                for link in (self._client, self._target):
                    link.close(Close(1001, fault.message.encode()))

    # -- the two log lines -------------------------------------------------------------------

    def _log_open(self) -> None:
        context = self.context
        self.log.info(
            "session open",
            key=context.key,
            model=context.model,
            upstream=context.upstream,
            upstream_model=context.upstream_model,
            upstream_request=context.upstream_request_id,
            client=context.client_address,
        )

    def _log_close(self) -> None:
        tally = self.tally()
        ending = self.ending or Ending(Cause.CANCEL)
        self.log.info(
            "session close",
            by=ending.cause.value,
            code=ending.code,
            reason=ending.fault.code if ending.fault else None,
            seconds=round(self._clock() - self._started, 3),
            messages=f"{tally.messages_sent}/{tally.messages_received}",
            bytes=f"{tally.bytes_sent}/{tally.bytes_received}",
            tokens=tally.usage.tokens,
            records=self._meter.records,
        )
