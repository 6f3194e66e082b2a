"""Target: something that reads bytes from outside, as fuzzers see it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

__all__ = ["CORPUS", "TRANSCRIPTS", "Target"]

_TESTS = Path(__file__).parents[1]
CORPUS = _TESTS / "corpus"
"""Inputs that together reach all that was ever reached, and those that found something."""
TRANSCRIPTS = sorted((_TESTS / "transcripts").glob("*.jsonl"))


class Target(NamedTuple):
    """``check`` raises if what it is given shows a fault. Its input is at most ``max_bytes``."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    """Inputs as they are in life, to begin with."""
    max_bytes: int
    words: tuple[bytes, ...] = ()
    """What is worth putting in somewhere."""
    between: bytes = b""
    """What stands between the parts that an input is made of, if it is."""
    compiled: bool = False
    """Whether what is compiled has a part in it: then it takes sanitizers, and most of the time."""
