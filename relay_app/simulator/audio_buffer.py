"""The input audio buffer: what the client appended and nobody has committed yet.

The rule: time runs from the first byte ever appended to the session, whatever was committed
or cleared since; all ``..._ms`` here are on that clock. At most ``MAX_BYTES`` are kept, the
oldest go first.
"""

from collections.abc import Iterator
from typing import NamedTuple

from relay_app.simulator.audio_format import WINDOW_MS, AudioFormat

__all__ = ["AudioBuffer", "Sound", "heard_ms"]

MAX_BYTES = 16 * 1024 * 1024
"""One append may carry 15 MiB; a buffer holds one of them, 5.8 minutes of PCM16."""

AUDIBLE = 0.008
"""Mean amplitude (about -42 dBFS) above which a window is not silence."""


class Sound(NamedTuple):
    """A stretch of audio and the format it is written in."""

    format: AudioFormat
    data: bytes

    @property
    def milliseconds(self) -> int:
        """How long it lasts."""
        return self.format.milliseconds(len(self.data))


class AudioBuffer:
    """Bytes on a clock. ``start_ms`` continues the clock of a buffer this one replaces."""

    def __init__(self, audio_format: AudioFormat, start_ms: int = 0) -> None:
        self.format = audio_format
        self._data = bytearray()
        self._start = start_ms * audio_format.bytes_per_ms
        self._heard = self._start

    @property
    def end_ms(self) -> int:
        """The time at which the last appended byte ends."""
        return self.format.milliseconds(self._start + len(self._data))

    @property
    def milliseconds(self) -> int:
        """How much is in the buffer."""
        return self.format.milliseconds(len(self._data))

    def append(self, data: bytes) -> None:
        """Add sound at the end, dropping the oldest beyond ``MAX_BYTES``."""
        self._data += data
        self._drop(len(self._data) - MAX_BYTES)

    def windows(self) -> Iterator[tuple[int, float]]:
        """Each whole 20 ms window not heard before, as (the time it ends, its loudness)."""
        size = self.format.window_bytes
        self._heard = max(self._heard, self._start)
        while self._heard + size <= self._start + len(self._data):
            offset = self._heard - self._start
            loudness = self.format.loudness(self._data[offset : offset + size])
            self._heard += size
            yield self.format.milliseconds(self._heard), loudness

    def take(self, start_ms: int | None = None, end_ms: int | None = None) -> Sound:
        """Cut out the sound between two times (the whole buffer if not given).

        What lies before it is dropped; what lies after it stays.
        """
        rate = self.format.bytes_per_ms
        start = 0 if start_ms is None else max(0, start_ms * rate - self._start)
        end = len(self._data) if end_ms is None else max(0, end_ms * rate - self._start)
        taken = bytes(self._data[start:end])
        self._drop(end)
        return Sound(self.format, taken)

    def keep(self, milliseconds: int) -> None:
        """Forget all but the last ``milliseconds``."""
        self._drop(len(self._data) - milliseconds * self.format.bytes_per_ms)

    def clear(self) -> None:
        """Forget everything; the clock goes on."""
        self._drop(len(self._data))

    def _drop(self, size: int) -> None:
        size = min(size, len(self._data))
        if size > 0:
            del self._data[:size]
            self._start += size


def heard_ms(sound: Sound) -> int:
    """How much of ``sound`` is not silence, in windows of 20 ms."""
    size = sound.format.window_bytes
    return WINDOW_MS * sum(
        sound.format.loudness(sound.data[start : start + size]) > AUDIBLE
        for start in range(0, len(sound.data), size)
    )
