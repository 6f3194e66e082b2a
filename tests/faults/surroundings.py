"""What happens to a relay in the middle of an answer, by name: each function is a relay with
something around it that goes wrong, and its docstring says what.

The rule: a relay that something happens to is one row's alone.
"""

import signal
import sqlite3
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.clients import eventually
from support.relays import RelayProcess, relay

__all__ = ["SURROUNDINGS", "Trouble"]

DAY_SECONDS = 86_400


def nothing() -> None:
    """Nothing happens."""


@dataclass(frozen=True)
class Trouble:
    """A relay, what happens once an answer has begun, and what when the client has gone."""

    running: RelayProcess
    amid: Callable[[], object] = nothing
    over: Callable[[], object] = nothing


Surroundings = Callable[..., AbstractContextManager[Trouble]]


@contextmanager
def clock_ahead(folder: Path, base_url: str, **settings: str) -> Iterator[Trouble]:
    """Amid the answer the relay's wall clock jumps a day ahead."""
    with _clock(folder, base_url, DAY_SECONDS, **settings) as trouble:
        yield trouble


@contextmanager
def clock_back(folder: Path, base_url: str, **settings: str) -> Iterator[Trouble]:
    """Amid the answer the relay's wall clock jumps a day back."""
    with _clock(folder, base_url, -DAY_SECONDS, **settings) as trouble:
        yield trouble


@contextmanager
def _clock(folder: Path, base_url: str, ahead: int, **settings: str) -> Iterator[Trouble]:
    with relay(folder, base_url, server="jumping-clock", **settings) as running:

        def jump() -> None:
            url = f"{running.url}/clock?ahead={ahead}"
            with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=30):
                pass

        yield Trouble(running, jump)


@contextmanager
def store_locked(folder: Path, base_url: str, **settings: str) -> Iterator[Trouble]:
    """Amid the answer another program locks the SQLite file, until the client has gone."""
    with (
        relay(folder, base_url, **settings) as running,
        closing(
            sqlite3.connect(folder / "relay.db", isolation_level=None, check_same_thread=False)
        ) as other,
    ):

        def lock() -> None:
            version = "PRAGMA user_version"
            eventually(lambda: other.execute(version).fetchone()[0], "the store's tables")
            other.execute("BEGIN EXCLUSIVE")

        yield Trouble(running, lock, lambda: other.execute("ROLLBACK"))


@contextmanager
def told_to_stop(folder: Path, base_url: str, **settings: str) -> Iterator[Trouble]:
    """Amid the answer the relay gets a SIGTERM."""
    with relay(folder, base_url, **settings) as running:
        yield Trouble(running, lambda: running.process.signal(signal.SIGTERM))


_ALL: tuple[Surroundings, ...] = (clock_ahead, clock_back, store_locked, told_to_stop)
SURROUNDINGS = {each.__name__.replace("_", "-"): each for each in _ALL}
