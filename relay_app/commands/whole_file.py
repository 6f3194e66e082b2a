"""A file that is written whole or not at all.

The rule: what stands at the path is the old file or the new one, complete and synced, whatever
happens on the way; a killed process leaves a ``*.part`` beside it at the worst.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` at the end of the block.

    For its owner alone, unless a file that was there lets others read it. Raises ValueError for
    what cannot be such a file. SIGTERM and SIGHUP end the block as Ctrl-C does.
    """
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is there and is no regular file")
    try:
        descriptor, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
    part = Path(name)
    try:
        with _signals_interrupt(), os.fdopen(descriptor, "wb") as file:
            yield file
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        with suppress(FileNotFoundError):  # then all went well
            part.unlink()


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
