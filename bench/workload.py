"""A voice turn as bytes: the events of both directions, encoded once and patched per turn.

The rule: nothing is encoded while the clock runs. What differs from turn to turn (the ids of the
response and its items, by which usage is told apart) has a fixed width and is written over the
bytes that are there.

Events, sizes and times are those of recorded sessions with gpt-realtime
(``tests/transcripts/02-audio-turn-ga.jsonl``).
"""

import json
from typing import Any

__all__ = ["MODEL", "Turn", "event", "session_created", "session_update", "session_updated"]

MODEL = "gpt-realtime"

APPEND_BASE64_PER_SECOND = 64_000
"""PCM16 mono at 24 kHz: 48,000 bytes, of which base64 makes 64,000 characters."""

_ID_DIGITS = 20
_RESPONSE = "resp_" + "R" * _ID_DIGITS
_ITEM = "item_" + "I" * _ID_DIGITS
_EVENT_ID = "event_D25ePEeIjBIsgiDDMi6A0"
_OBFUSCATION = "3ntJe9OFqrQmapB"

Sendable = bytes | bytearray
At = float


def event(kind: str, **fields: Any) -> bytes:
    """An event as a provider writes it."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode()


def _server_event(kind: str, **fields: Any) -> bytes:
    return event(kind, event_id=_EVENT_ID, **fields)


def _session(identity: str) -> dict[str, Any]:
    voice = {"format": {"type": "audio/pcm", "rate": 24000}}
    return {
        "type": "realtime",
        "object": "realtime.session",
        "id": identity,
        "model": MODEL,
        "output_modalities": ["audio"],
        "instructions": "You are a helpful voice assistant. " * 20,
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": 1756324625,
        "audio": {
            "input": {**voice, "transcription": None, "noise_reduction": None,
                      "turn_detection": None},
            "output": {**voice, "voice": "marin", "speed": 1.0},
        },
        "include": None,
    }  # fmt: skip


def session_created(number: int) -> bytes:
    """The first event of a session; clients learn their upstream's number from its id."""
    return _server_event("session.created", session=_session(f"sess_{number:020d}"))


def session_updated(number: int) -> bytes:
    """The answer to a session.update."""
    return _server_event("session.updated", session=_session(f"sess_{number:020d}"))


def session_update() -> bytes:
    """What a client sends first."""
    return _UPDATE


_UPDATE = event(
    "session.update",
    session={"type": "realtime", "instructions": "You are a helpful voice assistant. " * 20},
)


class _Template:
    """One event, with the places of its ids."""

    def __init__(self, payload: bytes, at: At) -> None:
        self.at = at
        self.payload = bytearray(payload)
        self.responses = _places(payload, _RESPONSE)
        self.items = _places(payload, _ITEM)
        self.audio = b'"response.output_audio.delta"' in payload[:60]
        self.done = b'"response.done"' in payload[:60]


def _places(payload: bytes, placeholder: str) -> list[slice]:
    digits = placeholder[-_ID_DIGITS:].encode()
    found = []
    position = payload.find(digits)
    while position >= 0:
        found.append(slice(position, position + _ID_DIGITS))
        position = payload.find(digits, position + _ID_DIGITS)
    return found


class Turn:
    """A voice turn: ``up`` goes to the provider, ``down`` comes back, ``at`` seconds later.

    ``append_seconds`` is how much audio one append carries, ``delta_seconds`` one audio delta;
    the audio as a whole is 2 seconds up and 3 seconds down whatever they are, unless
    ``deltas`` says otherwise.
    """

    def __init__(
        self,
        *,
        append_seconds: float = 0.1,
        delta_seconds: float = 0.25,
        deltas: int = 12,
        transcript_deltas: int = 20,
    ) -> None:
        self.append_seconds = append_seconds
        self.append = event("input_audio_buffer.append", audio=_audio(append_seconds))
        self.appends = round(2.0 / append_seconds)
        self.create = event("response.create")
        self.down = _reply(delta_seconds, deltas, transcript_deltas)
        self.up_messages = self.appends + 1
        self.down_messages = len(self.down)
        self.messages = self.up_messages + self.down_messages
        self.bytes = self.appends * len(self.append) + len(self.create)
        self.bytes += sum(len(template.payload) for template in self.down)

    def payload(self, index: int, session: int, turn: int) -> bytearray:
        """Event ``index`` of the reply with the ids of this turn; valid until the next call."""
        template = self.down[index]
        digits = b"%08d%012d" % (session, turn)
        payload = template.payload
        for place in template.responses:
            payload[place] = digits
        for place in template.items:
            payload[place] = digits
        return payload


