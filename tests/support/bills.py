"""What a ledger should hold, worked out from the events themselves and by nobody else's code.

The rules are the contract's: one record a response or transcribed item; figures are the
provider's or none of its ("unreported": estimated, or unknown, which is for other tests to tell);
zeros are believed only of a unit that came to nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["bill_of", "bills", "figures"]

TOKENS = (
    "input_text_tokens", "input_audio_tokens", "input_image_tokens",
    "cached_text_tokens", "cached_audio_tokens", "cached_image_tokens",
    "output_text_tokens", "output_audio_tokens", "reasoning_tokens",
)  # fmt: skip
FIELDS = ("kind", "source", "status", *TOKENS, "transcription_seconds")
Bill = dict[str, Any]
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


def figures(records: Iterable[Mapping[str, Any]]) -> dict[str, Bill]:
    """Of each record what an event can tell, by unit; fails if a unit has two records."""
    found: dict[str, Bill] = {}
    for record in records:
        assert record["unit_id"] not in found, f"two records of {record['unit_id']}"
        told = {name: record[name] for name in FIELDS}
        if told["source"] != "reported":
            told = _bill(told["kind"], "unreported", told["status"])
        found[record["unit_id"]] = told
    return found


def bills(events: Iterable[Mapping[str, Any]]) -> dict[str, Bill]:
    """What the units that ended in ``events`` cost, by unit."""
    found: dict[str, Bill] = {}
    for event in events:
        bill = bill_of(event)
        if bill is not None:
            unit, figures_of_it = bill
            assert unit not in found, f"{unit} ended twice: the test has to say what counts"
            found[unit] = figures_of_it
    return found


def bill_of(event: Mapping[str, Any]) -> tuple[str, Bill] | None:
    """The unit that ended with ``event`` and its figures, or None if none did."""
    if event["type"] == "response.done":
        response = event["response"]
        usage = response.get("usage") or event.get("usage") or {}
        came_to_nothing = response["status"] in ("failed", "cancelled") and not response["output"]
        if not usage.get("total_tokens") and not (usage and came_to_nothing):
            return response["id"], _bill("response", "unreported", response["status"])
        into = usage["input_token_details"]
        cached = into.get("cached_tokens_details") or {}
        out = usage["output_token_details"]
        return response["id"], _bill(
            "response",
            "reported",
            response["status"],
            input_text_tokens=into.get("text_tokens") or 0,
            input_audio_tokens=into.get("audio_tokens") or 0,
            input_image_tokens=into.get("image_tokens") or 0,
            cached_text_tokens=cached.get("text_tokens") or 0,
            cached_audio_tokens=cached.get("audio_tokens") or 0,
            cached_image_tokens=cached.get("image_tokens") or 0,
            output_text_tokens=out.get("text_tokens") or 0,
            output_audio_tokens=out.get("audio_tokens") or 0,
            reasoning_tokens=out.get("reasoning_tokens") or 0,
        )
    if event["type"] != TRANSCRIBED or event.get("status") == "in_progress":
        return None
    usage = event.get("usage") or {}
    if usage.get("type") == "duration":
        bill = _bill(
            "transcription", "reported", "completed", transcription_seconds=usage["seconds"]
        )
    elif usage.get("type") == "tokens":
        bill = _bill(
            "transcription",
            "reported",
            "completed",
            input_text_tokens=usage["input_token_details"]["text_tokens"],
            input_audio_tokens=usage["input_token_details"]["audio_tokens"],
            output_text_tokens=usage["output_tokens"],
        )
    else:
        bill = _bill("transcription", "unreported", "completed")
    return event["item_id"], bill


def _bill(kind: str, source: str, status: str, **given: float) -> Bill:
    zeros = dict.fromkeys(TOKENS, 0) | {"transcription_seconds": 0}
    return {"kind": kind, "source": source, "status": status, **zeros, **given}
