"""Conversation items: what was said, in order.

The rule: ``wire`` is the item as events show it, without sound; the sound lies beside it, as
bytes when the user spoke and as a length when the assistant did (its voice can be made again).
"""

import binascii
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from relay_app.simulator import usage, voice
from relay_app.simulator.audio_buffer import Sound
from relay_app.simulator.audio_format import AudioFormat
from relay_app.simulator.ids import new_id
from relay_app.simulator.refusals import Refusal, invalid, missing

__all__ = ["Item", "Items", "decode_audio", "parse_item"]

MAX_ITEMS = 1000
"""Items beyond this fall out of the conversation, the oldest first."""

PARTS: dict[str, dict[str, str | None]] = {
    "system": {"input_text": "text"},
    "user": {"input_text": "text", "input_audio": "audio", "input_image": "image_url"},
    "assistant": {"output_text": "text", "output_audio": None},
}
"""The parts that a message of each role may have, and the field each cannot do without."""

FIELDS = {
    "function_call": ("name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "mcp_approval_response": ("approval_request_id",),
}


@dataclass(slots=True)
class Item:
    """One item. ``sound`` is the user's audio, ``spoken`` the assistant's (format, ms)."""

    wire: dict[str, Any]
    sound: Sound | None = None
    spoken: tuple[AudioFormat, int] | None = None

    @property
    def id(self) -> str:
        """The item's id."""
        return self.wire["id"]  # type: ignore[no-any-return]

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The content parts of a message; none for other items."""
        return self.wire.get("content", [])  # type: ignore[no-any-return]

    @property
    def text(self) -> str:
        """What was written in it, and what the assistant said; never the user's transcript."""
        spoken = ("text", "transcript") if self.wire.get("role") == "assistant" else ("text",)
        words = [part.get(key) for part in self.parts for key in spoken]
        words += [self.wire.get(key) for key in ("name", "arguments", "output")]
        return " ".join(word for word in words if word and isinstance(word, str))

    def segment(self) -> usage.Segment:
        """What the item costs as a part of a response's context."""
        audio = usage.user_audio_tokens(self.sound.milliseconds) if self.sound else 0
        if self.spoken:
            audio += usage.assistant_audio_tokens(self.spoken[1])
        return usage.Segment(
            self.id,
            usage.ITEM_TOKENS + usage.text_tokens(self.text),
            audio,
            usage.IMAGE_TOKENS * sum(part["type"] == "input_image" for part in self.parts),
        )

    def truncate(self, end_ms: int) -> None:
        """Cut the assistant's audio; its transcript goes with it. Raises Refusal."""
        if self.spoken is None:
            raise Refusal(
                f"Error truncating item: '{self.id}' has no assistant audio.",
                code="item_truncate_invalid_item_id",
            )
        audio_format, length_ms = self.spoken
        if end_ms > length_ms:
            raise Refusal(
                f"Audio content of {length_ms}ms is already shorter than {end_ms}ms",
                code="invalid_value",
                param="audio_end_ms",
            )
        self.spoken = (audio_format, end_ms)
        content = [{k: v for k, v in part.items() if k != "transcript"} for part in self.parts]
        self.wire = {**self.wire, "content": content}

    def retrieved(self) -> dict[str, Any]:
        """The item as ``conversation.item.retrieved`` shows it: with its sound, in base64."""
        data = self.sound.data if self.sound else b""
        if self.spoken:
            data = voice.speech(*self.spoken)
        if not data:
            return self.wire
        content = [
            {**part, "audio": b64encode(data).decode()} if part["type"].endswith("audio") else part
            for part in self.parts
        ]
        return {**self.wire, "content": content}


class Items:
    """The default conversation."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._order: list[str] = []

    def __iter__(self) -> Iterator[Item]:
        return iter([self._items[item_id] for item_id in self._order])

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._items

    @property
    def last_id(self) -> str | None:
        """The id of the newest item."""
        return self._order[-1] if self._order else None

    def get(self, item_id: Any, doing: str) -> Item:
        """The item, or Refusal, which names what was attempted: retrieve, truncate, ..."""
        if item_id is None:
            raise missing("item_id")
        if not isinstance(item_id, str) or item_id not in self._items:
            verb = doing.removesuffix("e")
            raise Refusal(
                f"Error {verb}ing item: the item with id '{item_id}' does not exist.",
                code=f"item_{doing}_invalid_item_id",
            )
        return self._items[item_id]

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put ``item`` after another (the last by default, ``root`` is the front).

        Returns the id of the item before it. Raises Refusal.
        """
        if item.id in self._items:
            raise Refusal(
                f"Error adding item: the item with id '{item.id}' already exists.",
                code="item_create_duplicate_item_id",
                param="item.id",
            )
        place = len(self._order)
        if after == "root":
            place = 0
        elif after is not None:
            if after not in self._items:
                raise Refusal(
                    f"Error adding item: the previous item with id '{after}' does not exist.",
                    code="item_create_invalid_previous_item_id",
                    param="previous_item_id",
                )
            place = self._order.index(after) + 1
        before = self._order[place - 1] if place else None
        self._order.insert(place, item.id)
        self._items[item.id] = item
        if len(self._order) > MAX_ITEMS:
            del self._items[self._order.pop(0)]
        return before

    def delete(self, item_id: str) -> None:
        """Remove an item that is there."""
        self._order.remove(item_id)
        del self._items[item_id]

    def has_call(self, call_id: str) -> bool:
        """Whether a function call with this id was made."""
        return any(
            item.wire["type"] == "function_call" and item.wire.get("call_id") == call_id
            for item in self._items.values()
        )


def decode_audio(text: Any, param: str) -> bytes:
    """Base64 as bytes. Raises Refusal."""
    if text is None:
        raise missing(param)
    try:
        return binascii.a2b_base64(text, strict_mode=True) if text else b""
    except (ValueError, TypeError):
        raise invalid(param, text, "base64-encoded audio") from None


def parse_item(asked: Any, audio_format: AudioFormat, param: str = "item") -> Item:
    """An item as a client wrote it. Raises Refusal."""
    if asked is None:
        raise missing(param)
    if not isinstance(asked, dict):
        raise invalid(param, asked, "an object")
    kind = asked.get("type")
    if kind is None:
        raise missing(f"{param}.type")
    item_id = asked.get("id")
    if item_id is None:
        item_id = new_id("item")
    elif not isinstance(item_id, str) or not 0 < len(item_id) <= 64:
        raise invalid(f"{param}.id", item_id, "a string of 1 to 64 characters")
    wire = {"id": item_id, "type": kind, "status": "completed"}
    if kind == "message":
        return _parse_message(asked, wire, audio_format, param)
    if not isinstance(kind, str) or kind not in FIELDS:
        raise invalid(f"{param}.type", kind, f"one of 'message', {', '.join(map(repr, FIELDS))}")
    for key in FIELDS[kind]:
        if not isinstance(asked.get(key), str):
            raise missing(f"{param}.{key}")
    wire.update({k: v for k, v in asked.items() if k not in ("id", "status", "object")})
    if kind == "function_call":
        wire.setdefault("call_id", new_id("call"))
    return Item(wire)


def _parse_message(
    asked: dict[str, Any], wire: dict[str, Any], audio_format: AudioFormat, param: str
) -> Item:
    role = asked.get("role")
    if not isinstance(role, str) or role not in PARTS:
        raise invalid(f"{param}.role", role, f"one of {', '.join(map(repr, PARTS))}")
    if not isinstance(asked.get("content"), list):
        raise missing(f"{param}.content")
    content, sound = [], b""
    for index, part in enumerate(asked["content"]):
        place = f"{param}.content[{index}]"
        kind = part.get("type") if isinstance(part, dict) else part
        if not isinstance(kind, str) or kind not in PARTS[role]:
            raise invalid(f"{place}.type", kind, f"one of {', '.join(map(repr, PARTS[role]))}")
        needed = PARTS[role][kind]
        if needed and not isinstance(part.get(needed), str):
            raise missing(f"{place}.{needed}")
        if kind == "input_audio":
            sound += decode_audio(part["audio"], f"{place}.audio")
            part = {"type": kind, "transcript": part.get("transcript")}
        content.append({k: v for k, v in part.items() if k != "audio"})
    wire.update(role=role, content=content)
    return Item(wire, sound=Sound(audio_format, sound) if sound else None)
