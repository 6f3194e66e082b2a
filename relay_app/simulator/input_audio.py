"""What the client says aloud: appended, listened to, committed as a user item, transcribed.

Laws:
1. With turn detection each turn becomes one item, cut out of the buffer from its padded start
   to the end of its silence; what was silence is thrown away and never billed.
2. Without it nothing happens until the client commits, and then all of the buffer is the item.
3. Each committed item is transcribed by the model in force at its commit, if there is one.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from relay_app.simulator.audio_buffer import AudioBuffer
from relay_app.simulator.audio_format import AudioFormat, format_named
from relay_app.simulator.configuration import Configuration
from relay_app.simulator.ids import new_id
from relay_app.simulator.items import Item, Items, decode_audio
from relay_app.simulator.outputs import Emit
from relay_app.simulator.refusals import Refusal
from relay_app.simulator.transcription import Transcription
from relay_app.simulator.turn_detection import Turn, TurnDetector

__all__ = ["Hearer", "InputAudio"]

MIN_COMMIT_MS = 100
KEPT_MS = 100
"""Silence kept beyond the prefix padding: the windows that turn out to be an onset."""


class Hearer(Protocol):
    """Who wants to know what was heard."""

    def speech_started(self) -> None:
        """The user has started to speak, and ``interrupt_response`` is set."""

    def turn_ended(self) -> None:
        """The user's turn is an item now, and ``create_response`` is set."""

    def transcribed(self, job: Transcription) -> None:
        """A transcription is complete."""


class InputAudio:
    """The input audio buffer of one session, and who listens to it."""

    def __init__(
        self,
        emit: Emit,
        configuration: Configuration,
        items: Items,
        start: Callable[[Iterator[float]], object],
        hearer: Hearer,
    ) -> None:
        self.transcriptions: dict[str, Transcription] = {}
        self._emit = emit
        self._configuration = configuration
        self._items = items
        self._start = start
        self._hearer = hearer
        self._buffer = AudioBuffer(format_named(configuration.heard["format"]))
        self._detector = self._make_detector()
        self._turn_item_id = new_id("item")

    @property
    def format(self) -> AudioFormat:
        """The format that the client's audio is in."""
        return self._buffer.format

    def _make_detector(self) -> TurnDetector | None:
        settings = self._configuration.heard["turn_detection"]
        return TurnDetector(settings) if settings else None

    def reconfigure(self, before: dict[str, Any]) -> None:
        """The session was updated; ``before`` is what its ``audio.input`` was.

        A new format empties the buffer, and a new turn detection forgets a turn half heard.
        """
        heard = self._configuration.heard
        if heard["format"] != before["format"]:
            self._buffer = AudioBuffer(format_named(heard["format"]), self._buffer.end_ms)
            self._detector = self._make_detector()
        if heard["turn_detection"] != before["turn_detection"]:
            self._detector = self._make_detector()

    def append(self, audio: Any) -> None:
        """Add base64 audio, and take whatever turns it completes. Raises Refusal."""
        self._buffer.append(decode_audio(audio, "audio"))
        if self._detector is None:
            return
        for end_ms, loudness in self._buffer.windows():
            turn = self._detector.hear(end_ms, loudness)
            if turn is not None:
                self._take_turn(turn)
        if self._detector.started_ms is None:
            self._buffer.keep(self._detector.prefix_ms + KEPT_MS)

    def clear(self) -> None:
        """Throw away what was not committed."""
        self._buffer.clear()
        if self._detector is not None:
            self._detector.forget()
        self._emit("input_audio_buffer.cleared")

    def commit(self) -> None:
        """Make an item of all that is in the buffer. Raises Refusal under 100 ms."""
        length_ms = self._buffer.milliseconds
        if length_ms < MIN_COMMIT_MS:
            raise Refusal(
                "Error committing input audio buffer: buffer too small. Expected at least "
                f"{MIN_COMMIT_MS}ms of audio, but buffer only has {length_ms:.2f}ms of audio.",
                code="input_audio_buffer_commit_empty",
            )
        speaking = self._detector is not None and self._detector.started_ms is not None
        self._commit(self._turn_item_id if speaking else new_id("item"))
        if self._detector is not None:
            self._detector.forget()

    def _take_turn(self, turn: Turn) -> None:
        settings = self._configuration.heard["turn_detection"]
        if turn.kind == "started":
            self._turn_item_id = new_id("item")
            self._emit(
                "input_audio_buffer.speech_started",
                audio_start_ms=turn.start_ms,
                item_id=self._turn_item_id,
            )
            if settings["interrupt_response"]:
                self._hearer.speech_started()
            return
        self._emit(
            "input_audio_buffer.speech_stopped",
            audio_end_ms=turn.end_ms,
            item_id=self._turn_item_id,
        )
        self._commit(self._turn_item_id, turn.start_ms, turn.end_ms)
        if settings["create_response"]:
            self._hearer.turn_ended()

    def _commit(self, item_id: str, start_ms: int | None = None, end_ms: int | None = None) -> None:
        wire = {"id": item_id, "type": "message", "status": "completed", "role": "user"}
        item = Item(
            {**wire, "content": [{"type": "input_audio", "transcript": None}]},
            sound=self._buffer.take(start_ms, end_ms),
        )
        self._emit(
            "input_audio_buffer.committed", previous_item_id=self._items.last_id, item_id=item_id
        )
        before = self._items.add(item)
        self._emit("conversation.item.added", previous_item_id=before, item=item.wire)
        self._emit("conversation.item.done", previous_item_id=before, item=item.wire)
        self._transcribe(item)

    def _transcribe(self, item: Item) -> None:
        asked = self._configuration.heard["transcription"]
        if not asked:
            return
        include = self._configuration.view["include"] or []
        job = Transcription(
            self._emit,
            item,
            asked["model"],
            logprobs="item.input_audio_transcription.logprobs" in include,
            finished=self._transcribed,
        )
        self.transcriptions[item.id] = job
        self._start(job.script)

    def _transcribed(self, job: Transcription) -> None:
        del self.transcriptions[job.item.id]
        self._hearer.transcribed(job)
