"""The simulator's voice: something like speech, always the same.

The rule: one phrase of three seconds is made once for each format, on first use, and every
answer is cut from its repetition. A chunk in the middle of an answer is then a lookup of
ready base64, which is what lets one process speak in hundreds of sessions.
"""

import math
from array import array
from base64 import b64encode
from functools import cache
from sys import byteorder

from relay_app.simulator.audio_format import (
    PCM16,
    PCMU,
    AudioFormat,
    alaw_encode,
    ulaw_encode,
)

__all__ = ["CHUNK_MS", "chunk", "speech"]

CHUNK_MS = 250
"""What one ``response.output_audio.delta`` carries, as recorded from gpt-realtime."""

PHRASE_MS = 3000
SAMPLES_PER_MS = 24
SYLLABLE_MS = 200
GAP_MS = 50
PEAK = 9000
VOWELS = ((730, 1090), (530, 1840), (270, 2290), (570, 840), (300, 870), (640, 1190))
"""First and second formants in Hz of six vowels (Peterson and Barney, 1952)."""
PITCHES_HZ = (120, 125, 150, 100, 120, 96)


@cache
def _pulse(pitch_hz: int, formants: tuple[int, int]) -> list[float]:
    """One period of a voiced sound: the harmonics of the pitch, strongest near the formants."""
    period = 1000 * SAMPLES_PER_MS // pitch_hz
    wave = [0.0] * period
    for harmonic in range(1, 3000 // pitch_hz):
        hertz = harmonic * pitch_hz
        weight = sum(1 / (1 + ((hertz - formant) / 120) ** 2) for formant in formants)
        weight += 0.3 / harmonic
        for index in range(period):
            wave[index] += weight * math.sin(2 * math.pi * harmonic * index / period)
    peak = max(map(abs, wave))
    return [value / peak for value in wave]


@cache
def _phrase_pcm() -> "array[int]":
    samples = array("h")
    envelope = [
        math.sin(math.pi * index / (SYLLABLE_MS * SAMPLES_PER_MS))
        for index in range(SYLLABLE_MS * SAMPLES_PER_MS)
    ]
    for syllable in range(PHRASE_MS // (SYLLABLE_MS + GAP_MS)):
        wave = _pulse(PITCHES_HZ[syllable % 6], VOWELS[syllable % 6])
        period = len(wave)
        samples.extend(
            int(PEAK * level * wave[index % period]) for index, level in enumerate(envelope)
        )
        samples.extend([0] * (GAP_MS * SAMPLES_PER_MS))
    return samples


@cache
def _phrase(audio_format: AudioFormat) -> bytes:
    samples = _phrase_pcm()
    if audio_format is PCM16:
        if byteorder == "big":  # the wire is little-endian
            samples = samples[:]
            samples.byteswap()
        return samples.tobytes()
    encode = ulaw_encode if audio_format is PCMU else alaw_encode
    known = {sample: encode(sample) for sample in set(samples[::3])}
    return bytes(known[sample] for sample in samples[::3])


@cache
def _chunks(audio_format: AudioFormat) -> list[str]:
    phrase = _phrase(audio_format)
    size = CHUNK_MS * audio_format.bytes_per_ms
    return [
        b64encode(phrase[start : start + size]).decode() for start in range(0, len(phrase), size)
    ]


def speech(audio_format: AudioFormat, milliseconds: int) -> bytes:
    """The first ``milliseconds`` of what the voice says, the phrase repeated as needed."""
    phrase = _phrase(audio_format)
    size = milliseconds * audio_format.bytes_per_ms
    return (phrase * (size // len(phrase) + 1))[:size]


def chunk(audio_format: AudioFormat, start_ms: int, milliseconds: int) -> str:
    """Base64 of at most ``CHUNK_MS`` from ``start_ms``, which is a multiple of ``CHUNK_MS``."""
    chunks = _chunks(audio_format)
    whole = chunks[start_ms // CHUNK_MS % len(chunks)]
    if milliseconds >= CHUNK_MS:
        return whole
    start = start_ms % PHRASE_MS * audio_format.bytes_per_ms
    end = start + milliseconds * audio_format.bytes_per_ms
    return b64encode(_phrase(audio_format)[start:end]).decode()
