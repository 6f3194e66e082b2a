"""Progress on standard error, for whatever takes longer than seconds."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

__all__ = ["progress"]


def progress(title: str, found: Sequence[Any], rounds: int) -> Iterator[Any]:
    """Round after round of all that was found, A B C A B C, with a bar."""
    with click.progressbar(
        length=len(found) * rounds, label=title, file=sys.stderr, show_pos=True,
        item_show_func=lambda each: each,
    ) as bar:  # fmt: skip
        for _ in range(rounds):
            for each in found:
                bar.update(0, each[0].name)
                yield each
                bar.update(1, each[0].name)
