"""What the next response will have to read: the tokens of a conversation, without its words.

The rule: the provider's own count is believed. What it said a response had read is the base, and
only what came or went since is added; without a report, everything seen is. Kept are counts, of
at most :data:`MAX_ITEMS` items by id (about 150 bytes each).
"""

from typing import Final

from relay_app.meter.items import ITEM_TOKENS
from relay_app.meter.split import Split, made_split

__all__ = ["MAX_CONTEXT_TOKENS", "Context"]

MAX_ITEMS: Final = 128
"""Items that can still be deleted, truncated or seen again; older ones only add up, until the next
report says what is left of them."""

FIRST_AUDIO_TOKENS: Final = 8
"""Framing of the first audio item of a conversation, in text tokens (recorded)."""

MAX_CONTEXT_TOKENS: Final = 128_000
"""The largest context of a realtime model (gpt-realtime-2): providers truncate what is older."""


class Context:
    """The conversation of one session, counted."""

    __slots__ = ("_base", "_base_level", "_heard", "_instructions", "_items", "_tools", "level")

    def __init__(self) -> None:
        self._instructions = 0
        self._tools = 0
        self._items: dict[str, Split] = {}
        self._heard = False
        self.level = Split()
        """What has been added so far, less what was taken away: a mark to rebase from."""
        self._base = Split()
        self._base_level = Split()

    @property
    def preamble(self) -> Split:
        """Instructions and tools in force."""
        return Split(text=self._instructions + self._tools)

    @property
    def total(self) -> Split:
        """What a response that starts now would read."""
        base, level, since = self._base, self.level, self._base_level
        text = max(0, base.text + level.text - since.text)
        audio = max(0, base.audio + level.audio - since.audio)
        image = max(0, base.image + level.image - since.image)
        total = made_split((text, audio, image))
        if text + audio + image <= MAX_CONTEXT_TOKENS:
            return total
        most = max(MAX_CONTEXT_TOKENS, base.total)
        return total if total.total <= most else total.scaled(most)

    def instruct(self, instructions: int | None, tools: int | None) -> None:
        """The tokens of new instructions or tools; None for those that stay."""
        before = self._instructions + self._tools
        self._instructions = self._instructions if instructions is None else instructions
        self._tools = self._tools if tools is None else tools
        change = self._instructions + self._tools - before
        self.level = self.level.plus(Split(text=change))

    def overridden(self, instructions: int | None, tools: int | None) -> Split:
        """How the context of one response differs that has instructions or tools of its own."""
        change = 0 if instructions is None else instructions - self._instructions
        change += 0 if tools is None else tools - self._tools
        return Split(text=change)

    def item(self, item_id: str | None) -> Split:
        """The tokens of an item that is remembered, else none."""
        return self._items.get(item_id or "", Split())

    def add(self, item_id: str | None, tokens: Split) -> None:
        """An item with these tokens joined. One that is there already is not counted again."""
        if item_id in self._items or not tokens.total:
            return
        self.level = self.level.plus(tokens)
        if item_id:
            self._items[item_id] = tokens
            if len(self._items) > MAX_ITEMS:
                del self._items[next(iter(self._items))]

    def hear(self, item_id: str | None, audio_tokens: int) -> None:
        """An item of user audio joined."""
        if audio_tokens <= 0 or item_id in self._items:
            return
        framing = ITEM_TOKENS if self._heard else FIRST_AUDIO_TOKENS
        self._heard = True
        self.add(item_id, Split(text=framing, audio=audio_tokens))

    def delete(self, item_id: str | None) -> None:
        """An item left."""
        self.level = self.level.minus(self._items.pop(item_id or "", Split()))

    def take_back(self, tokens: Split) -> None:
        """Tokens that were added without an id are going to be added with one."""
        self.level = self.level.minus(tokens)

    def truncate(self, item_id: str | None, audio_tokens: int) -> None:
        """What the model said was cut to this much audio, and its transcript was deleted."""
        tokens = self.item(item_id)
        if item_id and tokens.audio > audio_tokens:
            left = Split(text=min(tokens.text, ITEM_TOKENS), audio=audio_tokens)
            self.level = self.level.minus(tokens).plus(left)
            self._items[item_id] = left

    def rebase(self, reported: Split, level: Split) -> None:
        """The provider says that a response, begun at ``level``, had read ``reported``."""
        if reported.total:
            self._base, self._base_level = reported, level
