"""What the provider says when a client event cannot be obeyed.

The rule: a refusal applies nothing and ends nothing. It becomes one ``error`` event that
echoes the client's ``event_id``, and the session goes on.
"""

from typing import Any

__all__ = ["Refusal", "invalid", "missing", "unknown"]

SHOWN_CHARACTERS = 80
"""How much of a client's own value an error message repeats."""


class Refusal(Exception):
    """A client event that was refused, as the fields of the ``error`` object."""

    def __init__(self, message: str, *, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param

    def error(self, event_id: str | None) -> dict[str, Any]:
        """The ``error`` object of the event that answers the client event ``event_id``."""
        return {
            "type": "invalid_request_error",
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": event_id,
        }


def missing(param: str) -> Refusal:
    """A parameter that has to be there is not."""
    return Refusal(
        f"Missing required parameter: '{param}'.",
        code="missing_required_parameter",
        param=param,
    )


def unknown(param: str) -> Refusal:
    """A parameter that this protocol does not have."""
    return Refusal(f"Unknown parameter: '{param}'.", code="unknown_parameter", param=param)


def invalid(param: str, value: object, expected: str) -> Refusal:
    """A parameter with a value it cannot take; ``expected`` completes "Expected ..."."""
    shown = repr(value)
    if len(shown) > SHOWN_CHARACTERS:
        shown = f"{shown[:SHOWN_CHARACTERS]}..."
    return Refusal(
        f"Invalid value for '{param}': {shown}. Expected {expected}.",
        code="invalid_value",
        param=param,
    )
