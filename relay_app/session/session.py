"""Session: owns two Links and two pumps; the first end wins; settles once.

The rule: ``run()`` returns only when both ends are closed and usage is settled, whatever was
raised on the way, GreenletExit and SystemExit included.
"""

import os
import time
from collections.abc import Callable, Sequence

import gevent
from gevent.event import Event

from relay_app import codec
from relay_app.errors import ClientFault, Fault, RelayFault, UpstreamFault
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.outbox import Commit, LedgerFull
from relay_app.meter.meter import Meter
from relay_app.meter.usage import UsageRecord
from relay_app.observe.logs import SessionLog
from relay_app.observe.tally import Tally
from relay_app.session.context import SessionContext
from relay_app.session.lifecycle import Cause, Ending, Farewell, farewells, first_end
from relay_app.session.pump import Hold, Pump
from relay_app.session.tap import AuditSink, Tap
from relay_app.settings import Server
from relay_app.wire.frames import FrameError
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.messages import Message

__all__ = ["Session"]

CLIENT_KEEP_BYTES = 262_144
"""Client events are advisory; a larger one is metered by its length and never parsed."""
CLOSE_SECONDS = 2.0
"""How long a peer may take to answer our close; what a provider reports meanwhile counts."""
LINGER_SECONDS = 1.0
SETTLE_SECONDS = 5.0


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
        self.client_closed = Event()
        self.target_closed = Event()
        self.failed = Event()
        self.cancelled = Event()
        self.ending: Ending | None = None
        self._client = client
        self._target = target
        self._meter = meter
        self._accountant = accountant
        self._limits = limits
        self._before_forward = before_forward
        self._on_hold = on_hold
        self._clock = clock
        self._ends: dict[Cause, Ending] = {}
        self._unrecorded: list[UsageRecord] = []
        self._started = self._active = clock()
        self._seen_messages = 0
        self._draining: tuple[Fault, float] | None = None
        self._taps = (
            (Tap("sent", context.id, audit), Tap("received", context.id, audit))
            if audit is not None
            else None
        )
        self._up = self._pump(client, target, self._observe_sent, CLIENT_KEEP_BYTES)
        self._down = self._pump(target, client, self._observe_received, limits.max_message_bytes)

    def run(self) -> None:
        """Relays until one side ends; returns when both are closed and usage is settled."""
        pumps: list[gevent.Greenlet[..., None]] = []
        try:
            self._log_open()
            pumps = [gevent.spawn(self._run, self._up, self._client),
                     gevent.spawn(self._run, self._down, self._target)]  # fmt: skip
            gevent.wait(
                [self.client_closed, self.target_closed, self.failed, self.cancelled], count=1
            )
            self.ending = first_end(self._ends)
            self._part(pumps)
        finally:
            try:
                gevent.killall(pumps)
            finally:
                self._settle()
                self._client.dispose()
                self._target.dispose()
                self._log_close()

    # -- asked from outside ------------------------------------------------------------------

    def cancel(self, fault: Fault) -> None:
        """Ends the session for a reason of ours. Never blocks."""
        self._ended(Ending(Cause.CANCEL, fault=fault), self.cancelled)

    def drain(self, fault: Fault, seconds: float) -> None:
        """Ends the session once no response is running, at the latest in ``seconds``."""
        if self._draining is None:
            self._draining = (fault, self._clock() + seconds)
        self._check_drain()

    def tick(self, elapsed_seconds: float) -> None:
        """The keeper's visit: liveness, stalls, idleness, length. Never blocks."""
        now = self._clock()
        limits = self._limits
        for link in (self._client, self._target):
            if link.end is None and not link.pulse(elapsed_seconds, limits.ping_seconds):
                self.log.warning("no pong", side=link.name)
                link.abort()
            blocked = link.blocked_since
            if blocked is not None and now - blocked > limits.stall_seconds:
                self._stalled(link)
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
            tap_drops=sum(tap.dropped for tap in self._taps or ()),
            inexact_texts=meter.inexact,
            usage=meter.usage,
            drift=meter.drift,
        )

    # -- observing ---------------------------------------------------------------------------

    def _observe_sent(self, message: Message) -> None:
        if self._taps is not None:
            self._taps[0].offer(message)
        self._meter.sent(message)

    def _observe_received(self, message: Message) -> Hold | None:
        if self._taps is not None:
            self._taps[1].offer(message)
        records = self._meter.received(message)
        if not records:
            return None
        commit = self._record(records)
        return commit if self._before_forward else None

    def _record(self, records: Sequence[UsageRecord]) -> Commit | None:
        try:
            return self._accountant.record(records)
        except LedgerFull as full:
            # Kept here, and tried again when the session settles; until then it takes no more.
            self._unrecorded.extend(records)
            self.drain(RelayFault(full.message, code=full.code), self._limits.drain_seconds)
            return None

    def _unobserved(self, error: Exception) -> None:
        if self._up.unobserved + self._down.unobserved == 1:
            self.log.error("metering failed; the message was forwarded", error=repr(error))

    def _held(self, seconds: float, kept: bool) -> None:
        self._on_hold(seconds, kept)
        if not kept:
            self.log.warning("forwarded before its record was durable", held_seconds=seconds)

    # -- ending ------------------------------------------------------------------------------

    def _pump(
        self,
        source: Link,
        sink: Link,
        observe: Callable[[Message], Hold | None],
        keep_bytes: int,
    ) -> Pump:
        return Pump(
            source,
            sink,
            observe=observe,
            keep_bytes=keep_bytes,
            hold_seconds=self._limits.hold_seconds,
            on_unobserved=self._unobserved,
            on_held=self._held,
            on_sink_ended=self._link_ended,
            new_key=lambda: os.urandom(4),
            clock=self._clock,
        )

    def _run(self, pump: Pump, source: Link) -> None:
        try:
            pump.run()
        except LinkEnded as ended:
            self._link_ended(ended.link)
        except FrameError as error:
            self._broke_protocol(source, error)
        except Exception:
            self.log.exception("pump failed", side=source.name)
            self._ended(
                Ending(Cause.FAILURE, fault=RelayFault("the relay failed", code="relay_error")),
                self.failed,
            )

    def _link_ended(self, link: Link) -> None:
        if link is self._client:
            self._ended(Ending(Cause.CLIENT, close=link.end), self.client_closed)
        else:
            self._ended(Ending(Cause.TARGET, close=link.end), self.target_closed)

    def _broke_protocol(self, link: Link, error: FrameError) -> None:
        kind = ClientFault if link is self._client else UpstreamFault
        code = "message_too_big" if error.code == 1009 else "websocket_protocol_error"
        who = "the client" if link is self._client else "the upstream"
        fault = kind(f"{who} sent: {error.message}", code=code, close_code=error.code)
        self._failed(fault, link)

    def _stalled(self, link: Link) -> None:
        kind = ClientFault if link is self._client else UpstreamFault
        who = "client" if link is self._client else "upstream"
        text = f"the {who} read nothing for {self._limits.stall_seconds:g} seconds"
        self._failed(kind(text, code=f"{who}_stalled", close_code=1013), link)

    def _failed(self, fault: Fault, offender: Link) -> None:
        other = self._target if offender is self._client else self._client
        ending = Ending(
            Cause.FAILURE, fault=fault, offender=offender.name, mid_message=other.mid_message
        )
        self._ended(ending, self.failed)

    def _ended(self, ending: Ending, event: Event) -> None:
        self._ends.setdefault(ending.cause, ending)
        event.set()

    def _check_drain(self) -> None:
        assert self._draining is not None
        fault, deadline = self._draining
        # A pump that is busy may be holding the very response.done we wait for.
        running = self._meter.responses_open or self._down.busy
        if not running or self._clock() >= deadline:
            self.cancel(fault)

    def _part(self, pumps: "list[gevent.Greenlet[..., None]]") -> None:
        assert self.ending is not None
        to_client, to_target = farewells(self.ending)
        self._bid(self._target, to_target)
        self._bid(self._client, to_client)
        gevent.joinall(pumps, timeout=CLOSE_SECONDS)
        gevent.killall(pumps)
        gevent.joinall(
            [gevent.spawn(link.finish, LINGER_SECONDS) for link in (self._client, self._target)]
        )

    def _bid(self, link: Link, farewell: Farewell) -> None:
        if farewell.event is not None:
            event = {**farewell.event.event(), "event_id": f"event_{os.urandom(8).hex()}"}
            try:
                link.send_text(codec.dumps(event))
            except LinkEnded:
                pass  # it will hear neither the event nor the close
        if farewell.close is not None:
            link.close(farewell.close)
        if farewell.reset:
            link.abort()

    def _settle(self) -> None:
        try:
            records = [*self._unrecorded, *self._meter.close()]
            self._unrecorded = []
        except Exception:
            self.log.exception("settling failed")
            records = []
        for tap in self._taps or ():
            tap.close(CLOSE_SECONDS)
        if not records:
            return
        try:
            if not self._accountant.record(records).wait(SETTLE_SECONDS):
                self.log.warning("usage is waiting for the store", records=len(records))
        except LedgerFull:
            # The last resort: what no store would take is at least in the log, whole.
            for record in records:
                self.log.error("usage record lost", record=codec.dumps(record.as_dict()))

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
