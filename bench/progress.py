"""Progress on standard error, for whatever takes longer than seconds."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import click

__all__ = ["each_of", "progress", "seconds_bar"]

_T = TypeVar("_T")


def _bar(title: str, length: int) -> Any:
    return click.progressbar(
        length=length,
        label=title,
        file=sys.stderr,
        show_pos=True,
        item_show_func=lambda name: str(name or ""),
    )


def progress(title: str, found: Sequence[tuple[Any, _T, Any]], rounds: int) -> Iterator[Any]:
    """Round after round of all that was found, A B C A B C."""
    yield from _go_round(title, found, rounds, lambda each: each[0].name)


def each_of(title: str, things: Sequence[Any], rounds: int) -> Iterator[Any]:
    """The same for peers that are started anew for each round."""

    def name(thing: Any) -> str:
        peer = thing[0] if isinstance(thing, tuple) else thing
        return str(peer.name)

    yield from _go_round(title, things, rounds, name)


def _go_round(title: str, things: Sequence[Any], rounds: int, name: Any) -> Iterator[Any]:
    with _bar(title, len(things) * rounds) as bar:
        for _ in range(rounds):
            for thing in things:
                bar.update(0, name(thing))
                yield thing
                bar.update(1, name(thing))


def seconds_bar(title: str, seconds: float, *, step: float) -> Iterator[None]:
    """As many turns as ``seconds`` have steps, at least three."""
    steps = max(3, round(seconds / step))
    with _bar(title, steps) as bar:
        for _ in range(steps):
            yield
            bar.update(1)
