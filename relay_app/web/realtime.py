"""The realtime endpoint: admit, reserve, dial, accept, run.

The rule: a client is told what is wrong before its 101, as an HTTP status with an OpenAI-shaped
body, and everything a refusal costs us is given back.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
from flask import Flask, Response, request
from werkzeug.datastructures import MultiDict

from relay_app import codec
from relay_app.errors import ClientFault, Fault, RelayFault, UpstreamFault, close_reason
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.allowance import Allowance
from relay_app.ledger.budgets import Budgets
from relay_app.ledger.limit_faults import model_not_priced
from relay_app.ledger.pricer import Pricer
from relay_app.meter.live_price import LivePrice
from relay_app.meter.meter import Meter
from relay_app.meter.usage import UsageRecord
from relay_app.observe.logs import line
from relay_app.session.context import SessionContext, new_session_id
from relay_app.session.guard import Guard
from relay_app.session.keeper import Keeper
from relay_app.session.session import Session
from relay_app.session.tap import AuditSink
from relay_app.session.veil import Veil
from relay_app.settings import Server
from relay_app.upstream.blame import Blame
from relay_app.upstream.catalogue import Catalogue, Route
from relay_app.upstream.choice import Choice, Chosen
from relay_app.upstream.dialects import Credential, UpstreamRequest, request_for
from relay_app.web.accept import Carrier, RelaySock, carrier_of, http_refusal, select_subprotocol
from relay_app.web.address import client_address
from relay_app.web.auth import Authenticator, Principal, credential_of
from relay_app.web.door import Door
from relay_app.web.handshake import SUBPROTOCOL, Handshake, not_an_upgrade
from relay_app.web.hub import SessionHub
from relay_app.wire.frames import Close
from relay_app.wire.link import Link, LinkEnded
from relay_app.wire.rooms import Rooms

__all__ = ["PATH", "RealtimeEndpoint"]

PATH = "/v1/realtime"
SESSION_HEADER = "X-Relay-Session"
MAX_NAME_CHARACTERS = 256
ACCEPT_SECONDS = 5.0
"""How long an upstream that has answered waits for its client's 101. Between the two are only
the host application's hooks; when they fail, nobody else knows of the connection."""
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]

