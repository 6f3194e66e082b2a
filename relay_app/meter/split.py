"""Token counts by modality: text, audio and image have different prices, fresh and cached.

The rule: a split is read, completed where only one answer is possible, or None. It is never
guessed, for audio costs several times what text does.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from relay_app.meter.untrusted import count, mapping
from relay_app.meter.value import maker

__all__ = ["Split", "cached", "first", "made_split", "split"]


class Split(NamedTuple):
    """Tokens of one direction by modality."""

    text: int = 0
    audio: int = 0
    image: int = 0

    @property
    def total(self) -> int:
        return self.text + self.audio + self.image

    def plus(self, other: "Split") -> "Split":
        return made_split(
            (self.text + other.text, self.audio + other.audio, self.image + other.image)
        )

    def minus(self, other: "Split") -> "Split":
        """What remains, which may be negative: of a change."""
        return made_split(
            (self.text - other.text, self.audio - other.audio, self.image - other.image)
        )

    def floored(self) -> "Split":
        """The same without negative counts."""
        if self.text >= 0 and self.audio >= 0 and self.image >= 0:
            return self
        return Split(max(0, self.text), max(0, self.audio), max(0, self.image))

    def scaled(self, total: int) -> "Split":
        """``total`` tokens in the proportions of this one, whole and exact in their sum; all
        text if this one is empty. The largest count takes what rounding leaves."""
        if not self.total:
            return Split(text=total)
        scaled = [count * total // self.total for count in self]
        scaled[self.index(max(self))] += total - sum(scaled)
        return Split(*scaled)


made_split: Final = maker(Split)

_KEYS: Final = tuple(f"{kind}_tokens" for kind in Split._fields)


def first(values: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first of ``keys`` that is there and not null."""
    for key in keys:
        value = values.get(key)
        if value is not None:
            return value
    return None


def split(total: int | None, details: Mapping[str, Any], *, text_only: bool) -> Split | None:
    """The tokens of one direction, of which a provider said ``total`` and ``details``.

    Where details name some modalities, what the total has beyond them is text: chat-style
    details name only what is not text. Details above the total stand, for they are what is
    priced. Details that say nothing (none, or all zero under a total) leave the split unknown,
    unless nothing but text was possible. A count present but unreadable makes all unknown.
    """
    known = []
    named = False
    for key in _KEYS:
        value = details.get(key)
        tokens = 0 if value is None else count(value)
        if tokens is None:
            return None
        named = named or value is not None
        known.append(tokens)
    text, audio, image = known
    said = text + audio + image
    if total is None:
        return Split(text, audio, image) if named else None
    if total <= said:
        return Split(text, audio, image)
    if said or text_only:
        return Split(text + total - said, audio, image)
    return None


def cached(details: Mapping[str, Any], tokens: Split) -> Split:
    """Which of the input ``tokens`` came from the provider's cache; never more than there are.

    The beta dialect may say ``cached_tokens`` without saying of what. Those go to text first,
    then audio, then image: a cache holds the beginning of the context, where instructions and
    tools stand, and text saves the least by it, so a wrong guess gives away no audio. An
    unreadable count is no discount.
    """
    given = mapping(first(details, "cached_tokens_details", "cached_token_details"))
    said = [count(given.get(key)) or 0 for key in _KEYS]
    rest = max(0, (count(details.get("cached_tokens")) or 0) - sum(said))
    if not rest:
        return Split(*map(min, tokens, said))
    taken = []
    for tokens_here, said_here in zip(tokens, said, strict=True):
        here = min(said_here, tokens_here)
        more = min(rest, tokens_here - here)
        rest -= more
        taken.append(here + more)
    return Split(*taken)
