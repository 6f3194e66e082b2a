"""What the assistant says: decided once, when a response is created.

The rule: nothing is random and nothing is understood. A tool that is forced, or that the user
named, is called; a tool's output is read out; text is echoed; anything else gets a friendly
sentence. Instructions such as "answer in 40 words" or "speak for 3 seconds" are obeyed, so
that a test can ask for an answer of the length it needs.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from relay_app import codec
from relay_app.simulator.items import Item

__all__ = ["WORD_MS", "Call", "Speech", "plan"]

WORD_MS = 350
"""About 170 words a minute."""

MAX_WORDS = 20_000
GREETING = "Hello! How can I help you today?"
STOCK = (
    "It is good to hear from you, and I am happy to keep talking for as long as you like, "
    "about the weather, the trains, or anything else that comes to mind."
)
LENGTH_ASKED = re.compile(r"\b(?:in|for|with) (\d{1,5}) (words?|seconds?)\b")


@dataclass(frozen=True, slots=True)
class Speech:
    """Words to write or to speak; ``audio_ms`` is how long speaking them takes."""

    words: tuple[str, ...]
    audio_ms: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function to call, with its arguments as JSON text."""

    name: str
    arguments: str


def plan(
    context: Sequence[Item], instructions: str, tools: Sequence[dict[str, Any]], tool_choice: Any
) -> Speech | Call:
    """The answer to ``context``."""
    last = context[-1] if context else None
    said = last.text if last and last.wire.get("role") == "user" else ""
    tool = _tool(tools, tool_choice, said)
    if tool is not None:
        return Call(tool["name"], codec.dumps(_example(tool.get("parameters") or {}, "", said)))
    return _speech(_words(last, said, context), instructions)


def _tool(tools: Sequence[dict[str, Any]], choice: Any, said: str) -> dict[str, Any] | None:
    functions = [tool for tool in tools if tool["type"] == "function"]
    if isinstance(choice, dict):
        return next((tool for tool in functions if tool["name"] == choice.get("name")), None)
    if choice == "none" or not functions:
        return None
    heard = said.lower().replace("_", " ")
    for tool in functions:
        if tool["name"].lower().replace("_", " ") in heard:
            return tool
    return functions[0] if choice == "required" else None


def _words(last: Item | None, said: str, context: Sequence[Item]) -> list[str]:
    if said:
        return ["You", "said:", *said.split()[:MAX_WORDS]]
    if last is not None and last.wire["type"] == "function_call_output":
        name = next(
            (
                item.wire["name"]
                for item in context
                if item.wire["type"] == "function_call"
                and item.wire.get("call_id") == last.wire["call_id"]
            ),
            "the tool",
        )
        return [name, "says:", *_read_out(last.wire["output"]).split()[:MAX_WORDS]]
    if last is not None and last.sound is not None:
        seconds = last.sound.milliseconds / 1000
        return f"I heard you for {seconds:.1f} seconds. It is good to hear from you.".split()
    return GREETING.split()


def _speech(words: list[str], instructions: str) -> Speech:
    asked = LENGTH_ASKED.search(instructions)
    audio_ms = None
    if asked:
        count = int(asked[1])
        if asked[2].startswith("second"):
            audio_ms = count * 1000
            count = max(1, audio_ms // WORD_MS)
        filler = cycle(STOCK.split())
        words = (words + list(islice(filler, max(0, count - len(words)))))[: max(1, count)]
    return Speech(tuple(words), audio_ms or len(words) * WORD_MS)


def _read_out(output: str) -> str:
    """A tool's output as words: ``{"temp_c": 12}`` is "temp_c is 12."."""
    try:
        values = codec.loads_object(output)
    except ValueError:
        return output
    if not values or len(values) > 20:
        return output
    shown = (v if isinstance(v, str) else codec.dumps(v) for v in values.values())
    return ", ".join(f"{key} is {value}" for key, value in zip(values, shown, strict=True)) + "."


def _example(schema: Any, name: str, said: str, depth: int = 0) -> Any:
    """A value that fits a JSON schema, as far as arguments need it."""
    if not isinstance(schema, dict):
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, dict) or depth > 3:
            return {}
        required = schema.get("required")
        wanted = required if isinstance(required, list) and required else properties
        return {
            key: _example(properties.get(key), key, said, depth + 1)
            for key in wanted
            if isinstance(key, str)
        }
    if kind == "array":
        return [_example(schema.get("items"), name, said, depth + 1)] if depth < 4 else []
    if kind in ("integer", "number"):
        numbers = re.findall(r"\b\d{1,9}\b", said)
        return int(numbers[0]) if numbers else schema.get("minimum", 1)
    if kind == "boolean":
        return True
    if kind == "null":
        return None
    names = re.findall(r"(?<=\s)[A-Z]\w+", said)
    return names[-1] if names else f"a {name or 'value'}"
