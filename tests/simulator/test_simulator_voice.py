"""The voice: audible, the same every time, and cut to the millisecond."""

from base64 import b64decode

import pytest

from relay_app.simulator import voice
from relay_app.simulator.audio_format import PCM16, PCMA, PCMU, AudioFormat, ulaw_encode

FORMATS = pytest.mark.parametrize("audio_format", [PCM16, PCMU, PCMA], ids=lambda f: f.type)


@FORMATS
def test_chunks_make_up_the_speech(audio_format: AudioFormat) -> None:
    pieces = [b64decode(voice.chunk(audio_format, ms, 250)) for ms in range(0, 4000, 250)]
    pieces.append(b64decode(voice.chunk(audio_format, 4000, 130)))
    assert b"".join(pieces) == voice.speech(audio_format, 4130)
    assert len(pieces[0]) == 250 * audio_format.bytes_per_ms
    assert len(pieces[-1]) == 130 * audio_format.bytes_per_ms


@FORMATS
def test_it_is_audible_and_pauses_between_syllables(audio_format: AudioFormat) -> None:
    sound = voice.speech(audio_format, 3000)
    assert audio_format.loudness(sound) > 0.015
    gap = sound[205 * audio_format.bytes_per_ms : 245 * audio_format.bytes_per_ms]
    assert audio_format.loudness(gap) < 0.002


def test_a_second_takes_as_many_bytes_as_the_protocol_says() -> None:
    sizes = [len(voice.speech(audio_format, 1000)) for audio_format in (PCM16, PCMU, PCMA)]
    assert sizes == [48_000, 8_000, 8_000]


@pytest.mark.parametrize(("sample", "byte"), [(0, 0xFF), (-1, 0x7F), (32767, 0x80), (-32768, 0x00)])
def test_mu_law_is_that_of_g711(sample: int, byte: int) -> None:
    assert ulaw_encode(sample) == byte
