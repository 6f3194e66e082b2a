"""What the provider would bill, counted by the documented rates and nobody else's code.

The rules, from OpenAI's cost guide and recorded sessions: user audio is one token for each
whole 100 ms, assistant audio one for each 50 ms; each response bills its whole
context again; the part of the context it shares with the response before, from the start and
in steps of 64, is cached. Text is counted as one token for each four bytes of UTF-8, which is
our own rule: the provider's tokenizer would be a megabyte to get the same kind of number.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

__all__ = [
    "Billed",
    "Segment",
    "assistant_audio_tokens",
    "duration_usage",
    "response_usage",
    "text_tokens",
    "transcription_usage",
    "user_audio_tokens",
]

ITEM_TOKENS = 4
"""Framing of each item in the context (recorded: 4 for each text item)."""
TEXT_REPLY_TOKENS = 2
AUDIO_REPLY_TOKENS = 8
"""Framing of a spoken reply (recorded: 6 to 12)."""
FUNCTION_CALL_TOKENS = 8
IMAGE_TOKENS = 323
"""Recorded for a 597x566 JPEG; we do not look at the picture."""
CACHE_STEP = 64


class Billed(NamedTuple):
    """One unit as the provider billed it: ``usage`` is what its event carried.

    ``status`` is the response's status, or ``dropped`` for a unit whose session ended before
    its event could be sent: the provider has generated it all the same.
    """

    kind: Literal["response", "transcription"]
    id: str
    session_id: str
    model: str
    status: str
    usage: dict[str, Any]


class Segment(NamedTuple):
    """One piece of a response's context. Equal segments of two responses can be cached."""

    name: str
    text: int = 0
    audio: int = 0
    image: int = 0


def text_tokens(text: str) -> int:
    """Tokens of ``text``: one for each four bytes of UTF-8, begun."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def user_audio_tokens(milliseconds: int) -> int:
    """One for each whole 100 ms (recorded: 2,668 ms are 26)."""
    return milliseconds // 100


def assistant_audio_tokens(milliseconds: int) -> int:
    """One for each 50 ms, begun."""
    return -(-milliseconds // 50)


def _shared(context: Sequence[Segment], before: Sequence[Segment]) -> Iterable[Segment]:
    for segment, old in zip(context, before, strict=False):
        if segment != old:
            return
        yield segment


def _cached(context: Sequence[Segment], before: Sequence[Segment]) -> Segment:
    """The cached prefix as one segment: whole steps, taken in the order of the context."""
    shared = list(_shared(context, before))
    left = sum(s.text + s.audio + s.image for s in shared) // CACHE_STEP * CACHE_STEP
    text = audio = image = 0
    for segment in shared:
        for kind, tokens in zip(("text", "audio", "image"), segment[1:], strict=True):
            taken = min(left, tokens)
            left -= taken
            if kind == "text":
                text += taken
            elif kind == "audio":
                audio += taken
            else:
                image += taken
    return Segment("cached", text, audio, image)


def response_usage(
    context: Sequence[Segment],
    before: Sequence[Segment],
    *,
    output_text: int,
    output_audio: int,
) -> dict[str, Any]:
    """The ``usage`` of a response over ``context``, when the last one ran over ``before``."""
    text = sum(segment.text for segment in context)
    audio = sum(segment.audio for segment in context)
    image = sum(segment.image for segment in context)
    cached = _cached(context, before)
    return {
        "total_tokens": text + audio + image + output_text + output_audio,
        "input_tokens": text + audio + image,
        "output_tokens": output_text + output_audio,
        "input_token_details": {
            "text_tokens": text,
            "audio_tokens": audio,
            "image_tokens": image,
            "cached_tokens": cached.text + cached.audio + cached.image,
            "cached_tokens_details": {
                "text_tokens": cached.text,
                "audio_tokens": cached.audio,
                "image_tokens": cached.image,
            },
        },
        "output_token_details": {"text_tokens": output_text, "audio_tokens": output_audio},
    }


def transcription_usage(milliseconds: int, transcript: str) -> dict[str, Any]:
    """The ``usage`` of a transcription model that is billed by tokens."""
    audio = user_audio_tokens(milliseconds)
    output = text_tokens(transcript) + TEXT_REPLY_TOKENS
    return {
        "type": "tokens",
        "total_tokens": audio + output,
        "input_tokens": audio,
        "input_token_details": {"text_tokens": 0, "audio_tokens": audio},
        "output_tokens": output,
    }


def duration_usage(milliseconds: int) -> dict[str, Any]:
    """The ``usage`` of one billed by time (recorded: 2.7 s of speech are 3, silence is 0)."""
    return {"type": "duration", "seconds": (milliseconds + 500) // 1000}
