"""The realtime endpoint: admit, reserve, dial, accept, run.

The rule: a client is told what is wrong before its 101, as an HTTP status with an OpenAI-shaped
body, and everything a refusal costs us is given back.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, request
from werkzeug.datastructures import MultiDict

from relay_app.errors import ClientFault, Fault, RelayFault, UpstreamFault
from relay_app.ledger.limit_faults import model_not_priced
from relay_app.meter.live_price import LivePrice
from relay_app.observe.logs import line
from relay_app.session.context import SessionContext, new_session_id
from relay_app.upstream.catalogue import Catalogue, Route
from relay_app.upstream.choice import Chosen
from relay_app.upstream.dialects import Credential, UpstreamRequest, request_for
from relay_app.web.accept import Carrier, RelaySock, carrier_of, http_refusal, select_subprotocol
from relay_app.web.address import client_address
from relay_app.web.auth import Authenticator, Principal, credential_of
from relay_app.web.conversation import Conversation, LastWords, Sessions
from relay_app.web.door import Door
from relay_app.web.handshake import SUBPROTOCOL, Handshake, not_an_upgrade

__all__ = ["PATH", "RealtimeEndpoint"]

PATH = "/v1/realtime"
SESSION_HEADER = "X-Relay-Session"
MAX_NAME_CHARACTERS = 256
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
    """Everything the way to a session needs, and the Flask view that leads along it."""

    sessions: Sessions
    door: Door
    authenticator: Authenticator
    catalogue: Catalogue
    ready: Callable[[], None]
    """Raises RelayFault while no new session may begin."""
    prepare: Callable[[], None]
    """Returns once a session can be metered; waits only for the first of a process."""
    on_refused: Callable[[str, int], None]
    """Told whose fault it was, and the status."""
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
        hub = self.sessions.hub
        try:
            hub.run(self.door.check, request.environ)
            handshake = Handshake.of(request.environ)
            if hub.here:
                # Not by way of run(): see "Sessions" in docs/performance.md for a call more here.
                serve = self._admit(session_id, request.args, handshake, known)
            else:
                serve = hub.run(self._admit, session_id, request.args, handshake, known)
        except Fault as fault:
            self._refused(fault, session_id, known)
            return carrier.refuse(fault, handshake, LastWords(self.sessions, fault))
        return carrier.accept(handshake, serve)

    def _refused(self, fault: Fault, session_id: str, known: _Known) -> None:
        fault.headers.setdefault(SESSION_HEADER, session_id)
        self.on_refused(fault.by, fault.status)
        # What is not the client's fault is the operator's to mend, and limits are theirs.
        own = isinstance(fault, ClientFault) and fault.status not in (402, 429)
        why = None if own else fault.message
        tried = fault.tried if isinstance(fault, UpstreamFault) else ""
        logger.info(
            line("refused", session=session_id, by=fault.by, status=fault.status,
                 code=fault.code, key=known.key, model=known.model, tried=tried or None,
                 client=self._client(request.environ), why=why)
        )  # fmt: skip

    # -- on the hub --------------------------------------------------------------------------

    def _admit(
        self, session_id: str, query: MultiDict[str, str], handshake: Handshake, known: _Known
    ) -> Conversation:
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
        self.prepare()
        self.ready()
        if len(self.sessions.keeper) + self.opening >= self.sessions.limits.max_sessions:
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
                allowance = self.sessions.budgets.reserve(session_id, principal.key, pace=pace)
            chosen = self._dial(routes, principal, asked, handshake)
        except BaseException:
            self.sessions.give_back(allowance)
            raise
        finally:
            self.opening -= 1
        context = SessionContext(
            id=session_id,
            key=principal.name,
            upstream=chosen.route.upstream.name,
            model=asked.model or asked.intent,
            upstream_model=chosen.route.model or asked.intent,
            client_address=self._client(environ),
            upstream_request_id=chosen.dialled.request_id,
            tried=chosen.tried,
        )
        return Conversation(self.sessions, chosen, context, allowance)

    def _client(self, environ: Mapping[str, Any]) -> str:
        return client_address(environ, self.sessions.limits.forwarded_allow_ips)

    def _affordable(
        self, routes: list[Route], principal: Principal, asked: Asked
    ) -> tuple[list[Route], float]:
        """Those of ``routes`` that this key may be sent to, and what a second of an answer costs
        there at most, in micro-dollars.

        A key with a budget goes nowhere where nobody said what the model costs, for nothing would
        ever be charged to it. What an intent transcribes with is not known yet. A key without one
        has no use for a price, and to read it leaves a decimal context with each session.
        """
        if principal.key is None or principal.key.budget_usd is None:
            return routes, 0.0
        prices = [self.sessions.price.find(r.upstream.name, r.model, asked.model) for r in routes]
        if asked.intent != "transcription":
            routes = [r for r, price in zip(routes, prices, strict=True) if price is not None]
            if not routes:
                raise model_not_priced(asked.model)
        return routes, max(
            (LivePrice(price).pace for price in prices if price is not None), default=0.0
        )

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

        return self.sessions.choice.dial(routes, request, brought)


def _asked(query: MultiDict[str, str]) -> Asked:
    given = query.to_dict(flat=False)  # to ask a MultiDict for what is not there is dear
    for name in ("model", "intent", "call_id"):
        if len(given.get(name, ())) > 1:
            raise ClientFault(f"{name} is given more than once.", code="invalid_value", param=name)
    if "call_id" in given:
        raise ClientFault(
            "This relay does not attach to calls (call_id) yet.",
            status=404,
            code="call_id_not_supported",
            param="call_id",
        )
    model, intent = given.get("model", [""])[0], given.get("intent", ["realtime"])[0]
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