logger = logging.getLogger("relay_app")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for: a model, or an intent that needs none."""

    model: str
    intent: str


@dataclass(slots=True)
class _Known:
    """What was found out of a request before it was refused: the name of its key, and what it
    asks for."""

    key: str | None = None
    model: str | None = None


@dataclass(slots=True)
class RealtimeEndpoint:
    """Everything the way of a session needs, and the Flask view that leads it along."""

    limits: Server
    door: Door
    authenticator: Authenticator
    catalogue: Catalogue
    choice: Choice
    hub: SessionHub
    keeper: Keeper
    accountant: Accountant
    budgets: Budgets
    rooms: Rooms
    before_forward: bool
    price: Pricer
    audit: AuditSink | None
    ready: Callable[[], None]
    """Raises RelayFault while no new session may begin."""
    prepare: Callable[[], None]
    """Returns once a session can be metered; waits only for the first of a process."""
    on_refused: Callable[[str, int], None]
    """Told whose fault it was, and the status."""
    on_hold: Callable[[float, bool], None]
    on_limit: Callable[[str], None]
    clock: Callable[[], float] = time.time
    opening: int = 0

    def register(self, app: Flask) -> None:
        """Adds the WebSocket rule and the one that answers plain HTTP to ``app``."""
        RelaySock(app).route(PATH, endpoint="relay_app.realtime")(self.upgrade)
        select_subprotocol(app, PATH, SUBPROTOCOL)
        app.add_url_rule(
            PATH, "relay_app.realtime_http", self.plain, methods=_METHODS, websocket=False
        )

    def plain(self) -> Response:
        """Answers a request that is no upgrade."""
        try:
            carrier_of(request.environ)
            fault: Fault = not_an_upgrade()
        except RelayFault as cannot:
            fault = cannot
        self.on_refused(fault.by, fault.status)
        return http_refusal(fault)

    def upgrade(self, carrier: Carrier) -> Response:
        """Answers an upgrade request: with a session, or with the reason why not."""
        session_id = new_session_id()
        handshake, known = None, _Known()
        try:
            self.hub.run(self.door.check, request.environ)
            handshake = Handshake.of(request.environ)
            serve = self.hub.run(self._admit, session_id, request.args, handshake, known)
        except Fault as fault:
            fault.headers.setdefault(SESSION_HEADER, session_id)
            self.on_refused(fault.by, fault.status)
            # What is not the client's fault is the operator's to mend, and limits are theirs.
            own = isinstance(fault, ClientFault) and fault.status not in (402, 429)
            why = None if own else fault.message
            tried = fault.tried if isinstance(fault, UpstreamFault) else ""
            logger.info(
                line("refused", session=session_id, by=fault.by, status=fault.status,
                     code=fault.code, key=known.key, model=known.model,
                     tried=tried or None,
                     client=client_address(request.environ, self.limits.forwarded_allow_ips),
                     why=why)
            )  # fmt: skip
            return carrier.refuse(fault, handshake, _LastWords(self, fault))
        return carrier.accept(handshake, serve)

    # -- on the hub --------------------------------------------------------------------------

    def _admit(
        self, session_id: str, query: MultiDict[str, str], handshake: Handshake, known: "_Known"
    ) -> "_Conversation":
        environ = handshake.environ
        carried = credential_of(environ, handshake.subprotocols, list(query))
        principal = self.authenticator.principal(carried, str(environ.get("REMOTE_ADDR", "")))
        known.key = principal.name
        asked = _asked(query)
        known.model = asked.model or asked.intent
        routes = (
            self._transcription(principal)
            if asked.intent == "transcription"
            else self.catalogue.routes(asked.model, principal.models)
        )
        routes, pace = self._affordable(routes, principal, asked)
        self.ready()
        self.prepare()
        if len(self.keeper) + self.opening >= self.limits.max_sessions:
            self.door.on_refused("worker")
            raise RelayFault(
                "This relay has as many sessions open as it may have. Try again later.",
                code="relay_full",
                headers={"Retry-After": "5"},
            )
        self.opening += 1
        allowance = None
        try:
            if principal.key is not None:
                allowance = self.budgets.reserve(session_id, principal.key, pace=pace)
            chosen = self._dial(routes, principal, asked, handshake)
        except BaseException:
            self.give_back(allowance)
            raise
        finally:
            self.opening -= 1
        context = SessionContext(
            id=session_id,
            key=principal.name,
            upstream=chosen.route.upstream.name,
            model=asked.model or asked.intent,
            upstream_model=chosen.route.model or asked.intent,
            client_address=client_address(environ, self.limits.forwarded_allow_ips),
            upstream_request_id=chosen.dialled.request_id,
            tried=chosen.tried,
        )
        return _Conversation(self, chosen, context, allowance, self._veil(chosen))

    def give_back(self, allowance: Allowance | None) -> None:
        """A session, or what was to become one, is over: its slice and its slot are free."""
        if allowance is not None:
            self.budgets.release(allowance)

    def _affordable(
        self, routes: list[Route], principal: Principal, asked: Asked
    ) -> tuple[list[Route], float]:
        """Those of ``routes`` that this key may be sent to, and what a second of an answer costs
        there at most, in micro-dollars.

        A key with a budget goes nowhere where nobody said what the model costs, for nothing would
        ever be charged to it. What an intent transcribes with is not known yet.
        """
        prices = [self.price.find(r.upstream.name, r.model, asked.model) for r in routes]
        limited = principal.key is not None and principal.key.budget_usd is not None
        if limited and asked.intent != "transcription":
            routes = [r for r, price in zip(routes, prices, strict=True) if price is not None]
            if not routes:
                raise model_not_priced(asked.model)
        return routes, max(
            (LivePrice(price).pace for price in prices if price is not None), default=0.0
        )

    def _veil(self, chosen: Chosen) -> Veil | None:
        """Over what tells of our account; None for a client's own, which it may know all about."""
        candidate = chosen.candidate
        if candidate.brought:
            return None
        rate_limits = candidate.route.upstream.hide_rate_limits
        return Veil(candidate.credential.secret, rate_limits=rate_limits)

    def _transcription(self, principal: Principal) -> list[Route]:
        # The session's own update names the ASR model, so a key that is limited to certain
        # models has to be allowed the intent by name.
        if not any(pattern in ("*", "transcription") for pattern in principal.models):
            raise ClientFault(
                "This key may not use intent=transcription; it needs 'transcription' among its "
                f"models. Models allowed to this key: {', '.join(principal.models)}.",
                status=404,
                code="intent_not_allowed",
                param="intent",
            )
        return self.catalogue.transcription_routes()

    def _dial(
        self,
        routes: list[Route],
        principal: Principal,
        asked: Asked,
        handshake: Handshake,
    ) -> Chosen:
        brought = Credential(principal.secret, principal.header) if principal.secret else None
        headers = _passed_on(handshake, own=brought is None)
        intent = asked.intent if asked.intent == "transcription" else ""

        def request(route: Route, credential: Credential, seconds: float) -> UpstreamRequest:
            return request_for(
                route, credential, intent=intent, extra_headers=headers, seconds=seconds
            )

        return self.choice.dial(routes, request, brought)

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


