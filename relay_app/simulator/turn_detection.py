"""Server VAD: when somebody starts and stops speaking, judged by loudness alone.

Laws:
1. Speech starts when three windows of 20 ms in a row are loud, and the start is dated
   ``prefix_padding_ms`` before the first of them.
2. Speech stops when ``silence_duration_ms`` of quiet have passed, and the stop is dated at the
   end of that silence, as the provider does.
3. ``semantic_vad`` hears the same way; its eagerness only chooses the silence.
"""

from typing import Any, Literal, NamedTuple

from relay_app.simulator.audio_format import WINDOW_MS

__all__ = ["Turn", "TurnDetector"]

ONSET_MS = 3 * WINDOW_MS
LOUDNESS_OF_THRESHOLD = 0.03
"""Threshold 0.5, the default, is then a mean amplitude of 0.015 (about -36 dBFS)."""

SEMANTIC_SILENCE_MS = {"low": 1000, "medium": 500, "auto": 500, "high": 250}


class Turn(NamedTuple):
    """Somebody started or stopped; a stop repeats when the turn had started."""

    kind: Literal["started", "stopped"]
    start_ms: int
    end_ms: int


class TurnDetector:
    """Listens to one window after the other. ``settings`` is the session's turn_detection."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.prefix_ms: int = settings.get("prefix_padding_ms", 300)
        self._silence_ms: int = settings.get(
            "silence_duration_ms", SEMANTIC_SILENCE_MS[settings.get("eagerness", "auto")]
        )
        self._loud = settings.get("threshold", 0.5) * LOUDNESS_OF_THRESHOLD
        self.forget()

    def forget(self) -> None:
        """Start over: nobody is speaking."""
        self.started_ms: int | None = None
        self._run_ms = 0

    def hear(self, end_ms: int, loudness: float) -> Turn | None:
        """What the window that ends at ``end_ms`` changes, if anything."""
        speaking = self.started_ms is not None
        if (loudness > self._loud) == speaking:
            self._run_ms = 0
            return None
        self._run_ms += WINDOW_MS
        if self.started_ms is None:
            if self._run_ms < ONSET_MS:
                return None
            self._run_ms = 0
            self.started_ms = max(0, end_ms - ONSET_MS - self.prefix_ms)
            return Turn("started", self.started_ms, end_ms)
        if self._run_ms < self._silence_ms:
            return None
        turn = Turn("stopped", self.started_ms, end_ms)
        self.forget()
        return turn
