"""A response: from ``response.created`` to ``response.done`` and what it cost.

Laws:
1. ``response.done`` comes exactly once for each ``response.created``, after it.
2. Its usage bills the context it was created with, and the output that was really emitted.
3. A response that was cut by ``max_output_tokens`` is ``incomplete`` and bills no more tokens
   than that.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

from relay_app.simulator import usage
from relay_app.simulator.audio_format import format_named
from relay_app.simulator.configuration import MAX_OUTPUT_TOKENS
from relay_app.simulator.ids import new_id
from relay_app.simulator.items import Items
from relay_app.simulator.outputs import Called, Emit, Output, Spoken, Written
from relay_app.simulator.replies import Call, Speech

__all__ = ["Response"]

FIRST_ITEM_MS = 300
LAST_STEP_MS = 5
RATE_LIMITS_MS = 30
RATE_LIMIT_TOKENS = 15_000_000


class Response:
    """One response, created. ``settings`` are those in force for it, see ``configuration``.

    ``finished`` is called with the response right after its ``response.done``.
    """

    def __init__(
        self,
        emit: Emit,
        settings: dict[str, Any],
        planned: Speech | Call,
        *,
        context: Sequence[usage.Segment],
        before: Sequence[usage.Segment],
        items: Items | None,
        conversation_id: str,
        finished: Callable[["Response"], None],
    ) -> None:
        self.id = new_id("resp")
        self.status = "in_progress"
        self.context = list(context)
        self._emit = emit
        self._settings = settings
        self._before = before
        self._spent: dict[str, Any] | None = None
        self._conversation_id = conversation_id if items is not None else None
        self._finished = finished
        self._output = self._make_output(planned, items)
        self.script = self._play()
        emit("response.created", response=self._view(None, None))

    def _make_output(self, planned: Speech | Call, items: Items | None) -> Output:
        asked = self._settings["max_output_tokens"]
        limit = MAX_OUTPUT_TOKENS if asked == "inf" else int(asked)
        if isinstance(planned, Call):
            return Called(self._emit, self.id, items, planned, limit)
        if self._settings["output_modalities"] == ["text"]:
            return Written(self._emit, self.id, items, planned.words, limit)
        audio_format = format_named(self._settings["audio"]["output"]["format"])
        return Spoken(self._emit, self.id, items, planned, limit, audio_format)

    @property
    def usage(self) -> dict[str, Any]:
        """What it has cost so far, or in all once it has ended."""
        if self._spent is not None:
            return self._spent
        text, audio = self._output.tokens
        return usage.response_usage(
            self.context, self._before, output_text=text, output_audio=audio
        )

    @property
    def spoke(self) -> bool:
        """Whether any assistant audio was emitted."""
        return self._output.item.spoken is not None

    def _play(self) -> Generator[float, None, None]:
        yield FIRST_ITEM_MS
        yield from self._output.play()
        yield LAST_STEP_MS
        if self._output.is_cut:
            self._finish("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
        else:
            self._finish("completed", None)
        yield RATE_LIMITS_MS
        limits = {"name": "tokens", "limit": RATE_LIMIT_TOKENS}
        remaining = RATE_LIMIT_TOKENS - self.usage["total_tokens"]
        self._emit(
            "rate_limits.updated",
            rate_limits=[{**limits, "remaining": remaining, "reset_seconds": 0.002}],
        )

    def cancel(self, reason: str) -> None:
        """End it now: ``client_cancelled`` or ``turn_detected``. Its script is over."""
        self.script.close()
        self._finish("cancelled", {"type": "cancelled", "reason": reason})

    def _finish(self, status: str, details: dict[str, Any] | None) -> None:
        self.status = status
        self._output.close("completed" if status == "completed" else "incomplete")
        self.context_after = [*self.context]
        if self._output.item.wire["status"] != "in_progress":
            self.context_after.append(self._output.item.segment())
        self._spent = self.usage
        self._emit("response.done", response=self._view(details, self._spent))
        self._finished(self)

    def _view(self, details: Any, spent: dict[str, Any] | None) -> dict[str, Any]:
        item = self._output.item.wire
        audio = self._settings["audio"]["output"]
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self.status,
            "status_details": details,
            "output": [] if item["status"] == "in_progress" else [item],
            "conversation_id": self._conversation_id,
            "output_modalities": self._settings["output_modalities"],
            "max_output_tokens": self._settings["max_output_tokens"],
            "audio": {"output": {"format": audio["format"], "voice": audio["voice"]}},
            "usage": spent,
            "metadata": self._settings.get("metadata"),
        }
