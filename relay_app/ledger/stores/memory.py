"""``memory://``: a store that lives and dies with the process, for tests and for trying out.

The rule: it keeps the contract of every other store except surviving; it is bounded, and what
it forgets it counts.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from relay_app.ledger.stores.accounts import MINUTE_SECONDS, Account, Held, answer
from relay_app.ledger.stores.base import KeyChanged, Store, StoreError, check_record, microusd
from relay_app.ledger.stores.keys import StoredKey
from relay_app.ledger.stores.leases import Ask, Lease
from relay_app.ledger.stores.native import make_lock
from relay_app.ledger.stores.totals import By, Total, add_up, check_day, day_of
from relay_app.meter.usage import UsageRecord

__all__ = ["MemoryStore"]

MAX_RECORDS = 100_000
"""About 1 kB each: a hundred megabytes, or a day of a busy demonstration."""


class MemoryStore(Store):
    """Records in a dict. Beyond ``max_records`` the ones written first go, counted in
    ``forgotten``; nothing outlives the process, and forked processes share nothing."""

    local = True  # for what dies with the process, no journal makes sense

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        if max_records < 1:
            raise ValueError(f"max_records must be at least 1, not {max_records}")
        self.forgotten = 0
        self._max_records = max_records
        self._records: dict[str, UsageRecord] = {}
        self._spending: Counter[tuple[str, str]] = Counter()  # micro-dollars by key and day
        self._leases: dict[str, dict[str, Held]] = {}  # by key and session
        self._seconds: dict[str, Counter[int]] = {}  # tokens by key and second
        self._keys: dict[str, StoredKey] = {}
        self._lock = make_lock()
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> "MemoryStore":
        if url != "memory://":
            raise ValueError("the memory store takes no more than memory://")
        return cls()

    def write(self, records: Sequence[UsageRecord]) -> None:
        self.ping()
        rejected: dict[str, str] = {}
        with self._lock:
            for record in records:
                try:
                    self._put(record)
                except (OverflowError, TypeError, ValueError) as error:
                    rejected[record.id] = f"{type(error).__name__}: {error}"
        if rejected:
            raise StoreError(f"{len(rejected)} records cannot be stored", rejected=rejected)

    def _put(self, record: UsageRecord) -> None:
        check_record(record)
        old = self._records.get(record.id)
        if old is not None and record.rank < old.rank:
            return
        self._records[record.id] = record
        if old is not None:
            self._spend(old, -1)
        self._spend(record, 1)
        if len(self._records) > self._max_records:
            del self._records[next(iter(self._records))]
            self.forgotten += 1

    def _spend(self, record: UsageRecord, sign: int) -> None:
        if record.cost_usd is None:
            return
        cost, day = sign * microusd(record.cost_usd), day_of(record.ended_at)
        self._spending[record.key, day] += cost
        held = self._leases.get(record.key, {}).get(record.session_id)
        if held is not None and day >= held.since:
            held.recorded += cost

    def records(
        self,
        *,
        session_id: str | None = None,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> Iterator[UsageRecord]:
        self.ping()
        with self._lock:
            view = list(self._records.values())  # references only: the records are here anyway
        view.sort(key=lambda record: (record.ended_at, record.id))
        return (
            record
            for record in view
            if (session_id is None or record.session_id == session_id)
            and (key is None or record.key == key)
            and (since is None or record.ended_at >= since)
            and (until is None or record.ended_at < until)
        )

    def totals(
        self,
        by: By,
        *,
        key: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[Total]:
        return add_up(self.records(key=key, since=since, until=until), by)

    def lease(self, asks: Sequence[Ask], *, seconds: float) -> list[Lease]:
        self.ping()
        with self._lock:
            return [self._answer(ask, seconds) for ask in asks]

    def _answer(self, ask: Ask, seconds: float) -> Lease:
        now = time.monotonic()  # nobody else has to agree, and it does not jump
        used = self._seconds.setdefault(ask.key, Counter())
        for second in [second for second in used if abs(now - second) >= MINUTE_SECONDS]:
            del used[second]
        if ask.tokens:
            used[int(now)] += ask.tokens
        return answer(
            ask,
            Account.of(self._leases.setdefault(ask.key, {}), now),
            spent=sum(
                cost
                for (key, day), cost in self._spending.items()
                if key == ask.key and day >= ask.limits.since
            ),
            tokens=used.total(),
            now=now,
            seconds=seconds,
        )

    def keys(self) -> list[StoredKey]:
        self.ping()
        with self._lock:
            return [self._keys[name] for name in sorted(self._keys)]

    def put_key(self, key: StoredKey, *, instead_of: StoredKey | None) -> None:
        self.ping()
        with self._lock:
            if self._keys.get(key.key.name) not in (instead_of, key):
                raise KeyChanged
            for other in self._keys.values():
                if other.key.name != key.key.name and other.key.key_sha256 == key.key.key_sha256:
                    raise ValueError(f"{other.key.name} is that key already")
            self._keys[key.key.name] = key

    def forget(self, day: str) -> int:
        check_day(day)
        self.ping()
        with self._lock:
            old = [id_ for id_, r in self._records.items() if day_of(r.ended_at) < day]
            for id_ in old:
                del self._records[id_]
        return len(old)

    def ping(self) -> None:
        if self._closed:
            raise StoreError("the memory store is closed")

    def close(self) -> None:
        self._closed = True
