"""Plays a recorded session back, frame by frame.

A recording is a file of JSON lines: first ``{"dir": "meta", ...}``, then
``{"dir": "c2s" | "s2c", "ts_ms": ..., "frame": {...}}`` in order, then
``{"dir": "close", "by": "client" | "server", "code": ..., "reason": ...}``.

The rule: a frame is sent as :func:`frames` yields it, byte for byte, after as many client
messages as precede it in the file have come. What these messages say is not looked at.
"""

import time
from collections.abc import Callable, Iterator, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent

from relay_app import codec
from relay_app.simulator.channel import Channel

__all__ = ["Transcript", "frames", "load"]


@dataclass(frozen=True, slots=True)
class Transcript:
    """One recording: its frames as (direction, time, JSON text), and who closed it how."""

    meta: dict[str, Any]
    frames: tuple[tuple[str, int, str], ...]
    close: dict[str, Any]


def load(path: Path) -> Transcript:
    """Read a recording. Raises ValueError, which names the file and the line at fault."""
    meta: dict[str, Any] = {}
    close: dict[str, Any] = {"by": "client", "code": 1000, "reason": ""}
    found = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(f"transcript {path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            entry = codec.loads_object(line)
            if entry["dir"] == "meta":
                meta = entry
            elif entry["dir"] == "close":
                close = {**close, **entry}
            elif entry["dir"] in ("c2s", "s2c"):
                found.append((entry["dir"], int(entry["ts_ms"]), codec.dumps(entry["frame"])))
            else:
                raise ValueError(f"unknown dir {entry['dir']!r}")
        except KeyError as error:
            raise ValueError(f"transcript {path}, line {number}: no {error}") from None
        except ValueError as error:
            raise ValueError(f"transcript {path}, line {number}: {error}") from None
    if not found:
        raise ValueError(f"transcript {path}: no frames in it")
    return Transcript(meta, tuple(found), close)


def frames(path: Path) -> Iterator[tuple[str, int, str]]:
    """Each frame of the recording as (``c2s`` or ``s2c``, ``ts_ms``, compact JSON text).

    Keys keep their order in the file. This text is what the player sends, so a test that
    compares it with what arrived compares bytes.
    """
    yield from load(path).frames


def play(
    transcript: Transcript,
    channel: Channel,
    speed: float,
    received: MutableSequence[str | bytes],
    say: Callable[[str], None],
) -> None:
    """Play to one client by ``say``, ``speed`` times faster than recorded (0: without waiting).

    Client messages are appended to ``received``. Returns when the recorded side has closed, or
    when the client has left.
    """
    began = time.monotonic()
    for direction, ts_ms, text in transcript.frames:
        ahead = began + ts_ms / 1000 / speed - time.monotonic() if speed else 0.0
        if direction == "c2s":
            message = channel.receive()
            if message is None:
                return
            received.append(message)
            began += max(0.0, -ahead) if speed else 0.0
            continue
        gevent.sleep(max(0.0, ahead))
        say(text)
        if not channel.drain():
            return
    if transcript.close["by"] == "server":
        channel.close(transcript.close["code"], transcript.close["reason"])
    while (message := channel.receive()) is not None:
        received.append(message)
