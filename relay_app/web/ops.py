"""What operators and key holders ask: health, readiness, metrics, usage.

The rule: nothing here needs a session, nothing here blocks the hub, and usage is shown only to
the key it belongs to.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import gevent
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from relay_app import codec
from relay_app.errors import ClientFault, Fault, RelayFault
from relay_app.ledger.accountant import Accountant
from relay_app.ledger.limits_report import limits_values
from relay_app.ledger.periods import is_limited
from relay_app.ledger.stores.base import Store, StoreError
from relay_app.ledger.stores.totals import By
from relay_app.ledger.usage_report import totals_json
from relay_app.observe.metrics import Metrics
from relay_app.settings import Key
from relay_app.web.accept import http_refusal
from relay_app.web.auth import Authenticator, credential_of
from relay_app.web.door import Door
from relay_app.web.hub import SessionHub
from relay_app.web.paths import OPERATIONS

__all__ = ["Operations"]

T = TypeVar("T")

STORE_SECONDS = 5.0
"""A store that takes longer to answer is as good as down."""
_GROUPS: tuple[By, ...] = ("key", "model", "day", "session")


@dataclass(frozen=True, slots=True)
class Operations:
    """The views besides the realtime endpoint. ``ready`` raises RelayFault when we are not, and
    ``warning`` is what an operator should know although we are."""

    hub: SessionHub
    door: Door
    accountant: Accountant
    store: Store
    authenticator: Authenticator
    metrics: Metrics
    publish: Callable[[], None]
    ready: Callable[[], None]
    warning: Callable[[], str | None]

    def register(self, app: Flask) -> None:
        """Adds the rules to ``app``."""
        views = (self.healthz, self.readyz, self.exposition, self.usage)
        for path, view in zip(OPERATIONS, views, strict=True):
            app.add_url_rule(path, f"relay_app.{path.rpartition('/')[2]}", view)

    def healthz(self) -> Response:
        """200 as long as this process answers at all."""
        return _json({"status": "ok"})

    def readyz(self) -> Response:
        """200 while new sessions are welcome and can be recorded, else 503.

        With a journal that does not depend on the store; a store that fails is then a warning,
        and so are keys that cannot be read again.
        """
        try:
            self.ready()
            if self.accountant.journal is None:
                self._ask(self.store.ping)
            else:
                self.hub.run(self.accountant.start)
        except Fault as fault:
            return http_refusal(fault)
        warning = self.warning()
        return _json({"status": "ready"} | ({"warning": warning} if warning else {}))

    def exposition(self) -> Response:
        """The metrics of all workers, in Prometheus' text format."""
        self.hub.run(self.publish)  # what it counts changes only there
        return Response(
            self.metrics.exposition(), content_type="text/plain; version=0.0.4; charset=utf-8"
        )

    def usage(self) -> Response:
        """What the asking key has used, ``?by=model|day|session``, ``since``, ``until``; and what
        is left of its limits, if it has any."""
        try:
            self.hub.run(self.door.check, request.environ)
            carried = credential_of(request.environ, (), list(request.args))
            peer = request.remote_addr or ""
            principal = self.hub.run(self.authenticator.principal, carried, peer)
            asked = request.args.get("by", "model")
            by = next((group for group in _GROUPS if group == asked), None)
            if by is None:
                raise ClientFault(f"by must be one of {', '.join(_GROUPS)}.", param="by")
            since, until = _time("since"), _time("until")
            totals = self._ask(
                lambda: self.store.totals(by, key=principal.name, since=since, until=until)
            )
            limits = self._limits(principal.key)
        except Fault as fault:
            return http_refusal(fault)
        return Response(totals_json(totals, by, **limits) + "\n", mimetype="application/json")

    def _limits(self, key: Key | None) -> dict[str, Any]:
        if key is None or not is_limited(key):
            return {}
        return {"limits": self._ask(lambda: limits_values(self.store, key, time.time()))}

    def _ask(self, question: Callable[[], T]) -> T:
        """What the store answers within ``STORE_SECONDS``. Raises RelayFault 503."""
        try:
            answer: T = self.hub.run(self._ask_on_hub, question)
            return answer
        except StoreError as error:
            raise RelayFault(f"the store: {error}", code="store_unavailable") from None
        except gevent.Timeout:
            raise RelayFault("the store does not answer", code="store_unavailable") from None

    def _ask_on_hub(self, question: Callable[[], T]) -> T:
        with gevent.Timeout(STORE_SECONDS):
            answer: T = self.accountant.run(question)
            return answer


def not_a_page(error: HTTPException) -> Response:
    """An answer of Flask's own, such as 404 or 405, in the shape that clients can read."""
    kind: type[Fault] = ClientFault if (error.code or 500) < 500 else RelayFault
    refusal = http_refusal(kind(error.description or error.name, status=error.code or 500))
    for name, value in error.get_headers():
        if name.lower() not in ("content-type", "content-length"):
            refusal.headers[name] = value
    return refusal


def _time(name: str) -> float | None:
    text = request.args.get(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ClientFault(
            f"{name} must be a date or time in ISO 8601, like 2026-01-31.", param=name
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _json(value: Any) -> Response:
    return Response(codec.dumps(value) + "\n", mimetype="application/json")
