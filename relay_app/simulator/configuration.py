"""The session object: what is in force, and how ``session.update`` changes it.

Laws:
1. An absent field stays; null clears it to the value in ``session.created``.
2. Nested objects merge key by key, except those that name a kind of thing (an audio format,
   a transcription): these are replaced whole.
3. An update is applied completely or, on the first fault in it, not at all.
"""

from typing import Any

from relay_app.simulator.refusals import Refusal, invalid, missing
from relay_app.simulator.rules import (
    Rule,
    anything,
    between,
    cleared_to,
    fixed,
    merged,
    of_type,
    one_of,
)

__all__ = ["Configuration", "response_overrides"]

SESSION_SECONDS = 3600
MAX_OUTPUT_TOKENS = 4096

INSTRUCTIONS = (
    "Your knowledge cutoff is 2023-10. You are a helpful, witty, and friendly AI. Act like a "
    "human, but remember that you aren't a human and that you can't do human things in the real "
    "world. Your voice and personality should be warm and engaging, with a lively and playful "
    "tone. If interacting in a non-English language, start by using the standard accent or "
    "dialect familiar to the user. Talk quickly."
)

SERVER_VAD = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}
SEMANTIC_VAD = {
    "type": "semantic_vad",
    "eagerness": "auto",
    "create_response": True,
    "interrupt_response": True,
}
PCM = {"type": "audio/pcm", "rate": 24000}


def _tokens(current: Any, asked: Any, param: str) -> Any:
    return asked if asked == "inf" else between(1, MAX_OUTPUT_TOKENS)(current, asked, param)


def _tools(current: Any, asked: Any, param: str) -> Any:
    if not isinstance(asked, list):
        raise invalid(param, asked, "an array")
    for index, tool in enumerate(asked):
        place = f"{param}[{index}]"
        if not isinstance(tool, dict):
            raise invalid(place, tool, "an object")
        if tool.get("type") not in ("function", "mcp"):
            raise invalid(f"{place}.type", tool.get("type"), "'function' or 'mcp'")
        if tool["type"] == "function" and not isinstance(tool.get("name"), str):
            raise missing(f"{place}.name")
    return asked


def _format(current: Any, asked: Any, param: str) -> Any:
    kind = asked.get("type") if isinstance(asked, dict) else asked
    one_of("audio/pcm", "audio/pcmu", "audio/pcma")(None, kind, f"{param}.type")
    if kind != "audio/pcm":
        return {"type": kind}
    one_of(24000)(None, asked.get("rate", 24000), f"{param}.rate")
    return dict(PCM)


def _transcription(current: Any, asked: Any, param: str) -> Any:
    if not isinstance(asked, dict):
        raise invalid(param, asked, "an object")
    if not isinstance(asked.get("model"), str):
        raise missing(f"{param}.model")
    return {"model": asked["model"], "language": None, "prompt": None, **asked}


_VAD_SHARED: dict[str, Rule] = {
    "type": anything,
    "create_response": of_type("a boolean", bool),
    "interrupt_response": of_type("a boolean", bool),
}
_VAD_RULES = {
    "server_vad": merged(
        {
            **_VAD_SHARED,
            "threshold": between(0, 1),
            "prefix_padding_ms": between(0, 5000),
            "silence_duration_ms": between(20, 10000),
            "idle_timeout_ms": cleared_to(None, between(5000, 30000)),
        }
    ),
    "semantic_vad": merged({**_VAD_SHARED, "eagerness": one_of("low", "medium", "high", "auto")}),
}


def _turn_detection(current: Any, asked: Any, param: str) -> Any:
    if not isinstance(asked, dict):
        raise invalid(param, asked, "an object")
    before = (current or {}).get("type")
    kind = asked.get("type", before or "server_vad")
    one_of("server_vad", "semantic_vad")(None, kind, f"{param}.type")
    defaults = SERVER_VAD if kind == "server_vad" else SEMANTIC_VAD
    return _VAD_RULES[kind](current if kind == before else defaults, asked, param)


