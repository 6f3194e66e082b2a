"""What a client is told when a limit of its key is reached, before its 101 and after it.

The rule: it learns which of its own limits it hit, and when to come back; never what others of
the same key did.
"""

from math import ceil

from relay_app.errors import ClientFault, Fault, RelayFault
from relay_app.ledger.periods import seconds_to_renewal
from relay_app.ledger.stores.accounts import MINUTE_SECONDS
from relay_app.ledger.stores.leases import Refusal
from relay_app.settings import Key

__all__ = [
    "budget_spent",
    "budget_unavailable",
    "model_not_priced",
    "refused",
    "too_fast",
    "too_many",
]

SESSIONS_SECONDS = 5
"""When to ask for a session again: nobody knows when one of the others ends."""
UNAVAILABLE_SECONDS = 5


def budget_spent(key: Key, now: float) -> ClientFault:
    """402 ``insufficient_quota``; ``Retry-After`` only if the budget renews."""
    seconds = seconds_to_renewal(key, now)
    when = "" if seconds is None else f" It renews with the next {key.budget_period}, in UTC."
    return ClientFault(
        f"The budget of this key is spent.{when}",
        status=402,
        type="insufficient_quota",
        code="insufficient_quota",
        headers={} if seconds is None else {"Retry-After": str(seconds)},
    )


def too_fast(key: Key, tokens: int) -> ClientFault:
    """429 ``rate_limit_exceeded``: ``tokens`` were used in the last minute."""
    most = key.max_tokens_per_minute or 0
    # When so much of the minute has passed that they are below the limit, if they came evenly.
    seconds = ceil(MINUTE_SECONDS * (1 - most / tokens)) if tokens > most else 0
    seconds = max(1, seconds)
    return _rate_limit(f"This key may use {most} tokens a minute.", seconds)


def too_many(key: Key) -> ClientFault:
    """429 ``rate_limit_exceeded``: all sessions of the key are in use."""
    most = key.max_sessions or 0
    sessions = "1 session" if most == 1 else f"{most} sessions"
    return _rate_limit(f"This key may have {sessions} open at a time.", SESSIONS_SECONDS)


def refused(key: Key, refusal: Refusal, tokens: int, now: float) -> ClientFault:
    """Why a store gave no lease, in the words for the client."""
    if refusal == "sessions":
        return too_many(key)
    return too_fast(key, tokens) if refusal == "tokens" else budget_spent(key, now)


def budget_unavailable() -> RelayFault:
    """503, or 1011: nobody can say what is left, so nothing more is spent."""
    return RelayFault(
        "This relay cannot look up the limits of this key at the moment. Try again later.",
        code="budget_unavailable",
        headers={"Retry-After": str(UNAVAILABLE_SECONDS)},
    )


def model_not_priced(model: str) -> Fault:
    """403: a budget cannot be kept for a model that nobody gave a price."""
    return ClientFault(
        f"This key has a budget, and the relay has no price for the model {model!r}: ask for "
        "another model, or have its price added to the relay's price list.",
        status=403,
        code="model_not_priced",
        param="model",
    )


def _rate_limit(why: str, seconds: int) -> ClientFault:
    return ClientFault(
        f"Rate limit reached. {why} Try again in {seconds} s.",
        status=429,
        type="rate_limit_exceeded",
        code="rate_limit_exceeded",
        headers={"Retry-After": str(seconds)},
    )
