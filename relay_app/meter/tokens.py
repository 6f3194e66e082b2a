"""How many tokens a text is, in bounded work whatever the text.

The rule: one call tokenises at most :data:`MAX_CHARS` characters, in pieces of at most
:data:`CHUNK_CHARS`. A tokenizer takes 0.4 s for a megabyte of one letter and gives up on a
megabyte of spaces; texts come from strangers. What lies beyond the budget counts at the rate of
what lies within it, and without a vocabulary four bytes are a token. Both are said to be inexact.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from relay_app.meter.vocabulary import Encode, loaded

__all__ = ["CHUNK_CHARS", "MAX_CHARS", "NONE", "Counted", "count_tokens"]

MAX_CHARS: Final = 16_384
"""Some 4,000 tokens: instructions are shorter. English takes 2 ms, the worst input found
(halves of surrogate pairs) 15 ms."""

CHUNK_CHARS: Final = 1024
"""The regex behind o200k_base recurses on runs of spaces; a run this long does no harm."""

MIN_CHARGE: Final = 32
"""What the shortest text costs of the budget: a call has a price of its own."""

BYTES_PER_TOKEN: Final = 4
"""OpenAI's rule of thumb for English."""

MIN_CACHED_CHARS: Final = 256
MAX_CACHED: Final = 512
"""Instructions and tools are said again with each ``session.updated``. Kept are their lengths and
hashes, not their texts."""

_cache: dict[tuple[int, int] | None, int] = {}


class Counted(NamedTuple):
    """A number of tokens. ``exact`` is False if any of them were not looked up."""

    tokens: int
    exact: bool = True


NONE: Final = Counted(0)


def count_tokens(texts: Iterable[str], encode: Encode | None = None) -> Counted:
    """The tokens of ``texts`` together, each tokenised by itself, under one budget.

    ``encode`` is the loaded vocabulary unless another is given. Never raises.
    """
    own = encode or loaded()
    remembered, counted, guessed = 0, 0, 0
    seen_chars, beyond_chars, left = 0, 0, MAX_CHARS
    for text in texts:
        if encode is None and (text_hash := _key(text)) in _cache:
            remembered += _cache[text_hash]
            continue
        within = text if len(text) <= left else text[: max(0, left)]
        left -= max(len(text), MIN_CHARGE)
        here = _encoded(within, own)
        if here is None:
            guessed += _by_bytes(within)
        else:
            counted += here
            if encode is None and within is text:
                _remember(text, here)
        seen_chars += len(within)
        beyond_chars += len(text) - len(within)
    exact = not guessed and not beyond_chars
    if beyond_chars:
        rate = (counted + guessed) / seen_chars if seen_chars else 1 / BYTES_PER_TOKEN
        guessed += round(beyond_chars * rate)
    return Counted(remembered + counted + guessed, exact)


def _encoded(text: str, encode: Encode | None) -> int | None:
    if not text:
        return 0
    if encode is None:
        return None
    try:
        if len(text) <= CHUNK_CHARS:
            return len(encode(text))
        return sum(len(encode(chunk)) for chunk in _chunks(text))
    except Exception:  # noqa: BLE001 - whatever the tokenizer cannot do, the meter goes on
        return None


def _chunks(text: str) -> Iterator[str]:
    """``text`` in pieces, cut where the vocabulary cuts too if there is such a place.

    No token has a space after something else than a space: cutting before such a space changes
    no count. A word of more than 512 characters is cut anywhere.
    """
    start = 0
    while len(text) - start > CHUNK_CHARS:
        stop = start + CHUNK_CHARS
        space = text.rfind(" ", start + CHUNK_CHARS // 2, stop)
        if space > 0 and not text[space - 1].isspace():
            stop = space
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


def _by_bytes(text: str) -> int:
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def _key(text: str) -> tuple[int, int] | None:
    return (len(text), hash(text)) if len(text) >= MIN_CACHED_CHARS else None


def _remember(text: str, tokens: int) -> None:
    if (text_hash := _key(text)) is not None:
        _cache[text_hash] = tokens
        if len(_cache) > MAX_CACHED:
            del _cache[next(iter(_cache))]
