"""Arguments: what may stand behind the colon of a scenario's name.

The rule: a ValueError completes "expected ..." and names everything that is accepted.
"""

import re

__all__ = ["SAID", "event_named", "number"]

SAID = (
    "session.created",
    "session.updated",
    "conversation.item.added",
    "conversation.item.done",
    "conversation.item.deleted",
    "conversation.item.retrieved",
    "conversation.item.truncated",
    "conversation.item.input_audio_transcription.delta",
    "conversation.item.input_audio_transcription.completed",
    "input_audio_buffer.cleared",
    "input_audio_buffer.committed",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "response.created",
    "response.output_item.added",
    "response.output_item.done",
    "response.content_part.added",
    "response.content_part.done",
    "response.output_text.delta",
    "response.output_text.done",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.delta",
    "response.output_audio_transcript.done",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.done",
    "rate_limits.updated",
    "error",
)
"""Every event that a conversation says."""

_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,6})?")


def event_named(text: str) -> str:
    """A server event."""
    if text not in SAID:
        raise ValueError(f"one of {', '.join(SAID)}")
    return text


def number(text: str, what: str, least: float, most: float) -> float:
    """A number of ``what`` in these bounds."""
    if not _NUMBER.fullmatch(text) or not least <= float(text) <= most:
        raise ValueError(f"{what}, {least:g} to {most:g}")
    return float(text)
