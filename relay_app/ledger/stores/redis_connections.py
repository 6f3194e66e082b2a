"""What one Redis store has open in each process: connections that write, and one a reader.

The rule: a connection that writes is to a server that may keep records, with keys of our version;
and nothing waits for a thing of another kind: not a lease for a batch of records or its sync, and
not a commit for a long report.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import redis

from relay_app.ledger.stores.base import StoreError
from relay_app.ledger.stores.edge import mapped, once_more
from relay_app.ledger.stores.native import make_lock
from relay_app.ledger.stores.redis_client import Address, connect
from relay_app.ledger.stores.redis_scripts import SCHEMA_VERSION
from relay_app.ledger.stores.redis_upgrade import upgrade

__all__ = ["Connections", "Purpose", "run"]

_T = TypeVar("_T")
Purpose = Literal["records", "leases"]

_log = logging.getLogger(__name__)


def run(client: Any, script: str, keys: list[str], *arguments: object) -> Any:
    """What ``script`` returns. It is sent whole only to a server that has not seen it."""
    return client.register_script(script)(keys, (SCHEMA_VERSION, *arguments))


@dataclass(slots=True)
class _Kept:
    """A connection that is kept open, and the lock of whoever uses it."""

    lock: Any = field(default_factory=make_lock)
    client: Any = None


class Connections:
    """The connections of one store. Whatever the driver raises leaves here as StoreError."""

    def __init__(self, address: Address) -> None:
        self._address = address
        # By process id, so that a forked child does not write into its parent's connection.
        self._kept: dict[tuple[int, Purpose], _Kept] = {}
        self._closed = False

    def write(self, purpose: Purpose, work: Callable[[Any], _T]) -> _T:
        """``work`` on the connection kept for ``purpose``, alone; records are synced after it."""
        self.check_open()
        kept = self._kept.setdefault((os.getpid(), purpose), _Kept())
        with kept.lock, mapped(_describe):
            return once_more(
                lambda: self._write(kept, work, synced=purpose == "records"),
                kept=kept.client is not None,
                let_go=lambda: _let_go(kept),
                lost=lambda error: isinstance(error, redis.ConnectionError),
            )

    def _write(self, kept: _Kept, work: Callable[[Any], _T], *, synced: bool) -> _T:
        self.check_open()  # it may have been closed while we waited for the lock
        if kept.client is None:
            kept.client = connect(self._address)
            if synced:
                _vouch(kept.client)
            upgrade(lambda *command: run(kept.client, *command), self._address.prefix)
        done = work(kept.client)
        if synced and self._address.wait_aof:
            _wait_aof(kept.client, self._address.answer_seconds * 0.8)
        return done

    @contextmanager
    def reading(self) -> Iterator[Any]:
        """A connection of its own, so that a long report never stands in front of a commit."""
        self.check_open()
        with mapped(_describe):
            client = connect(self._address)
            try:
                yield client
            finally:
                client.connection_pool.disconnect()

    def check_open(self) -> None:
        if self._closed:
            raise StoreError("the Redis store is closed")

    def close(self) -> None:
        self._closed = True
        for (pid, _), kept in list(self._kept.items()):
            if pid == os.getpid():
                with kept.lock:
                    _let_go(kept)


def _vouch(client: Any) -> None:
    """Raise StoreError on a server that may forget on purpose; warn of one that may by accident."""
    try:
        memory, persistence = client.info("memory"), client.info("persistence")
    except redis.ResponseError:
        return  # not everybody may ask, and not every server answers
    policy = str(memory.get("maxmemory_policy", ""))
    if memory.get("maxmemory") and policy.startswith("allkeys"):
        raise StoreError(
            f"the server may evict usage records (maxmemory-policy {policy}): set noeviction"
        )
    if not persistence.get("aof_enabled", 1):
        _log.warning(
            "the Redis store keeps no append-only file: usage records survive this process, "
            "but not that server (appendonly yes)"
        )


def _wait_aof(client: Any, seconds: float) -> None:
    """Return once the server has synced what this connection wrote."""
    if client.execute_command("WAITAOF", 1, 0, int(seconds * 1000))[0] < 1:
        raise StoreError(f"the server has not synced its append-only file within {seconds:g} s")


def _let_go(kept: _Kept) -> None:
    client, kept.client = kept.client, None
    if client is not None:
        with suppress(redis.RedisError, OSError):
            client.connection_pool.disconnect()


_IN_WORDS: dict[type[Exception], str] = {
    redis.ConnectionError: "the store cannot be reached",  # its subclasses say more
    redis.TimeoutError: "the store does not answer",
}


def _describe(error: Exception) -> str:
    text = str(error).replace("\n", " ")
    if text.startswith("NEWER "):
        return (
            "the keys were written by a newer relay_app: their schema is version "
            f"{text.removeprefix('NEWER ')}, this one knows up to {SCHEMA_VERSION}"
        )
    kind = _IN_WORDS.get(type(error), type(error).__name__)
    return f"{kind}: {text}"