_TEXT = cleared_to("", of_type("a string", str))
_MODALITIES = cleared_to(["audio"], one_of(["text"], ["audio"]))
_TOOL_CHOICE = cleared_to("auto", of_type("a string or an object", str, dict))
_VOICE = of_type("a string or an object", str, dict)
_INCLUDE = cleared_to(None, of_type("an array", list))
_INPUT = merged(
    {
        "format": cleared_to(PCM, _format),
        "transcription": cleared_to(None, _transcription),
        "noise_reduction": anything,
        "turn_detection": cleared_to(None, _turn_detection),
    }
)
_OUTPUT = merged(
    {
        "format": cleared_to(PCM, _format),
        "voice": cleared_to("marin", _VOICE),
        "speed": cleared_to(1.0, between(0.25, 1.5)),
    }
)
_SPOKEN: dict[str, Rule] = {
    "output_modalities": _MODALITIES,
    "instructions": _TEXT,
    "tools": cleared_to([], _tools),
    "tool_choice": _TOOL_CHOICE,
    "max_output_tokens": cleared_to("inf", _tokens),
    "parallel_tool_calls": anything,
    "prompt": anything,
    "reasoning": anything,
}
_SESSION_RULES = {
    "realtime": merged(
        {
            **_SPOKEN,
            "type": fixed,
            "model": fixed,
            "tracing": anything,
            "truncation": cleared_to("auto", of_type("a string or an object", str, dict)),
            "include": _INCLUDE,
            "audio": merged({"input": _INPUT, "output": _OUTPUT}),
        }
    ),
    "transcription": merged(
        {"type": fixed, "include": _INCLUDE, "audio": merged({"input": _INPUT})}
    ),
}
_RESPONSE_RULES = merged(
    {
        **_SPOKEN,
        "audio": merged({"output": _OUTPUT}),
        "conversation": cleared_to("auto", of_type("a string", str)),
        "input": of_type("an array", list),
        "metadata": of_type("an object", dict),
    }
)


def _created(kind: str, session_id: str, model: str, expires_at: int) -> dict[str, Any]:
    heard = {"format": dict(PCM), "transcription": None, "noise_reduction": None}
    if kind == "transcription":
        return {
            "type": kind,
            "object": "realtime.transcription_session",
            "id": session_id,
            "expires_at": expires_at,
            "audio": {"input": {**heard, "turn_detection": None}},
            "include": None,
        }
    return {
        "type": kind,
        "object": "realtime.session",
        "id": session_id,
        "model": model,
        "output_modalities": ["audio"],
        "instructions": INSTRUCTIONS,
        "tools": [],
        "tool_choice": "auto",
        "max_output_tokens": "inf",
        "tracing": None,
        "truncation": "auto",
        "prompt": None,
        "expires_at": expires_at,
        "audio": {
            "input": {**heard, "turn_detection": dict(SERVER_VAD)},
            "output": {"format": dict(PCM), "voice": "marin", "speed": 1.0},
        },
        "include": None,
    }


class Configuration:
    """The session object of one session; ``view`` is what the events carry.

    A new ``view`` is made by each update, so a view that was handed out never changes.
    """

    def __init__(self, kind: str, session_id: str, model: str, now: float) -> None:
        self.view = _created(kind, session_id, model, int(now) + SESSION_SECONDS)

    @property
    def heard(self) -> dict[str, Any]:
        """``audio.input``."""
        return self.view["audio"]["input"]  # type: ignore[no-any-return]

    def update(self, asked: Any, *, voice_is_fixed: bool) -> None:
        """Apply a ``session.update``, or raise Refusal and apply nothing.

        ``voice_is_fixed``: the assistant has spoken, its voice can no longer change.
        """
        if not isinstance(asked, dict):
            raise missing("session")
        if "type" not in asked:
            raise missing("session.type")
        updated = _SESSION_RULES[self.view["type"]](self.view, asked, "session")
        spoken, was = updated["audio"].get("output"), self.view["audio"].get("output")
        if voice_is_fixed and spoken["voice"] != was["voice"]:
            raise Refusal(
                "Cannot update a conversation's voice if assistant audio is present.",
                code="cannot_update_voice",
                param="session.audio.output.voice",
            )
        self.view = updated


def response_overrides(view: dict[str, Any], asked: Any) -> dict[str, Any]:
    """What is in force for one response: the session's ``view``, and what was ``asked`` of it."""
    keys = ("output_modalities", "instructions", "tools", "tool_choice", "max_output_tokens")
    current = {key: view[key] for key in keys}
    current["audio"] = {"output": view["audio"]["output"]}
    return _RESPONSE_RULES(current, {} if asked is None else asked, "response")  # type: ignore[no-any-return]
