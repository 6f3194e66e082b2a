"""Audio by the clock: base64 characters -> bytes -> milliseconds -> tokens.

The rule: no audio is ever decoded. How long it plays follows from how long it is.
"""

from typing import Any, Final, NamedTuple

from relay_app.meter.untrusted import count, mapping

__all__ = [
    "PCM16",
    "AudioRate",
    "audio_rate",
    "base64_bytes",
    "bytes_per_ms",
    "format_bytes_per_ms",
    "input_format",
    "output_format",
]

PCM16: Final = 48.0
"""Bytes a millisecond of 16 bit mono at 24 kHz: the default of OpenAI, the only PCM it knows."""

_G711: Final = 8.0
_FORMATS: Final = {
    # beta
    "pcm16": PCM16,
    "g711_ulaw": _G711,
    "g711_alaw": _G711,
    "pcm24": PCM16,  # Qwen: 16 bit at 24 kHz
    # GA
    "audio/pcm": PCM16,
    "audio/pcmu": _G711,
    "audio/pcma": _G711,
}
MIN_RATE: Final = 4_000
MAX_RATE: Final = 192_000


class AudioRate(NamedTuple):
    """How many milliseconds of audio are one token, from the user and from the assistant."""

    user_ms: int = 100
    assistant_ms: int = 50

    def user_tokens(self, milliseconds: float) -> int:
        """Whole tokens of what the user said (recorded: 2,668 ms are 26, 2,796 are 27)."""
        return int(milliseconds // self.user_ms)

    def assistant_tokens(self, milliseconds: float) -> int:
        """Tokens of what the model says, the last one begun (recorded: 3,400 ms are 68)."""
        return int(-(-milliseconds // self.assistant_ms))


_OPENAI: Final = AudioRate()
"""OpenAI's cost guide: 600 tokens a minute in, 1,200 out."""
_XAI: Final = AudioRate(20, 20)
"""Recorded from grok-voice: 3.38 s out are 170 tokens, 2.8 to 3.0 s in are 146."""


def audio_rate(model: str) -> AudioRate:
    """The rate of a model, by its name."""
    return _XAI if model.startswith("grok") else _OPENAI


def bytes_per_ms(value: object) -> float | None:
    """Of a GA format object or a beta format name; None if there is none.

    A format that is not known counts as PCM16, which nothing compressed falls below.
    """
    given = mapping(value)
    name = given.get("type") if given else value
    return format_bytes_per_ms(name, count(given.get("rate"))) if isinstance(name, str) else None


def format_bytes_per_ms(name: str, rate: int | None) -> float:
    """The same of a format by its name and the samples a second it says, if any."""
    if name == "audio/pcm" and rate is not None and MIN_RATE <= rate <= MAX_RATE:
        return rate * 2 / 1000
    return _FORMATS.get(name, PCM16)


def input_format(session: dict[str, Any]) -> float | None:
    """Bytes a millisecond of what a session object says the user sends."""
    ga = mapping(mapping(session.get("audio")).get("input")).get("format")
    return bytes_per_ms(ga) or bytes_per_ms(session.get("input_audio_format"))


def output_format(values: dict[str, Any]) -> float | None:
    """Bytes a millisecond of what a session or a response object says the model answers in."""
    ga = mapping(mapping(values.get("audio")).get("output")).get("format")
    return bytes_per_ms(ga) or bytes_per_ms(values.get("output_audio_format"))


def base64_bytes(characters: int, padding: int = 0) -> int:
    """Bytes that base64 text of this length stands for, with or without padding."""
    return max(0, (characters - padding) * 3 // 4)