class _Conversation:
    """An upstream that has answered, waiting for the client's 101. Made on the hub."""

    __slots__ = ("_abandoned", "_chosen", "_overdue", "allowance", "context", "endpoint", "veil")

    def __init__(
        self,
        endpoint: RealtimeEndpoint,
        chosen: Chosen,
        context: SessionContext,
        allowance: Allowance | None,
        veil: Veil | None,
    ) -> None:
        self.endpoint = endpoint
        self._chosen = chosen
        self.context = context
        self.allowance = allowance
        self.veil = veil
        self._abandoned = False
        # A timer, not a greenlet that sleeps: there is one a session, and almost none is ever due.
        self._overdue = gevent.get_hub().loop.timer(ACCEPT_SECONDS)
        self._overdue.start(self._give_up)

    def run(self, sock: Any, early: bytes) -> None:
        """Runs the session on the client's socket."""
        self.endpoint.hub.run(self._run, sock, early)

    def abandon(self) -> None:
        """Gives the upstream back: the client has gone."""
        self.endpoint.hub.run(self._vanished)

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
        logger.info(line("abandoned", session=self.context.id, client=self.context.client_address))
        self._give_back()

    def _run(self, sock: Any, early: bytes) -> None:
        endpoint, context = self.endpoint, self.context
        if self._abandoned:
            late = RelayFault("the answer was ready too late", code="accepted_too_late")
            _LastWords(endpoint, late).say(sock, early)
            return
        self._in_time()
        try:
            meter = Meter(
                context.id,
                key=context.key,
                upstream=context.upstream,
                model=context.model,
                upstream_model=context.upstream_model,
                clock=endpoint.clock,
                price=self._price,
                shown=frozenset() if self.veil is None else self.veil.looks_at,
            )
            session = Session(
                endpoint.client_link(sock, early),
                self._chosen.dialled.link,
                context=context,
                meter=meter,
                accountant=endpoint.accountant,
                limits=endpoint.limits,
                before_forward=endpoint.before_forward,
                guard=self._guard(meter),
                veil=self.veil,
                audit=endpoint.audit,
                on_hold=endpoint.on_hold,
                on_limit=endpoint.on_limit,
                on_debut=self._debut,
            )
            endpoint.keeper.run(session)
        finally:
            self._give_back()

    def _debut(self, due_to: Blame | None, why: str) -> None:
        if due_to is None:
            self.endpoint.choice.worked(self._chosen)
        else:
            self.endpoint.choice.spoiled(self._chosen, due_to, why)

    def _price(self, record: UsageRecord) -> UsageRecord:
        """Every record as it leaves the meter for the ledger: with its cost, and charged."""
        priced = self.endpoint.price(record)
        if self.allowance is not None:
            self.allowance.charge(priced)
        return priced

    def _guard(self, meter: Meter) -> Guard | None:
        if self.allowance is None:
            return None
        endpoint = self.endpoint
        return Guard(
            self.allowance,
            meter,
            price_of=self._live_price,
            count=endpoint.on_limit,
            clock=endpoint.clock,
        )

    def _live_price(self, upstream_model: str) -> LivePrice | None:
        context = self.context
        price = self.endpoint.price.find(context.upstream, upstream_model, context.model)
        return None if price is None else LivePrice(price)

    def _give_back(self) -> None:
        self.endpoint.give_back(self.allowance)
        self._chosen.dialled.link.dispose()
        self._chosen.dialled.close()


