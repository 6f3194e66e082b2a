"""The keys of a store, as one worker knows them.

The rule: who is asked about a key answers from memory. The store is read every few seconds, and
at once for a key nobody knows; but never twice at a time, nor more than once a second, nor for
more than a twentieth of the time, however many wrong keys come. A store that is down leaves what
was known: keys go on to work, revoked ones stop when it is back, and nobody is told that his key
is wrong, for it may be new.
"""

import logging
import time
from collections.abc import Callable
from itertools import islice
from typing import Final

import gevent
from gevent.event import Event

from relay_app.errors import RelayFault
from relay_app.ledger.chore import Chore
from relay_app.ledger.jitter import between
from relay_app.ledger.stores.base import Store, redact
from relay_app.settings import Key

__all__ = ["REFRESH_SECONDS", "StoredKeys"]

REFRESH_SECONDS: Final = 5.0
"""And up to half as much again, at random, lest all workers ask at once."""

MOST_SECONDS: Final = 20.0
"""Between two readings, even where reading takes long: a revoked key works for less than 30."""

ASK_SECONDS: Final = 1.0
SHARE: Final = 20
"""A reading is followed by as many times its own length without one."""

WAIT_SECONDS: Final = 3.0
MAX_WAITING: Final = 100
"""Requests with an unknown key that wait for the store; to more than these it is just unknown."""

MAX_KEYS: Final = 100_000
"""About 0.5 kB each."""

_log = logging.getLogger(__name__)


class StoredKeys:
    """What ``store.keys()`` last said, without what was revoked. Belongs to one hub.

    ``on_read`` is called after each reading that succeeded.
    """

    def __init__(
        self,
        store: Store,
        *,
        on_read: Callable[[], None] = lambda: None,
        refresh_seconds: float = REFRESH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0
        self._store = store
        self._on_read = on_read
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._chore = Chore(self._read_forever)
        self._keys: dict[str, Key] = {}
        self._names: dict[str, Key] = {}
        self._untold = 0
        self._read_at: float | None = None
        self._began_at = float("-inf")
        self._took_seconds = 0.0
        self._reading = False
        self._error: str | None = None
        self._wanted = Event()
        self._next = Event()
        """Set when a reading is over that has not begun yet."""
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def age_seconds(self) -> float:
        """How long ago what is known here was true; 0.0 before the first reading."""
        return 0.0 if self._read_at is None else max(0.0, self._clock() - self._read_at)

    @property
    def warning(self) -> str | None:
        """What an operator should know although new sessions are welcome."""
        if self._error is not None:
            known = "none is known" if self._read_at is None else "revoked ones may still work"
            return f"keys cannot be read from the store, {known}: {self._error}"
        if self._untold:
            return f"the store has {self._untold} keys more than the {MAX_KEYS} that are looked at"
        return None

    def start(self) -> None:
        """Begins to read, if it has not begun yet."""
        self._chore.start()

    def stop(self) -> None:
        """Reads no more."""
        self._chore.stop()

    def find(self, digest: str) -> Key | None:
        """The key with this SHA-256, in lower case; waits for the store if it is a new one.

        Raises RelayFault 503 if nobody knows the key and the store does not say either: it may
        have been made since the last reading that succeeded.
        """
        self.start()
        if digest not in self._keys and not self._ask() and digest not in self._keys:
            raise RelayFault(
                "This relay cannot look up keys at the moment. Try again later.",
                code="keys_unavailable",
                headers={"Retry-After": "5"},
            )
        return self._keys.get(digest)

    def has(self, name: str) -> bool:
        """Whether a key of this name may be used."""
        return name in self._names

    def named(self, name: str) -> Key | None:
        """The key of this name, as it is now."""
        return self._names.get(name)

    def _ask(self) -> bool:
        """Wait for what the store says from now on, unless too many do, or it hangs.

        Whether what is known now is what the store says, or said a moment ago.
        """
        if self._reading and self._clock() - self._began_at > WAIT_SECONDS:
            return False
        if self._waiting >= MAX_WAITING:
            return self._answers
        self._waiting += 1
        try:
            self._wanted.set()
            told = self._next.wait(WAIT_SECONDS)
            # Not told because readings take long, and so pause for long: what is known is of the
            # last one, and a wrong key is a wrong key.
            return self._answers and (told or not self._reading)
        finally:
            self._waiting -= 1

    @property
    def _answers(self) -> bool:
        """Whether the last reading succeeded."""
        return self._read_at is not None and self._error is None

    def _read_forever(self) -> None:
        while True:
            over, self._next = self._next, Event()
            self._wanted.clear()
            self._began_at, self._reading = self._clock(), True
            try:
                self._read()
            finally:
                self._reading = False
                self._took_seconds = self._clock() - self._began_at
                over.set()
            pause = self._spacing(self._refresh_seconds * between(1.0, 1.5))
            least = min(pause, self._spacing(ASK_SECONDS))
            gevent.sleep(least)
            self._wanted.wait(pause - least)

    def _spacing(self, seconds: float) -> float:
        return min(MOST_SECONDS, max(seconds, SHARE * self._took_seconds))

    def _read(self) -> None:
        try:
            self._keys, self._names, self._untold = self._chore.call(self._from_store)
        except Exception as error:  # noqa: BLE001 - a store of somebody else's may raise anything
            self.failures += 1
            if self._error is None:
                _log.error("keys cannot be read from the store: %s", redact(str(error)))
            self._error = redact(f"{type(error).__name__}: {error}")
            return
        if self._error is not None:
            _log.warning("keys can be read from the store again")
        self._error = None
        self._read_at = self._began_at
        try:
            self._on_read()
        except Exception:  # noqa: BLE001 - the next reading is to happen all the same
            _log.exception("what follows a reading of the keys failed")

    def _from_store(self) -> tuple[dict[str, Key], dict[str, Key], int]:
        """Runs on the thread, for it takes a while where there are many."""
        found = self._store.keys()
        usable = [stored.key for stored in found if stored.revoked_at is None]
        keys = {key.key_sha256.lower(): key for key in islice(usable, MAX_KEYS)}
        return keys, {key.name: key for key in keys.values()}, len(usable) - len(keys)
