"""A session without socket or clock, and sounds to say in it."""

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter

from relay_app import codec
from relay_app.simulator import voice
from relay_app.simulator.audio_format import PCM16, AudioFormat
from relay_app.simulator.conversation import Conversation
from relay_app.simulator.usage import Billed

_SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)

NOW = 1_700_000_000


def parse(event: dict[str, Any] | str) -> Any:
    """The event as the openai client types it; fails if it fits none of its types."""
    value = codec.loads(event) if isinstance(event, str) else event
    parsed = _SERVER_EVENT.validate_python(value)
    assert parsed.type == value["type"]
    return parsed


def types(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def speech(milliseconds: int, audio_format: AudioFormat = PCM16) -> bytes:
    return voice.speech(audio_format, milliseconds)


def silence(milliseconds: int, audio_format: AudioFormat = PCM16) -> bytes:
    byte = {"audio/pcm": b"\0", "audio/pcmu": b"\xff", "audio/pcma": b"\xd5"}[audio_format.type]
    return byte * (milliseconds * audio_format.bytes_per_ms)


def encoded(sound: bytes) -> str:
    return b64encode(sound).decode()


class Talk:
    """A client of a conversation. Time is a list of scripts that the test runs as it likes."""

    def __init__(self, kind: str = "realtime", *, checked: bool = True) -> None:
        self._checked = checked
        self.events: list[dict[str, Any]] = []
        self.scripts: list[Iterator[float]] = []
        self.billed: list[Billed] = []
        self.conversation = Conversation(
            "gpt-realtime" if kind == "realtime" else "",
            kind=kind,
            send=self._hear,
            start=self.scripts.append,
            bill=self.billed.append,
            now=NOW,
        )
        self.conversation.open()

    def _hear(self, event: dict[str, Any]) -> None:
        assert list(event)[:2] == ["type", "event_id"]
        if self._checked:
            parse(event)
        self.events.append(codec.loads(codec.dumps(event)))

    def say(self, type: str, **fields: Any) -> list[dict[str, Any]]:
        """Send an event, and return what it was answered at once."""
        return self.send(codec.dumps({"type": type, **fields}))

    def send(self, message: str | bytes) -> list[dict[str, Any]]:
        before = len(self.events)
        self.conversation.receive(message)
        return self.events[before:]

    def write(self, text: str) -> None:
        content = [{"type": "input_text", "text": text}]
        self.say(
            "conversation.item.create",
            item={"type": "message", "role": "user", "content": content},
        )

    def append(self, sound: bytes, piece_ms: int = 100, rate: int = 48) -> list[dict[str, Any]]:
        size = piece_ms * rate
        before = len(self.events)
        for start in range(0, len(sound), size):
            self.say("input_audio_buffer.append", audio=encoded(sound[start : start + size]))
        return self.events[before:]

    def update(self, **session: Any) -> list[dict[str, Any]]:
        return self.say("session.update", session={"type": "realtime", **session})

    def run(self) -> list[dict[str, Any]]:
        """Let all scripts come to their end, in turns, and return what they said."""
        before = len(self.events)
        while self.scripts:
            script = self.scripts.pop(0)
            if next(script, None) is not None:
                self.scripts.append(script)
        return self.events[before:]

    def run_until(self, type: str, times: int = 1) -> None:
        """Step until an event of this type has come ``times`` times from now."""
        wanted = len(self.named(type)) + times
        while len(self.named(type)) < wanted:
            script = self.scripts.pop(0)
            if next(script, None) is not None:
                self.scripts.append(script)

    def named(self, type: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type]

    def only(self, type: str) -> dict[str, Any]:
        (event,) = self.named(type)
        return event

    def error(self) -> dict[str, Any]:
        assert self.events[-1]["type"] == "error", self.events[-1]
        return self.events[-1]["error"]  # type: ignore[no-any-return]
