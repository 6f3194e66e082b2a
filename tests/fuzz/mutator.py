"""Mutator: makes a new input of one that reached something, by its parts.

The rule: half of the time libFuzzer's own changes of bytes and bits are left to it; they hardly
ever move an event, or put another's line where it matters.
"""

from collections.abc import Callable
from random import Random

from fuzz.target import Target

__all__ = ["Mutator"]

STRETCH_BYTES = 8
"""A part of inputs that nothing stands between."""


class Mutator:
    """For inputs of ``target``; ``by_bytes`` changes one as libFuzzer would, to a size at most."""

    def __init__(self, target: Target, by_bytes: Callable[[bytes, int], bytes]) -> None:
        self._between = target.between
        self._by_bytes = by_bytes
        self._foreign = [part for seed in target.seeds() for part in self._parts(seed)]
        self._foreign += target.words

    def __call__(self, data: bytes, max_size: int, seed: int) -> bytes:
        dice = Random(seed)
        if dice.random() < 0.5:
            return self._by_bytes(data, max_size)
        parts = self._parts(data)
        for _ in range(dice.randint(1, 3)):
            self._change(parts, dice)
        return self._between.join(parts)[:max_size]

    def _parts(self, data: bytes) -> list[bytes]:
        if self._between:
            return data.split(self._between)
        return [data[at : at + STRETCH_BYTES] for at in range(0, len(data), STRETCH_BYTES)]

    def _change(self, parts: list[bytes], dice: Random) -> None:
        at, count = dice.randint(0, len(parts)), dice.randint(1, 3)
        match dice.randrange(5):
            case 0:
                del parts[at : at + count]
            case 1:
                parts[at:at] = parts[at : at + count]
            case 2 if parts:
                parts.insert(at, parts.pop(dice.randrange(len(parts))))
            case 3:
                parts.insert(at, dice.choice(self._foreign))
            case 4 if at < len(parts):
                part, word = parts[at], dice.choice(self._foreign)
                begin = dice.randint(0, len(part))
                parts[at] = part[:begin] + word + part[begin + dice.choice([0, len(word)]) :]
