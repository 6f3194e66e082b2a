"""``redis://`` and ``rediss://``: records in one Redis or Valkey server.

The rule: a record that was acknowledged is as durable as that server is set to be, which it is
asked when we connect; and whoever reads sees one moment, however long it takes.

Totals are added up here, from the stream of records. Sums kept by the server would have to be
kept for every grouping, could not answer for an arbitrary span, and would be floats: Lua has no
other numbers, and money is not to be rounded.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from relay_app import codec
from relay_app.ledger.stores.base import Store, StoreError, check_record
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.native import make_lock
from relay_app.ledger.stores.redis_client import Address, connect
from relay_app.ledger.stores.redis_scripts import PAGE, VIEW_SECONDS, WRITE, keys
from relay_app.ledger.stores.schema import SCHEMA_VERSION
from relay_app.ledger.stores.totals import By, Total, add_up, check_by
from relay_app.meter.usage import UsageRecord

__all__ = ["RedisStore"]

BATCH_RECORDS = 500
"""How many a script handles at once, and a reader holds: some 3 MB at the most. The server does
nothing else meanwhile, for about 10 ms."""

_Entry = tuple[bytes, int, str, bytes]
"""Id, rank, ``ended_at`` and JSON of a record."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Opened:
    """What one process has open: the connection that writes."""

    lock: Any = field(default_factory=make_lock)
    writer: Any = None


class RedisStore(Store):
    """Usage records under the keys of one prefix; see ``redis_scripts`` for what they hold."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._keys = keys(address.prefix)
        # By process id, so that a forked child does not write into its parent's connection.
        self._opened: dict[int, _Opened] = {}
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> "RedisStore":
        return cls(Address.from_url(url))

    def write(self, records: Sequence[UsageRecord]) -> None:
        self._check_open()
        entries: list[_Entry] = []
        rejected: dict[str, str] = {}
        for record in records:
            try:
                entries.append(_entry(record))
            except (OverflowError, TypeError, ValueError) as error:
                rejected[record.id] = f"{type(error).__name__}: {error}"
        if entries:
            opened = self._opened.setdefault(os.getpid(), _Opened())
            with opened.lock, _mapped():
                self._write_once_more(opened, entries)
        if rejected:
            raise StoreError(f"{len(rejected)} records cannot be stored", rejected=rejected)

    def _write_once_more(self, opened: _Opened, entries: list[_Entry]) -> None:
        """Write ``entries``; if the connection we had was lost meanwhile, at once over a new one.

        A server that closed an idle connection is no failure that anybody need hear of.
        """
        for fresh in (opened.writer is None, True):
            try:
                return self._write(opened, entries)
            except BaseException as error:
                _let_go(opened)  # the next write starts from a fresh connection
                if fresh or not isinstance(error, redis.ConnectionError):
                    raise
        return None

    def _write(self, opened: _Opened, entries: list[_Entry]) -> None:
        self._check_open()  # it may have been closed while we waited for the lock
        if opened.writer is None:
            opened.writer = connect(self._address)
            _vouch(opened.writer)
        for start in range(0, len(entries), BATCH_RECORDS):
            batch = entries[start : start + BATCH_RECORDS]
            self._run(opened.writer, WRITE, *(part for entry in batch for part in entry))
        if self._address.wait_aof:
            _wait_aof(opened.writer, self._address.answer_seconds * 0.8)

    def records(
        self,
        *,
        session_id: str | None = None,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[UsageRecord]:
        for ended_at, text in self._view("-inf" if since is None else repr(float(since))):
            if until is not None and ended_at >= until:
                return
            record = UsageRecord.from_dict(codec.loads(text))
            if session_id not in (None, record.session_id) or key not in (None, record.key):
                continue
            yield record

    def _view(self, since: str) -> Iterator[tuple[float, bytes]]:
        """``ended_at`` and JSON of all there is from ``since`` on, in order, as of now."""
        begun: tuple[int, int] | None = None
        seen: tuple[float, bytes] | None = None
        after, score = b"", b""
        with self._reading() as client:
            while True:
                page = self._run(client, PAGE, BATCH_RECORDS, since, after, score)
                moment, now = int(page[0]), int(page[1])
                begun = begun or (moment, now)
                if now - begun[1] >= VIEW_SECONDS:
                    raise StoreError(f"a view can be read for {VIEW_SECONDS} s: begin again")
                for after, score, value in zip(page[2::3], page[3::3], page[4::3], strict=True):
                    id_, buried, _ = after.partition(b"\0")
                    first, born, text = value.split(b" ", 2)
                    if int(born) > begun[0] or (buried and int(first) <= begun[0]):
                        continue  # not there yet, or not there any more
                    place = (float(score), id_)
                    if seen is None or place > seen:
                        seen = place
                        yield place[0], text
                if len(page) < 2 + 3 * BATCH_RECORDS:
                    return

    def totals(
        self,
        by: By,
        *,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[Total]:
        check_by(by)
        return add_up(self.records(key=key, since=since, until=until), by)

    def lease(self, asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        raise StoreError("leases are not supported yet")

    def keys(self) -> list[StoredKey]:
        raise StoreError("keys are not supported yet")

    def put_key(self, key: StoredKey) -> None:
        raise StoreError("keys are not supported yet")

    def forget(self, day: str) -> int:
        raise StoreError("forgetting is not supported yet")

    def ping(self) -> None:
        with self._reading() as client:
            self._run(client, PAGE, 1, "-inf", "", "")

    def close(self) -> None:
        self._closed = True
        opened = self._opened.get(os.getpid())
        if opened is not None:
            with opened.lock:
                _let_go(opened)

    def _run(self, client: Any, script: str, *arguments: object) -> Any:
        return client.register_script(script)(self._keys, (SCHEMA_VERSION, *arguments))

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """A connection of its own, so that a long report never stands in front of a commit."""
        self._check_open()
        with _mapped():
            client = connect(self._address)
            try:
                yield client
            finally:
                client.connection_pool.disconnect()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the Redis store is closed")


def _entry(record: UsageRecord) -> _Entry:
    """What WRITE takes. Raises TypeError, ValueError or OverflowError."""
    check_record(record)
    if "\0" in record.id:
        raise ValueError("an id has no NUL in it")
    text = codec.dumps(record.as_dict())
    return (
        record.id.encode(),
        record.rank,
        repr(float(record.ended_at)),
        text.encode(),
    )


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


def _let_go(opened: _Opened) -> None:
    writer, opened.writer = opened.writer, None
    if writer is not None:
        with suppress(redis.RedisError, OSError):
            writer.connection_pool.disconnect()


@contextmanager
def _mapped() -> Iterator[None]:
    """The one edge where what redis-py raises becomes a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, this is the edge
        raise StoreError(_describe(error)) from None


def _describe(error: Exception) -> str:
    text = str(error).replace("\n", " ")
    if text.startswith("NEWER "):
        return (
            "the keys were written by a newer relay_app: their schema is version "
            f"{text.removeprefix('NEWER ')}, this one knows up to {SCHEMA_VERSION}"
        )
    return f"{type(error).__name__}: {text}"
