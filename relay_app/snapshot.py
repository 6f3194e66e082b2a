"""Snapshot: what the files that settings consist of said when they were checked.

The rule: a process reads what was checked in it, or in the one it was forked from, whatever has
become of the files since; where nothing was checked, it reads the files.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["read", "taken_anew"]

MAX_FILE_BYTES = 16 << 20
"""Of any file; each reader has a limit of its own, if it wants a lower one."""

_kept: dict[str, bytes] = {}
_taking: dict[str, bytes] | None = None


def read(path: str | os.PathLike[str], max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """What the file at ``path`` said, or says; of a larger one the first ``max_bytes`` and one
    more. Raises OSError."""
    name = os.path.abspath(path)
    if _taking is None and name in _kept:
        return _kept[name]
    with open(path, "rb") as file:
        content = file.read(max_bytes + 1)
    if _taking is not None:
        _taking[name] = content
    return content


@contextmanager
def taken_anew() -> Iterator[None]:
    """While it lasts the files themselves are read. At its end, what they said is the snapshot;
    with an exception the one before stays. Within another it is a part of that one."""
    global _kept, _taking
    if _taking is not None:
        yield
        return
    _taking = {}
    try:
        yield
        _kept = _taking
    finally:
        _taking = None
