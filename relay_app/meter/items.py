"""What conversation items, instructions and tools come to as input of a model.

The rule: an item is counted by what stands in it, text by its tokens, pictures by a constant;
no text outlives the call. What no model reads (the transcript of what a user said) is not counted.

The constants fit recorded sessions of gpt-realtime; gpt-realtime-2.1 adds some 15 % to text.
"""

from typing import Any, Final, NamedTuple

from relay_app import codec
from relay_app.meter.audio import base64_bytes
from relay_app.meter.split import Split
from relay_app.meter.tokens import NONE, Counted, count_tokens
from relay_app.meter.untrusted import mapping

__all__ = ["ITEM_TOKENS", "Item", "count_instructions", "count_item", "count_tools"]

ITEM_TOKENS: Final = 4
"""Framing of an item (recorded)."""

IMAGE_TOKENS: Final = 323
"""Recorded for a JPEG of 597x566. No formula is published; a picture is not looked at, so this is
rough: right in its order of magnitude only."""

MAX_PARTS: Final = 1024
"""Parts of an item, tools of a list. Recorded items have one or two."""

_TEXT_KEYS: Final = {"input_text": "text", "output_text": "text", "text": "text"}
_SPOKEN: Final = frozenset({"output_audio", "audio"})
_CALL_KEYS: Final = ("name", "arguments", "output")


class Item(NamedTuple):
    """An item's tokens without its audio, and the audio it brings along.

    ``heard``: it has a part of user audio; ``audio_bytes``: of the audio that is in it, which
    servers leave out when they repeat an item.
    """

    tokens: Split = Split()
    exact: bool = True
    heard: bool = False
    audio_bytes: int = 0


def count_item(item: dict[str, Any]) -> Item:
    """The item's tokens. One with nothing in it, as while it is generated, has none."""
    texts = [item[key] for key in _CALL_KEYS if isinstance(item.get(key), str)]
    images = audio = 0
    heard = False
    content = item.get("content")
    for part in map(mapping, content[:MAX_PARTS] if isinstance(content, list) else ()):
        kind = part.get("type")
        if not isinstance(kind, str):
            continue
        if kind == "input_audio":
            heard = True
            given = part.get("audio")
            audio += base64_bytes(len(given)) if isinstance(given, str) else 0
        elif kind == "input_image":
            images += 1
        else:
            text = part.get("transcript" if kind in _SPOKEN else _TEXT_KEYS.get(kind, ""))
            if isinstance(text, str):
                texts.append(text)
    counted = count_tokens(texts)
    if not counted.tokens and not images:
        return Item(heard=heard, audio_bytes=audio)
    text_tokens = counted.tokens + ITEM_TOKENS
    return Item(Split(text_tokens, 0, images * IMAGE_TOKENS), counted.exact, heard, audio)


def count_instructions(value: object) -> Counted:
    """The tokens of instructions; they have no framing (recorded)."""
    return count_tokens([value]) if isinstance(value, str) else NONE


def count_tools(value: object) -> Counted:
    """The tokens of a list of tools, as the JSON they came in.

    How a model is told of them is not published; for a recorded function of one parameter, JSON
    is two tokens above what was billed.
    """
    if not isinstance(value, list):
        return NONE
    tools = [codec.dumps(tool) for tool in value[:MAX_PARTS] if isinstance(tool, dict)]
    return count_tokens(tools)