@dataclass(frozen=True, slots=True)
class _LastWords:
    """A refusal to a client that was given its 101 by the server before we were asked."""

    endpoint: RealtimeEndpoint
    fault: Fault

    def run(self, sock: Any, early: bytes) -> None:
        """Sends an error event, then closes."""
        self.endpoint.hub.run(self.say, sock, early)

    def abandon(self) -> None:
        """There is nothing to give back."""

    def say(self, sock: Any, early: bytes) -> None:
        """The same, on the hub."""
        fault = self.fault
        link = self.endpoint.client_link(sock, early)
        try:
            link.send_text(codec.dumps(fault.event()))
            code = 1013 if fault.status == 503 else 1011 if fault.status >= 500 else 1008
            link.close(Close(code, close_reason(fault.message)))
            link.finish(1.0)
        except LinkEnded:
            pass  # it did not wait for the reason
        finally:
            link.dispose()


def _asked(query: MultiDict[str, str]) -> Asked:
    for name in ("model", "intent", "call_id"):
        if len(query.getlist(name)) > 1:
            raise ClientFault(f"{name} is given more than once.", code="invalid_value", param=name)
    if "call_id" in query:
        raise ClientFault(
            "This relay does not attach to calls (call_id) yet.",
            status=404,
            code="call_id_not_supported",
            param="call_id",
        )
    model, intent = query.get("model", ""), query.get("intent", "realtime")
    if intent not in ("realtime", "transcription"):
        raise ClientFault(
            "intent must be realtime or transcription.", code="invalid_value", param="intent"
        )
    if intent == "transcription":
        if model:
            raise ClientFault(
                "intent=transcription takes no model; session.update names the one that "
                "transcribes.",
                code="invalid_model",
                param="model",
            )
        return Asked("", intent)
    if not model:
        raise ClientFault(
            "You must provide a model parameter: /v1/realtime?model=NAME.",
            code="missing_required_parameter",
            param="model",
        )
    if len(model) > MAX_NAME_CHARACTERS or not model.isprintable():
        raise ClientFault(
            f"model must be at most {MAX_NAME_CHARACTERS} printable characters.",
            code="invalid_value",
            param="model",
        )
    return Asked(model, intent)


def _passed_on(handshake: Handshake, *, own: bool) -> dict[str, str]:
    """The headers of the client that go upstream; ``own`` when the provider key is ours."""
    names = {"OpenAI-Safety-Identifier": ""}
    if not own:
        names |= {
            "OpenAI-Organization": "openai-organization.",
            "OpenAI-Project": "openai-project.",
        }
    headers = {}
    for name, prefix in names.items():
        value = str(handshake.environ.get("HTTP_" + name.upper().replace("-", "_"), ""))
        for protocol in handshake.subprotocols:
            if prefix and protocol.startswith(prefix):
                value = value or protocol[len(prefix) :]
        if value and len(value) <= 512 and value.isascii() and value.isprintable():
            headers[name] = value
    return headers
