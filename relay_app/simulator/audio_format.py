"""The three audio formats of the protocol: PCM16 at 24 kHz, G.711 µ-law and A-law at 8 kHz.

The rule: time is bytes divided by the format's rate. Loudness is read from a sparse sample of
the bytes through a table, so that hearing costs about a microsecond for each 20 ms window.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

__all__ = ["PCM16", "PCMA", "PCMU", "AudioFormat", "format_named", "ulaw_encode"]

WINDOW_MS = 20
ULAW_BIAS = 0x84
ULAW_CLIP = 32635


def _alaw_magnitude(byte: int) -> int:
    """The absolute sample, 16 bits wide, that one A-law byte stands for (ITU-T G.711)."""
    byte ^= 0x55
    mantissa = (byte & 0x0F) << 4
    segment = (byte & 0x70) >> 4
    return mantissa + 8 if segment == 0 else (mantissa + 0x108) << (segment - 1)


def _ulaw_magnitude(byte: int) -> int:
    """The absolute sample, 16 bits wide, that one µ-law byte stands for (ITU-T G.711)."""
    byte = ~byte & 0xFF
    return ((((byte & 0x0F) << 3) + ULAW_BIAS) << ((byte & 0x70) >> 4)) - ULAW_BIAS


def _pcm16_high_magnitude(byte: int) -> int:
    """The absolute sample, to within 256, of which ``byte`` is the high half."""
    return (byte if byte < 128 else 255 - byte) << 8


def _loudness_table(magnitude: Any) -> bytes:
    return bytes(magnitude(byte) >> 8 for byte in range(256))


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How sound is written as bytes.

    ``table`` maps the bytes at ``offset``, ``offset + step``, ... to loudness, 0 to 127.
    """

    type: str
    bytes_per_ms: int
    offset: int
    step: int
    table: bytes = field(repr=False)

    @property
    def window_bytes(self) -> int:
        """The bytes of one listening window of 20 ms."""
        return self.bytes_per_ms * WINDOW_MS

    def milliseconds(self, size: int) -> int:
        """Whole milliseconds of sound in ``size`` bytes."""
        return size // self.bytes_per_ms

    def loudness(self, sound: bytes | bytearray) -> float:
        """Mean absolute amplitude, 0.0 for silence to 1.0 for the loudest square wave."""
        sampled = sound[self.offset :: self.step]
        if not sampled:
            return 0.0
        return sum(sampled.translate(self.table)) / (len(sampled) * 128)


PCM16 = AudioFormat("audio/pcm", 48, 1, 16, _loudness_table(_pcm16_high_magnitude))
PCMU = AudioFormat("audio/pcmu", 8, 0, 2, _loudness_table(_ulaw_magnitude))
PCMA = AudioFormat("audio/pcma", 8, 0, 2, _loudness_table(_alaw_magnitude))

_BY_TYPE = {audio_format.type: audio_format for audio_format in (PCM16, PCMU, PCMA)}


def format_named(wire: dict[str, Any]) -> AudioFormat:
    """The format that a session's ``{"type": ...}`` object names; KeyError if none does."""
    return _BY_TYPE[wire["type"]]


def ulaw_encode(sample: int) -> int:
    """One 16-bit sample as a µ-law byte (ITU-T G.711)."""
    sign = 0x80 if sample < 0 else 0
    biased = min(abs(sample), ULAW_CLIP) + ULAW_BIAS
    segment = biased.bit_length() - 8
    return ~(sign | segment << 4 | (biased >> (segment + 3)) & 0x0F) & 0xFF


@cache
def _alaw_levels() -> list[tuple[int, int]]:
    return sorted((_alaw_magnitude(byte), byte) for byte in range(128, 256))


def alaw_encode(sample: int) -> int:
    """One 16-bit sample as the A-law byte whose magnitude is nearest (ITU-T G.711)."""
    wanted = abs(sample)
    positive = min(_alaw_levels(), key=lambda level: abs(level[0] - wanted))[1]
    return positive if sample >= 0 else positive ^ 0x80
