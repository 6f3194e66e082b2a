"""What a client said that its server does not repeat, kept until it is of use.

The rule: a claim is used only where no server event can say the same, so nothing is counted
twice. Servers repeat sessions and items; they leave out the audio of an item, and the
instructions and the input that a single response was asked with. Everything here is bounded, and
of text only the count is kept.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from relay_app.meter.items import Item, count_instructions, count_item, count_tools
from relay_app.meter.split import Split
from relay_app.meter.untrusted import identifier, mapping

__all__ = ["PLAINLY", "UNTAGGED", "Asked", "Claims", "is_outside", "tag_of"]

MAX_ASKED: Final = 16
MAX_SPOKEN: Final = 64
MAX_INPUT: Final = 1024
"""Items that one response can be given to read instead of the conversation."""

UNTAGGED: Final = hash(frozenset())
"""The tag of a response without metadata."""


class Asked(NamedTuple):
    """A ``response.create`` that is not answered yet, in tokens; None is "as in the session"."""

    tag: int
    outside: bool
    instructions: int | None
    tools: int | None
    input: Split | None
    exact: bool


PLAINLY: Final = Asked(UNTAGGED, False, None, None, None, True)
"""All as in the session."""


class Claims:
    """The claims of one session's client."""

    __slots__ = ("_asked", "_items", "_spoken", "repeated")

    def __init__(self) -> None:
        self.repeated = False
        """Whether the server repeats items."""
        self._items = Split()
        # Lists, of a few entries each: an empty deque takes 760 bytes of every session.
        self._spoken: list[tuple[str | None, int]] = []
        self._asked: list[Asked] = []

    def create_item(self, item: dict[str, Any]) -> Item:
        """The client creates an item. Its tokens count until the server repeats its first."""
        counted = count_item(item)
        if counted.audio_bytes:
            self._spoken.append((identifier(item.get("id")), counted.audio_bytes))
            del self._spoken[:-MAX_SPOKEN]
        if not self.repeated:
            self._items = self._items.plus(counted.tokens)
        return counted

    def repeat(self) -> Split:
        """The server repeats items: what was counted of claimed ones, to be taken back."""
        claimed, self._items, self.repeated = self._items, Split(), True
        return claimed

    def audio_bytes(self, item_id: str | None) -> int:
        """Of an item with audio that the server repeats without it: by its id, or the oldest
        that the client gave none."""
        for wanted in (item_id, None):
            for spoken in self._spoken:
                if spoken[0] == wanted:
                    self._spoken.remove(spoken)
                    return spoken[1]
        return 0

    def ask(self, response: dict[str, Any], remembered: Callable[[str | None], Split]) -> None:
        """The client asks for a response. ``remembered`` gives the tokens of an item by its id."""
        given = response.get("input")
        inputs = None if not isinstance(given, list) else Split()
        exact = True
        for item in map(mapping, given[:MAX_INPUT] if isinstance(given, list) else ()):
            if item.get("type") == "item_reference":
                tokens = remembered(identifier(item.get("id")))
            else:
                counted = count_item(item)
                tokens, exact = counted.tokens, exact and counted.exact
            inputs = tokens.plus(inputs or Split())
        instructions = count_instructions(response.get("instructions"))
        tools = count_tools(response.get("tools"))
        self.ask_like(
            Asked(
                tag_of(response.get("metadata")),
                response.get("conversation") == "none",
                instructions.tokens if isinstance(response.get("instructions"), str) else None,
                tools.tokens if isinstance(response.get("tools"), list) else None,
                inputs,
                exact and instructions.exact and tools.exact,
            )
        )

    def ask_like(self, asked: Asked) -> None:
        """The same, of what is known already."""
        self._asked.append(asked)
        del self._asked[:-MAX_ASKED]

    def newest(self) -> Asked | None:
        """The response that was asked for last, if it is not answered yet."""
        return self._asked[-1] if self._asked else None

    def withdraw(self) -> None:
        """What was asked last did not reach the server."""
        if self._asked:
            self._asked.pop()

    def answered(self, tag: int, outside: bool) -> Asked | None:
        """What the response that the server has begun was asked with, if a client asked for it.
        The server repeats the ``tag`` of its metadata, and says whether it is ``outside``.

        Servers repeat metadata, and answer in order: what was asked before was refused. One with
        neither metadata nor its like among what was asked is the server's own (VAD).
        """
        for position, asked in enumerate(self._asked):
            if (asked.tag, asked.outside) == (tag, outside):
                del self._asked[: position + 1]
                return asked
        return None


def is_outside(response: dict[str, Any]) -> bool:
    """Whether a response is out of band: it says that it has no conversation."""
    return "conversation_id" in response and response["conversation_id"] is None


def tag_of(metadata: object) -> int:
    """A number that equal metadata share: of strings, the only values allowed there."""
    if not metadata:
        return UNTAGGED
    pairs = mapping(metadata).items()
    return hash(frozenset((key, value) for key, value in pairs if isinstance(value, str)))
