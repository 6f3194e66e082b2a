"""Messages made by hand, and the recorded transcripts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay_app.meter import Meter

TRANSCRIPTS = sorted((Path(__file__).parents[1] / "transcripts").glob("*.jsonl"))


@dataclass
class Whole:
    """A message all of which is at hand."""

    data: bytes
    text: bool = True

    @property
    def length(self) -> int:
        return len(self.data)

    def head(self, n: int, /) -> bytes:
        return self.data[:n]

    def tail(self, n: int, /) -> bytes:
        return self.data[-n:]

    def payload(self) -> bytes | None:
        return self.data


class TooLarge(Whole):
    """A message that was not kept."""

    def payload(self) -> bytes | None:
        return None


class Unparsed(Whole):
    """A message that may be looked at from both ends, but not parsed."""

    def head(self, n: int, /) -> bytes:
        assert n <= 512
        return self.data[:n]

    def tail(self, n: int, /) -> bytes:
        assert n <= 256
        return self.data[-n:]

    def payload(self) -> bytes | None:
        raise AssertionError("the payload was read")


def event(values: Any) -> Whole:
    return Whole(json.dumps(values).encode())


class Clock:
    """Epoch seconds that stand still until told otherwise."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def new_meter(**changes: Any) -> Meter:
    arguments = {
        "session_id": "session-1",
        "key": "alice",
        "upstream": "openai",
        "model": "voice",
        "upstream_model": "gpt-realtime",
        "clock": Clock(),
    }
    return Meter(**(arguments | changes))


def created(response_id: Any = "resp_1", **frame: Any) -> Whole:
    response = {"id": response_id, "status": "in_progress", "output": [], "usage": None}
    return event({"type": "response.created", "response": response} | frame)


def done(
    response_id: Any = "resp_1",
    usage: Any = None,
    *,
    status: Any = "completed",
    output: Any = ({"type": "message"},),
    frame: dict[str, Any] | None = None,
    **response: Any,
) -> Whole:
    values = {"id": response_id, "status": status, "output": output, "usage": usage}
    return event({"type": "response.done", "response": values | response} | (frame or {}))


def transcribed(item_id: Any = "item_1", usage: Any = None, **frame: Any) -> Whole:
    values = {
        "type": "conversation.item.input_audio_transcription.completed",
        "item_id": item_id,
        "transcript": "Hello.",
        "usage": usage,
    }
    return event(values | frame)


def session_event(session: Any, kind: str = "session.updated") -> Whole:
    return event({"type": kind, "session": session})


def text_usage(given: int, made: int) -> dict[str, Any]:
    return {
        "total_tokens": given + made,
        "input_tokens": given,
        "output_tokens": made,
        "input_token_details": {"text_tokens": given, "audio_tokens": 0},
        "output_token_details": {"text_tokens": made, "audio_tokens": 0},
    }


def frames(path: Path) -> list[tuple[str, Whole]]:
    """The (direction, message) of each line of a transcript that is one."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(line["dir"], event(line["frame"])) for line in lines if "frame" in line]
