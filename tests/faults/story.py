"""Story: what a client got, in the words of the table."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.http11 import Response

__all__ = ["LAST", "TURN", "Story"]

LAST = "rate_limits.updated"
"""What a provider says when a response is over, whatever became of its end."""
TURN = ("session.created", "response.created", "…", "response.done completed")
"""Told as "a turn"."""
_TOLD = ("session.created", "response.created", "response.done", "error", "close")


@dataclass
class Story:
    """``sees`` is everything, ``says`` the message of the last error among it; ``amid`` is called
    when an answer has begun, once."""

    sees: list[str] = field(default_factory=list)
    says: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    session: str = ""
    seconds: float = 0.0
    amid: Callable[[], object] | None = None

    def hears(self, message: str | bytes) -> str:
        """Notes a message; returns its type."""
        if isinstance(message, bytes):
            self.sees.append("binary")
            return "binary"
        try:
            event = json.loads(message)
        except ValueError:
            self.sees.append("illegible")
            return "illegible"
        self.events.append(event)
        self.sees.append(self._told(event))
        if event["type"] == "response.created" and self.amid is not None:
            amid, self.amid = self.amid, None
            amid()
        return event["type"]

    def _told(self, event: dict[str, Any]) -> str:
        if event["type"] == "error":
            error = event["error"]
            self.says = error["message"]
            return f"error {error['code'] or error['type']}"
        if event["type"] == "response.done":
            return f"response.done {event['response']['status']}"
        return event["type"]

    def refused(self, answer: Response) -> None:
        """Notes an HTTP status instead of the 101."""
        error = json.loads(answer.body)["error"]
        wait = answer.headers.get("Retry-After")
        again = f", Retry-After {wait}" if wait else ""
        self.sees.append(f"HTTP {answer.status_code} {error['code']}{again}")
        self.says = error["message"]
        self.session = answer.headers["X-Relay-Session"]

    def told(self, named: str) -> tuple[str, ...]:
        """What it saw, without what is as it should be, but for the event that was ``named``."""
        kept: list[str] = []
        for saw in self.sees:
            if saw.startswith(_TOLD) or saw == named or "." not in saw:
                kept.append(saw)
            elif kept and kept[-1] != "…" and saw != LAST:
                kept.append("…")
        if tuple(kept[: len(TURN)]) == TURN:
            kept[: len(TURN)] = ["a turn"]
        return tuple(kept)
