"""``redis://`` and ``rediss://``: records in one Redis or Valkey server.

The rule: a record that was acknowledged is as durable as that server is set to be, which it is
asked when we connect; and whoever reads sees one moment, however long it takes.

Totals are added up here, from the stream of records. Sums kept by the server would have to be
kept for every grouping and could not answer for an arbitrary span. The one that budgets need, by
key and day, it does keep.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from relay_app import codec
from relay_app.ledger.stores.base import KeyChanged, Store
from relay_app.ledger.stores.edge import check_rejected, prepared
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.redis_account_scripts import KEYS, LEASE, PUT_KEY
from relay_app.ledger.stores.redis_accounts import BATCH_ASKS, asked, leases_of
from relay_app.ledger.stores.redis_client import Address
from relay_app.ledger.stores.redis_connections import Connections, Purpose, run
from relay_app.ledger.stores.redis_records import BATCH_RECORDS, entry_of, record_keys, view
from relay_app.ledger.stores.redis_scripts import FORGET, PAGE, WRITE, key_names
from relay_app.ledger.stores.totals import By, Total, add_up, check_by, check_day
from relay_app.meter.usage import UsageRecord

__all__ = ["RedisStore"]


class RedisStore(Store):
    """Usage records, accounts and keys under one prefix; ``redis_scripts`` and
    ``redis_account_scripts`` say where."""

    def __init__(self, address: Address) -> None:
        self._prefix = address.prefix
        self._connections = Connections(address)

    @classmethod
    def from_url(cls, url: str) -> "RedisStore":
        return cls(Address.from_url(url))

    def write(self, records: Sequence[UsageRecord]) -> None:
        self._connections.check_open()
        entries, rejected = prepared(records, lambda record: (record.key, entry_of(record)))
        if entries:
            self._connections.write("records", partial(self._write, entries))
        check_rejected(rejected)

    def _write(self, entries: Sequence[tuple[str, tuple[Any, ...]]], client: Any) -> None:
        start, more = 0, set[str]()
        while start < len(entries):
            batch = entries[start : start + BATCH_RECORDS]
            keys = record_keys(self._prefix, *sorted({key for key, _ in batch} | more))
            done, another = run(client, WRITE, keys, *(part for _, e in batch for part in e))
            start, more = start + done, {another.decode()} - {""}

    def records(
        self,
        *,
        session_id: str | None = None,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[UsageRecord]:
        first = "-inf" if since is None else repr(float(since))
        with self._connections.reading() as client:
            for ended_at, text in view(partial(run, client), self._prefix, first):
                if until is not None and ended_at >= until:
                    return
                record = UsageRecord.from_dict(codec.loads(text))
                if session_id not in (None, record.session_id) or key not in (None, record.key):
                    continue
                yield record

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
        """Up to ``BATCH_ASKS`` are made in one moment; of more, some may be when this raises, and
        those lapse unless they are asked for again."""
        self._connections.check_open()
        leases: list[Lease] = []
        for start in range(0, len(asks), BATCH_ASKS):
            keys, arguments = asked(self._prefix, asks[start : start + BATCH_ASKS])
            answers = self._run("leases", LEASE, keys, float(seconds), *arguments)
            leases += leases_of(answers)
        return leases

    def keys(self) -> list[StoredKey]:
        with self._connections.reading() as client:
            found = run(client, KEYS, key_names(self._prefix, "keys"))
        return sorted(map(_key_of, found), key=lambda key: key.key.name)

    def put_key(self, key: StoredKey, *, instead_of: StoredKey | None) -> None:
        keys = key_names(self._prefix, "keys", "digests")
        name, value = key.key.name, _value_of(key)
        expected = b"" if instead_of is None else _value_of(instead_of)
        while refusal := self._run("records", PUT_KEY, keys, name, value, expected):
            owner, stands = refusal
            if owner:
                raise ValueError(f"{owner.decode()} is that key already")
            if not stands or _key_of(stands) not in (instead_of, key):
                raise KeyChanged
            expected = stands  # it is equal, and written in another way: 5 USD as 5.00

    def forget(self, day: str) -> int:
        """A view that is being read stays as it was: what is forgotten takes memory for as long
        as one may be, and is then let go of as records are written or forgotten."""
        check_day(day)
        stays = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        keys = record_keys(self._prefix)
        forgotten, after, score = 0, b"", b""
        while True:
            step = (BATCH_RECORDS, repr(stays), after, score)
            count, after, score = self._run("records", FORGET, keys, *step)
            forgotten += int(count)
            if not after:
                return forgotten

    def ping(self) -> None:
        with self._connections.reading() as client:
            run(client, PAGE, record_keys(self._prefix), 1, "-inf", "", "")

    def close(self) -> None:
        self._connections.close()

    def _run(self, purpose: Purpose, script: str, keys: list[str], *arguments: object) -> Any:
        return self._connections.write(
            purpose, lambda client: run(client, script, keys, *arguments)
        )


def _value_of(key: StoredKey) -> bytes:
    return f"{key.key.key_sha256} {codec.dumps(key.as_dict())}".encode()


def _key_of(value: bytes) -> StoredKey:
    return StoredKey.from_dict(codec.loads(value.partition(b" ")[2]))
