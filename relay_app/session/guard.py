"""Guard: holds a session to the limits of its key.

The rules:

* It is told of every message, and looks at what runs when one of them may matter: a response
  begins or ends, audio comes, or so many small ones have come that together they cost what a
  piece of audio does. To look is to add and to multiply, and calls no store. Only a client's
  ``response.create`` may wait for one, a second at most, and delays nobody but its client.
* What the server says decides. A ``response.create`` is looked at because it can still be kept
  back; one that is hidden from us is found by its ``response.created``.
* An objection is raised once for what it is about.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Final

from relay_app import codec
from relay_app.errors import Fault
from relay_app.ledger.allowance import Allowance, Standing
from relay_app.ledger.limit_faults import budget_spent, budget_unavailable, too_fast
from relay_app.meter.live_price import LivePrice
from relay_app.meter.meter import Meter
from relay_app.meter.reading import CLIENT_VALUES, MAX_PARSED_BYTES
from relay_app.meter.usage import Usage
from relay_app.wire.messages import Message

__all__ = ["Guard", "Objection"]

MAX_EVENT_ID: Final = 256
SMALL_BYTES: Final = 1_024
"""Deltas of text are smaller, and of audio larger: this is 16 ms of it."""
SMALL_MESSAGES: Final = 16
"""A token each, they cost less than 250 ms of audio."""


@dataclass(frozen=True, slots=True)
class Objection:
    """What may not go on, and why. With ``ends`` it is the session, else one response: the one
    of ``response_id``, or the one that the client asked for in the event ``event_id``."""

    fault: Fault
    ends: bool = False
    response_id: str = ""
    event_id: str = ""


class Guard:
    """The limits of one session. ``price_of`` gives the rates of a model that the upstream says
    it runs; ``count`` is told why at each objection: ``budget`` or ``unavailable`` end the session,
    ``tokens`` refuses a response."""

    def __init__(
        self,
        allowance: Allowance,
        meter: Meter,
        *,
        price_of: Callable[[str], LivePrice | None],
        count: Callable[[str], None],
        clock: Callable[[], float] = time,
    ) -> None:
        self._allowance = allowance
        self._meter = meter
        self._price_of = price_of
        self._count = count
        self._clock = clock
        self._model = ""
        self._price: LivePrice | None = None
        self._open = 0
        self._small = 0
        self._admitted = 0
        self._over = False

    def asked(self, message: Message) -> Objection | None:
        """The client's ``response.create`` was metered and is about to go upstream.

        Waits a second at most.
        """
        if self._over:
            return None
        self._allowance.catch_up()
        if self._allowance.too_fast:
            return self._too_fast(event_id=_event_id(message))
        if self._budgeted:
            cost = self._cost_of(self._meter.asked_input)
            objection = self._objection(self._allowance.may_begin(cost))
            if objection is not None:
                return objection
        self._admitted += 1
        return None

    def heard(self, message: Message) -> Objection | None:
        """A message of the upstream's has come and was metered."""
        was_open, self._open = self._open, self._meter.responses_open
        if self._over or not (self._open or was_open):
            return None
        if self._open == was_open and message.length < SMALL_BYTES:
            self._small += 1
            if self._small < SMALL_MESSAGES:
                return None
        self._small = 0
        objection = self.look()
        if objection is not None or self._open <= was_open:
            return objection
        if self._admitted:
            self._admitted -= 1
        elif self._allowance.too_fast:
            return self._too_fast(response_id=self._meter.responses()[-1])
        return None

    def look(self) -> Objection | None:
        """Whether what was used so far may go on; also to be asked when nothing comes."""
        if self._over or not self._budgeted:
            return None
        running = self._cost_of(self._meter.running) if self._meter.responses_open else 0.0
        return self._objection(self._allowance.standing(running))

    @property
    def _budgeted(self) -> bool:
        return self._allowance.key.budget_usd is not None

    def _cost_of(self, usage: Callable[[], Usage]) -> float:
        model = self._meter.upstream_model
        if model != self._model:
            self._model = model
            self._price = self._price_of(model) or self._price
        return 0.0 if self._price is None else self._price.cost(usage())

    def _objection(self, standing: Standing) -> Objection | None:
        if standing is Standing.GOOD:
            return None
        self._over = True
        if standing is Standing.SPENT:
            self._count("budget")
            return Objection(budget_spent(self._allowance.key, self._clock()), ends=True)
        self._count("unavailable")
        return Objection(budget_unavailable(), ends=True)

    def _too_fast(self, *, response_id: str = "", event_id: str = "") -> Objection:
        self._count("tokens")
        fault = too_fast(self._allowance.key, self._allowance.tokens)
        return Objection(fault, response_id=response_id, event_id=event_id)


def _event_id(message: Message) -> str:
    payload = message.payload() if message.length <= MAX_PARSED_BYTES else None
    if payload is None or codec.is_dense(payload, CLIENT_VALUES):
        return ""
    try:
        given = codec.loads_object(payload).get("event_id")
    except ValueError:
        return ""
    return given if isinstance(given, str) and len(given) <= MAX_EVENT_ID else ""
