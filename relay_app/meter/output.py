"""What one running response has put out: audio by its bytes, text by its end or its deltas.

The rule: deltas are only added up, and of text and speech OpenAI sends one a token.
``response.done`` repeats all text of a response; that is tokenised, once, where the estimate is
what is billed, or where the deltas do not tell.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from typing import Any, Final

from relay_app.meter.kinds import TEXTS
from relay_app.meter.split import Split
from relay_app.meter.tokens import BYTES_PER_TOKEN, Counted, count_tokens

__all__ = ["Output"]

TEXT_TOKENS: Final = 2
"""Framing of a text reply (recorded)."""
SPOKEN_TOKENS: Final = 9
"""Framing of a spoken one: recorded are 6 to 12, for each change between text and audio costs."""
CALL_TOKENS: Final = 8
"""Framing of a function call (recorded)."""

MAX_ITEMS: Final = 128

_KINDS: Final = {
    "response.output_text.delta": TEXT_TOKENS,
    "response.text.delta": TEXT_TOKENS,
    "response.output_audio_transcript.delta": SPOKEN_TOKENS,
    "response.audio_transcript.delta": SPOKEN_TOKENS,
    "response.function_call_arguments.delta": CALL_TOKENS,
    "response.mcp_call_arguments.delta": CALL_TOKENS,
}


_BITS: Final = {event_type: 1 << number for number, event_type in enumerate(TEXTS)}
"""Of a type of delta in ``Output.texts``, as in the sums of a skim."""
_SPOKEN: Final = sum(bit for name, bit in _BITS.items() if _KINDS[name] == SPOKEN_TOKENS)
_CALLS: Final = sum(bit for name, bit in _BITS.items() if _KINDS[name] == CALL_TOKENS)


@lru_cache(maxsize=1 << len(TEXTS))
def _framing(texts: int) -> int:
    """The framing of an output that has deltas of these types: once for each kind of it."""
    return sum({_KINDS[name] for name in compress(TEXTS, map(int, f"{texts:b}"[::-1]))})


@dataclass(slots=True)
class Output:
    """One running response. ``input`` is what it reads and ``level`` the mark of its context;
    ``outside`` of the conversation nothing of it is read again. ``pieces`` are its deltas of text,
    transcript or arguments, ``piece_bytes`` theirs, and of ``texts`` each bit is a type of them."""

    input: Split
    level: Split
    outside: bool
    bytes_per_ms: float
    audio_bytes: int = 0
    pieces: int = 0
    piece_bytes: int = 0
    texts: int = 0

    def add_text(self, event_type: str, size: int) -> None:
        """A delta of text, transcript or arguments came, of ``size`` bytes."""
        self.pieces += 1
        self.piece_bytes += size
        self.texts |= _BITS[event_type]

    @property
    def said_tokens(self) -> int:
        """The text tokens of the deltas so far."""
        tokens = max(self.pieces, -(-self.piece_bytes // BYTES_PER_TOKEN)) + _framing(self.texts)
        heard = self.audio_bytes and not self.texts & _SPOKEN
        return tokens + SPOKEN_TOKENS if heard else tokens

    @property
    def tells(self) -> bool:
        """Whether the deltas are all that it wrote: a call's name is in none."""
        return self.pieces > 0 and not self.texts & _CALLS

    def written(self, items: list[dict[str, Any]], *, reported: bool) -> Counted:
        """The text tokens of the output ``items``, or of the deltas if there is no text in them.

        Of a response that was ``reported``, which is billed by that, the deltas serve if they
        tell.
        """
        if reported and self.tells:
            return Counted(self.said_tokens)
        texts: list[str] = []
        framing = 0
        for item in items[:MAX_ITEMS]:
            said, frame = _texts(item)
            texts += said
            framing += frame
        if texts:
            counted = count_tokens(texts)
            return Counted(counted.tokens + framing, counted.exact)
        return Counted(self.said_tokens, not self.pieces)


def _texts(item: dict[str, Any]) -> tuple[list[str], int]:
    """The texts that a model wrote for an output item, and the framing around them."""
    if isinstance(item.get("arguments"), str):
        called = [item.get("name"), item["arguments"]]
        return [text for text in called if isinstance(text, str) and text], CALL_TOKENS
    texts: list[str] = []
    spoken: list[str] = []
    content = item.get("content")
    for part in content[:MAX_ITEMS] if isinstance(content, list) else ():
        if isinstance(part, dict):
            if isinstance(text := part.get("text"), str):
                texts.append(text)
            if isinstance(text := part.get("transcript"), str):
                spoken.append(text)
    framing = (TEXT_TOKENS if texts else 0) + (SPOKEN_TOKENS if spoken else 0)
    return [text for text in texts + spoken if text], framing
