"""The vocabulary that text is counted by: o200k_base, which the realtime models share.

The rule: it is loaded once a process, when told to, never by the way. Loading takes 0.45 s, half
of it in tiktoken's own code with the GIL held, so that a thread does not help the hub: it is for
a worker's start, or for a moment at which nobody speaks. It is the one thing in ``meter`` that
opens a file; no network and no cache directory are involved.
"""

import gzip
from binascii import a2b_base64
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Final

__all__ = ["Encode", "load", "loaded"]

Encode = Callable[[str], list[int]]

SHA256: Final = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Of the unpacked file, as OpenAI publishes it."""

_LETTERS_UPPER: Final = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LETTERS_LOWER: Final = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION: Final = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
PATTERN: Final = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS_UPPER}*{_LETTERS_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS_UPPER}+{_LETTERS_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
"""How o200k_base cuts text before it looks pieces up (tiktoken's ``openai_public``)."""

_encoders: list[Encode] = []


def loaded() -> Encode | None:
    """The encoder, if :func:`load` has been called. Never loads anything."""
    return _encoders[0] if _encoders else None


@cache
def load() -> Encode:
    """The encoder: text to token numbers, special tokens taken as plain text.

    Blocks for about half a second the first time. Raises OSError, ValueError or ImportError if
    the package is not whole.
    """
    from tiktoken import Encoding

    packed = files("relay_app").joinpath("data", "o200k_base.tiktoken.gz").read_bytes()
    lines = gzip.decompress(packed)
    if sha256(lines).hexdigest() != SHA256:
        raise ValueError("o200k_base.tiktoken.gz is not the published vocabulary")
    # A line is a token in base64, a space, and its number: they go from 0 up in order.
    ranks = {a2b_base64(line[: line.index(b" ")]): n for n, line in enumerate(lines.splitlines())}
    encoding = Encoding("o200k_base", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    _encoders[:] = [encoding.encode_ordinary]
    return encoding.encode_ordinary
