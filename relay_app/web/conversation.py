"""Conversation: what becomes of a client that was admitted, from its 101 to the last record.

The rule: whatever happens, the upstream's connection is closed and what was reserved is given back,
once.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent

from relay_app import codec
from relay_app.errors import Fault, RelayFault, close_reason
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.allowance import Allowance
from relay_app.ledger.budgets import Budgets
from relay_app.ledger.pricer import Pricer
from relay_app.meter.live_price import LivePrice
from relay_app.meter.meter import Meter
from relay_app.meter.usage import UsageRecord
from relay_app.observe.logs import line
from relay_app.session.context import SessionContext
from relay_app.session.greenlet_pool import GreenletPool
from relay_app.session.guard import Guard
from relay_app.session.keeper import Keeper
from relay_app.session.session import Session
from relay_app.session.tap import AuditSink
from relay_app.session.veil import Veil
from relay_app.settings import Server
from relay_app.upstream.blame import Blame
from relay_app.upstream.choice import Choice, Chosen
from relay_app.web.hub import SessionHub
from relay_app.wire.frames import Close
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.rooms import Rooms

__all__ = ["Conversation", "LastWords", "Sessions"]

ACCEPT_SECONDS = 5.0
"""How long an upstream that has answered waits for its client's 101. Between the two are only
the host application's hooks; when they fail, nobody else knows of the connection."""

logger = logging.getLogger("relay_app")


@dataclass(frozen=True, slots=True)
class Sessions:
    """What the sessions of a worker share, whoever they are of."""

    limits: Server
    hub: SessionHub
    keeper: Keeper
    choice: Choice
    accountant: Accountant
    budgets: Budgets
    rooms: Rooms
    pool: GreenletPool
    give_way: Callable[[], None]
    before_forward: bool
    price: Pricer
    audit: AuditSink | None
    on_hold: Callable[[float, bool], None]
    on_limit: Callable[[str], None]
    clock: Callable[[], float] = time.time

    def client_link(self, sock: Any, early: bytes) -> Link:
        """The client's end of a session, on a socket whose 101 is out."""
        return Link(
            sock,
            name="client",
            masks=False,
            max_message_bytes=self.limits.max_message_bytes,
            rooms=self.rooms,
            early=early,
            user_timeout_seconds=self.limits.stall_seconds + self.limits.ping_seconds,
        )

    def give_back(self, allowance: Allowance | None) -> None:
        """A session, or what was to become one, is over: its slice and its slot are free."""
        if allowance is not None:
            self.budgets.release(allowance)


class Conversation:
    """An upstream that has answered, waiting for the client's 101. Made on the hub."""

    __slots__ = ("_abandoned", "_allowance", "_chosen", "_context", "_overdue", "_sessions")

    def __init__(
        self,
        sessions: Sessions,
        chosen: Chosen,
        context: SessionContext,
        allowance: Allowance | None,
    ) -> None:
        self._sessions = sessions
        self._chosen = chosen
        self._context = context
        self._allowance = allowance
        self._abandoned = False
        # A timer, not a greenlet that sleeps: there is one a session, and almost none is ever due.
        self._overdue = gevent.get_hub().loop.timer(ACCEPT_SECONDS)
        self._overdue.start(self._give_up)

    def run(self, sock: Any, early: bytes) -> None:
        """Runs the session on the client's socket."""
        hub = self._sessions.hub
        if hub.here:
            # Not by way of hub.run(): what it needs of the C stack would be kept with the session.
            self._run(sock, early)
        else:
            hub.run(self._run, sock, early)

    def abandon(self) -> None:
        """Gives the upstream back: the client has gone."""
        self._sessions.hub.run(self._vanished)

    # -- on the hub --------------------------------------------------------------------------

    def _vanished(self) -> None:
        if not self._abandoned:
            self._abandoned = True
            self._in_time()
            self._abandon()

    def _in_time(self) -> None:
        self._overdue.close()
        del self._overdue

    def _give_up(self) -> None:
        self._abandoned = True
        gevent.spawn(self._abandon)

    def _abandon(self) -> None:
        context = self._context
        logger.info(line("abandoned", session=context.id, client=context.client_address))
        self._give_back()

    def _run(self, sock: Any, early: bytes) -> None:
        if self._abandoned:
            late = RelayFault("the answer was ready too late", code="accepted_too_late")
            LastWords(self._sessions, late).say(sock, early)
            return
        self._in_time()
        try:
            session = self._session(self._sessions.client_link(sock, early))
            self._sessions.keeper.run(session)
        finally:
            self._give_back()

    def _session(self, client: Link) -> Session:
        shared, context, veil = self._sessions, self._context, self._veil()
        meter = Meter(
            context.id,
            key=context.key,
            upstream=context.upstream,
            model=context.model,
            upstream_model=context.upstream_model,
            clock=shared.clock,
            price=shared.price if self._allowance is None else self._charge,
            shown=frozenset() if veil is None else veil.looks_at,
        )
        return Session(
            client,
            self._chosen.dialled.link,
            context=context,
            meter=meter,
            accountant=shared.accountant,
            limits=shared.limits,
            before_forward=shared.before_forward,
            guard=self._guard(meter),
            veil=veil,
            audit=shared.audit,
            on_hold=shared.on_hold,
            on_limit=shared.on_limit,
            on_debut=self._debut,
            pool=shared.pool,
            give_way=shared.give_way,
        )

    def _veil(self) -> Veil | None:
        """Over what tells of our account; None for a client's own, which it may know all about."""
        candidate = self._chosen.candidate
        if candidate.brought:
            return None
        rate_limits = candidate.route.upstream.hide_rate_limits
        return Veil(candidate.credential.secret, rate_limits=rate_limits)

    def _guard(self, meter: Meter) -> Guard | None:
        if self._allowance is None:
            return None
        return Guard(
            self._allowance,
            meter,
            price_of=self._live_price,
            count=self._sessions.on_limit,
            clock=self._sessions.clock,
        )

    def _live_price(self, upstream_model: str) -> LivePrice | None:
        context = self._context
        price = self._sessions.price.find(context.upstream, upstream_model, context.model)
        return None if price is None else LivePrice(price)

    def _charge(self, record: UsageRecord) -> UsageRecord:
        """The record with its cost, which its key is charged with."""
        assert self._allowance is not None
        priced = self._sessions.price(record)
        self._allowance.charge(priced)
        return priced

    def _debut(self, due_to: Blame | None, why: str) -> None:
        if due_to is None:
            self._sessions.choice.worked(self._chosen)
        else:
            self._sessions.choice.spoiled(self._chosen, due_to, why)

    def _give_back(self) -> None:
        self._sessions.give_back(self._allowance)
        self._chosen.dialled.link.dispose()
        self._chosen.dialled.close()


@dataclass(frozen=True, slots=True)
class LastWords:
    """A refusal to a client that was given its 101 by the server before we were asked."""

    sessions: Sessions
    fault: Fault

    def run(self, sock: Any, early: bytes) -> None:
        """Sends an error event, then closes."""
        self.sessions.hub.run(self.say, sock, early)

    def abandon(self) -> None:
        """There is nothing to give back."""

    def say(self, sock: Any, early: bytes) -> None:
        """The same, on the hub."""
        fault = self.fault
        link = self.sessions.client_link(sock, early)
        try:
            link.send_text(codec.dumps(fault.event()))
            code = 1013 if fault.status == 503 else 1011 if fault.status >= 500 else 1008
            link.close(Close(code, close_reason(fault.message)))
            link.finish(1.0)
        except LinkEnded:
            pass  # it did not wait for the reason
        finally:
            link.dispose()
