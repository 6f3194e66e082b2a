"""Input transcription: what a separate model claims to have heard, and bills for.

The rule: it hears how long somebody spoke, never what. Sound of n words' length becomes the
first n words of a fixed text; silence becomes an empty transcript.
"""

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

from relay_app.simulator import usage
from relay_app.simulator.audio_buffer import heard_ms
from relay_app.simulator.ids import obfuscation
from relay_app.simulator.items import Item
from relay_app.simulator.outputs import Emit
from relay_app.simulator.replies import WORD_MS

__all__ = ["Transcription"]

FIRST_DELTA_MS = 30
DELTA_MS = 20
COMPLETED_MS = 400
HEARD = (
    "Hello there, I would like to know when the next train leaves for the coast, "
    "and whether it will rain there tomorrow."
)


class Transcription:
    """The transcription of one item that was just committed."""

    def __init__(
        self,
        emit: Emit,
        item: Item,
        model: str,
        *,
        logprobs: bool,
        finished: Callable[["Transcription"], None],
    ) -> None:
        assert item.sound is not None
        self.item = item
        self.model = model
        heard = heard_ms(item.sound)
        words = -(-heard // WORD_MS)
        self._words = list(islice(cycle(HEARD.split()), words))
        self._emit = emit
        self._logprobs = logprobs
        self._finished = finished
        length_ms = item.sound.milliseconds
        if model.startswith("gpt-4o"):
            self.usage = usage.transcription_usage(length_ms, self.transcript)
        else:
            self.usage = usage.duration_usage(length_ms if heard else 0)
        self.script = self._play()

    @property
    def transcript(self) -> str:
        """All of it."""
        return " ".join(self._words)

    def _play(self) -> Iterator[float]:
        yield FIRST_DELTA_MS
        for index, word in enumerate(self._words):
            delta = f" {word}" if index else word
            self._event(
                "delta",
                delta=delta,
                **self._with_logprobs([delta]),
                obfuscation=obfuscation(delta),
            )
            yield DELTA_MS
        yield COMPLETED_MS
        content = [{"type": "input_audio", "transcript": self.transcript}]
        self.item.wire = {**self.item.wire, "content": content}
        self._event(
            "completed",
            transcript=self.transcript,
            **self._with_logprobs(self._words),
            usage=self.usage,
        )
        self._finished(self)

    def _event(self, kind: str, **fields: Any) -> None:
        self._emit(
            f"conversation.item.input_audio_transcription.{kind}",
            item_id=self.item.id,
            content_index=0,
            **fields,
        )

    def _with_logprobs(self, tokens: list[str]) -> dict[str, Any]:
        if not self._logprobs:
            return {}
        return {
            "logprobs": [
                {"token": token, "bytes": list(token.encode()), "logprob": -0.02}
                for token in tokens
            ]
        }
