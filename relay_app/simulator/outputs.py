"""Output items: a written message, a spoken message, a function call.

The rule: an output is played step by step, as a generator that emits events and yields the
milliseconds to wait before the next step. It can be closed after any step, and then says
exactly what was emitted until then, no more.

Times are those of recorded gpt-realtime sessions: text runs ahead of the audio, and audio
comes ten times faster than it would be heard.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from relay_app.simulator import usage, voice
from relay_app.simulator.audio_format import AudioFormat
from relay_app.simulator.ids import new_id, obfuscation
from relay_app.simulator.items import Item, Items
from relay_app.simulator.replies import Call, Speech

__all__ = ["Called", "Emit", "Output", "Spoken", "Written"]

PART_MS = 6
WORD_DELTA_MS = 8
FIRST_AUDIO_MS = 120
AUDIO_SPEEDUP = 10
WORDS_AHEAD = 3


class Emit(Protocol):
    """Sends one server event: its type, then its fields in order."""

    def __call__(self, type: str, /, **fields: Any) -> None: ...


class Output(ABC):
    """One output item of a response. ``items`` is None when it belongs to no conversation."""

    def __init__(self, emit: Emit, response_id: str, items: Items | None, wire: dict[str, Any]):
        self.item = Item({"id": new_id("item"), "status": "in_progress", **wire})
        self.is_open = False
        self.is_cut = False
        self._emit = emit
        self._response_id = response_id
        self._items = items
        self._before: str | None = None

    @property
    @abstractmethod
    def tokens(self) -> tuple[int, int]:
        """What was generated so far, as (text tokens, audio tokens)."""

    @abstractmethod
    def _body(self) -> Iterator[float]:
        """Emit what is inside the item."""

    @abstractmethod
    def _end(self) -> dict[str, Any]:
        """Emit the end of what is inside, and return the fields that the item now has."""

    def play(self) -> Iterator[float]:
        """Open the item and fill it. ``close`` is left to the caller."""
        self.is_open = True
        self._place("response.output_item.added")
        if self._items is not None:
            self._before = self._items.add(self.item)
            self._emit(
                "conversation.item.added", previous_item_id=self._before, item=self.item.wire
            )
        yield from self._body()

    def close(self, status: str) -> None:
        """End the item with ``completed`` or ``incomplete``; nothing if it never opened."""
        if not self.is_open:
            return
        self.is_open = False
        self.item.wire = {**self.item.wire, "status": status, **self._end()}
        if self._items is not None:
            self._emit("conversation.item.done", previous_item_id=self._before, item=self.item.wire)
        self._place("response.output_item.done")

    def _place(self, type: str) -> None:
        self._emit(type, response_id=self._response_id, output_index=0, item=self.item.wire)

    def _inside(self, type: str, **fields: Any) -> None:
        self._emit(
            type,
            response_id=self._response_id,
            item_id=self.item.id,
            output_index=0,
            **fields,
        )


class _Message(Output):
    """What written and spoken messages share: words, sent one at a time."""

    framing: int
    delta_event: str

    def __init__(
        self, emit: Emit, response_id: str, items: Items | None, words: Sequence[str], limit: int
    ):
        wire = {"type": "message", "role": "assistant", "content": []}
        super().__init__(emit, response_id, items, wire)
        self._words = self._fitting(words, limit)
        self._limit = limit
        self._said = ""
        self._part_is_open = False
        self.is_cut = len(self._words) < len(words)

    def _fitting(self, words: Sequence[str], limit: int) -> Sequence[str]:
        """As many of ``words`` as ``limit`` tokens pay for."""
        size = -1
        for count, word in enumerate(words):
            size += 1 + len(word.encode("utf-8", "surrogatepass"))
            if self.framing + -(-size // 4) + self._audio_tokens(count + 1) > limit:
                return words[:count]
        return words

    def _audio_tokens(self, words: int) -> int:
        return 0

    @property
    def tokens(self) -> tuple[int, int]:
        if not self._said:
            return 0, 0
        return min(self._limit, usage.text_tokens(self._said) + self.framing), 0

    def _part(self, type: str, part: dict[str, Any]) -> None:
        self._part_is_open = True
        self._inside(type, content_index=0, part=part)

    def _say(self, start: int, end: int) -> None:
        for index in range(start, min(end, len(self._words))):
            delta = f" {self._words[index]}" if index else self._words[index]
            self._said += delta
            self._inside(
                self.delta_event,
                content_index=0,
                delta=delta,
                obfuscation=obfuscation(delta),
            )


class Written(_Message):
    """A message of text."""

    framing = usage.TEXT_REPLY_TOKENS
    delta_event = "response.output_text.delta"

    def _body(self) -> Iterator[float]:
        yield PART_MS
        self._part("response.content_part.added", {"type": "text", "text": ""})
        for index in range(len(self._words)):
            yield WORD_DELTA_MS
            self._say(index, index + 1)

    def _end(self) -> dict[str, Any]:
        if not self._part_is_open:
            return {}
        self._inside("response.output_text.done", content_index=0, text=self._said)
        self._part("response.content_part.done", {"type": "text", "text": self._said})
        return {"content": [{"type": "output_text", "text": self._said}]}


class Spoken(_Message):
    """A message of audio with its transcript."""

    framing = usage.AUDIO_REPLY_TOKENS
    delta_event = "response.output_audio_transcript.delta"

    def __init__(
        self,
        emit: Emit,
        response_id: str,
        items: Items | None,
        speech: Speech,
        limit: int,
        audio_format: AudioFormat,
    ):
        self._word_ms = speech.audio_ms / max(1, len(speech.words))
        super().__init__(emit, response_id, items, speech.words, limit)
        self._audio_ms = int(self._word_ms * len(self._words)) if self.is_cut else speech.audio_ms
        self._format = audio_format
        self._spoken_ms = 0

    def _audio_tokens(self, words: int) -> int:
        return usage.assistant_audio_tokens(math.ceil(words * self._word_ms))

    @property
    def tokens(self) -> tuple[int, int]:
        return super().tokens[0], usage.assistant_audio_tokens(self._spoken_ms)

    def _body(self) -> Iterator[float]:
        yield PART_MS
        self._part("response.content_part.added", {"type": "audio", "transcript": ""})
        yield PART_MS
        said = WORDS_AHEAD
        self._say(0, said)
        yield FIRST_AUDIO_MS
        while self._spoken_ms < self._audio_ms:
            length_ms = min(voice.CHUNK_MS, self._audio_ms - self._spoken_ms)
            self._inside(
                "response.output_audio.delta",
                content_index=0,
                delta=voice.chunk(self._format, self._spoken_ms, length_ms),
            )
            self._spoken_ms += length_ms
            self.item.spoken = (self._format, self._spoken_ms)
            due = WORDS_AHEAD + math.ceil(self._spoken_ms / self._word_ms)
            self._say(said, due)
            said = max(said, due)
            yield length_ms / AUDIO_SPEEDUP

    def _end(self) -> dict[str, Any]:
        if not self._part_is_open:
            return {}
        self._inside("response.output_audio.done", content_index=0)
        self._inside(
            "response.output_audio_transcript.done", content_index=0, transcript=self._said
        )
        self._part("response.content_part.done", {"type": "audio", "transcript": self._said})
        return {"content": [{"type": "output_audio", "transcript": self._said}]}


class Called(Output):
    """A function call."""

    def __init__(self, emit: Emit, response_id: str, items: Items | None, call: Call, limit: int):
        self._call_id = new_id("call")
        wire = {"type": "function_call", "name": call.name}
        super().__init__(
            emit, response_id, items, {**wire, "call_id": self._call_id, "arguments": ""}
        )
        self._name = call.name
        self._limit = limit
        self._pieces = re.findall(r"\W+|\w+", call.arguments)
        self._sent = ""
        framing = usage.FUNCTION_CALL_TOKENS + usage.text_tokens(call.name)
        while self._pieces and framing + usage.text_tokens("".join(self._pieces)) > limit:
            self._pieces.pop()
            self.is_cut = True

    @property
    def tokens(self) -> tuple[int, int]:
        if not self._sent:
            return 0, 0
        tokens = usage.text_tokens(self._name) + usage.text_tokens(self._sent)
        return min(self._limit, tokens + usage.FUNCTION_CALL_TOKENS), 0

    def _body(self) -> Iterator[float]:
        for piece in self._pieces:
            yield WORD_DELTA_MS
            self._sent += piece
            self._inside(
                "response.function_call_arguments.delta",
                call_id=self._call_id,
                delta=piece,
                obfuscation=obfuscation(piece),
            )

    def _end(self) -> dict[str, Any]:
        self._inside(
            "response.function_call_arguments.done",
            call_id=self._call_id,
            name=self._name,
            arguments=self._sent,
        )
        return {"arguments": self._sent}
