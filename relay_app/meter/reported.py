"""What a provider reports of a finished unit: its usage object, its status.

The rule: zero and unknown are never confused. Figures are either the provider's ("reported") or
absent ("unknown", with an empty :class:`Usage` and the object kept as it came); nothing between.
What an absent report tells all the same, totals or half of a split, is kept beside it.

Shapes read, all leniently (every field is optional in OpenAI's SDK types):

    GA, beta   input_tokens, output_tokens, total_tokens; input_token_details with text_tokens,
               audio_tokens, image_tokens, cached_tokens, cached_tokens_details;
               output_token_details with text_tokens, audio_tokens, reasoning_tokens
    xAI        ``response.usage`` is ``{}`` and the same shape stands on the frame (recorded)
    chat       prompt_tokens, completion_tokens, *_tokens_details (vLLM and others)
    ASR        ``{"type": "tokens", ...}`` or ``{"type": "duration", "seconds": 3}``

Cached tokens are a part of the input, reasoning tokens a part of the output text (recorded from
gpt-realtime-2.1): neither is added on top.
"""

from collections.abc import Mapping
from operator import itemgetter, le
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from relay_app.meter.split import Split, cached, first, split
from relay_app.meter.untrusted import MAX_NUMBER, count, mapping, raw_json, seconds
from relay_app.meter.usage import SOURCE_RANK, Source, Status, Usage
from relay_app.meter.value import maker

__all__ = [
    "Reported",
    "Told",
    "response_usage",
    "status",
    "transcription_usage",
    "usage_of",
    "usual_report",
    "whole_counts",
]


class Told(NamedTuple):
    """What a usage object tells of one direction: its total, its split, its details."""

    total: int | None = None
    tokens: Split | None = None
    details: Mapping[str, Any] = MappingProxyType({})

    def __bool__(self) -> bool:
        return bool(self.total or (self.tokens is not None and self.tokens.total))


_NOTHING: Final = (Told(), Told())


class Reported(NamedTuple):
    """A unit's usage, where it came from, and the object it was read from, as JSON text.

    ``told`` is what an object told of input and output that did not tell all.
    """

    usage: Usage = Usage()
    source: Source = "unknown"
    raw: str | None = None
    told: tuple[Told, Told] = _NOTHING


_made: Final = maker(Reported)


def usual_report(usage: Usage, raw: str) -> Reported:
    """What an object told that told all."""
    return _made((usage, "reported", raw, _NOTHING))


_INPUT: Final = ("input_tokens", "prompt_tokens")
_OUTPUT: Final = ("output_tokens", "completion_tokens")
_INPUT_DETAILS, _OUTPUT_DETAILS = (
    tuple(f"{way}_{details}" for way in ways for details in ("token_details", "tokens_details"))
    for ways in (("input", "prompt"), ("output", "completion"))
)

_KINDS: Final = itemgetter("text_tokens", "audio_tokens", "image_tokens")
_WHOLE: Final = {int}

_STATUSES: dict[str, Status] = {
    "completed": "completed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "incomplete": "incomplete",
    "failed": "failed",
}


def status(value: object) -> Status:
    """The status of an ended unit. One we do not know, or none, ended "incomplete"."""
    return _STATUSES.get(value, "incomplete") if isinstance(value, str) else "incomplete"


def response_usage(*candidates: object, text_only: bool, produced: bool) -> Reported:
    """The usage of a response: the best of the places where it may stand, the earlier if equal.

    ``text_only``: nothing but text can have gone in or out. ``produced``: work was done for
    certain, so that zeros cannot be true.
    """
    best: Reported | None = None
    for candidate in candidates:
        if candidate is None:
            continue
        given = mapping(candidate)
        told = _NOTHING
        counts = whole_counts(given)
        usage = None if counts is None else Usage(*counts)
        if not usage:
            told = _told(given, text_only=text_only)
            usage = _tokens(*told)
        if usage is None or (produced and not usage):
            found = Reported(raw=raw_json(candidate), told=told)
        else:
            found = Reported(usage, "reported", raw_json(candidate))
        if best is None or _worth(found) > _worth(best):
            best = found
    return best or Reported()


