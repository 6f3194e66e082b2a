"""The events of a usual turn, read for what the meter asks of them and nothing else.

The rule: it says what a parse of the whole would lead to, or None, and then the whole is parsed.
Nearly all responses begin and end alike: with an id, without metadata, with a report that leaves
nothing out. To make objects of all that stands beside would be most of what metering them takes.
"""

from collections.abc import Callable
from typing import Any, Final, Literal

from relay_app import codec
from relay_app.meter.claims import is_outside
from relay_app.meter.reported import whole_counts
from relay_app.meter.untrusted import identifier, mapping, raw_json

__all__ = ["DONE_BEGINS", "MAX_USUAL_BYTES", "Usual", "python_read_usual", "read_usual"]

MAX_USUAL_BYTES: Final = 65_536
"""What is longer is not usual. It is read on the hub, so it should not take long."""

DONE_BEGINS: Final = b'{"type":"response.done",'

Usual = (
    tuple[Literal["response.create"]]
    | tuple[Literal["conversation.item.added"]]
    | tuple[Literal["response.created"], str, bool, str | None, int | None]
    | tuple[Literal["response.done"], str, str | None, tuple[int, ...], str, tuple[str | None, ...]]
)
"""What such an event says, by its type:

``response.create``: nothing of its own, so the session's settings hold.
``conversation.item.added``: its item is still being generated, and empty.
``response.created``: id, whether it is outside of the conversation, audio format, its rate.
``response.done``: id, status, the first nine counts of a :class:`relay_app.meter.usage.Usage`, the
report as JSON text, the ids of the first two items.
"""


def python_read_usual(payload: bytes) -> Usual | None:
    """What ``payload``, of a text message, says if it is the event of a usual turn."""
    end = payload.find(b'"', len(_TYPE_FIRST))
    reader = _READERS.get(payload[len(_TYPE_FIRST) : end])
    if reader is None or not payload.startswith(_TYPE_FIRST):
        return None
    try:
        event = codec.loads_object(payload)
        # Of two types the last one counts.
        return reader(event) if _READERS.get(event["type"].encode()) is reader else None
    except (ValueError, AttributeError):
        return None


def _create(event: dict[str, Any]) -> Usual | None:
    return None if "response" in event else ("response.create",)


def _added(event: dict[str, Any]) -> Usual | None:
    item = event.get("item")
    if not isinstance(item, dict) or item.get("status") != "in_progress" or item.get("content"):
        return None
    return ("conversation.item.added",)


def _created(event: dict[str, Any]) -> Usual | None:
    response = mapping(event.get("response"))
    unit_id = identifier(response.get("id"))
    if unit_id is None or response.get("metadata"):
        return None
    form = mapping(mapping(response.get("audio")).get("output")).get("format")
    audio = mapping(form) or {"type": response.get("output_audio_format")}
    name, rate = audio.get("type"), audio.get("rate")
    if (name is not None and not isinstance(name, str)) or isinstance(form, str):
        return None
    if rate is not None and (name is None or type(rate) is not int):
        return None
    return ("response.created", unit_id, is_outside(response), name, rate)


def _done(event: dict[str, Any]) -> Usual | None:
    response = mapping(event.get("response"))
    unit_id, ended_as = identifier(response.get("id")), response.get("status")
    usage, items = response.get("usage"), response.get("output") or ()
    counts = whole_counts(usage) if isinstance(usage, dict) else None
    if unit_id is None or counts is None or not any(counts) or not isinstance(items, list | tuple):
        return None
    if ended_as is not None and not isinstance(ended_as, str):
        return None
    ids = tuple(identifier(mapping(item).get("id")) for item in items[:2])
    return ("response.done", unit_id, ended_as, counts, raw_json(usage) or "", ids)


_TYPE_FIRST: Final = b'{"type":"'
_READERS: Final[dict[bytes, Callable[[dict[str, Any]], Usual | None]]] = {
    b"response.create": _create,
    b"conversation.item.added": _added,
    b"response.created": _created,
    b"response.done": _done,
}

try:
    from relay_app.meter._skim import read_usual
except ImportError:
    read_usual = python_read_usual
