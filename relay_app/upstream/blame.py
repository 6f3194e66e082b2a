"""Blame: what a failed attempt was due to, and so what is to be tried next. Pure.

The rule: what a client can bring about by what it asks for makes nobody rest: neither a request
that the provider does not understand, nor a model that it does not have.
"""

from enum import Enum

from relay_app.errors import UpstreamFault

__all__ = ["Blame", "blame", "blame_of_close", "blame_of_event", "result"]


class Blame(Enum):
    """Ordered by how much the fault tells a client, if all attempts have failed: what passes by
    itself comes first."""

    LIMIT = "limit"
    """The key has reached a limit that lasts for seconds; others may not."""
    UPSTREAM = "upstream"
    """Down, silent, broken or overloaded, with whatever key."""
    MODEL = "model"
    """It does not have the model, or not for us."""
    KEY = "key"
    """The key is wrong, closed or out of money."""
    REQUEST = "request"
    """What was asked cannot be answered, here or anywhere."""


_KEYS = {401, 402, 403}
_PASSES = {408, 425}
_MODEL_CODES = {"model_not_found", "invalid_model", "DeploymentNotFound"}
_KEY_CODES = {
    "insufficient_quota",
    "credit_balance_exhausted",
    "billing_hard_limit_reached",
    "invalid_api_key",
    "account_deactivated",
}
"""What OpenAI says of an account that will not work again in a minute."""
_KEY_TYPES = {"insufficient_quota", "authentication_error"}
_LIMIT_NAMES = {"rate_limit_exceeded", "rate_limit_error", "requests", "tokens"}
_UPSTREAM_NAMES = {"server_error", "internal_error", "internal_server_error", "overloaded_error"}

_CLOSES = {
    1001: Blame.UPSTREAM,
    1006: Blame.UPSTREAM,  # no close frame
    1008: Blame.KEY,
    1011: Blame.UPSTREAM,
    1012: Blame.UPSTREAM,
    1013: Blame.UPSTREAM,
    1014: Blame.UPSTREAM,
}


def blame(fault: UpstreamFault) -> Blame:
    """Who is to blame for an attempt that ended with ``fault``."""
    status = fault.answered or fault.status
    if status in _KEYS or status in (404, 429):
        if status == 404 or fault.code in _MODEL_CODES or fault.param == "model":
            return Blame.MODEL
        if status in _KEYS or fault.code in _KEY_CODES or fault.type in _KEY_TYPES:
            return Blame.KEY
        return Blame.LIMIT
    if 400 <= status < 500 and status not in _PASSES:
        return Blame.REQUEST
    return Blame.UPSTREAM


def blame_of_event(code: str, kind: str) -> Blame:
    """Who is to blame for an ``error`` event with which an upstream begins, by its ``code`` and
    its ``type``."""
    if code in _MODEL_CODES:
        return Blame.MODEL
    if code in _KEY_CODES or kind in _KEY_TYPES:
        return Blame.KEY
    if code in _LIMIT_NAMES or kind in _LIMIT_NAMES:
        return Blame.LIMIT
    if code in _UPSTREAM_NAMES or kind in _UPSTREAM_NAMES:
        return Blame.UPSTREAM
    return Blame.REQUEST


def blame_of_close(code: int) -> Blame | None:
    """Who is to blame for an upstream that closes with ``code`` before it has said anything; None
    if that does not tell."""
    return _CLOSES.get(code)


def result(fault: UpstreamFault) -> str:
    """What became of the attempt, in a word, for logs and metrics: a status, or what failed. It
    is never a word of the provider's."""
    if fault.answered is None and (fault.code or "").startswith("upstream_"):
        return str(fault.code).removeprefix("upstream_")
    return str(fault.answered or fault.status)