def _audio(seconds: float) -> str:
    size = round(APPEND_BASE64_PER_SECOND * seconds)
    noise = "AADMAZcDXwUiB98IlQpDDOcNgA8NEYwS+xNaFacW4RcHGRgaExv2G8Mcdx0THpYe/x5PH4UfoR+jH4of"
    return (noise * (size // len(noise) + 1))[:size]


def _reply(delta_seconds: float, deltas: int, transcript_deltas: int) -> list[_Template]:
    where: dict[str, Any] = {
        "response_id": _RESPONSE,
        "item_id": _ITEM,
        "output_index": 0,
        "content_index": 0,
    }
    words = [" Hello", ",", " Marcelo", "!", " Nice", " to", " meet", " you", "."]
    texts = [words[n % len(words)] for n in range(transcript_deltas)]
    transcript = "".join(texts)

    def item(status: str, content: list[Any]) -> dict[str, Any]:
        return {"id": _ITEM, "type": "message", "status": status, "role": "assistant",
                "phase": "final_answer", "content": content}  # fmt: skip

    said = {"type": "output_audio", "transcript": transcript}
    response: dict[str, Any] = {
        "object": "realtime.response",
        "id": _RESPONSE,
        "status": "in_progress",
        "status_details": None,
        "output": [],
        "conversation_id": "conv_C9k0nT0oQJyJQJyJQJyJQ",
        "output_modalities": ["audio"],
        "max_output_tokens": "inf",
        "audio": {
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
        },
        "usage": None,
        "metadata": None,
    }
    usage = {
        "total_tokens": 253,
        "input_tokens": 132,
        "output_tokens": 121,
        "input_token_details": {
            "text_tokens": 112,
            "audio_tokens": 20,
            "image_tokens": 0,
            "cached_tokens": 64,
            "cached_tokens_details": {"text_tokens": 64, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": 26, "audio_tokens": 95},
    }

    def delta_text(n: int) -> bytes:
        text = {"delta": texts[n], "obfuscation": _OBFUSCATION[len(texts[n]) :]}
        return _server_event("response.output_audio_transcript.delta", **where, **text)

    sound = _server_event("response.output_audio.delta", **where, delta=_audio(delta_seconds))
    part = {**where, "part": {"type": "audio", "transcript": ""}}
    done = {**response, "status": "completed", "output": [item("completed", [said])],
            "usage": usage}  # fmt: skip
    previous = {"previous_item_id": "item_cK9wZtvdphPfR7fgg1yWq"}
    out = {"response_id": _RESPONSE, "output_index": 0}

    first = [
        (0.000, _server_event("response.created", response=response)),
        (0.300, _server_event("response.output_item.added", **out, item=item("in_progress", []))),
        (0.300, _server_event("conversation.item.added", **previous, item=item("in_progress", []))),
        (0.300, _server_event("response.content_part.added", **part)),
    ]
    # The text runs ahead of the audio.
    ahead = min(3, transcript_deltas)
    middle = [(0.306 + 0.003 * n, delta_text(n)) for n in range(ahead)]
    middle += [(0.430 + 0.240 * n / deltas, sound) for n in range(deltas)]
    rest = transcript_deltas - ahead
    middle += [(0.432 + 0.240 * n / max(rest, 1), delta_text(ahead + n)) for n in range(rest)]
    middle.sort(key=lambda timed: timed[0])
    part["part"] = said
    last = [
        _server_event("response.output_audio.done", **where),
        _server_event("response.output_audio_transcript.done", **where, transcript=transcript),
        _server_event("response.content_part.done", **part),
        _server_event("conversation.item.done", **previous, item=item("completed", [said])),
        _server_event("response.output_item.done", **out, item=item("completed", [said])),
        _server_event("response.done", response=done),
    ]
    timed = [*first, *middle, *((0.690, payload) for payload in last)]
    return [_Template(payload, at) for at, payload in timed]
