"""Session: owns two Links and two pumps; the first end wins; settles once.

The rule: ``run()`` returns only when both ends are closed and usage is settled, whatever was
raised on the way, GreenletExit and SystemExit included. Who leaves is let go at once; what the
upstream was doing then is cancelled, and what it reports is waited for.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import gevent
from gevent.event import Event

from relay_app import codec
from relay_app.breath import give_way
from relay_app.errors import Fault, RelayFault
from relay_app.ledger.accountant import Accountant
from relay_app.meter.message import WholeText
from relay_app.meter.meter import Meter
from relay_app.observe.logs import SessionLog
from relay_app.observe.tally import Tally
from relay_app.session.bill import Bill
from relay_app.session.collector import Collector
from relay_app.session.context import SessionContext
from relay_app.session.debut import Debut
from relay_app.session.ends import Ends
from relay_app.session.greenlet_pool import GreenletPool
from relay_app.session.guard import Guard, Objection
from relay_app.session.lifecycle import Cause, Ending, Farewell, farewells
from relay_app.session.parting import dismiss, see_off
from relay_app.session.pump import DROP, Instead, Observe, Pump, Verdict, skim_nothing
from relay_app.session.reader import Reader
from relay_app.session.rest import Rest
from relay_app.session.tap import AuditSink, Tap
from relay_app.session.veil import Veil
from relay_app.session.vigil import Vigil
from relay_app.settings import Server
from relay_app.upstream.blame import Blame
from relay_app.wire.express import Express
from relay_app.wire.frames import Buffer, Frame
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.messages import Message

__all__ = ["Session"]

CLIENT_KEEP_BYTES = 262_144
"""Client events are advisory; a larger one is metered by its length and never parsed."""
TAP_SECONDS = 2.0
FINISH_SECONDS = 5.0
"""How long a client that is to go still hears what its cancelled responses came to."""
LEAST_COLLECT_SECONDS = 0.5
"""However little time is left, a provider that answers a cancel promptly is heard."""


class Session:
    """One conversation. All of it runs on one hub.

    ``guard`` objects to what the limits of the session's key have no room for, and ``veil`` is over
    what the client may not see of what the upstream says. ``on_hold`` is told the seconds a frame
    was held for its record, and whether it came; ``on_limit`` why the session is ended for a limit
    that is not its key's; ``on_debut``, once, whether the upstream does its work, or else who is to
    blame. ``pool`` has the greenlets of the pumps, which many sessions share; ``give_way`` lets
    others have their turn on the hub.
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
        guard: Guard | None = None,
        veil: Veil | None = None,
        audit: AuditSink | None = None,
        on_hold: Callable[[float, bool], None] = lambda seconds, kept: None,
        on_limit: Callable[[str], None] = lambda why: None,
        on_debut: Callable[[Blame | None, str], None] = lambda due_to, why: None,
        pool: GreenletPool | None = None,
        give_way: Callable[[], None] = give_way,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.context = context
        self.log = SessionLog(context.id)
        self.ending: Ending | None = None
        self._client = client
        self._target = target
        self._ends = Ends(client, target)
        self._meter = meter
        self._bill = Bill(
            meter,
            accountant,
            log=self.log,
            on_refused=self._not_recorded,
            give_way=give_way,
            clock=clock,
        )
        self._give_way = give_way
        self._limits = limits
        self._before_forward = before_forward
        self._guard = guard
        self._veil = veil
        self._on_hold = on_hold
        self._on_limit = on_limit
        self._clock = clock
        self._started = clock()
        self._draining: tuple[Fault, float] | None = None
        self._pool = pool or GreenletPool(spare=0)
        self._readers: list[Reader] = []
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        # Of what we say ourselves: a user can quote it, an operator can search the log for it.
        self._event_id = f"event_{context.id}"
        self._collector = Collector(meter, target, event_id=self._event_id, spawn=self._spawn)
        self._vigil = Vigil(client, target, self._ends, limits, self.log, self._started)
        self._taps: tuple[Tap, ...] = ()
        if audit is not None:
            self._taps = (Tap("sent", context.id, audit), Tap("received", context.id, audit))
        self._up = self._pump(client, target, self._observe_sent, CLIENT_KEEP_BYTES)
        self._down = self._pump(target, client, self._observe_received, limits.max_message_bytes)
        self._debut = Debut(on_debut)
        if not self._taps:
            self._up.look_with(meter.skim_sent, express=True)
            if guard is None:
                meter.note_down(self._bill.look_soon)

    def run(self) -> None:
        """Relays until one side ends; returns when both are closed and usage is settled."""
        try:
            self._relay()
        finally:
            with ExitStack() as steps:
                # Last in, first out; each happens whatever the others raise.
                steps.callback(self._let_go)
                steps.callback(self._log_close)
                steps.callback(self._end_debut)
                steps.callback(self._target.dispose)
                steps.callback(self._client.dispose)
                for tap in self._taps:
                    steps.callback(tap.close, TAP_SECONDS)
                steps.callback(self._bill.settle)
                steps.callback(self._stop)

    def _relay(self) -> None:
        self._log_open()
        for tap in self._taps:
            tap.start()
        up = self._read(self._up, self._client)
        down = self._read(self._down, self._target)
        down.on_over = self._collector.give_up
        up.start()
        down.start()
        self.ending = self._ends.wait()
        to_client, to_target = self._farewells(self.ending)
        parting = self._spawn(self._see_off, self._client, up, to_client)
        if self.ending.cause is not Cause.TARGET and self.ending.offender != "target":
            self._collect()
            self._collector.wait(self._collect_seconds())
        self._see_off(self._target, down, to_target)
        parting.join()

    # -- asked from outside ------------------------------------------------------------------

    @property
    def client_closed(self) -> Event:
        """Set when the client has closed or vanished."""
        return self._ends.event(Cause.CLIENT)

    @property
    def target_closed(self) -> Event:
        """Set when the upstream has."""
        return self._ends.event(Cause.TARGET)

    @property
    def failed(self) -> Event:
        """Set when one of the two, or something of ours, has made it impossible to go on."""
        return self._ends.event(Cause.FAILURE)

    @property
    def cancelled(self) -> Event:
        """Set when we have ended it."""
        return self._ends.event(Cause.CANCEL)

    def cancel(self, fault: Fault) -> None:
        """Ends the session for a reason of ours. Never blocks."""
        self._ends.cancel(fault)

    def finish(self, fault: Fault) -> None:
        """Ends the session for a reason of ours once what runs is cancelled and has been heard by
        the client, in ``FINISH_SECONDS`` at the latest. Never blocks; asked again changes nothing.

        From now on nothing that the client says goes upstream, but for what is on its way already.
        """
        if not self._collector.begun:
            self._collect()
            self._end_within(FINISH_SECONDS, fault)
            self._check_drain()

    def drain(self, fault: Fault, seconds: float) -> None:
        """Ends the session once nothing runs, no transcription either, at the latest in
        ``seconds``. Never blocks.

        Asked again, the earlier deadline counts: a quick stop overtakes a graceful one.
        """
        self._end_within(seconds, fault)
        # Each message passes through the pump, so that the end of the last response is seen.
        self._down.look_with(skim_nothing)
        self._down.after_run = self._check_drain
        self._check_drain()

    def _end_within(self, seconds: float, fault: Fault) -> None:
        deadline = self._clock() + seconds
        if self._draining is None or deadline < self._draining[1]:
            self._draining = (fault, deadline)
        self._vigil.rest.end()

    @property
    def rest(self) -> Rest | None:
        """What says that a visit of the keeper's would find nothing new; None if it always may, for
        a budget changes without a byte of this session's."""
        return self._vigil.rest if self._guard is None else None

    def tick(self, elapsed_seconds: float) -> None:
        """The keeper's visit: liveness, stalls, idleness, length. Never blocks."""
        now = self._clock()
        if not self._vigil.rests(elapsed_seconds, now):
            self._look(elapsed_seconds, now)
        # These two can change without a byte: the store answers, a deadline is drawn nearer.
        if self._guard is not None and self.ending is None:
            self._object(self._guard.look())
        if self._draining is not None:
            self._check_drain()

    def _look(self, elapsed_seconds: float, now: float) -> None:
        self._vigil.look_at_peers(elapsed_seconds, now)
        sent = self._up.messages
        overdue = self._vigil.overdue(sent + self._down.messages, now)
        if overdue is not None:
            self.cancel(overdue)
        came = sent + self._up.fragments + self._client.controls
        flooded = self._vigil.flooded(came, now)
        if flooded is not None and self.ending is None:
            self._on_limit("messages")
            self.cancel(flooded)
        # What is open has to be checkpointed, and how a drain goes is asked in each round.
        if not self._bill.tick(now) and self._draining is None:
            self._vigil.let_rest()

    def tally(self) -> Tally:
        """What has gone through so far."""
        tally = Tally()
        self.add_to(tally)
        return tally

    def add_to(self, tally: Tally) -> None:
        """The same, added to ``tally``: thousands of sessions are added up, and few have much."""
        up, down, meter = self._up, self._down, self._meter
        tally.messages_sent += up.messages
        tally.messages_received += down.messages
        tally.bytes_sent += self._client.bytes_in
        tally.bytes_received += self._target.bytes_in
        tally.opaque_sent += meter.opaque_sent
        tally.opaque_received += meter.opaque_received
        tally.unobserved += up.unobserved + down.unobserved
        for tap in self._taps:
            tally.tap_drops += tap.dropped
        tally.inexact_texts += meter.inexact
        if meter.records:  # without a unit there is neither
            tally.usage += meter.usage
            tally.drift += meter.drift

    def _check_drain(self) -> None:
        assert self._draining is not None
        fault, deadline = self._draining
        if self.ending is not None:
            self._collector.hurry(self._collect_seconds())
            return
        # A pump that is busy may be holding the very response.done we wait for.
        running = self._down.busy or self._meter.units_open or self._meter.expecting
        if not running or self._clock() >= deadline:
            self._collect()  # what a client asks for from now on, nobody would hear the end of
            self.cancel(fault)

    def _collect_seconds(self) -> float:
        """How long a session that ends may wait for what its upstream reports."""
        seconds = self._limits.drain_seconds
        if self._draining is not None:
            seconds = min(seconds, self._draining[1] - self._clock())
        return max(seconds, LEAST_COLLECT_SECONDS)

    # -- observing ---------------------------------------------------------------------------

    def _observe_sent(self, message: Message) -> Verdict:
        if self._collector.begun:
            return DROP
        event_type = self._meter.sent(message)
        if self._taps:
            self._taps[0].offer(message)
        if self._guard is not None and event_type == "response.create":
            return self._kept_back(self._guard.asked(message))
        return None

    def _heard_first(self, message: Message) -> None:
        """Looks at what the upstream begins with; once that is over, its messages are skimmed."""
        self._debut.heard(message)
        if not self._debut.over or self._taps or self._collector.begun or self._draining:
            return
        if self._guard is None:
            self._down.look_with(self._meter.skim_received, express=True)
        else:
            self._down.look_with(self._skim_guarded)

    def _skim_guarded(self, data: Buffer, frames: Sequence[Frame], begin: int) -> int:
        if self._collector.listens:
            return begin
        index = self._meter.skim_received(data, frames, begin)
        if index > begin and self._meter.responses_open:
            assert self._guard is not None
            self._object(self._guard.look())
        return index

    def _collect(self) -> None:
        """From now on each message is looked at, from both sides."""
        self._up.look_with(skim_nothing)
        self._down.look_with(skim_nothing)
        self._collector.begin()

    def _observe_received(self, message: Message) -> Verdict:
        try:
            commit = self._bill.received(message)
        except gevent.GreenletExit:  # while others had their turn: it is billed, and audited
            if self._taps:
                self._audit_received(message, self._veil.over(message) if self._veil else None)
            raise
        if not self._debut.over:
            self._heard_first(message)
        instead = None if self._veil is None else self._veil.over(message)
        if self._taps:
            self._audit_received(message, instead)
        if self._collector.begun:
            self._collector.notice()
        if self._guard is not None:
            self._object(self._guard.heard(message))
        if self._collector.said and self._collector.provoked(message):
            return DROP
        hold = commit if self._before_forward else None
        if isinstance(instead, Instead):
            return replace(instead, hold=hold)
        return hold if instead is None else instead

    def _audit_received(self, message: Message, instead: Verdict) -> None:
        """As the client sees it."""
        self._taps[1].offer(WholeText(instead.payload) if isinstance(instead, Instead) else message)

    def _kept_back(self, objection: Objection | None) -> Verdict:
        """What becomes of a ``response.create``: it goes upstream unless there is an objection."""
        if objection is None and not self._collector.begun:
            return None
        self._meter.withheld()
        self._object(objection)
        return DROP

    def _object(self, objection: Objection | None) -> None:
        if objection is None:
            return
        if objection.ends:
            self.finish(objection.fault)
        elif objection.response_id:
            self._collector.cancel(objection.response_id)
            self._spawn(self._tell, objection)
        else:
            self._tell(objection)  # here: who asks too often waits for his answers

    def _tell(self, objection: Objection) -> None:
        """Says to the client why a response is refused; the session goes on."""
        event = objection.fault.event()
        event["error"]["event_id"] = objection.event_id or None
        try:
            self._client.send_text(codec.dumps({**event, "event_id": self._event_id}))
        except LinkEnded:
            pass  # nobody is there to be told

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
            express=Express(source, sink),
            keep_bytes=keep_bytes,
            hold_seconds=self._limits.hold_seconds,
            on_unobserved=self._unobserved,
            on_held=self._held,
            give_way=self._give_way,
            new_key=_new_key,
            clock=self._clock,
        )

    def _read(self, pump: Pump, source: Link) -> Reader:
        reader = Reader(
            pump, source, ends=self._ends, vigil=self._vigil, pool=self._pool, log=self.log
        )
        self._readers.append(reader)
        return reader

    def _spawn(self, function: Callable[..., None], *args: object) -> "gevent.Greenlet[..., None]":
        greenlet = gevent.spawn(function, *args)
        self._greenlets = [*filter(None, self._greenlets), greenlet]  # those that still run
        return greenlet

    # -- ending ------------------------------------------------------------------------------

    def _farewells(self, ending: Ending) -> tuple[Farewell, Farewell]:
        to_client, to_target = farewells(ending)
        return (to_client if self._veil is None else self._veil.farewell(to_client)), to_target

    def _see_off(self, link: Link, reader: Reader, farewell: Farewell) -> None:
        see_off(link, reader, farewell, event_id=self._event_id)

    def _stop(self) -> None:
        """Nothing of ours runs any more; both sides have at least been told."""
        self._bill.hurry()
        try:
            workers = [reader.stop() for reader in self._readers]
            gevent.killall([*self._greenlets, *filter(None, workers)])
        finally:
            if self.ending is None:
                # We were killed, and there is no time for more than this.
                fault = RelayFault("the relay is going away", close_code=1001)
                self.ending = Ending(Cause.CANCEL, fault=fault)
            for link, farewell in zip(
                (self._client, self._target), self._farewells(self.ending), strict=True
            ):
                dismiss(link, farewell)

    def _let_go(self) -> None:
        """What leads back here is left, so that all of it goes when nobody has the session any
        more, and not when the garbage collector comes by."""
        self._up.close()
        self._down.close()
        self._collector.close()
        self._bill.close()

    def _end_debut(self) -> None:
        if self.ending is not None:
            self._debut.ended(self.ending)

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
            tried=context.tried or None,
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


def _new_key() -> bytes:
    return os.urandom(4)
