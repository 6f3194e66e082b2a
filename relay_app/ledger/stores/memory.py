"""``memory://``: a store that lives and dies with the process, for tests and for trying out.

The rule: it keeps the contract of every other store except surviving; it is bounded, and what
it forgets it counts.
"""

from collections.abc import Iterator, Sequence

from relay_app.ledger.stores.base import Store, StoreError, check_record
from relay_app.ledger.stores.native import make_lock
from relay_app.ledger.stores.totals import By, Total, add_up
from relay_app.meter.usage import SOURCE_RANK, UsageRecord

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
        if old is not None and SOURCE_RANK[record.source] < SOURCE_RANK[old.source]:
            return
        self._records[record.id] = record
        if len(self._records) > self._max_records:
            del self._records[next(iter(self._records))]
            self.forgotten += 1

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

    def ping(self) -> None:
        if self._closed:
            raise StoreError("the memory store is closed")

    def close(self) -> None:
        self._closed = True