def _worth(reported: Reported) -> tuple[int, bool, int]:
    says = 0 if reported.raw is None else 1 if reported.raw == "{}" else 2
    return SOURCE_RANK[reported.source], bool(reported.usage), says


def transcription_usage(value: object, *, produced: bool) -> Reported:
    """The usage of an input transcription, in tokens or in seconds of audio.

    ``produced``: there is a transcript, so that zeros cannot be true. Silence may cost 0 s
    (recorded from gpt-realtime-whisper).
    """
    given = mapping(value)
    usage, told = None, _NOTHING
    if given.get("type") != "duration":
        told = _told(given, text_only=False)
        usage = _tokens(*told)
    if usage is None and given.get("type") != "tokens":
        duration = seconds(given.get("seconds"))
        usage = None if duration is None else Usage(transcription_seconds=duration)
    if usage is None or (produced and not usage):
        return Reported(raw=raw_json(value), told=told)
    return Reported(usage, "reported", raw_json(value))


def whole_counts(given: dict[str, Any]) -> tuple[int, ...] | None:
    """The first nine counts of the :class:`Usage` in a GA report that leaves nothing out and adds
    up, as nearly all do: what the lenient reading below makes of it too, with less ado. None for
    any other."""
    try:
        details_in, details_out = given["input_token_details"], given["output_token_details"]
        taken, from_cache = _KINDS(details_in), _KINDS(details_in["cached_tokens_details"])
        text, audio = details_out["text_tokens"], details_out["audio_tokens"]
        totals = given["input_tokens"], details_in["cached_tokens"], given["output_tokens"]
    except (KeyError, TypeError):
        return None
    reasoning = details_out.get("reasoning_tokens", 0)
    counts = (*taken, *from_cache, text, audio, reasoning)
    if {*map(type, counts), *map(type, totals)} != _WHOLE or "image_tokens" in details_out:
        return None
    adds_up = totals == (sum(taken), sum(from_cache), text + audio)
    within = reasoning <= text and all(map(le, from_cache, taken))
    bounded = min(counts) >= 0 and max(totals) <= MAX_NUMBER
    return counts if adds_up and within and bounded else None


def _tokens(taken: Told, made: Told) -> Usage | None:
    """Usage, or None unless both directions are known by modality."""
    if taken.tokens is None or made.tokens is None:
        return None
    return usage_of(taken.tokens, taken.details, made.tokens, made.details)


def _told(given: dict[str, Any], *, text_only: bool) -> tuple[Told, Told]:
    """What ``given`` tells of input and output."""
    total = count(given.get("total_tokens"))
    total_in = count(first(given, *_INPUT))
    total_out = count(first(given, *_OUTPUT))
    if total is not None and total_in is None and total_out is not None:
        total_in = count(total - total_out)
    elif total is not None and total_out is None and total_in is not None:
        total_out = count(total - total_in)

    details_in = mapping(first(given, *_INPUT_DETAILS))
    details_out = mapping(first(given, *_OUTPUT_DETAILS))
    tokens_in = split(total_in, details_in, text_only=text_only)
    # An ASR answers in text, and says so by its type rather than by details.
    text_out = text_only or given.get("type") == "tokens"
    tokens_out = split(total_out, details_out, text_only=text_out)
    return Told(total_in, tokens_in, details_in), Told(total_out, tokens_out, details_out)


def usage_of(
    taken: Split, details_in: Mapping[str, Any], made: Split, details_out: Mapping[str, Any]
) -> Usage:
    """Usage of tokens by modality, with the cached and the reasoning ones among them."""
    from_cache = cached(details_in, taken)
    reasoning = count(details_out.get("reasoning_tokens")) or 0
    return Usage(*taken, *from_cache, made.text, made.audio, min(reasoning, made.text))
