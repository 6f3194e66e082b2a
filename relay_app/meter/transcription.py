"""What an input transcription costs if nobody says: by its model, in tokens or in seconds.

The rule: models are told apart by name. Those called gpt-4o…transcribe are billed by tokens, all
others by the length of the audio (OpenAI's price list).
"""

import math
from typing import Final

from relay_app.meter.audio import audio_rate
from relay_app.meter.tokens import count_tokens
from relay_app.meter.usage import Usage

__all__ = ["estimate_transcription"]

END_TOKENS: Final = 2
"""What stands around a transcript; recorded are 1 and 2."""

_WHOLE_SECONDS: Final = "gpt-realtime-whisper"
"""Recorded: 2.7 s are 3, 2.2 s are 2, silence is 0. whisper-1 gives fractions."""


def estimate_transcription(model: str, milliseconds: float, transcript: str | None) -> Usage:
    """Usage of transcribing that much audio; None for a transcript that never came.

    Empty if the length is not known.
    """
    if milliseconds <= 0:
        return Usage()
    if "gpt-4o" in model and "transcribe" in model:
        written = count_tokens([transcript]).tokens + END_TOKENS if transcript else 0
        return Usage(
            input_audio_tokens=audio_rate(model).user_tokens(milliseconds),
            output_text_tokens=written,
        )
    if model.startswith(_WHOLE_SECONDS):
        silent = transcript is not None and not transcript.strip()
        return Usage(transcription_seconds=0.0 if silent else math.floor(milliseconds / 1000 + 0.5))
    return Usage(transcription_seconds=round(milliseconds / 1000, 3))
