"""Veil: what a client is not to learn of the account that its upstream is asked with.

The rule: whatever the provider says passes as it came, but for the keys and accounts that it quotes
where it says what failed, and for its rate limits if these are to be hidden.
"""

from dataclasses import replace
from typing import Any, Final

from relay_app import codec
from relay_app.errors import close_reason
from relay_app.meter.events import HEAD_BYTES, peek, peek_usual
from relay_app.meter.reading import SERVER_VALUES
from relay_app.session.lifecycle import Farewell
from relay_app.session.pump import DROP, Instead, Verdict
from relay_app.upstream.refusal import scrubbed
from relay_app.wire.messages import Message

__all__ = ["RATE_LIMITS", "Veil"]

RATE_LIMITS: Final = "rate_limits.updated"
_FAILED: Final = frozenset(
    {"error", "response.done", "conversation.item.input_audio_transcription.failed"}
)
_ALWAYS: Final = frozenset({"error"})
MAX_BYTES: Final = 262_144
"""A response that failed has said little. What is longer is passed on unread."""


class Veil:
    """For one session, over what comes from its upstream. ``secret`` is the key it was asked with,
    ``rate_limits`` whether those are hidden."""

    __slots__ = ("_rate_limits", "_secret", "looks_at")

    def __init__(self, secret: str, *, rate_limits: bool = False) -> None:
        self._secret = secret
        self._rate_limits = rate_limits
        self.looks_at = _ALWAYS | {RATE_LIMITS} if rate_limits else _ALWAYS
        """Types that have to be looked at for this, besides those that are anyway."""

    def over(self, message: Message) -> Verdict:
        """What is to be forwarded in the place of ``message``; None if itself."""
        if not message.text or message.length > MAX_BYTES:
            return None
        head = message.head(HEAD_BYTES)
        kind = peek_usual(head) or peek(head)
        if kind == RATE_LIMITS:
            return DROP if self._rate_limits else None
        if kind is not None and kind not in _FAILED:
            return None
        payload = message.payload() or b""
        if b'"error"' not in payload and (kind is not None or b'"rate_limits"' not in payload):
            return None
        if codec.is_dense(payload, SERVER_VALUES):
            return None
        try:
            event = codec.loads_object(payload)
        except ValueError:
            return None
        said = event.get("type")
        if said == RATE_LIMITS:
            return DROP if self._rate_limits else None
        if not isinstance(said, str) or said not in _FAILED or not self._cleaned(event):
            return None
        return Instead(codec.dumps(event).encode("utf-8", "replace"))

    def farewell(self, farewell: Farewell) -> Farewell:
        """The same for what the client is told at the end, which may be the provider's reason."""
        close = farewell.close
        if close is None or not close.reason:
            return farewell
        reason = scrubbed(close.reason.decode("utf-8", "replace"), self._secret)
        return replace(farewell, close=close._replace(reason=close_reason(reason)))

    def _cleaned(self, event: dict[str, Any]) -> bool:
        """Whether there was something to clean in the errors that ``event`` tells of."""
        response = event.get("response")
        details = response.get("status_details") if isinstance(response, dict) else None
        changed = False
        for told in (event, details):
            error = told.get("error") if isinstance(told, dict) else None
            said = error.get("message") if isinstance(error, dict) else None
            if isinstance(error, dict) and isinstance(said, str):
                error["message"] = scrubbed(said, self._secret)
                changed |= error["message"] != said
        return changed
