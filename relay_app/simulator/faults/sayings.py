"""Faults of speech: events that are missing, doubled, wrong or illegible."""

import time
from collections.abc import Iterable, Iterator
from typing import Any

from relay_app import codec
from relay_app.simulator.faults.arguments import event_named, number
from relay_app.simulator.faults.frames import BINARY, TEXT, frame
from relay_app.simulator.faults.normal import Event, Normal, Step

__all__ = [
    "BadJson", "BadUtf8", "Binary", "Clock", "RateLimited", "Twice", "UsageMissing", "UsageNull",
    "UsageOnFrame", "UsageZero", "Without",
]  # fmt: skip


class Without(Normal):
    """This event never comes."""

    takes = "EVENT"

    def __init__(self, argument: str = "") -> None:
        self._event = event_named(argument)

    def say(self, event: Event) -> Iterable[Step]:
        """Say it, unless it is the one."""
        return (event,) if event["type"] != self._event else self.instead(event)

    def instead(self, event: Event) -> Iterable[Step]:
        """What comes in its place."""
        return ()


class Twice(Without):
    """This event comes twice, the same to the byte."""

    def instead(self, event: Event) -> Iterable[Step]:
        """It, and it again."""
        return (event, event)


class BadJson(Without):
    """This event is cut off in its middle, in a frame that is whole."""

    def instead(self, event: Event) -> Iterable[Step]:
        """Half of it."""
        text = codec.dumps(event).encode()
        return (frame(TEXT, text[: len(text) // 2]),)


class BadUtf8(Without):
    """This event comes as text with two bytes in it that are no UTF-8."""

    def instead(self, event: Event) -> Iterable[Step]:
        """It, with a field that nobody can read in front of the closing brace."""
        return (frame(TEXT, codec.dumps(event).encode()[:-1] + b',"note":"\xff\xfe"}'),)


class Binary(Without):
    """This event comes in a binary frame."""

    def instead(self, event: Event) -> Iterable[Step]:
        """The same bytes, called binary."""
        return (frame(BINARY, codec.dumps(event).encode()),)


class UsageNull(Normal):
    """Responses end with a usage of null."""

    def say(self, event: Event) -> Iterable[Step]:
        """Change the end of a response, and nothing else."""
        return (self.done(event) if event["type"] == "response.done" else event,)

    def done(self, event: Event) -> Event:
        """The end of a response as this provider tells it."""
        return _with(event, usage=None)


class UsageMissing(UsageNull):
    """Responses end without a word about usage."""

    def done(self, event: Event) -> Event:
        """Without the key."""
        response = {key: value for key, value in event["response"].items() if key != "usage"}
        return {**event, "response": response}


class UsageZero(UsageNull):
    """Responses are completed, have an output, and are said to have cost nothing."""

    def done(self, event: Event) -> Event:
        """All figures are zero."""
        return _with(event, usage=_zeros(event["response"].get("usage")))


class UsageOnFrame(UsageNull):
    """Usage stands on the event, and the response's own is empty, as with xAI."""

    def done(self, event: Event) -> Event:
        """Move it up."""
        return {**_with(event, usage={}), "usage": event["response"].get("usage")}


class RateLimited(UsageNull):
    """Responses fail with a rate limit as soon as they have begun, without output or usage."""

    def say(self, event: Event) -> Iterator[Step]:
        """Nothing is heard between the beginning and the end of a response."""
        between = event["type"].startswith("response.") and event["type"] not in (
            "response.created",
            "response.done",
        )
        if not between:
            yield from super().say(event)

    def done(self, event: Event) -> Event:
        """It has failed, and says why inside."""
        error = {
            "type": "invalid_request_error",
            "code": "inference_rate_limit_exceeded",
            "message": "Rate limit reached for this model. Please try again in 1.2s.",
        }
        details = {"type": "failed", "error": error}
        return _with(event, status="failed", status_details=details, output=[], usage=None)


class Clock(Normal):
    """The provider's clock is this many seconds ahead of ours, or behind if negative."""

    takes = "SECONDS"

    def __init__(self, argument: str = "") -> None:
        self._ahead = number(argument, "seconds", -1e9, 1e9)

    def now(self) -> float:
        """The wrong time."""
        return time.time() + self._ahead


def _with(event: Event, **changes: Any) -> Event:
    return {**event, "response": {**event["response"], **changes}}


def _zeros(usage: Any) -> Any:
    if isinstance(usage, dict):
        return {key: _zeros(value) for key, value in usage.items()}
    return 0
