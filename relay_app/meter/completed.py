"""What takes the place of a report that says nothing, or not enough: an estimate, and named so.

The rule: what was reported stands, wherever it stands. Totals without a split are split in the
proportions of the estimate and keep their sum; a split of one direction stays and the other is
estimated; only where nothing was said is all of it an estimate.
"""

from relay_app.meter.reported import Reported, Told, usage_of
from relay_app.meter.split import Split
from relay_app.meter.usage import Usage

__all__ = ["complete_response", "complete_transcription"]


def complete_response(reported: Reported, estimate: Usage, *, spent: bool) -> Reported:
    """``reported``, or the estimate if that is unknown and there is one.

    ``spent``: something was put out, or must have been. A response that failed before it said
    anything stays unknown: providers were seen to report zeros for it.
    """
    if reported.source != "unknown":
        return reported
    taken = Split(
        estimate.input_text_tokens, estimate.input_audio_tokens, estimate.input_image_tokens
    )
    made = Split(estimate.output_text_tokens, estimate.output_audio_tokens)
    if any(reported.told):
        usage = _filled(reported, taken, made)
        return reported if usage is None else Reported(usage, "estimated", reported.raw)
    if not estimate or not spent:
        return reported
    return Reported(estimate, "estimated", reported.raw)


def complete_transcription(reported: Reported, estimate: Usage) -> Reported:
    """The same for a transcription: what goes in is audio, what comes out is text."""
    if reported.source != "unknown":
        return reported
    if any(reported.told):
        audio, text = estimate.input_audio_tokens or 1, estimate.output_text_tokens or 1
        usage = _filled(reported, Split(audio=audio), Split(text=text))
        return reported if usage is None else Reported(usage, "estimated", reported.raw)
    return Reported(estimate, "estimated", reported.raw) if estimate else reported


def _filled(reported: Reported, taken: Split, made: Split) -> Usage | None:
    """What was told, completed from the estimate; None if a total has nothing to be split by."""
    told_in, told_out = reported.told
    tokens_in, tokens_out = _direction(told_in, taken), _direction(told_out, made)
    if tokens_in is None or tokens_out is None:
        return None
    return usage_of(tokens_in, told_in.details, tokens_out, told_out.details)


def _direction(told: Told, estimate: Split) -> Split | None:
    if told.tokens is not None:
        return told.tokens
    if told.total is None:
        return estimate
    return estimate.scaled(told.total) if estimate.total or not told.total else None
